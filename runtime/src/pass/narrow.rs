//! What only products in bf16 read is kept in bf16: half of the bytes, rounded once instead of wherever
//! it is read. Images between convolutions are too where they are added to others or pooled as well.

use kernels::Activation;

use crate::compile::Precision;
use crate::kernel::bf16::takes_weights;
use crate::kernel::bf16_conv;
use crate::module::{ChannelsLast, Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let is_wanted = module.precision == Precision::Bf16 && module.cpu.multiplies_bf16();
    // Runs of models whose sizes depend on values hand on tensors, which know no bf16.
    if !is_wanted || module.is_dynamic() {
        return 0;
    }
    let mut narrowed = 0;
    // From the last on, for what a pool reads is rounded where what it writes is.
    for index in (0..module.nodes.len()).rev() {
        let node = &module.nodes[index];
        let id = node.output;
        if can_round(module, node) && all_round(module, id) {
            module.values[id.0].as_bf16 = true;
            narrowed += 1;
        }
    }
    narrowed
}

/// Whether the kernel of a node can write bf16.
fn can_round(module: &Module, node: &Node) -> bool {
    match &node.operation {
        Operation::IntegerLinear(layer) => {
            layer.output.is_none() && layer.activation == Activation::Identity
        }
        Operation::Linear { .. } => takes_weights(module, node).is_ok(),
        Operation::ChannelsLast(ChannelsLast::Conv { .. }) => {
            bf16_conv::accepts(module, node).is_ok()
        }
        Operation::ChannelsLast(ChannelsLast::Pool(_)) => true,
        _ => false,
    }
}

/// What a reader of a value makes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It rounds it to bf16 before it does anything else, or applies filters of single channels to it,
    /// which stand between such.
    Rounds,
    /// It takes it so as an image.
    Takes,
    /// It knows no bf16.
    Other,
}

/// Whether all who read a value may have it in bf16, and one of them rounds it anyway.
fn all_round(module: &Module, id: Id) -> bool {
    let made = |node: &Node, position: usize| match &node.operation {
        Operation::Attention(_) if position < 3 => Use::Rounds,
        Operation::Linear { .. } if position == 0 && takes_weights(module, node).is_ok() => {
            Use::Rounds
        }
        Operation::ChannelsLast(ChannelsLast::Conv { .. })
            if bf16_conv::accepts(module, node).is_ok() =>
        {
            match position {
                0 => Use::Rounds,
                3 => Use::Takes,
                _ => Use::Other,
            }
        }
        Operation::ChannelsLast(ChannelsLast::Pool(_)) if module.value(node.output).as_bf16 => {
            Use::Rounds
        }
        Operation::ChannelsLast(ChannelsLast::Pool(_) | ChannelsLast::GlobalPool(_)) => Use::Takes,
        _ => Use::Other,
    };
    let reads = module.nodes.iter().flat_map(|node| {
        let positions = (0..node.inputs.len()).filter(|&position| node.inputs[position] == id);
        positions.map(move |position| made(node, position))
    });
    let uses: Vec<Use> = reads.collect();
    !module.outputs.contains(&id) && uses.contains(&Use::Rounds) && !uses.contains(&Use::Other)
}
