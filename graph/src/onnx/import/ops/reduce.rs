//! Reductions, and what goes along one axis.

use super::super::{ImportError, NodeContext, OperatorEntry};
use super::arithmetic::along_axis;
use crate::op::{
    ArgExtreme, Binary, CumulativeProduct, CumulativeSum, Determinant, Op, Reduce, ReduceKind,
    ReduceSum, SoftmaxRelative, TopK, TopKPart, Unary,
};
use crate::{DType, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "ArgMax", import: |node| arg_extreme(node, Extreme::Largest) },
    OperatorEntry { name: "ArgMin", import: |node| arg_extreme(node, Extreme::Smallest) },
    OperatorEntry { name: "CumProd", import: cumulative_product },
    OperatorEntry { name: "CumSum", import: cumulative_sum },
    OperatorEntry { name: "Det", import: determinant },
    OperatorEntry {
        name: "Hardmax",
        import: |node| along_axis(node, Op::SoftmaxRelative(SoftmaxRelative::Hardmax)),
    },
    OperatorEntry {
        name: "LogSoftmax",
        import: |node| along_axis(node, Op::SoftmaxRelative(SoftmaxRelative::LogSoftmax)),
    },
    OperatorEntry { name: "LpNormalization", import: lp_normalization },
    OperatorEntry { name: "MeanVarianceNormalization", import: mean_variance_normalization },
    OperatorEntry { name: "ReduceL1", import: |node| reduce(node, ReduceKind::L1) },
    OperatorEntry { name: "ReduceL2", import: |node| reduce(node, ReduceKind::L2) },
    OperatorEntry { name: "ReduceLogSum", import: |node| reduce(node, ReduceKind::LogSum) },
    OperatorEntry { name: "ReduceLogSumExp", import: |node| reduce(node, ReduceKind::LogSumExp) },
    OperatorEntry { name: "ReduceMax", import: |node| reduce(node, ReduceKind::Max) },
    OperatorEntry { name: "ReduceMean", import: |node| reduce(node, ReduceKind::Mean) },
    OperatorEntry { name: "ReduceMin", import: |node| reduce(node, ReduceKind::Min) },
    OperatorEntry { name: "ReduceProd", import: |node| reduce(node, ReduceKind::Product) },
    OperatorEntry { name: "ReduceSum", import: |node| reduce(node, ReduceKind::Sum) },
    OperatorEntry { name: "ReduceSumSquare", import: |node| reduce(node, ReduceKind::SumSquare) },
    OperatorEntry { name: "TopK", import: top_k },
];

/// Axes are an attribute or, in newer models, an input, which may be left out.
fn reduce(node: &mut NodeContext<'_, '_>, kind: ReduceKind) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let rank = node.rank(x);
    let keep_dims = node.flag("keepdims", true);
    let empty_means_none = node.flag("noop_with_empty_axes", false);
    let given = match (node.ints("axes"), node.optional(1)) {
        (Some(axes), _) => Some(axes),
        (None, Some(axes)) => node.known_integers(axes),
        (None, None) => Some(Vec::new()),
    };
    let Some(given) = given else {
        let op = Op::Reduce(Reduce { kind, axes: None, keep_dims, empty_means_none });
        let axes = node.input(1)?;
        return node.output(0, op, &[x, axes]);
    };
    let axes = if given.is_empty() && !empty_means_none {
        (0..rank).collect()
    } else {
        node.axes_of(&given, rank)?
    };
    let op = match axes.as_slice() {
        &[axis] if kind == ReduceKind::Sum && !keep_dims && node.dtype(x) == DType::F32 => {
            Op::ReduceSum(ReduceSum { axis })
        }
        _ => Op::Reduce(Reduce { kind, axes: Some(axes), keep_dims, empty_means_none: false }),
    };
    node.output(0, op, &[x])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extreme {
    Largest,
    Smallest,
}

fn arg_extreme(node: &mut NodeContext<'_, '_>, extreme: Extreme) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let op = ArgExtreme {
        largest: extreme == Extreme::Largest,
        axis: node.axis_of(node.int_or("axis", 0), node.rank(x))?,
        keep_dims: node.flag("keepdims", true),
        last: node.flag("select_last_index", false),
    };
    node.output(0, Op::ArgExtreme(op), &[x])
}

fn cumulative_sum(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, axis) = (node.input(0)?, node.input(1)?);
    let exclusive = node.flag("exclusive", false);
    let op = CumulativeSum { exclusive, reverse: node.flag("reverse", false) };
    node.output(0, Op::CumulativeSum(op), &[x, axis])
}

fn cumulative_product(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, axis) = (node.input(0)?, node.input(1)?);
    let exclusive = node.flag("exclusive", false);
    let op = CumulativeProduct { exclusive, reverse: node.flag("reverse", false) };
    node.output(0, Op::CumulativeProduct(op), &[x, axis])
}

fn determinant(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    node.output(0, Op::Determinant(Determinant {}), &[x])
}

/// Before opset 10 `k` was an attribute.
fn top_k(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let axis = node.axis_of(node.int_or("axis", -1), node.rank(x))?;
    let k = match node.int("k") {
        Some(k) => node.list(&[k])?,
        None => node.input(1)?,
    };
    let largest = node.flag("largest", true);
    let part = |part| Op::TopK(TopK { axis, largest, part });
    node.output(0, part(TopKPart::Values), &[x, k])?;
    node.output(1, part(TopKPart::Indices), &[x, k])
}

fn kept(
    node: &mut NodeContext<'_, '_>,
    kind: ReduceKind,
    axes: &[usize],
    x: ValueId,
) -> Result<ValueId, ImportError> {
    let axes = Some(axes.to_vec());
    node.add(Op::Reduce(Reduce { kind, axes, keep_dims: true, empty_means_none: false }), &[x])
}

/// Divides by the norm along one axis; where that is 0, so is what is divided.
fn lp_normalization(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let axis = node.axis_of(node.int_or("axis", -1), node.rank(x))?;
    let kind = match node.int_or("p", 2) {
        1 => ReduceKind::L1,
        2 => ReduceKind::L2,
        other => return Err(node.unsupported(format!("p = {other}"))),
    };
    let norm = kept(node, kind, &[axis], x)?;
    let (zero, one) = (node.scalar(0.0)?, node.scalar(1.0)?);
    let nothing = node.add(Op::Binary(Binary::Equal), &[norm, zero])?;
    let divisor = node.add(Op::Where, &[nothing, one, norm])?;
    node.output(0, Op::Div, &[x, divisor])
}

fn mean_variance_normalization(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    /// What ONNX adds to the standard deviation.
    const EPSILON: f32 = 1e-9;
    let x = node.input(0)?;
    let axes = node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
    let axes = node.axes_of(&axes, node.rank(x))?;
    let mean = kept(node, ReduceKind::Mean, &axes, x)?;
    let centred = node.add(Op::Sub, &[x, mean])?;
    let squares = node.add(Op::Mul, &[centred, centred])?;
    let variance = kept(node, ReduceKind::Mean, &axes, squares)?;
    let deviation = node.add(Op::Unary(Unary::Sqrt), &[variance])?;
    let epsilon = node.scalar(EPSILON)?;
    let deviation = node.add(Op::Add, &[deviation, epsilon])?;
    node.output(0, Op::Div, &[centred, deviation])
}
