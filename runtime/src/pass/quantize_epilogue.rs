//! Integer linear layer or convolution, or attention, then a quantization that alone reads it → it writes int8.
//! Limits that numbers are kept between before become limits of the integers, which are the same.

use kernels::Activation;
use kernels::int8::Quantization;

use super::integer_linear::quantization_of;
use super::repeat;
use crate::module::{ChannelsLast, HeadSplit, IntegerConv, IntegerLinear, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Some(next) = module.only_consumer(node.output) else { return false };
    let Some((x, output)) = quantization_of(module, next) else { return false };
    if x != node.output {
        return false;
    }
    let operation = match &node.operation {
        Operation::IntegerLinear(layer) if layer.output.is_none() => {
            Operation::IntegerLinear(writing(layer, output))
        }
        Operation::ChannelsLast(ChannelsLast::IntegerConv(conv)) if conv.layer.output.is_none() => {
            let conv = IntegerConv { layer: writing(&conv.layer, output), ..conv.clone() };
            Operation::ChannelsLast(ChannelsLast::IntegerConv(conv))
        }
        Operation::Attention(split) if split.output.is_none() => {
            Operation::Attention(HeadSplit { output: Some(output), ..split.clone() })
        }
        _ => return false,
    };
    let inputs = node.inputs.clone();
    module.fuse(next, &[index, next], operation, inputs);
    true
}

/// The layer that writes its results so.
fn writing(layer: &IntegerLinear, output: Quantization) -> IntegerLinear {
    let (activation, output) = limited(layer.activation, output);
    IntegerLinear { activation, output: Some(output), ..layer.clone() }
}

/// What is left to do of an activation before its results are written so, and how they are written then.
pub(super) fn limited(activation: Activation, to: Quantization) -> (Activation, Quantization) {
    match activation.limits().and_then(|limits| to.limited(limits)) {
        Some(limited) => (Activation::Identity, limited),
        None => (activation, to),
    }
}
