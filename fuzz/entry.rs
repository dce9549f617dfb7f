//! What the fuzz targets call, and what the test suite of `runtime` calls on valid files with a few
//! changed bytes: whatever the bytes are, they are read or refused with an error; what is read keeps
//! its promises.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use graph::bert::{self, BertConfig, BertLayer};
use graph::onnx::{self, ImportOptions};
use graph::package::{Golden, MANIFEST_FILE, Package};
use graph::{Bindings, Graph, ModelFolder, ModelInfo, Tensor, counts, document, samples};
use runtime::{CompileOptions, compile};

/// Most bytes of values that a graph may compute with all open sizes 1: the compiler folds
/// constants, and a few changed digits make sizes that are allowed and take minutes.
const MOST_BYTES: u64 = 16 << 20;

/// A text classifier with one layer.
pub(crate) fn encoder() -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 8 };
    let config = BertConfig { positions: 8, ..BertConfig::uniform(12, 4, 1, layer) };
    bert::build(&config, &mut bert::initial_weights(1)).expect("the sizes fit")
}

/// Its weights by name.
pub(crate) fn weights(graph: &Graph) -> BTreeMap<String, Tensor> {
    graph.weights().map(|(id, tensor)| (graph.value_name(id).to_owned(), tensor.clone())).collect()
}

/// Writes a package of [`encoder`].
pub(crate) fn write_package(folder: &Path) {
    let graph = encoder();
    let inputs = samples::inputs(&graph, &Bindings::new([("batch", 2), ("sequence", 3)]), 1);
    let golden = Golden::evaluate(&graph, vec![inputs.expect("all sizes are bound")]);
    let labels = vec!["no".to_owned(), "yes".to_owned()];
    let info = ModelInfo { labels, max_length: 0 };
    let package = Package {
        name: "encoder".to_owned(),
        model: ModelFolder { graph, tokenizer_json: Vec::new(), info },
        golden: golden.expect("the encoder runs"),
        provenance: BTreeMap::new(),
        tolerance: None,
        slo: None,
    };
    package.write(folder).expect("an empty folder takes a package");
}

/// Reads bytes as an ONNX model. What is imported compiles, or is refused.
pub(crate) fn onnx_reader(bytes: &[u8]) {
    if let Ok(graph) = onnx::import_bytes(bytes, None, &ImportOptions::default()) {
        compiles_or_is_refused(&graph);
    }
}

/// Reads bytes as the `graph.json` to these weights. A graph that is accepted is written as a
/// document that is read as the same graph, and compiles, or is refused.
///
/// # Panics
/// When the document of an accepted graph is refused, or reads as another graph.
pub(crate) fn graph_verifier(bytes: &[u8], weights: &BTreeMap<String, Tensor>) {
    let Ok(graph) = document::read(bytes, weights.clone()) else { return };
    let again = document::read(document::write(&graph).as_bytes(), self::weights(&graph));
    assert_eq!(again.expect("an accepted graph is accepted again"), graph);
    compiles_or_is_refused(&graph);
}

/// Loads a package one of whose files is `content`, with the digest that the manifest has to have
/// then, so that the change gets past it.
pub(crate) fn package_loader(whole: &Path, file: &str, content: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut manifest = String::new();
    for entry in fs::read_dir(whole).expect("the package").flatten() {
        let bytes = fs::read(entry.path()).expect("a file of the package");
        let name = entry.file_name();
        if name == MANIFEST_FILE {
            manifest = String::from_utf8(bytes.clone()).expect("TOML");
        }
        fs::write(folder.path().join(name), bytes).expect("a copy");
    }
    if file != MANIFEST_FILE {
        let digest = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        let old = digest(&fs::read(whole.join(file)).expect("a file of the package"));
        let manifest = manifest.replace(&old, &digest(content));
        fs::write(folder.path().join(MANIFEST_FILE), manifest).expect("the manifest");
    }
    fs::write(folder.path().join(file), content).expect("the changed file");
    if let Ok(package) = Package::read(folder.path())
        && is_small(&package.model.graph)
    {
        // Weights are changed too, so that the self-test may fail; it has to say so.
        let _ = runtime::load(&package, &options());
    }
}

fn options() -> CompileOptions {
    CompileOptions { threads: NonZeroUsize::new(1), ..CompileOptions::default() }
}

fn compiles_or_is_refused(graph: &Graph) {
    if is_small(graph) {
        let _ = compile(graph, &options());
    }
}

fn is_small(graph: &Graph) -> bool {
    let open = samples::open_dimensions(graph);
    let ones = Bindings::new(open.iter().map(|name| (name.as_str(), 1)));
    counts::count(graph, &ones).is_ok_and(|counts| counts.activation_bytes < MOST_BYTES)
}
