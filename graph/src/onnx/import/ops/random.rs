//! Random numbers, the same at every run.
//!
//! What a node draws follows from its attribute `seed`. Without one its seed is its number among the
//! nodes of the file that draw, counted as −1, −2, …, so that no two draw the same.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{
    Binary, Cast, CumulativeSum, Distribution, Expand, Op, Random, ReduceSum, Slice, Softmax,
    Squeeze, Unsqueeze,
};
use crate::{DType, Dim, Tensor, ValueId};

/// Draws times classes at most.
const MOST_COMPARED: usize = 1 << 26;

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "Bernoulli", import: bernoulli },
    OperatorEntry { name: "Multinomial", import: multinomial },
    OperatorEntry { name: "RandomNormal", import: |node| of_shape(node, normal) },
    OperatorEntry { name: "RandomNormalLike", import: |node| like(node, normal) },
    OperatorEntry { name: "RandomUniform", import: |node| of_shape(node, uniform) },
    OperatorEntry { name: "RandomUniformLike", import: |node| like(node, uniform) },
];

fn normal(node: &NodeContext<'_, '_>) -> Distribution {
    let (mean, scale) = (node.float_or("mean", 0.0), node.float_or("scale", 1.0));
    Distribution::Normal { mean, scale }
}

fn uniform(node: &NodeContext<'_, '_>) -> Distribution {
    Distribution::Uniform { low: node.float_or("low", 0.0), high: node.float_or("high", 1.0) }
}

/// Evenly from 0 to below 1.
const SHARES: Distribution = Distribution::Uniform { low: 0.0, high: 1.0 };

/// What draws numbers of its own in the shape of its input.
fn draw(node: &mut NodeContext<'_, '_>, distribution: Distribution) -> Result<Op, ImportError> {
    if node.repeats() {
        return Err(node.unsupported("drawing anew in every round of a loop"));
    }
    let own = node.next_seed();
    let seed = node.float_or("seed", own).to_bits();
    Ok(Op::Random(Random { distribution, seed }))
}

/// Numbers of a type other than f32 are not drawn.
fn check_type(node: &NodeContext<'_, '_>, default: DType) -> Result<(), ImportError> {
    match node.element_type("dtype")?.unwrap_or(default) {
        DType::F32 => Ok(()),
        other => Err(node.unsupported(format!("drawing numbers of type {other}"))),
    }
}

fn like(
    node: &mut NodeContext<'_, '_>,
    distribution: fn(&NodeContext<'_, '_>) -> Distribution,
) -> Result<(), ImportError> {
    let x = node.input(0)?;
    check_type(node, node.dtype(x))?;
    let op = draw(node, distribution(node))?;
    node.output(0, op, &[x])
}

fn of_shape(
    node: &mut NodeContext<'_, '_>,
    distribution: fn(&NodeContext<'_, '_>) -> Distribution,
) -> Result<(), ImportError> {
    check_type(node, DType::F32)?;
    let sizes = node.ints("shape").ok_or_else(|| node.invalid("it lacks a shape"))?;
    let shaped = filled(node, &sizes)?;
    let op = draw(node, distribution(node))?;
    node.output(0, op, &[shaped])
}

/// A value of these sizes whose elements do not count.
fn filled(node: &mut NodeContext<'_, '_>, sizes: &[i64]) -> Result<ValueId, ImportError> {
    let (zero, sizes) = (node.weight(Tensor::scalar(0u8))?, node.list(sizes)?);
    node.add(Op::Expand(Expand {}), &[zero, sizes])
}

/// 1 where a number drawn from 0 to 1 is below the probability.
fn bernoulli(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let to = node.element_type("dtype")?.unwrap_or(node.dtype(x));
    let op = draw(node, SHARES)?;
    let share = node.add(op, &[x])?;
    if to == DType::Bool {
        return node.output(0, Op::Binary(Binary::Less), &[share, x]);
    }
    let hits = node.add(Op::Binary(Binary::Less), &[share, x])?;
    node.output(0, Op::Cast(Cast { to }), &[hits])
}

/// Classes by their logarithmic odds, `[batch, classes]`, drawn with replacement: as many classes lie
/// before the one drawn as have sums of probabilities that a share of all does not reach.
fn multinomial(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let to = node.element_type("dtype")?.unwrap_or(DType::I32);
    let count = node.int_or("sample_size", 1);
    let &[_, Dim::Fixed(classes)] = node.shape(x).as_slice() else {
        return Err(node.unsupported("odds of an unknown number of classes"));
    };
    if !matches!(to, DType::I32 | DType::I64) || count < 1 || classes == 0 {
        return Err(node.invalid(format!("{count} draws of {classes} classes as {to}")));
    }
    // Every draw is compared with every class.
    if (count as usize).checked_mul(classes).is_none_or(|compared| compared > MOST_COMPARED) {
        return Err(node.unsupported(format!("{count} draws of {classes} classes")));
    }
    let odds = node.add(Op::Softmax(Softmax {}), &[x])?;
    let last = node.list(&[1])?;
    let last = node.add(Op::Squeeze(Squeeze { axes: vec![0] }), &[last])?;
    let sum = CumulativeSum { exclusive: false, reverse: false };
    let sums = node.add(Op::CumulativeSum(sum), &[odds, last])?;
    // Exactly what the sums end at, so that a share of it lies below the last of them.
    let end = Slice { axis: 1, start: classes - 1, end: Dim::Fixed(classes) };
    let all = node.add(Op::Slice(end), &[sums])?;
    let sizes = node.list(&[1, count])?;
    let shape_of_draws = node.add(Op::Expand(Expand {}), &[all, sizes])?;
    let op = draw(node, SHARES)?;
    let shares = node.add(op, &[shape_of_draws])?;
    let shares = node.add(Op::Mul, &[shares, all])?;
    let shares = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![2] }), &[shares])?;
    let sums = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[sums])?;
    let before = node.add(Op::Binary(Binary::LessOrEqual), &[sums, shares])?;
    let before = node.add(Op::Cast(Cast { to: DType::F32 }), &[before])?;
    let before = node.add(Op::ReduceSum(ReduceSum { axis: 2 }), &[before])?;
    node.output(0, Op::Cast(Cast { to }), &[before])
}
