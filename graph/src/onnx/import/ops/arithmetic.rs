//! Arithmetic, activations that graphs know, and matrix products.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{Cast, Gelu, Op, ReshapeTo, ShapeOf, Softmax, Squeeze, Transpose, Unsqueeze};
use crate::{DType, Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "Add", import: |node| binary(node, Op::Add) },
    OperatorEntry { name: "Div", import: |node| binary(node, Op::Div) },
    OperatorEntry { name: "Gelu", import: gelu },
    OperatorEntry { name: "Gemm", import: gemm },
    OperatorEntry { name: "MatMul", import: matmul },
    OperatorEntry { name: "Mul", import: |node| binary(node, Op::Mul) },
    OperatorEntry { name: "Softmax", import: softmax },
    OperatorEntry { name: "Sub", import: |node| binary(node, Op::Sub) },
    OperatorEntry { name: "Sum", import: sum },
    OperatorEntry { name: "Tanh", import: |node| unary(node, Op::Tanh) },
];

/// One input, one output.
pub(super) fn unary(node: &mut NodeContext<'_, '_>, op: Op) -> Result<(), ImportError> {
    let x = node.input(0)?;
    node.output(0, op, &[x])
}

/// Two inputs that broadcast.
pub(super) fn binary(node: &mut NodeContext<'_, '_>, op: Op) -> Result<(), ImportError> {
    let a = node.input(0)?;
    let b = aligned(node, a)?;
    node.output(0, op, &[a, b])
}

/// The second input. Before opset 7 it was aligned at `axis`, where one was given, and not at the
/// end.
fn aligned(node: &mut NodeContext<'_, '_>, a: ValueId) -> Result<ValueId, ImportError> {
    let b = node.input(1)?;
    if node.opset() >= 7 || !node.has("axis") {
        return Ok(b);
    }
    let rank = node.rank(a);
    let axis = node.axis_of(node.int_or("axis", 0), rank)?;
    let end = axis + node.rank(b);
    if end > rank {
        return Err(node.invalid(format!("axis {axis} leaves too few of {rank} dimensions")));
    }
    let axes = (node.rank(b)..node.rank(b) + rank - end).collect();
    node.add(Op::Unsqueeze(Unsqueeze { axes }), &[b])
}

fn sum(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let [first, middle @ .., last] = inputs.as_slice() else {
        let x = node.input(0)?;
        node.set(0, x);
        return Ok(());
    };
    let mut total = *first;
    for &part in middle {
        total = node.add(Op::Add, &[total, part])?;
    }
    node.output(0, Op::Add, &[total, *last])
}

fn gelu(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let gelu = match node.text_or("approximate", "none").as_str() {
        "none" => Gelu::Erf,
        "tanh" => Gelu::Tanh,
        other => return Err(node.unsupported(format!("approximate = `{other}`"))),
    };
    unary(node, Op::Gelu(gelu))
}

/// Softmax along one axis; before opset 13 over everything from `axis` on.
fn softmax(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    along_axis(node, Op::Softmax(Softmax {}))
}

/// Applies `op`, which goes along the last dimension, along the dimension that the node names.
pub(super) fn along_axis(node: &mut NodeContext<'_, '_>, op: Op) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let rank = node.rank(x);
    let old = node.opset() < 13;
    let axis = node.axis_of(node.int_or("axis", if old { 1 } else { -1 }), rank)?;
    let last = if old { over_the_rest(node, op, x, axis) } else { over_one(node, op, x, axis) };
    let (op, inputs) = last?;
    node.output(0, op, &inputs)
}

/// Applies `op` along `axis`; gives what comes last, and its inputs.
pub(super) fn over_one(
    node: &mut NodeContext<'_, '_>,
    op: Op,
    x: ValueId,
    axis: usize,
) -> Result<(Op, Vec<ValueId>), ImportError> {
    let rank = node.rank(x);
    if axis + 1 == rank {
        return Ok((op, vec![x]));
    }
    let mut permutation: Vec<usize> = (0..rank).collect();
    permutation.swap(axis, rank - 1);
    let swap = Op::Transpose(Transpose { permutation });
    let moved = node.add(swap.clone(), &[x])?;
    let moved = node.add(op, &[moved])?;
    Ok((swap, vec![moved]))
}

/// Applies `op` over all dimensions from `axis` on as if they were one; gives what comes last, and its
/// inputs.
pub(super) fn over_the_rest(
    node: &mut NodeContext<'_, '_>,
    op: Op,
    x: ValueId,
    axis: usize,
) -> Result<(Op, Vec<ValueId>), ImportError> {
    if axis + 1 == node.rank(x) {
        return Ok((op, vec![x]));
    }
    let rest: Option<Vec<usize>> = node.shape(x)[axis..].iter().map(Dim::fixed).collect();
    let rest = rest.and_then(|rest| i64::try_from(crate::weights::checked_elements(&rest)?).ok());
    let mut sizes = vec![0; axis];
    sizes.push(rest.filter(|&rest| rest > 0).unwrap_or(-1));
    let sizes = node.list(&sizes)?;
    let flat = node.add(Op::ReshapeTo(ReshapeTo { allow_zero: false }), &[x, sizes])?;
    let flat = node.add(op, &[flat])?;
    let end = node.rank(x);
    let sizes = node.add(Op::ShapeOf(ShapeOf { start: 0, end }), &[x])?;
    Ok((Op::ReshapeTo(ReshapeTo { allow_zero: true }), vec![flat, sizes]))
}

fn matmul(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let (op, inputs) = product(node, a, b)?;
    node.output(0, op, &inputs)
}

/// What comes last of a product, and its inputs. Vectors are matrices of one row or column for as long
/// as it takes.
pub(super) fn product(
    node: &mut NodeContext<'_, '_>,
    mut a: ValueId,
    mut b: ValueId,
) -> Result<(Op, Vec<ValueId>), ImportError> {
    let (row, column) = (node.rank(a) == 1, node.rank(b) == 1);
    if row {
        a = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![0] }), &[a])?;
    }
    if column {
        b = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[b])?;
    }
    if !row && !column {
        return Ok((Op::MatMul, vec![a, b]));
    }
    let product = node.add(Op::MatMul, &[a, b])?;
    let rank = node.rank(product);
    let axes = [row.then_some(rank - 2), column.then_some(rank - 1)];
    let axes = axes.into_iter().flatten().collect();
    Ok((Op::Squeeze(Squeeze { axes }), vec![product]))
}

fn gemm(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (op, inputs) = gemm_parts(node)?;
    node.output(0, op, &inputs)
}

/// `α·A·B + β·C` of matrices that may be transposed: what comes last, and its inputs.
pub(super) fn gemm_parts(
    node: &mut NodeContext<'_, '_>,
) -> Result<(Op, Vec<ValueId>), ImportError> {
    let (mut a, mut b) = (node.input(0)?, node.input(1)?);
    let swap = Op::Transpose(Transpose { permutation: vec![1, 0] });
    if node.flag("transA", false) {
        a = node.add(swap.clone(), &[a])?;
    }
    if node.flag("transB", false) {
        b = node.add(swap, &[b])?;
    }
    let (alpha, beta) = (node.float_or("alpha", 1.0), node.float_or("beta", 1.0));
    let bias = node.optional(2).filter(|_| beta != 0.0);
    if alpha == 1.0 && bias.is_none() {
        return Ok((Op::MatMul, vec![a, b]));
    }
    let product = node.add(Op::MatMul, &[a, b])?;
    let Some(bias) = bias else {
        let alpha = factor(node, alpha, product)?;
        return Ok((Op::Mul, vec![product, alpha]));
    };
    let product = scaled(node, product, alpha)?;
    let bias = scaled(node, bias, beta)?;
    Ok((Op::Add, vec![product, bias]))
}

/// `x · value`, `x` itself for 1.
pub(super) fn scaled(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    value: f32,
) -> Result<ValueId, ImportError> {
    if value == 1.0 {
        return Ok(x);
    }
    let factor = factor(node, value, x)?;
    node.add(Op::Mul, &[x, factor])
}

/// A constant of the element type of `like`.
pub(super) fn factor(
    node: &mut NodeContext<'_, '_>,
    value: f32,
    like: ValueId,
) -> Result<ValueId, ImportError> {
    let constant = node.weight(Tensor::scalar(value))?;
    match node.dtype(like) {
        DType::F32 => Ok(constant),
        to => node.add(Op::Cast(Cast { to }), &[constant]),
    }
}
