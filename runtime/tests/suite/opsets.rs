//! Operators in the forms of older operator sets: the answers have to be onnxruntime's, see
//! `tests/data/opsets/make.py`.

use std::fs;
use std::path::Path;

use graph::onnx::{ImportOptions, import, read_tensor};

use super::*;

/// Weights of four or eight neighbours, rounded in another order.
const TOLERANCE: f32 = 1e-5;

#[test]
fn older_forms_answer_as_onnxruntime_does() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/opsets");
    let mut count = 0;
    for entry in fs::read_dir(all).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        let tensor = |file: &str| read_tensor(&fs::read(entry.path().join(file)).unwrap()).unwrap();
        let graph = import(&entry.path().join("model.onnx"), &ImportOptions::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (inputs, expected) = ([("x", tensor("input_0.pb"))], [tensor("output_0.pb")]);
        let differs = |found: &[Tensor]| {
            let pairs = floats(&found[0]).iter().zip(floats(&expected[0]));
            found[0].shape() != expected[0].shape()
                || pairs.into_iter().any(|(a, b)| (a - b).abs() > TOLERANCE * b.abs().max(1.0))
        };
        assert!(!differs(&reference::evaluate(&graph, &inputs).unwrap()), "{name}: reference");
        for level in [Level::O0, Level::O3] {
            let model = compile(&graph, &options(level)).unwrap();
            assert!(!differs(&run(&model, &inputs)), "{name}: {level:?}");
        }
        count += 1;
    }
    assert!(count > 20, "{count} cases");
}
