//! Batch normalization that no convolution takes in.

use graph::Op;
use kernels::{BatchNorm, Cpu, batch_norm};

use super::{Call, Kernel, KernelEntry, elements_mut, floats, run};
use crate::module::Operation;

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "batch-norm.f32",
    operation: "BatchNormalization",
    tier: None,
    cost: 1,
    accepts: |module, node| match &node.operation {
        Operation::Graph(Op::BatchNorm(_)) => floats(module, node),
        _ => Err("takes given statistics only".to_owned()),
    },
    prepare: |_, node, cpu| match &node.operation {
        Operation::Graph(Op::BatchNorm(op)) => run(Norm { cpu, epsilon: op.epsilon }),
        _ => unreachable!("other operators were not accepted"),
    },
}];

struct Norm {
    cpu: Cpu,
    epsilon: f32,
}

impl Kernel for Norm {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [_, channels, spatial @ ..] = call.shape else {
            return Err("expected a batch with channels".to_owned());
        };
        if let Some(wrong) = call.inputs[1..].iter().find(|input| input.shape != [*channels]) {
            return Err(format!("expected {channels} numbers, found shape {:?}", wrong.shape));
        }
        let norm = BatchNorm {
            scale: call.f32(1),
            bias: call.f32(2),
            mean: call.f32(3),
            variance: call.f32(4),
            epsilon: self.epsilon,
        };
        let image = spatial.iter().product();
        batch_norm(self.cpu, call.f32(0), &norm, image, elements_mut(call.output));
        Ok(())
    }
}
