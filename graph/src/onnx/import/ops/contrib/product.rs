//! Matrix products and convolutions with what was fused to them.

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use super::super::arithmetic::{factor, gemm_parts, product};
use super::super::windows::{conv_inputs, convolution};
use super::activation::activated;
use crate::ValueId;
use crate::op::{Conv, Op, Transpose};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "FusedConv", import: conv },
    OperatorEntry { name: "FusedGemm", import: gemm },
    OperatorEntry { name: "FusedMatMul", import: matmul },
    // What FusedMatMul was called before.
    OperatorEntry { name: "TransposeMatMul", import: matmul },
];

/// A side of the product: its batches may stand between the dimensions of its matrices, and those may
/// be transposed. Vectors stay what they are.
fn side(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    [batch, matrix]: [&str; 2],
) -> Result<ValueId, ImportError> {
    let rank = node.rank(x);
    if rank < 2 {
        return Ok(x);
    }
    let mut permutation: Vec<usize> = (0..rank).collect();
    if node.flag(batch, false) {
        permutation[..rank - 1].rotate_left(1);
    }
    if node.flag(matrix, false) {
        permutation.swap(rank - 2, rank - 1);
    }
    if permutation.is_sorted() {
        return Ok(x);
    }
    node.add(Op::Transpose(Transpose { permutation }), &[x])
}

fn matmul(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let a = side(node, a, ["transBatchA", "transA"])?;
    let b = side(node, b, ["transBatchB", "transB"])?;
    let (op, inputs) = product(node, a, b)?;
    let alpha = node.float_or("alpha", 1.0);
    if alpha == 1.0 {
        return node.output(0, op, &inputs);
    }
    let product = node.add(op, &inputs)?;
    let alpha = factor(node, alpha, product)?;
    node.output(0, Op::Mul, &[product, alpha])
}

fn gemm(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (op, inputs) = gemm_parts(node)?;
    let product = node.add(op, &inputs)?;
    let names = ["activation_alpha", "activation_beta", "activation_gamma"];
    let given = names.iter().take_while(|name| node.has(name));
    let parameters: Vec<f32> = given.map(|name| node.float_or(name, 0.0)).collect();
    let (op, inputs) = activated(node, product, &parameters)?;
    node.output(0, op, &inputs)
}

/// `activation(conv(x) + z)`
fn conv(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (window, groups) = convolution(node, node.input(1)?)?;
    let inputs = conv_inputs(node)?;
    let mut y = node.add(Op::Conv(Conv { window, groups }), &inputs)?;
    if let Some(z) = node.optional(3) {
        y = node.add(Op::Add, &[y, z])?;
    }
    let parameters = node.floats("activation_params").unwrap_or_default();
    let (op, inputs) = activated(node, y, &parameters)?;
    node.output(0, op, &inputs)
}
