//! Drops nodes that give an input as it is: a reshape to the same shape, a transposition that moves
//! nothing, a cast to the same type, a choice that is made.

use graph::Op;

use super::repeat;
use crate::module::{Id, Module, Node, Operation, same_sizes};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, drop_same)
}

/// Drops one node, where it gives an input as it is.
pub(super) fn drop_same(module: &mut Module, index: usize) -> bool {
    let output = module.nodes[index].output;
    let Some(input) = same(module, &module.nodes[index]) else { return false };
    // An output keeps its own name and value.
    if module.outputs.contains(&output) {
        return false;
    }
    module.replace_uses(output, input);
    module.remove(|other| other == index);
    true
}

/// The input that a node gives as it is.
fn same(module: &Module, node: &Node) -> Option<Id> {
    let &input = node.inputs.first()?;
    let is_same = match &node.operation {
        Operation::Choose => {
            let holds = *module.constant(input)?.elements::<bool>().ok()?.first()?;
            return node.inputs.get(if holds { 1 } else { 2 }).copied();
        }
        Operation::Graph(Op::Reshape(_) | Op::ReshapeTo(_)) => {
            same_sizes(&module.value(input).shape, &module.value(node.output).shape)
        }
        Operation::Graph(Op::Identity) => true,
        Operation::Graph(Op::Transpose(op)) => {
            op.permutation.iter().copied().eq(0..op.permutation.len())
        }
        Operation::Graph(Op::Cast(op)) => module.value(input).dtype == op.to,
        Operation::Graph(Op::Unsqueeze(op)) => op.axes.is_empty(),
        _ => false,
    };
    is_same.then_some(input)
}
