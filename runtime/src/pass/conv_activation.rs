//! Convolution, then an activation function → convolution with activation.

use graph::Op;

use super::activation::activation_at;
use super::repeat;
use crate::kernel::volume;
use crate::module::{ActivatedConv, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Operation::Graph(Op::Conv(op)) = &node.operation else { return false };
    // What else there is needs kernels that know no fused operations.
    if !matches!(op.window.kernel.len(), 1 | 2) && volume::packs(module, node).is_err() {
        return false;
    }
    let Some(next) = module.only_consumer(node.output) else { return false };
    if module.nodes[next].inputs.first() != Some(&node.output) {
        return false;
    }
    let Some(activation) = activation_at(module, next) else { return false };
    let (op, inputs) = (op.clone(), node.inputs.clone());
    module.fuse(next, &[index, next], Operation::Conv(ActivatedConv { op, activation }), inputs);
    true
}
