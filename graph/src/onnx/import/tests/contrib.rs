//! Operators of `com.microsoft` against their formulas.

mod attention;
mod cached;
mod float;
mod quantized;

use super::models::{import, model, node, typed};
use crate::onnx::data_type;
use crate::onnx::proto::{Attribute, NodeMessage, TensorMessage, attribute_type};
use crate::{Graph, Tensor, reference};

pub(super) fn contrib(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeMessage {
    NodeMessage { domain: Some("com.microsoft".to_owned()), ..node(op, inputs, outputs) }
}

pub(super) fn float(name: &str, value: f32) -> Attribute {
    let kind = Some(attribute_type::FLOAT);
    Attribute { name: Some(name.to_owned()), f: Some(value), r#type: kind, ..Default::default() }
}

pub(super) fn text(name: &str, value: &str) -> Attribute {
    let s = Some(value.as_bytes().to_vec());
    Attribute { name: Some(name.to_owned()), s, ..Default::default() }
}

pub(super) fn list(name: &str, ints: &[i64]) -> Attribute {
    Attribute { name: Some(name.to_owned()), ints: ints.to_vec(), ..Default::default() }
}

type Values<'a> = [(&'a str, Tensor)];

/// The graph of one node, whose inputs have these types and whose constants these values.
fn graph(
    node: NodeMessage,
    inputs: &Values<'_>,
    constants: &Values<'_>,
) -> Result<Graph, super::ImportError> {
    let sizes =
        |tensor: &Tensor| tensor.shape().iter().map(|&size| size as i64).collect::<Vec<_>>();
    let declared = inputs.iter().map(|(name, x)| typed(name, data_type(x.dtype()), &sizes(x)));
    let outputs: Vec<String> =
        node.output.iter().filter(|name| !name.is_empty()).cloned().collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let mut model = model(declared.collect(), vec![node], &outputs);
    let stored = constants.iter().map(|(name, x)| TensorMessage {
        dims: sizes(x),
        data_type: Some(data_type(x.dtype())),
        name: Some((*name).to_owned()),
        raw_data: Some(x.bytes().to_vec()),
        ..Default::default()
    });
    model.graph.as_mut().unwrap().initializer = stored.collect();
    import(&model)
}

/// What the node writes.
fn run(node: NodeMessage, inputs: &Values<'_>, constants: &Values<'_>) -> Vec<Tensor> {
    let graph = graph(node, inputs, constants).unwrap_or_else(|error| panic!("{error}"));
    reference::evaluate(&graph, inputs).unwrap()
}

/// Numbers between −1 and 1 that look unordered.
fn wave(shape: &[usize], seed: usize) -> Tensor {
    Tensor::from_fn(shape, |index| ((index * 37 + seed * 13) % 41) as f32 / 20.5 - 1.0)
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    tensor.elements::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect()
}

#[track_caller]
fn assert_near(found: &Tensor, expected: &[f64]) {
    let found = floats(found);
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off < 2e-5, "element {index}: expected {expected}, found {found}");
    }
}

/// The refusal of a node.
fn refusal(node: NodeMessage, inputs: &Values<'_>, constants: &Values<'_>) -> String {
    graph(node, inputs, constants).unwrap_err().to_string()
}
