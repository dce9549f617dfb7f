//! Drops nodes that give their input as it is: a reshape to the same shape, a transposition that
//! moves nothing, a cast to the same type.

use graph::Op;

use super::repeat;
use crate::module::{Module, Operation, same_sizes};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Operation::Graph(op) = &node.operation else { return false };
    let Some(&input) = node.inputs.first() else { return false };
    let output = node.output;
    let same = match op {
        Op::Reshape(_) | Op::ReshapeTo(_) => {
            same_sizes(&module.value(input).shape, &module.value(output).shape)
        }
        Op::Identity => true,
        Op::Transpose(op) => op.permutation.iter().copied().eq(0..op.permutation.len()),
        Op::Cast(op) => module.value(input).dtype == op.to,
        Op::Unsqueeze(op) => op.axes.is_empty(),
        _ => false,
    };
    // An output keeps its own name and value.
    if !same || module.outputs.contains(&output) {
        return false;
    }
    for node in &mut module.nodes {
        for id in node.inputs.iter_mut().filter(|id| **id == output) {
            *id = input;
        }
    }
    module.remove(|other| other == index);
    true
}
