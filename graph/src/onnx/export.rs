//! ONNX, the way out: operators of opset 20 one to one, 8-bit integers as QDQ pairs.
//!
//! Values keep their names. What an operator holds as a field and ONNX wants as an input becomes an
//! initializer, or, for the size of a named dimension, a `Shape` node over a graph input.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::{data_type, proto};
use crate::op::{Argument, Known, OnnxAttribute, OnnxOperand, OnnxSubgraph};
use crate::{DType, Dim, Graph, Node, Op, Tensor, ValueId, ValueType};

/// The first version of the operator set that has Gelu.
const OPSET: i64 = 20;
/// The file format's version of that operator set's release.
const IR_VERSION: i64 = 9;
/// Protobuf's own limit of a message.
pub(super) const SIZE_LIMIT: usize = i32::MAX as usize;

/// Why a graph cannot be written as ONNX.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// A node needs the size of a dimension that no input has.
    #[error("node `{node}`: dimension `{dimension}` is not one of any input")]
    Dimension {
        /// Name of the node.
        node: String,
        /// Name of the dimension.
        dimension: String,
    },
    /// Protobuf messages end at 2 GiB.
    #[error("expected an ONNX model of at most {SIZE_LIMIT} bytes, found {0}")]
    TooLarge(usize),
}

/// The graph as a serialized ONNX model, which is a function of the graph alone.
///
/// # Errors
///
/// When a node needs a dimension that no input has, or the model is larger than protobuf allows.
pub fn export(graph: &Graph) -> Result<Vec<u8>, OnnxError> {
    if graph.weight_bytes() > SIZE_LIMIT {
        return Err(OnnxError::TooLarge(graph.weight_bytes()));
    }
    let mut exporter = Exporter::new(graph);
    for (_, node) in graph.nodes() {
        exporter.node(node)?;
    }
    let values = |ids: &[ValueId]| ids.iter().map(|&id| value_info(graph, id)).collect();
    let model = proto::Model {
        ir_version: Some(IR_VERSION),
        producer_name: Some("pipeline".to_owned()),
        graph: Some(proto::GraphMessage {
            node: exporter.nodes,
            name: Some(graph.name.clone()),
            initializer: exporter.initializers,
            input: values(graph.inputs()),
            output: values(graph.outputs()),
            ..Default::default()
        }),
        opset_import: vec![proto::OperatorSet {
            domain: Some(String::new()),
            version: Some(exporter.opset),
        }],
        ..Default::default()
    };
    let size = model.encoded_len();
    if size > SIZE_LIMIT {
        return Err(OnnxError::TooLarge(size));
    }
    Ok(model.encode_to_vec())
}

struct Exporter<'a> {
    graph: &'a Graph,
    nodes: Vec<proto::NodeMessage>,
    initializers: Vec<proto::TensorMessage>,
    /// The value that holds the size of each named dimension used so far.
    sizes: BTreeMap<Dim, String>,
    /// Names that are not the graph's.
    added: BTreeSet<String>,
    /// Version of the operator set that the nodes so far need.
    opset: i64,
}

impl<'a> Exporter<'a> {
    fn new(graph: &'a Graph) -> Self {
        let weights = graph.weights();
        let initializers =
            weights.map(|(id, weight)| initializer(graph.value_name(id), weight)).collect();
        let (sizes, added) = (BTreeMap::new(), BTreeSet::new());
        Self { graph, nodes: Vec::new(), initializers, sizes, added, opset: OPSET }
    }

    fn node(&mut self, node: &Node) -> Result<(), OnnxError> {
        let inputs: Vec<String> =
            node.inputs.iter().map(|&id| self.graph.value_name(id).to_owned()).collect();
        let arguments: Vec<Argument<'_>> =
            node.inputs.iter().map(|&id| self.graph.argument(id)).collect();
        let message = self.message(&node.name, &node.op, &inputs, &arguments)?;
        self.nodes.push(message);
        Ok(())
    }

    /// The node `name`, which is also the name of its output; `arguments` is what is known of its
    /// inputs, where that is.
    fn message(
        &mut self,
        name: &str,
        op: &Op,
        inputs: &[String],
        arguments: &[Argument<'_>],
    ) -> Result<proto::NodeMessage, OnnxError> {
        let operator = op.operator();
        let form = operator.onnx();
        self.opset = self.opset.max(form.opset);
        // What subgraphs read from outside, they read by name.
        let own = form.subgraphs.iter().map(|subgraph| subgraph.outside).min();
        let own = &inputs[..own.unwrap_or(inputs.len())];
        let mut input = match &form.places {
            None => own.to_vec(),
            Some(places) => {
                let mut input = vec![String::new(); places.last().map_or(0, |last| last + 1)];
                places.iter().zip(own).for_each(|(&place, name)| input[place].clone_from(name));
                input
            }
        };
        for (operand_name, operand) in form.operands {
            input.push(self.operand(name, operand_name, operand)?);
        }
        let mut output = vec![String::new(); form.output];
        output.push(name.to_owned());
        // Outputs that nothing reads need names where their number matters.
        output.resize(output.len().max(form.outputs), String::new());
        for (index, unread) in output.iter_mut().enumerate().take(form.outputs) {
            if unread.is_empty() {
                *unread = self.fresh(format!("{name}/{index}"));
            }
        }
        let mut attribute: Vec<_> = form.attributes.into_iter().map(attribute).collect();
        for subgraph in form.subgraphs {
            attribute.push(self.subgraph(name, &subgraph, inputs, arguments)?);
        }
        Ok(proto::NodeMessage {
            input,
            output,
            name: Some(name.to_owned()),
            op_type: Some(operator.onnx_type().to_owned()),
            attribute,
            ..Default::default()
        })
    }

    /// A graph as an attribute: its values get names of their own, for none may be used twice.
    fn subgraph(
        &mut self,
        owner: &str,
        subgraph: &OnnxSubgraph,
        inputs: &[String],
        arguments: &[Argument<'_>],
    ) -> Result<proto::Attribute, OnnxError> {
        let OnnxSubgraph { name, graph, given, outside } = subgraph;
        let place = format!("{owner}/{name}");
        let known = known_values(subgraph, arguments);
        let mut message = proto::GraphMessage { name: Some(place.clone()), ..Default::default() };
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        for (index, inner) in graph.inputs.iter().enumerate() {
            let outer = match index.checked_sub(*given) {
                Some(index) => inputs[outside + index].clone(),
                None => {
                    let own = self.fresh(format!("{place}/{inner}"));
                    let known = known.get(inner.as_str()).map(Known::argument);
                    // Round and condition are scalars.
                    let rank = |known: Argument<'_>| if index < 2 { 0 } else { known.shape.len() };
                    let kind = known.map(|known| (known.dtype, rank(known)));
                    message.input.push(subgraph_value(&own, kind));
                    own
                }
            };
            names.insert(inner, outer);
        }
        for node in &graph.nodes {
            let own = self.fresh(format!("{place}/{}", node.name));
            let inputs: Vec<String> =
                node.inputs.iter().map(|name| names[name.as_str()].clone()).collect();
            let arguments =
                node.inputs.iter().map(|name| Some(known.get(name.as_str())?.argument()));
            let arguments: Option<Vec<Argument<'_>>> = arguments.collect();
            let arguments = arguments.unwrap_or_default();
            message.node.push(self.message(&own, &node.op, &inputs, &arguments)?);
            names.insert(&node.name, own);
        }
        for (index, output) in graph.outputs.iter().enumerate() {
            // An output may be given, from outside, or one twice: each gets a node.
            let own = self.fresh(format!("{place}/output {index}"));
            let node = self.message(&own, &Op::Identity, &[names[output.as_str()].clone()], &[])?;
            message.node.push(node);
            message.output.push(subgraph_value(&own, None));
        }
        Ok(proto::Attribute {
            name: Some((*name).to_owned()),
            g: Some(message),
            r#type: Some(proto::attribute_type::GRAPH),
            ..Default::default()
        })
    }

    /// The value that holds an operand.
    fn operand(
        &mut self,
        node: &str,
        name: &str,
        operand: OnnxOperand,
    ) -> Result<String, OnnxError> {
        let integers = match operand {
            OnnxOperand::Integers(integers) => integers,
            OnnxOperand::Size(Dim::Fixed(size)) => vec![size as i64],
            OnnxOperand::Size(symbol) => return self.size(node, symbol),
        };
        let name = self.fresh(format!("{node}/{name}"));
        let tensor = Tensor::from_fn(&[integers.len()], |index| integers[index]);
        self.initializers.push(initializer(&name, &tensor));
        Ok(name)
    }

    /// The value that holds the size of a named dimension.
    fn size(&mut self, node: &str, symbol: Dim) -> Result<String, OnnxError> {
        if let Some(name) = self.sizes.get(&symbol) {
            return Ok(name.clone());
        }
        let place = self.graph.inputs().iter().find_map(|&id| {
            let shape = &self.graph.value_type(id).shape;
            shape.iter().position(|dim| *dim == symbol).map(|axis| (id, axis as i64))
        });
        let (input, axis) = place.ok_or_else(|| OnnxError::Dimension {
            node: node.to_owned(),
            dimension: symbol.to_string(),
        })?;
        let input = self.graph.value_name(input).to_owned();
        let name = self.fresh(format!("{input}/{symbol}"));
        let bounds = [("start", axis), ("end", axis + 1)];
        self.nodes.push(proto::NodeMessage {
            input: vec![input],
            output: vec![name.clone()],
            name: Some(name.clone()),
            op_type: Some("Shape".to_owned()),
            attribute: bounds
                .map(|(name, bound)| attribute((name, OnnxAttribute::Int(bound))))
                .to_vec(),
            ..Default::default()
        });
        self.sizes.insert(symbol, name.clone());
        Ok(name)
    }

    /// `name`, lengthened until no value has it.
    fn fresh(&mut self, mut name: String) -> String {
        while self.graph.find(&name).is_some() || !self.added.insert(name.clone()) {
            name.push('\'');
        }
        name
    }
}

/// What is known of a subgraph's values; nothing where the operator's inputs do not say it.
fn known_values<'a>(
    subgraph: &'a OnnxSubgraph,
    arguments: &[Argument<'a>],
) -> BTreeMap<&'a str, Known<'a>> {
    let OnnxSubgraph { graph, given, outside, .. } = subgraph;
    let count = graph.inputs.len() - given;
    let outer = arguments.get(*outside..).and_then(|outer| outer.get(..count));
    let (Some(own), Some(outer)) = (arguments.get(..*given), outer) else {
        return BTreeMap::new();
    };
    // What is carried has other numbers in every round.
    let own = own.iter().map(|own| Argument { constant: None, integers: None, ..*own });
    graph.known(&own.chain(outer.iter().copied()).collect::<Vec<_>>()).unwrap_or_default()
}

/// A value of a subgraph, with what is known of its type: sizes may change from round to round.
fn subgraph_value(name: &str, kind: Option<(DType, usize)>) -> proto::ValueInfo {
    let value_type = kind.map(|(dtype, rank)| ValueType { dtype, shape: vec![Dim::Unknown; rank] });
    let r#type = value_type.as_ref().map(type_message);
    proto::ValueInfo { name: Some(name.to_owned()), r#type }
}

fn attribute((name, value): (&str, OnnxAttribute)) -> proto::Attribute {
    use proto::attribute_type as kind;
    let empty = proto::Attribute { name: Some(name.to_owned()), ..Default::default() };
    match value {
        OnnxAttribute::Int(i) => proto::Attribute { i: Some(i), r#type: Some(kind::INT), ..empty },
        OnnxAttribute::Float(f) => {
            proto::Attribute { f: Some(f), r#type: Some(kind::FLOAT), ..empty }
        }
        OnnxAttribute::Ints(ints) => proto::Attribute { ints, r#type: Some(kind::INTS), ..empty },
        OnnxAttribute::Floats(floats) => {
            proto::Attribute { floats, r#type: Some(kind::FLOATS), ..empty }
        }
        OnnxAttribute::Texts(texts) => {
            let strings = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
            proto::Attribute { strings, r#type: Some(kind::STRINGS), ..empty }
        }
        OnnxAttribute::Text(text) => {
            let s = Some(text.as_bytes().to_vec());
            proto::Attribute { s, r#type: Some(kind::STRING), ..empty }
        }
        OnnxAttribute::Type(dtype) => {
            let i = Some(i64::from(data_type(dtype)));
            proto::Attribute { i, r#type: Some(kind::INT), ..empty }
        }
    }
}

fn initializer(name: &str, tensor: &Tensor) -> proto::TensorMessage {
    proto::TensorMessage {
        dims: tensor.shape().iter().map(|&size| size as i64).collect(),
        data_type: Some(data_type(tensor.dtype())),
        name: Some(name.to_owned()),
        raw_data: Some(tensor.bytes().to_vec()),
        ..Default::default()
    }
}

fn value_info(graph: &Graph, id: ValueId) -> proto::ValueInfo {
    proto::ValueInfo {
        name: Some(graph.value_name(id).to_owned()),
        r#type: Some(type_message(graph.value_type(id))),
    }
}

fn type_message(value_type: &ValueType) -> proto::TypeMessage {
    let dim = value_type.shape.iter().map(|dim| {
        let value = match dim {
            Dim::Fixed(size) => Some(proto::DimensionValue::Size(*size as i64)),
            Dim::Symbol(name) => Some(proto::DimensionValue::Symbol(name.to_string())),
            Dim::Unknown => None,
        };
        proto::Dimension { value }
    });
    let tensor_type = proto::TensorType {
        elem_type: Some(data_type(value_type.dtype)),
        shape: Some(proto::ShapeMessage { dim: dim.collect() }),
    };
    proto::TypeMessage { tensor_type: Some(tensor_type) }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
