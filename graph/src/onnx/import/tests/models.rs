//! Small models by hand.

use prost::Message;

use crate::onnx::proto::{
    Attribute, Dimension, DimensionValue, Function, GraphMessage, Model, NodeMessage, OperatorSet,
    ShapeMessage, TensorMessage, TensorType, TypeMessage, ValueInfo, attribute_type,
};

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeMessage {
    NodeMessage {
        input: strings(inputs),
        output: strings(outputs),
        op_type: Some(op.to_owned()),
        ..Default::default()
    }
}

/// A node of the functions' own domain.
pub(super) fn call(function: &str, inputs: &[&str], outputs: &[&str]) -> NodeMessage {
    NodeMessage { domain: Some("local".to_owned()), ..node(function, inputs, outputs) }
}

pub(super) fn with(mut node: NodeMessage, attribute: Attribute) -> NodeMessage {
    node.attribute.push(attribute);
    node
}

pub(super) fn int(name: &str, value: i64) -> Attribute {
    let kind = Some(attribute_type::INT);
    Attribute { name: Some(name.to_owned()), i: Some(value), r#type: kind, ..Default::default() }
}

/// An attribute that takes its value from the function's attribute `outer`.
pub(super) fn reference(name: &str, outer: &str) -> Attribute {
    let ref_attr_name = Some(outer.to_owned());
    Attribute { name: Some(name.to_owned()), ref_attr_name, ..Default::default() }
}

pub(super) fn graph_attribute(name: &str, graph: GraphMessage) -> Attribute {
    let kind = Some(attribute_type::GRAPH);
    Attribute { name: Some(name.to_owned()), g: Some(graph), r#type: kind, ..Default::default() }
}

pub(super) fn function(
    name: &str,
    inputs: &[&str],
    outputs: &[&str],
    nodes: Vec<NodeMessage>,
) -> Function {
    Function {
        name: Some(name.to_owned()),
        domain: Some("local".to_owned()),
        input: strings(inputs),
        output: strings(outputs),
        node: nodes,
        opset_import: opsets(),
        ..Default::default()
    }
}

fn opsets() -> Vec<OperatorSet> {
    vec![OperatorSet { domain: None, version: Some(20) }]
}

/// A value without a type, as subgraphs and outputs have them.
pub(super) fn value(name: &str) -> ValueInfo {
    ValueInfo { name: Some(name.to_owned()), r#type: None }
}

pub(super) fn typed(name: &str, elem_type: i32, sizes: &[i64]) -> ValueInfo {
    let dim = |&size: &i64| Dimension { value: Some(DimensionValue::Size(size)) };
    let shape = Some(ShapeMessage { dim: sizes.iter().map(dim).collect() });
    let tensor_type = Some(TensorType { elem_type: Some(elem_type), shape });
    ValueInfo { name: Some(name.to_owned()), r#type: Some(TypeMessage { tensor_type }) }
}

pub(super) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorMessage {
    TensorMessage {
        dims: dims.to_vec(),
        data_type: Some(1),
        name: Some(name.to_owned()),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

/// A subgraph.
pub(super) fn body(inputs: &[&str], nodes: Vec<NodeMessage>, outputs: &[&str]) -> GraphMessage {
    GraphMessage {
        name: Some("body".to_owned()),
        input: inputs.iter().map(|name| value(name)).collect(),
        node: nodes,
        output: outputs.iter().map(|name| value(name)).collect(),
        ..Default::default()
    }
}

pub(super) fn model(inputs: Vec<ValueInfo>, nodes: Vec<NodeMessage>, outputs: &[&str]) -> Model {
    Model {
        graph: Some(GraphMessage { input: inputs, ..body(&[], nodes, outputs) }),
        opset_import: opsets(),
        ..Default::default()
    }
}

pub(super) fn import(model: &Model) -> Result<crate::Graph, super::ImportError> {
    super::import_bytes(&model.encode_to_vec(), None, &super::ImportOptions::default())
}
