//! How an operator is written as an ONNX node, where its fields are not its inputs.

use crate::{DType, Dim};

/// What an ONNX node has beside the operator's own inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxForm {
    /// Attributes by name.
    pub attributes: Vec<(&'static str, OnnxAttribute)>,
    /// Further inputs after the operator's own, by the name that the ONNX documentation gives
    /// them; all are `i64` with one dimension.
    pub operands: Vec<(&'static str, OnnxOperand)>,
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
    /// `STRING`
    Text(&'static str),
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

    pub(super) fn integers(mut self, name: &'static str, values: Vec<i64>) -> Self {
        self.operands.push((name, OnnxOperand::Integers(values)));
        self
    }

    pub(super) fn size(mut self, name: &'static str, dim: Dim) -> Self {
        self.operands.push((name, OnnxOperand::Size(dim)));
        self
    }
}
