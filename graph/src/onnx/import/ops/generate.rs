//! Tensors made from numbers and places.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{EyeLike, OneHot, Op, Triangle};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "EyeLike", import: eye_like },
    OperatorEntry { name: "NonZero", import: non_zero },
    OperatorEntry { name: "OneHot", import: one_hot },
    OperatorEntry { name: "Range", import: range },
    OperatorEntry { name: "Trilu", import: trilu },
];

fn eye_like(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let to = node.element_type("dtype")?.unwrap_or(node.dtype(x));
    node.output(0, Op::EyeLike(EyeLike { diagonal: node.int_or("k", 0), to }), &[x])
}

fn non_zero(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    node.output(0, Op::NonZero, &[x])
}

fn one_hot(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let rank = node.rank(node.input(0)?);
    let axis = node.axis_of(node.int_or("axis", -1), rank + 1)?;
    node.output(0, Op::OneHot(OneHot { axis }), &inputs)
}

fn range(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    node.output(0, Op::Range, &inputs)
}

pub(super) fn trilu(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs: Vec<_> = node.inputs().iter().copied().flatten().collect();
    let upper = node.flag("upper", true);
    node.output(0, Op::Triangle(Triangle { upper }), &inputs)
}
