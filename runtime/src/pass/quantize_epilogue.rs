//! Integer linear layer or convolution, or attention, then a quantization that alone reads it → it writes int8.

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
    let output = Some(output);
    let operation = match &node.operation {
        Operation::IntegerLinear(layer) if layer.output.is_none() => {
            Operation::IntegerLinear(IntegerLinear { output, ..layer.clone() })
        }
        Operation::ChannelsLast(ChannelsLast::IntegerConv(conv)) if conv.layer.output.is_none() => {
            let layer = IntegerLinear { output, ..conv.layer.clone() };
            let conv = IntegerConv { layer, ..conv.clone() };
            Operation::ChannelsLast(ChannelsLast::IntegerConv(conv))
        }
        Operation::Attention(split) if split.output.is_none() => {
            Operation::Attention(HeadSplit { output, ..split.clone() })
        }
        _ => return false,
    };
    let inputs = node.inputs.clone();
    module.fuse(next, &[index, next], operation, inputs);
    true
}
