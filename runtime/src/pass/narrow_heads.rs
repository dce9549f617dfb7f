//! What only an attention in bf16 reads is kept in bf16: half of the bytes, rounded once instead of
//! wherever it is read.

use kernels::Activation;

use crate::compile::Precision;
use crate::kernel::bf16::takes_weights;
use crate::module::{Id, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    if module.precision != Precision::Bf16 || !module.cpu.multiplies_bf16() {
        return 0;
    }
    let mut narrowed = 0;
    for index in 0..module.nodes.len() {
        let Operation::Attention(_) = module.nodes[index].operation else { continue };
        let mut parts = module.nodes[index].inputs[..3].to_vec();
        parts.dedup();
        for id in parts.into_iter().filter(|&id| fits(module, index, id)).collect::<Vec<_>>() {
            module.values[id.0].as_bf16 = true;
            narrowed += 1;
        }
    }
    narrowed
}

/// Whether a layer writes the value that can round, and nothing but the attention reads it.
fn fits(module: &Module, attention: usize, id: Id) -> bool {
    let reads = module.nodes[attention].inputs.iter().filter(|&&input| input == id).count();
    let Some(producer) = module.producer(id) else { return false };
    let node = &module.nodes[producer];
    let rounds = match &node.operation {
        Operation::IntegerLinear(layer) => {
            layer.output.is_none() && layer.activation == Activation::Identity
        }
        Operation::Linear { activation } => {
            *activation == Activation::Identity && takes_weights(module, node).is_ok()
        }
        _ => false,
    };
    rounds && module.uses(id) == reads
}
