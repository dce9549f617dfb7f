//! Convolution or batch normalization, then batch normalization or a factor or summand by channel, all
//! with constants → the first with other constants.

use graph::op::BatchNorm;
use graph::rewrite::scaling::Scaling;
use graph::{Op, Tensor};

use super::repeat;
use crate::module::{Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let found = || {
        let node = &module.nodes[index];
        let Operation::Graph(op @ (Op::Conv(_) | Op::BatchNorm(_))) = &node.operation else {
            return None;
        };
        let next = module.only_consumer(node.output)?;
        let constant = |place: usize| module.constant(*node.inputs.get(place)?);
        let first = constant(1)?;
        let channels = match op {
            Op::Conv(_) => *first.shape().first()?,
            _ => first.len(),
        };
        let scaling = of(module, &module.nodes[next], node.output, channels)?;
        let constants = match op {
            Op::Conv(_) if node.inputs.len() > 2 => {
                scaling.after_filters(first, Some(constant(2)?))
            }
            Op::Conv(_) => scaling.after_filters(first, None),
            _ => scaling.after_norm(first, constant(2)?),
        };
        Some((next, constants?))
    };
    let Some((next, constants)) = found() else { return false };
    let node = &module.nodes[index];
    let (name, operation) = (node.name.clone(), node.operation.clone());
    let what = if matches!(operation, Operation::Graph(Op::Conv(_))) { "weight" } else { "scale" };
    let mut inputs = node.inputs.clone();
    for (place, (constant, what)) in constants.into_iter().zip([what, "bias"]).enumerate() {
        let id = module.add_constant(format!("{name}/{what}"), constant);
        match inputs.get_mut(1 + place) {
            Some(place) => *place = id,
            None => inputs.push(id),
        }
    }
    module.fuse(next, &[index, next], operation, inputs);
    true
}

/// What a node does to `x`, one of its inputs, which has so many channels.
fn of(module: &Module, node: &Node, x: Id, channels: usize) -> Option<Scaling> {
    let Operation::Graph(op) = &node.operation else { return None };
    let rank = module.value(x).shape.len();
    let position = node.inputs.iter().position(|&id| id == x)?;
    let sizes = [rank, channels];
    let scaling = Scaling::of(op, &constants(module, &node.inputs), position, sizes);
    scaling.filter(|_| rank == module.value(node.output).shape.len())
}

/// What a normalization by constants does.
pub(super) fn of_norm(module: &Module, node: &Node, op: BatchNorm) -> Option<Scaling> {
    Scaling::of_norm(op, &constants(module, node.inputs.get(1..)?))
}

fn constants<'a>(module: &'a Module, ids: &[Id]) -> Vec<Option<&'a Tensor>> {
    ids.iter().map(|&id| module.constant(id)).collect()
}
