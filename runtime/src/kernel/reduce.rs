//! Sums along an axis, and other reductions along neighbouring axes.

use std::ops::Range;

use graph::op::ReduceKind;
use graph::{DType, Op};
use kernels::{Cpu, Reduction, reduce};

use super::{Call, Kernel, KernelEntry, elements_mut, expect_type, floats, run};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[
    KernelEntry {
        name: "reduce-sum.f32",
        operation: "ReduceSum",
        tier: None,
        cost: 1,
        accepts: floats,
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::ReduceSum(op)) => run(ReduceSum { axis: op.axis }),
            _ => unreachable!("the table pairs this kernel with sums"),
        },
    },
    KernelEntry {
        name: "reduce.f32",
        operation: "Reduce",
        tier: None,
        cost: 1,
        accepts: |module, node| neighbours(module, node).map(|_| ()),
        prepare: |module, node, cpu| {
            let (reduction, axes) = neighbours(module, node).expect("`accepts` saw that it is one");
            run(Neighbours { cpu, reduction, axes })
        },
    },
];

/// What is reduced along which axes, where these are neighbours.
fn neighbours(module: &Module, node: &Node) -> Result<(Reduction, Range<usize>), String> {
    let Operation::Graph(Op::Reduce(op)) = &node.operation else {
        unreachable!("the table pairs this kernel with reductions")
    };
    expect_type(module, node, 0, DType::F32)?;
    let reduction = match op.kind {
        ReduceKind::Sum => Reduction::Sum,
        ReduceKind::Mean => Reduction::Mean,
        ReduceKind::Max => Reduction::Max,
        ReduceKind::Min => Reduction::Min,
        ReduceKind::L1 => Reduction::L1,
        ReduceKind::L2 => Reduction::L2,
        ReduceKind::SumSquare => Reduction::SumSquare,
        ReduceKind::Product | ReduceKind::LogSum | ReduceKind::LogSumExp => {
            return Err("takes no products and logarithms".to_owned());
        }
    };
    match op.axes.as_deref() {
        Some([first, rest @ ..]) if (first + 1..).zip(rest).all(|(next, &axis)| next == axis) => {
            Ok((reduction, *first..first + 1 + rest.len()))
        }
        found => Err(format!("takes neighbouring axes, found {found:?}")),
    }
}

struct Neighbours {
    cpu: Cpu,
    reduction: Reduction,
    axes: Range<usize>,
}

impl Kernel for Neighbours {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (shape, Range { start, end }) = (call.inputs[0].shape, self.axes.clone());
        let sizes = [&shape[..start], &shape[start..end], &shape[end..]];
        let sizes = sizes.map(|shape| shape.iter().product());
        reduce(self.cpu, self.reduction, call.f32(0), sizes, elements_mut(call.output));
        Ok(())
    }
}

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
