//! Reductions.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::DType;
use crate::op::{Op, ReduceSum};

pub(super) const OPERATORS: &[OperatorEntry] =
    &[OperatorEntry { name: "ReduceSum", import: reduce_sum }];

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
