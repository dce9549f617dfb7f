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
    let outputs = module.nodes.iter().filter(|node| can_round(module, node));
    let narrow: Vec<Id> =
        outputs.map(|node| node.output).filter(|&id| all_round(module, id)).collect();
    for id in &narrow {
        module.values[id.0].as_bf16 = true;
    }
    narrow.len()
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

/// Whether all who read a value round it to bf16 before they do anything else, or take it so as an image.
fn all_round(module: &Module, id: Id) -> bool {
    let rounds = |node: &Node, position: usize| match &node.operation {
        Operation::Attention(_) => position < 3,
        Operation::Linear { .. } => position == 0 && takes_weights(module, node).is_ok(),
        Operation::ChannelsLast(ChannelsLast::Conv { .. }) => {
            matches!(position, 0 | 3) && bf16_conv::accepts(module, node).is_ok()
        }
        Operation::ChannelsLast(ChannelsLast::Pool(_) | ChannelsLast::GlobalPool(_)) => true,
        _ => false,
    };
    let mut reads = module.nodes.iter().flat_map(|node| {
        node.inputs
            .iter()
            .enumerate()
            .filter(|(_, input)| **input == id)
            .map(move |(i, _)| (node, i))
    });
    !module.outputs.contains(&id) && reads.all(|(node, position)| rounds(node, position))
}
