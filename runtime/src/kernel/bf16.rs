//! The linear layer with x and weights rounded to bf16, where the compiler was asked for it.

use kernels::bf16::{Input, Layer, PARALLEL_WORK, PackedBf16, linear_bf16_into};
use kernels::int8::Output;
use kernels::peaks::Numbers;
use kernels::{Activation, Cpu, Tier};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, run};
use crate::compile::Precision;
use crate::cost::{Parallel, Rate};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "linear.bf16",
    operation: "Linear",
    tier: None,
    cost: 1,
    accepts,
    prepare,
}];

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    if module.precision != Precision::Bf16 {
        return Err("rounds to bf16, and the model was compiled for f32".into());
    }
    takes_weights(module, node)
}

/// Whether the weights can be packed.
pub(crate) fn takes_weights(module: &Module, node: &Node) -> Result<(), String> {
    match module.constant(node.inputs[1]).map(|w| (w.shape().len(), w.elements::<f32>())) {
        Some((2, Ok(_))) => Ok(()),
        _ => Err("takes a constant f32 matrix for input 1".into()),
    }
}

struct PackedLinear {
    cpu: Cpu,
    activation: Activation,
    weights: PackedBf16,
    /// Whether the result lies in memory as bf16.
    rounds: bool,
    /// Whether its input does.
    reads_bf16: bool,
}

fn prepare(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let Operation::Linear { activation } = node.operation else {
        unreachable!("the table pairs this kernel with linear nodes")
    };
    let tensor = module.constant(node.inputs[1]).expect("only constants are accepted");
    let &[k, n] = tensor.shape() else { unreachable!("only matrices are accepted") };
    let elements = tensor.elements().expect("only f32 is accepted");
    let weights = PackedBf16::new(elements, [k, n], [n, 1]);
    let is_bf16 = |id| module.value(id).as_bf16;
    let (rounds, reads_bf16) = (is_bf16(node.output), is_bf16(node.inputs[0]));
    run(PackedLinear { cpu, activation, weights, rounds, reads_bf16 })
}

impl Kernel for PackedLinear {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let rows = call.inputs[0].shape.iter().rev().skip(1).product();
        let layer = Layer {
            weights: &self.weights,
            bias: call.inputs.get(2).map(|bias| bias.elements()),
            addend: None,
            activation: self.activation,
        };
        let x = match self.reads_bf16 {
            true => Input::Bf16(call.inputs[0].bf16()),
            false => Input::F32(call.f32(0)),
        };
        let output = match self.rounds {
            true => Output::Bf16(elements_mut(call.output)),
            false => Output::F32(elements_mut(call.output)),
        };
        linear_bf16_into(self.cpu, x, rows, &layer, output);
        Ok(())
    }

    fn rate(&self) -> Rate {
        let share = if self.cpu.tier() == Tier::Amx { 0.2 } else { 0.6 };
        Rate { numbers: Numbers::Bf16, share, parallel: Parallel::MultiplyAdds(PARALLEL_WORK) }
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.weights.size_bytes()
    }
}
