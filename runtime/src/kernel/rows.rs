//! Layer normalisation, alone and with a residual, and softmax.

use graph::Op;
use kernels::{Cpu, LayerNorm, layer_norm, residual_layer_norm, softmax_forward};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, floats, run};
use crate::module::{Module, Node, Operation};

const fn rows(
    name: &'static str,
    operation: &'static str,
    prepare: fn(&Module, &Node, Cpu) -> Prepared,
) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts: floats, prepare }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    rows("layer-norm.f32", "LayerNormalization", prepare_norm),
    rows("residual-layer-norm.f32", "ResidualLayerNorm", prepare_norm),
    rows("softmax.f32", "Softmax", |_, _, cpu| run(Softmax { cpu })),
];

struct Norm {
    cpu: Cpu,
    epsilon: f32,
    residual: bool,
}

fn prepare_norm(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let (epsilon, residual) = match &node.operation {
        Operation::Graph(Op::LayerNorm(op)) => (op.epsilon, false),
        Operation::ResidualLayerNorm { epsilon } => (*epsilon, true),
        _ => unreachable!("the table pairs this kernel with layer norms"),
    };
    run(Norm { cpu, epsilon, residual })
}

impl Kernel for Norm {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let parameters = 1 + usize::from(self.residual);
        let (gamma, beta) = (call.f32(parameters), call.f32(parameters + 1));
        let norm = LayerNorm { gamma, beta, epsilon: self.epsilon };
        let x = call.f32(0);
        if self.residual {
            let residual = call.f32(1);
            residual_layer_norm(self.cpu, x, residual, &norm, elements_mut(call.output));
        } else {
            layer_norm(self.cpu, x, &norm, elements_mut(call.output));
        }
        Ok(())
    }
}

struct Softmax {
    cpu: Cpu,
}

impl Kernel for Softmax {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let row_len = call.shape.last().copied().unwrap_or(0);
        softmax_forward(self.cpu, call.f32(0), row_len, elements_mut(call.output));
        Ok(())
    }
}
