//! What products in bf16 read is kept in bf16, if nothing else reads it: half of the bytes, rounded once
//! instead of wherever it is read. So are images between convolutions where they are added to others, pooled,
//! scaled by channel, filtered channel by channel, or moved; an image that is rounded for a product is so for
//! these, too.

use graph::{DType, Op};
use kernels::Activation;

use crate::kernel::bf16::takes_weights;
use crate::kernel::bf16_conv;
use crate::kernel::channels_last::scaled_images;
use crate::module::{ChannelsLast, Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    // Runs of models whose sizes depend on values hand on tensors, which know no bf16.
    if !module.multiplies_bf16() || module.is_dynamic() {
        return 0;
    }
    let readers = readers(module);
    let could = |&index: &usize| {
        let node = &module.nodes[index];
        !module.outputs.contains(&node.output) && writes(module, node) != Writes::F32
    };
    let mut narrow: Vec<usize> = (0..module.nodes.len()).filter(could).collect();
    keep_as_bf16(module, &narrow, true);
    // All that could be, without what cannot while others are not.
    loop {
        let (stay, leave): (Vec<usize>, Vec<usize>) = narrow.iter().partition(|&&index| {
            let node = &module.nodes[index];
            let uses = readers[node.output.0].iter();
            let uses = uses.map(|&(reader, position)| use_of(module, reader, position));
            can_round(module, node) && all_round(uses)
        });
        if leave.is_empty() {
            return stay.len();
        }
        keep_as_bf16(module, &leave, false);
        narrow = stay;
    }
}

fn keep_as_bf16(module: &mut Module, nodes: &[usize], as_bf16: bool) {
    for &index in nodes {
        let Id(output) = module.nodes[index].output;
        module.values[output].as_bf16 = as_bf16;
    }
}

/// For every value, the nodes that read it, and as which input.
fn readers(module: &Module) -> Vec<Vec<(usize, usize)>> {
    let mut readers = vec![Vec::new(); module.values.len()];
    for (index, node) in module.nodes.iter().enumerate() {
        for (position, id) in node.inputs.iter().enumerate() {
            readers[id.0].push((index, position));
        }
    }
    readers
}

/// What the kernel of a node can write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// Numbers, rounded to bf16 or not.
    Either,
    /// Elements that it reads, as they are.
    WhatItReads,
    F32,
}

fn writes(module: &Module, node: &Node) -> Writes {
    match &node.operation {
        Operation::IntegerLinear(layer)
            if layer.output.is_none() && layer.activation == Activation::Identity =>
        {
            Writes::Either
        }
        Operation::Linear { .. } if takes_weights(module, node).is_ok() => Writes::Either,
        Operation::ChannelsLast(ChannelsLast::Conv { .. })
            if bf16_conv::accepts(module, node).is_ok() =>
        {
            Writes::Either
        }
        Operation::ChannelsLast(ChannelsLast::Pool(_) | ChannelsLast::ScaleShift { .. }) => {
            Writes::Either
        }
        Operation::Graph(Op::Mul) if scaled_images(module, node).is_some() => Writes::Either,
        // The larger of two numbers is so when they are rounded, too.
        Operation::Graph(
            Op::Concat(_)
            | Op::Identity
            | Op::Relu
            | Op::Reshape(_)
            | Op::Slice(_)
            | Op::Squeeze(_)
            | Op::Transpose(_)
            | Op::Unsqueeze(_),
        ) if module.value(node.output).dtype == DType::F32 => Writes::WhatItReads,
        _ => Writes::F32,
    }
}

/// Whether a node can write bf16, as values lie in memory now.
fn can_round(module: &Module, node: &Node) -> bool {
    let is_narrow = |&id: &Id| module.value(id).as_bf16;
    match writes(module, node) {
        Writes::Either => true,
        Writes::WhatItReads => node.inputs.iter().all(is_narrow),
        Writes::F32 => false,
    }
}

/// What a reader of a value makes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It rounds it to bf16 before it does anything else, or it stands between such and works channel by
    /// channel: applies filters of single channels, means, factors.
    Rounds,
    /// It takes it so as an image.
    Takes,
    /// It knows no bf16.
    Other,
}

/// What a node makes of an input.
fn use_of(module: &Module, node: usize, position: usize) -> Use {
    let node = &module.nodes[node];
    let is_rounded = module.value(node.output).as_bf16;
    match (&node.operation, position) {
        (Operation::Attention(_), 0..3) => Use::Rounds,
        (Operation::Linear { .. }, 0) if takes_weights(module, node).is_ok() => Use::Rounds,
        (Operation::ChannelsLast(ChannelsLast::Conv { .. }), 0 | 3)
            if bf16_conv::accepts(module, node).is_ok() =>
        {
            if position == 0 {
                Use::Rounds
            } else {
                Use::Takes
            }
        }
        (Operation::ChannelsLast(ChannelsLast::Pool(_) | ChannelsLast::ScaleShift { .. }), 0) => {
            between(is_rounded)
        }
        (Operation::ChannelsLast(ChannelsLast::GlobalPool(_)), _) => Use::Takes,
        (Operation::Graph(Op::Mul), _) if scaled_images(module, node) == Some(position) => {
            between(is_rounded)
        }
        _ if is_rounded && writes(module, node) == Writes::WhatItReads => Use::Rounds,
        _ => Use::Other,
    }
}

/// What a reader of either type does, which stands between roundings where its result is rounded.
fn between(is_rounded: bool) -> Use {
    if is_rounded { Use::Rounds } else { Use::Takes }
}

/// Whether all who read a value may have it in bf16, and one of them rounds it anyway.
fn all_round(uses: impl Iterator<Item = Use>) -> bool {
    let uses: Vec<Use> = uses.collect();
    uses.contains(&Use::Rounds) && !uses.contains(&Use::Other)
}
