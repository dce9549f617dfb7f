//! Computes nodes whose inputs are all constants, once. Dequantizations are left alone: the
//! integer passes need to see them.

use graph::{Bindings, Op, Tensor};

use super::repeat;
use crate::module::{Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| {
        let keep = matches!(module.nodes[index].operation, Operation::Graph(Op::Dequantize(_)));
        !keep && fold(module, index)
    })
}

/// Replaces one node by its value; the node has to read constants only, and not fail on them.
pub(super) fn fold(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Operation::Graph(op) = &node.operation else { return false };
    if module.value(node.output).shape.iter().any(|dim| dim.fixed().is_none()) {
        return false;
    }
    let inputs: Option<Vec<&Tensor>> = node.inputs.iter().map(|&id| module.constant(id)).collect();
    let Some(inputs) = inputs else { return false };
    let Ok(tensor) = op.operator().evaluate(&inputs, &Bindings::default()) else { return false };
    let output = node.output;
    module.values[output.0].constant = Some(tensor);
    module.remove(|other| other == index);
    true
}
