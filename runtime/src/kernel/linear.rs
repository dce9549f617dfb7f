//! The f32 linear layer.

use graph::DType;
use kernels::{Activation, Cpu, Matrix};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, expect_type, run};
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
}

fn prepare(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let Operation::Linear { activation } = node.operation else {
        unreachable!("the table pairs this kernel with linear nodes")
    };
    run(Linear { cpu, activation })
}

impl Kernel for Linear {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let &[k, n] = call.inputs[1].shape else { return Err("expected a weight matrix".into()) };
        let rows = call.inputs[0].shape.iter().rev().skip(1).product();
        let x = Matrix::row_major(call.f32(0), rows, k);
        let w = Matrix::row_major(call.f32(1), k, n);
        let bias = call.inputs.get(2).map(|bias| bias.elements());
        kernels::linear(self.cpu, x, w, bias, self.activation, elements_mut(call.output));
        Ok(())
    }
}
