//! BERT as PyTorch exports it, see `tests/data/bert/export.py`: every fusion has to find its form, and
//! the answers have to be PyTorch's.

use std::fs;
use std::path::{Path, PathBuf};

use graph::onnx::{ImportOptions, import, read_tensor};

use super::*;

/// Layers of the exported encoders.
const LAYERS: usize = 2;
/// Sums of 16 to 32 products in another order, two layers deep, on numbers around 1.
const TOLERANCE: f32 = 1e-4;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert").join(name)
}

fn check_export(name: &str) {
    let folder = folder(name);
    let graph = import(&folder.join("model.onnx"), &ImportOptions::default()).unwrap();
    let tensor = |file: &str| read_tensor(&fs::read(folder.join(file)).unwrap()).unwrap();
    let given = ["input_ids", "attention_mask", "token_type_ids"].into_iter().enumerate();
    let inputs: Vec<(&str, Tensor)> =
        given.map(|(index, name)| (name, tensor(&format!("input_{index}.pb")))).collect();
    let expected = [tensor("output_0.pb")];
    assert_close(&reference::evaluate(&graph, &inputs).unwrap(), &expected, TOLERANCE);
    for level in [Level::O0, Level::O1, Level::O2, Level::O3] {
        let model = compile(&graph, &options(level)).unwrap();
        assert_close(&run(&model, &inputs), &expected, TOLERANCE);
    }
    let model = compile(&graph, &options(Level::O3)).unwrap();
    assert!(!model.explain().dynamic, "{name}: {:#?}", model.explain().nodes);
    let of =
        |kind: &str| model.explain().nodes.iter().filter(|node| node.operation == kind).count();
    assert_eq!(fired(&model, "attention"), LAYERS, "{name}");
    assert_eq!(fired(&model, "merge-qkv"), LAYERS, "{name}");
    assert_eq!(fired(&model, "gelu"), LAYERS, "{name}");
    // One behind the embeddings, two a layer.
    assert_eq!(of("ResidualLayerNorm"), 1 + 2 * LAYERS, "{name}");
    // Merged projections, attention's output, two of the feed-forward network; pooler, classifier.
    assert_eq!(of("Linear"), 4 * LAYERS + 2, "{name}");
    for gone in ["MatMul", "Softmax", "Erf", "LayerNormalization", "Transpose", "GatherND"] {
        assert_eq!(of(gone), 0, "{name}: {gone}");
    }
}

#[test]
fn torchscript_with_eager_attention() {
    check_export("torchscript-eager");
}

#[test]
fn torchscript_with_scaled_dot_product_attention() {
    check_export("torchscript-sdpa");
}

#[test]
fn dynamo_with_eager_attention() {
    check_export("dynamo-eager");
}

#[test]
fn dynamo_with_scaled_dot_product_attention() {
    check_export("dynamo-sdpa");
}
