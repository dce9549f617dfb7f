//! Computes nodes whose inputs are all constants, once, and makes choices that follow. Dequantizations are
//! left alone: the integer passes need to see them.

use graph::{Bindings, Op, Tensor};

use super::no_ops::drop_same;
use super::repeat;
use crate::module::{Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let fired = repeat(module, |module, index| match &module.nodes[index].operation {
        Operation::Graph(Op::Dequantize(_)) => false,
        Operation::Choose => drop_same(module, index),
        _ => fold(module, index),
    });
    if fired > 0 {
        module.sweep();
    }
    fired
}

/// Bytes of a value that may follow from a few numbers: a short file could ask for any memory.
const MOST_BYTES: usize = 16 << 20;

/// Bytes of a larger value for each that it follows from: as many as dequantizing int8 writes.
const MOST_GROWTH: usize = 4;

/// Replaces one node by its value; the node has to read constants only, and not fail on them. What
/// would be much larger than these is left to a run, which counts it against a memory budget.
pub(super) fn fold(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Operation::Graph(op) = &node.operation else { return false };
    // What it looks at follows from values, not from sizes.
    if matches!(op, Op::RoiAlign(_)) {
        return false;
    }
    let inputs: Option<Vec<&Tensor>> = node.inputs.iter().map(|&id| module.constant(id)).collect();
    let Some(inputs) = inputs else { return false };
    let value = module.value(node.output);
    let size = value.shape.iter().try_fold(value.dtype.size_bytes(), |bytes, dim| {
        dim.fixed().and_then(|size| bytes.checked_mul(size))
    });
    let read: usize = inputs.iter().map(|tensor| tensor.size_bytes()).sum();
    if size.is_none_or(|bytes| bytes > MOST_BYTES && bytes > MOST_GROWTH * read) {
        return false;
    }
    let Ok(tensor) = op.operator().evaluate(&inputs, &Bindings::default()) else { return false };
    let output = node.output;
    module.values[output.0].constant = Some(tensor);
    module.remove(|other| other == index);
    true
}
