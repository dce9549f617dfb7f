//! Sums along an axis.

use graph::Op;

use super::{Call, Kernel, KernelEntry, elements_mut, floats, run};
use crate::module::Operation;

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "reduce-sum.f32",
    operation: "ReduceSum",
    tier: None,
    cost: 1,
    accepts: floats,
    prepare: |_, node, _| match &node.operation {
        Operation::Graph(Op::ReduceSum(op)) => run(ReduceSum { axis: op.axis }),
        _ => unreachable!("the table pairs this kernel with sums"),
    },
}];

struct ReduceSum {
    axis: usize,
}

impl Kernel for ReduceSum {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let shape = call.inputs[0].shape;
        let inner = shape[self.axis + 1..].iter().product::<usize>();
        let x = call.f32(0);
        let output: &mut [f32] = elements_mut(call.output);
        output.fill(0.0);
        let blocks = x.chunks_exact((shape[self.axis] * inner).max(1));
        for (output, block) in output.chunks_exact_mut(inner.max(1)).zip(blocks) {
            for row in block.chunks_exact(inner.max(1)) {
                output.iter_mut().zip(row).for_each(|(y, x)| *y += x);
            }
        }
        Ok(())
    }
}
