//! The entries of the fuzz targets, on valid files with a few changed bytes.

use std::fs;
use std::path::Path;

use graph::{document, onnx};
use proptest::prelude::*;
use proptest::sample::Index;

#[path = "../../../fuzz/entry.rs"]
mod entry;

/// Cases of each test: a bound on time; the fuzz targets have none.
const CASES: u32 = 96;

/// A change of some bytes: where, what instead, and whether the rest is cut off.
#[derive(Clone, Debug)]
struct Change {
    places: Vec<(Index, u8)>,
    cut: Option<Index>,
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let byte = prop_oneof![any::<u8>(), Just(b'0'), Just(b'9'), Just(b'"'), Just(b'-')];
        let places = prop::collection::vec((any::<Index>(), byte), 1..6);
        let cut = prop::option::weighted(0.1, any::<Index>());
        (places, cut).prop_map(|(places, cut)| Self { places, cut })
    }

    fn of(&self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for (place, byte) in &self.places {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
        if let Some(cut) = &self.cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    }
}

/// An encoder as this tool writes it, and as PyTorch does.
fn models() -> [Vec<u8>; 2] {
    let exported = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert/dynamo-sdpa");
    let exported = fs::read(exported.join("model.onnx")).expect("the exported model");
    [onnx::export(&entry::encoder()).expect("it has an ONNX form"), exported]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_onnx_models_are_read_or_refused(which in 0usize..2, change in Change::any()) {
        entry::onnx_reader(&change.of(&models()[which]));
    }

    #[test]
    fn changed_documents_are_accepted_or_refused(change in Change::any()) {
        let graph = entry::encoder();
        entry::graph_verifier(&change.of(document::write(&graph).as_bytes()), &entry::weights(&graph));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_packages_load_or_are_refused(which in 0usize..4, change in Change::any()) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        entry::write_package(folder.path());
        let file =
            ["package.toml", "graph.json", "weights.safetensors", "golden.safetensors"][which];
        let whole = fs::read(folder.path().join(file)).expect("a file of the package");
        entry::package_loader(folder.path(), file, &change.of(&whole));
    }
}

/// The entries do reach what they are for: whole files are accepted.
#[test]
fn whole_files_are_accepted() {
    for model in models() {
        entry::onnx_reader(&model);
        onnx::import_bytes(&model, None, &onnx::ImportOptions::default()).expect("a whole model");
    }
    let graph = entry::encoder();
    let text = document::write(&graph);
    entry::graph_verifier(text.as_bytes(), &entry::weights(&graph));
    assert_eq!(document::read(text.as_bytes(), entry::weights(&graph)).expect("whole"), graph);
    let folder = tempfile::tempdir().expect("a temporary folder");
    entry::write_package(folder.path());
    let package = graph::package::Package::read(folder.path()).expect("a whole package");
    runtime::load(&package, &runtime::CompileOptions::default()).expect("its golden answers");
}
