//! What ONNX has too, in forms of before.

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use super::super::generate::trilu;
use crate::op::{Cast, Op, Pad, PadMode, Reshape, Squeeze, Unique, UniquePart};
use crate::{DType, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "BiasAdd", import: bias_add },
    OperatorEntry { name: "Pad", import: pad },
    OperatorEntry { name: "Range", import: range },
    OperatorEntry { name: "Trilu", import: trilu },
    OperatorEntry { name: "Unique", import: unique },
];

/// `x + bias + skip`
fn bias_add(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, bias, skip) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let biased = node.add(Op::Add, &[x, bias])?;
    node.output(0, Op::Add, &[biased, skip])
}

/// A list of one as the number itself.
fn number(node: &mut NodeContext<'_, '_>, x: ValueId) -> Result<ValueId, ImportError> {
    match node.rank(x) {
        0 => Ok(x),
        1 => node.add(Op::Squeeze(Squeeze { axes: vec![0] }), &[x]),
        rank => Err(node.invalid(format!("expected a number, found {rank} dimensions"))),
    }
}

fn range(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (start, limit) = (node.input(0)?, node.input(1)?);
    let (start, limit) = (number(node, start)?, number(node, limit)?);
    let delta = match node.optional(2) {
        Some(delta) => number(node, delta)?,
        None => {
            let one = node.weight(Tensor::scalar(1i64))?;
            let to = node.dtype(start);
            if to == DType::I64 { one } else { node.add(Op::Cast(Cast { to }), &[one])? }
        }
    };
    node.output(0, Op::Range, &[start, limit, delta])
}

/// Pads stand in a list, or in the only row of a matrix.
fn pad(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, mut pads) = (node.input(0)?, node.input(1)?);
    let name = node.text_or("mode", "constant");
    let mode = PadMode::from_name(&name);
    let mode = mode.ok_or_else(|| node.unsupported(format!("mode = `{name}`")))?;
    if node.rank(pads) == 2 {
        pads = node.add(Op::Reshape(Reshape { shape: vec![-1] }), &[pads])?;
    }
    let value = match node.optional(2) {
        Some(value) => number(node, value)?,
        None => node.weight(Tensor::zeros(node.dtype(x), &[]))?,
    };
    let axes = node.list(&(0..node.rank(x) as i64).collect::<Vec<_>>())?;
    node.output(0, Op::Pad(Pad { mode }), &[x, pads, value, axes])
}

/// Entries in the order in which they first appear.
fn unique(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let parts = [UniquePart::Entries, UniquePart::Inverse, UniquePart::Counts];
    for (index, part) in parts.into_iter().enumerate() {
        node.output(index, Op::Unique(Unique { axis: None, sorted: false, part }), &[x])?;
    }
    Ok(())
}
