//! Quantization that an integer linear layer alone reads → the layer rounds as it reads. What was
//! quantized may have other readers: a residual keeps its f32 value.

use super::integer_linear::quantization_of;
use super::repeat;
use crate::module::{InputScale, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let Some((x, to)) = quantization_of(module, index) else { return false };
    let output = module.nodes[index].output;
    let Some(next) = module.only_consumer(output) else { return false };
    let Operation::IntegerLinear(layer) = &module.nodes[next].operation else { return false };
    if module.nodes[next].inputs[0] != output || layer.input != InputScale::Given(to) {
        return false;
    }
    let operation = module.nodes[next].operation.clone();
    let inputs = [&[x], &module.nodes[next].inputs[1..]].concat();
    module.fuse(next, &[index, next], operation, inputs);
    true
}
