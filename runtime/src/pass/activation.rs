//! Linear layer, then an activation function → linear layer with activation.

use graph::Op;
use graph::op::Gelu;
use kernels::Activation;

use super::repeat;
use crate::module::{IntegerLinear, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

/// The kernel's name for an activation operator.
pub(crate) fn activation_of(op: &Op) -> Option<Activation> {
    match op {
        Op::Relu => Some(Activation::Relu),
        Op::Tanh => Some(Activation::Tanh),
        Op::Gelu(Gelu::Erf) => Some(Activation::Gelu),
        Op::Gelu(Gelu::Tanh) => Some(Activation::GeluTanh),
        _ => None,
    }
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Some(next) = module.only_consumer(node.output) else { return false };
    let Operation::Graph(op) = &module.nodes[next].operation else { return false };
    let Some(activation) = activation_of(op) else { return false };
    let operation = match &node.operation {
        Operation::Linear { activation: Activation::Identity } => Operation::Linear { activation },
        Operation::IntegerLinear(layer)
            if layer.activation == Activation::Identity && layer.output.is_none() =>
        {
            Operation::IntegerLinear(IntegerLinear { activation, ..layer.clone() })
        }
        _ => return false,
    };
    let inputs = node.inputs.clone();
    module.fuse(next, &[index, next], operation, inputs);
    true
}
