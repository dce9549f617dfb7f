//! Values one after another along one axis, of any element type.

use graph::Op;
use kernels::for_each_row;

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
        for_each_row(call.output, row, |index, output| {
            let mut rest = output;
            for input in call.inputs {
                let len = input.bytes.len() / outer;
                let (part, others) = rest.split_at_mut(len);
                part.copy_from_slice(&input.bytes[index * len..][..len]);
                rest = others;
            }
        });
        Ok(())
    }
}
