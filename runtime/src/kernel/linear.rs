//! The f32 linear layer.

use graph::DType;
use kernels::float::{self, Layer, PackedWeights};
use kernels::peaks::Numbers;
use kernels::{Activation, Cpu};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, expect_type, run};
use crate::cost::{Parallel, Rate};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "linear.f32",
    operation: "Linear",
    tier: None,
    cost: 4,
    accepts: |module, node| expect_type(module, node, 1, DType::F32),
    prepare,
}];

struct Linear {
    cpu: Cpu,
    activation: Activation,
    weights: PackedWeights,
}

fn prepare(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let Operation::Linear { activation } = node.operation else {
        unreachable!("the table pairs this kernel with linear nodes")
    };
    let tensor = module.constant(node.inputs[1]).expect("the linear pass takes constants only");
    let &[k, n] = tensor.shape() else { unreachable!("the linear pass takes matrices only") };
    let elements = tensor.elements().expect("`accepts` saw f32 weights");
    let weights = PackedWeights::new(elements, [k, n], [n, 1]);
    run(Linear { cpu, activation, weights })
}

impl Kernel for Linear {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let rows = call.inputs[0].shape.iter().rev().skip(1).product();
        let bias = call.inputs.get(2).map(|bias| bias.elements());
        let layer = Layer { weights: &self.weights, bias, activation: self.activation };
        float::linear(self.cpu, call.f32(0), rows, &layer, elements_mut(call.output));
        Ok(())
    }

    fn rate(&self) -> Rate {
        Rate {
            numbers: Numbers::F32,
            share: 0.8,
            parallel: Parallel::MultiplyAdds(float::PARALLEL_WORK),
        }
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.weights.size_bytes()
    }
}
