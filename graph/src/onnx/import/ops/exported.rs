//! What our own exports have of reductions and normalizations.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::DType;
use crate::op::{LayerNorm, Op, ReduceSum};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "LayerNormalization", import: layer_normalization },
    OperatorEntry { name: "ReduceSum", import: reduce_sum },
];

/// Along the last dimension, with one output.
fn layer_normalization(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let rank = node.rank(node.input(0)?);
    let axis = node.axis_of(node.int_or("axis", -1), rank)?;
    if axis + 1 != rank || inputs.len() != 3 || node.wants(1) || node.wants(2) {
        return Err(node.unsupported("more than one axis, no bias, or a second output"));
    }
    let epsilon = node.float_or("epsilon", 1e-5);
    node.output(0, Op::LayerNorm(LayerNorm { epsilon }), &inputs)
}

/// Axes are an attribute before opset 13 and an input since.
fn reduce_sum(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let axes = match node.ints("axes") {
        Some(axes) => axes,
        None if node.optional(1).is_some() => node.integers(1)?,
        None => Vec::new(),
    };
    let axes = node.axes_of(&axes, node.rank(x))?;
    match (axes.as_slice(), node.flag("keepdims", true), node.dtype(x)) {
        ([axis], false, DType::F32) => {
            node.output(0, Op::ReduceSum(ReduceSum { axis: *axis }), &[x])
        }
        _ => Err(node.unsupported("more than one axis, keepdims = 1, or integers")),
    }
}
