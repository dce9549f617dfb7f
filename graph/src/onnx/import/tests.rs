mod contrib;
mod control;
mod detection;
mod einsum;
mod functions;
mod hostile;
mod lists;
mod losses;
mod memory;
mod models;
mod operators;
mod random;
mod sequences;
mod spectra;
mod windows;

use super::*;
use crate::bert::{self, BertConfig, BertLayer};
use crate::{onnx, reference};

fn encoder() -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 6 };
    let config = BertConfig { positions: 8, ..BertConfig::uniform(11, 4, 2, layer) };
    bert::build(&config, &mut bert::initial_weights(1)).unwrap()
}

fn inputs() -> Vec<(&'static str, Tensor)> {
    let ids = Tensor::new(&[2, 3], vec![1i64, 5, 3, 9, 10, 0]).unwrap();
    let mask = Tensor::new(&[2, 3], vec![1i64, 1, 1, 1, 1, 0]).unwrap();
    vec![("input_ids", ids), ("attention_mask", mask)]
}

#[test]
fn what_was_exported_comes_back_with_the_same_answers() {
    let graph = encoder();
    let bytes = onnx::export(&graph).unwrap();
    let back = import_bytes(&bytes, None, &ImportOptions::default()).unwrap();
    let names = |graph: &Graph| {
        graph.outputs().iter().map(|&id| graph.value_name(id).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&back), names(&graph));
    let answers = |graph: &Graph| reference::evaluate(graph, &inputs()).unwrap();
    assert_eq!(answers(&back), answers(&graph));
}

#[test]
fn bound_dimensions_become_fixed() {
    let bytes = onnx::export(&encoder()).unwrap();
    let bindings = [("sequence".to_owned(), 3)].into_iter().collect();
    let back = import_bytes(&bytes, None, &ImportOptions { bindings, ..ImportOptions::default() })
        .unwrap();
    let shape = &back.value_type(back.inputs()[0]).shape;
    assert_eq!(shape, &[Dim::symbol("batch"), Dim::Fixed(3)]);
}

/// Messages name a dimension as the graph does.
#[test]
fn dimensions_are_bound_by_either_name() {
    let mut model = proto::Model::decode(onnx::export(&encoder()).unwrap().as_slice()).unwrap();
    for input in &mut model.graph.as_mut().unwrap().input {
        let tensor = input.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut());
        let dims = &mut tensor.and_then(|tensor| tensor.shape.as_mut()).unwrap().dim;
        dims[1].value = Some(proto::DimensionValue::Symbol("1".to_owned()));
    }
    for name in ["1", "_1"] {
        let bindings = [(name.to_owned(), 3)].into_iter().collect();
        let options = ImportOptions { bindings, ..ImportOptions::default() };
        let back = import_bytes(&model.encode_to_vec(), None, &options).unwrap();
        let shape = &back.value_type(back.inputs()[0]).shape;
        assert_eq!(shape, &[Dim::symbol("batch"), Dim::Fixed(3)], "{name}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    let mut model = proto::Model::decode(onnx::export(&encoder()).unwrap().as_slice()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph.node[3].op_type = Some("Frobnicate".to_owned());
    let name = graph.node[3].output[0].clone();
    let error = import_bytes(&model.encode_to_vec(), None, &ImportOptions::default()).unwrap_err();
    let expected = format!("node `{name}` (Frobnicate): this operator is not supported");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn cycles_and_truncation_are_refused() {
    let bytes = onnx::export(&encoder()).unwrap();
    let import = |bytes: &[u8]| import_bytes(bytes, None, &ImportOptions::default());
    assert!(matches!(import(&bytes[..bytes.len() / 2]), Err(ImportError::Malformed { .. })));
    assert!(matches!(import(&[]), Err(ImportError::Malformed { .. })));
    let mut model = proto::Model::decode(bytes.as_slice()).unwrap();
    let nodes = &mut model.graph.as_mut().unwrap().node;
    let last = nodes.last().unwrap().output[0].clone();
    let index = nodes.iter().position(|node| node.op_type() == "MatMul").unwrap();
    nodes[index].input[0] = last;
    let error = import(&model.encode_to_vec()).unwrap_err();
    assert!(matches!(error, ImportError::Graph(crate::GraphError::Cycle(_))), "{error}");
    model.opset_import[0].version = Some(99);
    assert!(import(&model.encode_to_vec()).unwrap_err().to_string().contains("found 99"));
}

#[test]
fn elements_may_lie_in_a_file_beside_the_model() {
    let mut message = models::model(
        vec![models::typed("x", 1, &[2])],
        vec![models::node("Add", &["x", "w"], &["y"])],
        &["y"],
    );
    let entry = |key: &str, value: &str| proto::Entry {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    let weight = proto::TensorMessage {
        external_data: vec![entry("location", "w.bin")],
        data_location: Some(1),
        ..models::floats("w", &[2], &[])
    };
    message.graph.as_mut().unwrap().initializer.push(weight);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, message.encode_to_vec()).unwrap();
    let error = import(&path, &ImportOptions::default()).unwrap_err();
    assert!(matches!(error, ImportError::Tensor { .. }), "{error}");
    let bytes: Vec<u8> = [1f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(folder.path().join("w.bin"), bytes).unwrap();
    let graph = import(&path, &ImportOptions::default()).unwrap();
    let x = Tensor::new(&[2], vec![10f32, 20.0]).unwrap();
    let y = reference::evaluate(&graph, &[("x", x)]).unwrap();
    assert_eq!(y[0].elements::<f32>().unwrap(), [11.0, 18.0]);
    // Bytes alone do not say where the file is.
    assert!(models::import(&message).is_err());
}
