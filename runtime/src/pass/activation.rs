//! Linear layer, then an activation function → linear layer with activation.

use graph::Op;
use graph::op::Gelu;
use kernels::{Activation, Function};

use super::repeat;
use crate::kernel::function_of;
use crate::module::{IntegerLinear, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

/// What node `index` does to each element of its first input, where a layer before it can.
pub(super) fn activation_at(module: &Module, index: usize) -> Option<Activation> {
    activation_of_node(module, &module.nodes[index])
}

/// What a node does to each element of its first input, if it does and other inputs are constant.
pub(crate) fn activation_of_node(module: &Module, node: &Node) -> Option<Activation> {
    let Operation::Graph(op) = &node.operation else { return None };
    let Op::Clip(clip) = op else {
        return activation_of(op).or_else(|| function_of(op).map(Activation::Map));
    };
    let mut bounds = node.inputs[1..].iter().map(|&bound| module.scalar(bound));
    let mut bound = |given: bool, without: f32| if given { bounds.next()? } else { Some(without) };
    let low = bound(clip.low, f32::NEG_INFINITY)?;
    let high = bound(clip.high, f32::INFINITY)?;
    Some(Activation::Map(Function::Clip { low, high }))
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
    if module.nodes[next].inputs.first() != Some(&node.output) {
        return false;
    }
    let Some(activation) = activation_at(module, next) else { return false };
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
