//! How an operator is written as an ONNX node, where its fields are not its inputs.

use super::Subgraph;
use crate::{DType, Dim};

/// What an ONNX node has beside the operator's own inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxForm {
    /// Attributes by name.
    pub attributes: Vec<(&'static str, OnnxAttribute)>,
    /// Further inputs after the operator's own, by the name that the ONNX documentation gives
    /// them; all are `i64` with one dimension.
    pub operands: Vec<(&'static str, OnnxOperand)>,
    /// Which of the ONNX node's outputs this is.
    pub output: usize,
    /// Least number of outputs that the ONNX node has to have.
    pub outputs: usize,
    /// First version of the operator set that has this form, where it is newer than what is
    /// written otherwise.
    pub opset: i64,
    /// Place of each of the operator's inputs among the ONNX node's, where some are left out.
    pub places: Option<Vec<usize>>,
    /// Graphs that the node holds. What they read from outside is no input of the ONNX node.
    pub subgraphs: Vec<OnnxSubgraph>,
}

/// A graph that an ONNX node holds as an attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxSubgraph {
    /// Name of the attribute.
    pub name: &'static str,
    /// What it computes.
    pub graph: Subgraph,
    /// How many of its inputs the node gives it; the others come from outside.
    pub given: usize,
    /// Where among the operator's inputs those from outside begin.
    pub outside: usize,
}

/// The value of an ONNX attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxAttribute {
    /// `INT`
    Int(i64),
    /// `FLOAT`
    Float(f32),
    /// `INTS`
    Ints(Vec<i64>),
    /// `FLOATS`
    Floats(Vec<f32>),
    /// `STRING`
    Text(&'static str),
    /// `STRINGS`
    Texts(Vec<&'static str>),
    /// `INT`, the schema's number for an element type.
    Type(DType),
}

/// An ONNX input that the operator holds as a field.
#[derive(Clone, Debug, PartialEq)]
pub enum OnnxOperand {
    /// Known numbers.
    Integers(Vec<i64>),
    /// One number: the size of a dimension, read from an input when it is a symbol.
    Size(Dim),
}

impl OnnxForm {
    pub(super) fn attribute(mut self, name: &'static str, value: OnnxAttribute) -> Self {
        self.attributes.push((name, value));
        self
    }

    /// The attribute `axis` of a dimension.
    pub(super) fn axis(self, axis: usize) -> Self {
        self.attribute("axis", OnnxAttribute::Int(axis as i64))
    }

    /// Output `index` of a node that has several.
    pub(super) fn output(mut self, index: usize) -> Self {
        self.output = index;
        self
    }

    /// A node with at least this many outputs.
    pub(super) fn of_outputs(mut self, count: usize) -> Self {
        self.outputs = count;
        self
    }

    /// An operator that has this form since `version` of the operator set.
    pub(super) fn since(mut self, version: i64) -> Self {
        self.opset = version;
        self
    }

    /// A graph with `given` inputs of its own, whose others are the operator's from `outside` on.
    pub(super) fn subgraph(
        mut self,
        name: &'static str,
        graph: &Subgraph,
        given: usize,
        outside: usize,
    ) -> Self {
        self.subgraphs.push(OnnxSubgraph { name, graph: graph.clone(), given, outside });
        self
    }

    /// Inputs at these places; those between are left out.
    pub(super) fn places(mut self, places: Vec<usize>) -> Self {
        self.places = Some(places);
        self
    }

    pub(super) fn integers(mut self, name: &'static str, values: Vec<i64>) -> Self {
        self.operands.push((name, OnnxOperand::Integers(values)));
        self
    }

    pub(super) fn size(mut self, name: &'static str, dim: Dim) -> Self {
        self.operands.push((name, OnnxOperand::Size(dim)));
        self
    }
}
