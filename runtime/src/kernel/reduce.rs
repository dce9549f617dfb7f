//! Sums along an axis, and other reductions along neighbouring axes, those of integers too.

use std::ops::Range;

use bytemuck::Pod;
use graph::op::{Reduce, ReduceKind};
use graph::{DType, Element, Op};
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
        prepare: |_, node, cpu| match &node.operation {
            Operation::Graph(Op::ReduceSum(op)) => {
                run(Neighbours { cpu, reduction: Reduction::Sum, axes: op.axis..op.axis + 1 })
            }
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
    KernelEntry {
        name: "reduce.integers",
        operation: "Reduce",
        tier: None,
        cost: 1,
        accepts: |module, node| integers(module, node).map(|_| ()),
        prepare: |module, node, _| {
            let (kind, axes) = integers(module, node).expect("`accepts` saw that it is one");
            run(Integers { kind, axes })
        },
    },
];

fn reduced(node: &Node) -> &Reduce {
    match &node.operation {
        Operation::Graph(Op::Reduce(op)) => op,
        _ => unreachable!("the table pairs this kernel with reductions"),
    }
}

/// The axes of a reduction, where they are neighbours.
fn neighbouring(op: &Reduce) -> Result<Range<usize>, String> {
    match op.axes.as_deref() {
        Some([first, rest @ ..]) if (first + 1..).zip(rest).all(|(next, &axis)| next == axis) => {
            Ok(*first..first + 1 + rest.len())
        }
        found => Err(format!("takes neighbouring axes, found {found:?}")),
    }
}

/// What is reduced along which axes, of integers of four and eight bytes.
fn integers(module: &Module, node: &Node) -> Result<(ReduceKind, Range<usize>), String> {
    let (op, dtype) = (reduced(node), module.value(node.inputs[0]).dtype);
    let kinds = [ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min, ReduceKind::Product];
    if !matches!(dtype, DType::I64 | DType::I32) || !kinds.contains(&op.kind) {
        return Err(format!("takes sums, products and extremes of i64 and i32, found {dtype}"));
    }
    Ok((op.kind, neighbouring(op)?))
}

/// What is reduced along which axes, where these are neighbours.
fn neighbours(module: &Module, node: &Node) -> Result<(Reduction, Range<usize>), String> {
    let op = reduced(node);
    expect_type(module, node, 0, DType::F32)?;
    let reduction = match op.kind {
        ReduceKind::Sum => Reduction::Sum,
        ReduceKind::Mean => Reduction::Mean,
        ReduceKind::Max => Reduction::Max,
        ReduceKind::Min => Reduction::Min,
        ReduceKind::L1 => Reduction::L1,
        ReduceKind::L2 => Reduction::L2,
        ReduceKind::SumSquare => Reduction::SumSquare,
        ReduceKind::Product => Reduction::Product,
        ReduceKind::LogSum | ReduceKind::LogSumExp => {
            return Err("takes no logarithms".to_owned());
        }
    };
    Ok((reduction, neighbouring(op)?))
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

struct Integers {
    kind: ReduceKind,
    axes: Range<usize>,
}

impl Kernel for Integers {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        macro_rules! fold {
            ($type:ty) => {
                match self.kind {
                    ReduceKind::Sum => self.fold::<$type>(call, 0, <$type>::wrapping_add),
                    ReduceKind::Product => self.fold::<$type>(call, 1, <$type>::wrapping_mul),
                    ReduceKind::Max => self.fold::<$type>(call, <$type>::MIN, Ord::max),
                    _ => self.fold::<$type>(call, <$type>::MAX, Ord::min),
                }
            };
        }
        match call.inputs[0].dtype {
            DType::I64 => fold!(i64),
            _ => fold!(i32),
        }
        Ok(())
    }
}

impl Integers {
    fn fold<T: Element + Pod>(&self, call: Call<'_>, start: T, join: impl Fn(T, T) -> T) {
        let (shape, Range { start: first, end }) = (call.inputs[0].shape, self.axes.clone());
        let inner = shape[end..].iter().product::<usize>();
        let block = shape[first..end].iter().product::<usize>() * inner;
        let (x, y) = (call.inputs[0].elements::<T>(), elements_mut::<T>(call.output));
        y.fill(start);
        if block == 0 {
            return;
        }
        for (x, y) in x.chunks_exact(block).zip(y.chunks_exact_mut(inner)) {
            if let [y] = y {
                *y = x.iter().fold(start, |value, &x| join(value, x));
                continue;
            }
            for row in x.chunks_exact(inner) {
                y.iter_mut().zip(row).for_each(|(y, &x)| *y = join(*y, x));
            }
        }
    }
}
