//! Convolution of images whose channels are last, then a sum with a value of the same shape, then an
//! activation function → one convolution. Scaling by channel takes an activation in, too.

use graph::{Op, Tensor};
use kernels::Activation;

use super::activation::activation_at;
use super::repeat;
use crate::module::{
    ActivatedConv, ChannelsLast, Id, IntegerConv, IntegerLinear, Module, Operation, same_sizes,
};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| sum(module, index) || activation(module, index))
}

/// The convolution of a node that has no activation yet, and whether something is added to it.
fn plain(module: &Module, index: usize) -> Option<(&ActivatedConv, bool)> {
    match &module.nodes[index].operation {
        Operation::ChannelsLast(ChannelsLast::Conv { conv, has_addend })
            if conv.activation == Activation::Identity =>
        {
            Some((conv, *has_addend))
        }
        _ => None,
    }
}

/// Index of the only node that reads what node `index` writes.
fn next(module: &Module, index: usize) -> Option<usize> {
    module.only_consumer(module.nodes[index].output)
}

fn sum(module: &mut Module, index: usize) -> bool {
    let found = || {
        let (conv, false) = plain(module, index)? else { return None };
        let next = next(module, index)?;
        let (node, following) = (&module.nodes[index], &module.nodes[next]);
        let Operation::Graph(Op::Add) = following.operation else { return None };
        let &addend = following.inputs.iter().find(|&&id| id != node.output)?;
        let fits = [node.output, addend]
            .map(|id| same_sizes(&module.value(id).shape, &module.value(following.output).shape));
        (fits == [true, true]).then(|| (next, conv.clone(), addend))
    };
    let Some((next, conv, addend)) = found() else { return false };
    let mut inputs = module.nodes[index].inputs.clone();
    if inputs.len() == 2 {
        inputs.push(no_bias(module, index, inputs[1]));
    }
    inputs.push(addend);
    let operation = ChannelsLast::Conv { conv, has_addend: true };
    module.fuse(next, &[index, next], Operation::ChannelsLast(operation), inputs);
    true
}

/// A bias of zeros: what is added comes behind it.
fn no_bias(module: &mut Module, index: usize, weight: Id) -> Id {
    let outputs = module.constant(weight).map_or(0, |weight| weight.shape()[0]);
    let name = format!("{}/bias", module.nodes[index].name);
    module.add_constant(name, Tensor::from_fn(&[outputs], |_| 0.0f32))
}

fn activation(module: &mut Module, index: usize) -> bool {
    let Some(next) = next(module, index) else { return false };
    if module.nodes[next].inputs.first() != Some(&module.nodes[index].output) {
        return false;
    }
    let Some(activation) = activation_at(module, next) else { return false };
    let operation = match (&module.nodes[index].operation, plain(module, index)) {
        (_, Some((conv, has_addend))) => {
            let conv = ActivatedConv { activation, ..conv.clone() };
            ChannelsLast::Conv { conv, has_addend }
        }
        (Operation::ChannelsLast(ChannelsLast::IntegerConv(conv)), _)
            if conv.layer.activation == Activation::Identity && conv.layer.output.is_none() =>
        {
            let layer = IntegerLinear { activation, ..conv.layer.clone() };
            ChannelsLast::IntegerConv(IntegerConv { layer, ..conv.clone() })
        }
        (
            Operation::ChannelsLast(ChannelsLast::ScaleShift { activation: Activation::Identity }),
            _,
        ) => ChannelsLast::ScaleShift { activation },
        _ => return false,
    };
    let inputs = module.nodes[index].inputs.clone();
    module.fuse(next, &[index, next], Operation::ChannelsLast(operation), inputs);
    true
}
