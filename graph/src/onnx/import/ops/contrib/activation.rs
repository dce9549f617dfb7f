//! Activations, alone and as the end of other operators.

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{Clip, Gelu, Op, Slice, Unary};
use crate::{Dim, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "BiasGelu", import: |node| biased(node, Op::Gelu(Gelu::Erf)) },
    OperatorEntry { name: "BiasSplitGelu", import: split_gelu },
    OperatorEntry { name: "FastGelu", import: |node| biased(node, Op::Gelu(Gelu::Tanh)) },
    OperatorEntry { name: "Gelu", import: |node| biased(node, Op::Gelu(Gelu::Erf)) },
    OperatorEntry { name: "QuickGelu", import: quick_gelu },
];

/// A function of `x`, or of `x` and a bias.
fn biased(node: &mut NodeContext<'_, '_>, op: Op) -> Result<(), ImportError> {
    let mut x = node.input(0)?;
    if let Some(bias) = node.optional(1) {
        x = node.add(Op::Add, &[x, bias])?;
    }
    node.output(0, op, &[x])
}

fn quick_gelu(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let alpha = node.float_or("alpha", 1.702);
    biased(node, Op::Unary(Unary::Swish { alpha }))
}

/// The first half of each row times what the second activates.
fn split_gelu(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, bias) = (node.input(0)?, node.input(1)?);
    let x = node.add(Op::Add, &[x, bias])?;
    let width = node.shape(x).last().and_then(Dim::fixed).filter(|width| width % 2 == 0);
    let width = width.ok_or_else(|| node.unsupported("rows of a length that is not even"))?;
    let axis = node.rank(x) - 1;
    let part = |start: usize, end: usize| Op::Slice(Slice { axis, start, end: end.into() });
    let left = node.add(part(0, width / 2), &[x])?;
    let right = node.add(part(width / 2, width), &[x])?;
    let right = node.add(Op::Gelu(Gelu::Erf), &[right])?;
    node.output(0, Op::Mul, &[left, right])
}

/// The activation that a node's attribute names, of `x`: what comes last, and its inputs. Parameters
/// that are not in the list have the defaults of the operator of that name.
pub(super) fn activated(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    parameters: &[f32],
) -> Result<(Op, Vec<ValueId>), ImportError> {
    let parameter = |index: usize, default| parameters.get(index).copied().unwrap_or(default);
    let op = match node.text_or("activation", "").as_str() {
        "" => Op::Identity,
        "Relu" => Op::Relu,
        "Tanh" => Op::Tanh,
        "Sigmoid" => Op::Unary(Unary::Sigmoid),
        "Softplus" => Op::Unary(Unary::Softplus),
        "Softsign" => Op::Unary(Unary::Softsign),
        "Elu" => Op::Unary(Unary::Elu { alpha: parameter(0, 1.0) }),
        "LeakyRelu" => Op::Unary(Unary::LeakyRelu { alpha: parameter(0, 0.01) }),
        "ThresholdedRelu" => Op::Unary(Unary::ThresholdedRelu { alpha: parameter(0, 1.0) }),
        "HardSigmoid" => {
            Op::Unary(Unary::HardSigmoid { alpha: parameter(0, 0.2), beta: parameter(1, 0.5) })
        }
        "Clip" => {
            let low = node.scalar(parameter(0, f32::MIN))?;
            let high = node.scalar(parameter(1, f32::MAX))?;
            return Ok((Op::Clip(Clip { low: true, high: true }), vec![x, low, high]));
        }
        other => return Err(node.unsupported(format!("activation = `{other}`"))),
    };
    Ok((op, vec![x]))
}
