//! Losses of classifications, along dimension 1.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{
    Binary, Cast, Gather, GatherElements, Op, Reduce, ReduceKind, SoftmaxRelative, Squeeze,
    Transpose, Unary, Unsqueeze,
};
use crate::{DType, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "NegativeLogLikelihoodLoss", import: negative_log_likelihood },
    OperatorEntry { name: "SoftmaxCrossEntropyLoss", import: cross_entropy },
];

fn negative_log_likelihood(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let logarithms = node.input(0)?;
    loss(node, logarithms)
}

fn cross_entropy(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let rank = node.rank(x);
    if rank < 2 {
        return Err(node.invalid(format!("expected classes in dimension 1 of {rank}")));
    }
    let mut permutation: Vec<usize> = (0..rank).collect();
    permutation.swap(1, rank - 1);
    let swap = Op::Transpose(Transpose { permutation });
    let moved = node.add(swap.clone(), &[x])?;
    let softmax = node.add(Op::SoftmaxRelative(SoftmaxRelative::LogSoftmax), &[moved])?;
    let logarithms = node.add(swap, &[softmax])?;
    node.output(1, Op::Identity, &[logarithms])?;
    loss(node, logarithms)
}

/// What the losses of all places become.
fn reduced(
    node: &mut NodeContext<'_, '_>,
    kind: ReduceKind,
    x: ValueId,
) -> Result<ValueId, ImportError> {
    let axes = Some((0..node.rank(x)).collect());
    let op = Reduce { kind, axes, keep_dims: false, empty_means_none: false };
    node.add(Op::Reduce(op), &[x])
}

/// `−weight[target] · logarithms[target]` of each place; those of the ignored class count nothing.
fn loss(node: &mut NodeContext<'_, '_>, logarithms: ValueId) -> Result<(), ImportError> {
    let reduction = node.text_or("reduction", "mean");
    if !["none", "sum", "mean"].contains(&reduction.as_str()) {
        return Err(node.unsupported(format!("reduction = `{reduction}`")));
    }
    let target = node.input(1)?;
    let mut target = node.add(Op::Cast(Cast { to: DType::I64 }), &[target])?;
    let mut ignored = None;
    if let Some(class) = node.int("ignore_index") {
        let class = node.weight(Tensor::scalar(class))?;
        let mask = node.add(Op::Binary(Binary::Equal), &[target, class])?;
        let first = node.weight(Tensor::scalar(0i64))?;
        target = node.add(Op::Where, &[mask, first, target])?;
        ignored = Some(mask);
    }
    let places = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[target])?;
    let picked = Op::GatherElements(GatherElements { axis: 1 });
    let picked = node.add(picked, &[logarithms, places])?;
    let picked = node.add(Op::Squeeze(Squeeze { axes: vec![1] }), &[picked])?;
    let mut losses = node.add(Op::Unary(Unary::Neg), &[picked])?;
    let mut weights = None;
    if let Some(weight) = node.optional(2) {
        let own = node.add(Op::Gather(Gather { axis: 0 }), &[weight, target])?;
        losses = node.add(Op::Mul, &[losses, own])?;
        weights = Some(own);
    }
    if let Some(mask) = ignored {
        let (zero, one) = (node.scalar(0.0)?, node.scalar(1.0)?);
        losses = node.add(Op::Where, &[mask, zero, losses])?;
        weights = Some(node.add(Op::Where, &[mask, zero, weights.unwrap_or(one)])?);
    }
    let total = match (reduction.as_str(), weights) {
        ("none", _) => losses,
        ("mean", None) => reduced(node, ReduceKind::Mean, losses)?,
        ("mean", Some(weights)) => {
            let sum = reduced(node, ReduceKind::Sum, losses)?;
            let weights = reduced(node, ReduceKind::Sum, weights)?;
            node.add(Op::Div, &[sum, weights])?
        }
        _ => reduced(node, ReduceKind::Sum, losses)?,
    };
    node.output(0, Op::Identity, &[total])
}
