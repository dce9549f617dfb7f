//! Integer linear layer, then a quantization that alone reads it → the layer writes int8.

use graph::{DType, Op};

use super::integer_linear::per_tensor;
use super::repeat;
use crate::module::{IntegerLinear, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Operation::IntegerLinear(layer) = &node.operation else { return false };
    if layer.output.is_some() {
        return false;
    }
    let Some(next) = module.only_consumer(node.output) else { return false };
    let quantize = &module.nodes[next];
    let (Operation::Graph(Op::Quantize(op)), [x, scale, zero_point]) =
        (&quantize.operation, quantize.inputs.as_slice())
    else {
        return false;
    };
    let to_int8 = op.axis.is_none() && module.value(quantize.output).dtype == DType::I8;
    let Some(output) = per_tensor(module, *scale, *zero_point).filter(|_| to_int8) else {
        return false;
    };
    if *x != node.output {
        return false;
    }
    let layer = IntegerLinear { output: Some(output), ..layer.clone() };
    let inputs = node.inputs.clone();
    module.fuse(next, &[index, next], Operation::IntegerLinear(layer), inputs);
    true
}
