//! Values one after another along one axis, of any element type.

use graph::Op;

use super::{Call, Kernel, KernelEntry, any, run};
use crate::module::Operation;

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "concat.copy",
    operation: "Concat",
    tier: None,
    cost: 1,
    accepts: any,
    prepare: |_, node, _| match &node.operation {
        Operation::Graph(Op::Concat(op)) => run(Concat { axis: op.axis }),
        _ => unreachable!("the table pairs this kernel with concatenations"),
    },
}];

struct Concat {
    axis: usize,
}

impl Kernel for Concat {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let axis = self.axis;
        let others = |shape: &[usize], of: &[usize]| {
            shape[..axis] == of[..axis] && shape[axis + 1..] == of[axis + 1..]
        };
        let along = call.inputs.iter().map(|input| input.shape[axis]);
        if along.sum::<usize>() != call.shape[axis]
            || !call.inputs.iter().all(|input| others(input.shape, call.shape))
        {
            return Err(format!("the parts' sizes do not make {:?}", call.shape));
        }
        let outer: usize = call.shape[..axis].iter().product();
        let row = call.output.len() / outer.max(1);
        let mut start = 0;
        for input in call.inputs {
            let len = input.bytes.len() / outer.max(1);
            if len > 0 {
                let rows = call.output.chunks_exact_mut(row).zip(input.bytes.chunks_exact(len));
                rows.for_each(|(row, input)| row[start..start + len].copy_from_slice(input));
            }
            start += len;
        }
        Ok(())
    }
}
