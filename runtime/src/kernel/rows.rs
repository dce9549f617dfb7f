//! Layer normalisation, alone and with a residual, its twin without a mean, softmax
//! and its logarithm.

use graph::Op;
use kernels::{
    Cpu, LayerNorm, layer_norm, layer_norm_in_place, log_softmax, log_softmax_in_place,
    residual_layer_norm, residual_layer_norm_in_place, rms_norm, rms_norm_in_place,
    softmax_forward, softmax_in_place,
};

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
    rows("rms-norm.f32", "RMSNormalization", prepare_rms_norm),
    rows("softmax.f32", "Softmax", |_, _, cpu| {
        run(Rows { cpu, forward: softmax_forward, over: softmax_in_place })
    }),
    rows("log-softmax.f32", "LogSoftmax", |_, _, cpu| {
        run(Rows { cpu, forward: log_softmax, over: log_softmax_in_place })
    }),
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
        let (cpu, y) = (self.cpu, elements_mut(call.output));
        let input = |index: usize| call.inputs[index].elements::<f32>();
        match (self.residual, call.in_place) {
            (true, Some(over)) => residual_layer_norm_in_place(cpu, y, input(1 - over), &norm),
            (true, None) => residual_layer_norm(cpu, input(0), input(1), &norm, y),
            (false, Some(_)) => layer_norm_in_place(cpu, y, &norm),
            (false, None) => layer_norm(cpu, input(0), &norm, y),
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        if self.residual { &[0, 1] } else { &[0] }
    }
}

struct RootMeanSquare {
    cpu: Cpu,
    epsilon: f32,
}

fn prepare_rms_norm(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    match &node.operation {
        Operation::Graph(Op::RmsNorm(op)) => run(RootMeanSquare { cpu, epsilon: op.epsilon }),
        _ => unreachable!("the table pairs this kernel with root-mean-square norms"),
    }
}

impl Kernel for RootMeanSquare {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (scale, y) = (call.f32(1), elements_mut(call.output));
        match call.in_place {
            Some(_) => rms_norm_in_place(self.cpu, y, scale, self.epsilon),
            None => rms_norm(self.cpu, call.inputs[0].elements(), scale, self.epsilon, y),
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

/// Softmax, or its logarithm.
struct Rows {
    cpu: Cpu,
    forward: fn(Cpu, &[f32], usize, &mut [f32]),
    over: fn(Cpu, &mut [f32], usize),
}

impl Kernel for Rows {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let row_len = call.shape.last().copied().unwrap_or(0);
        match call.in_place {
            Some(_) => (self.over)(self.cpu, elements_mut(call.output), row_len),
            None => (self.forward)(self.cpu, call.f32(0), row_len, elements_mut(call.output)),
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
