//! Numbers that follow from sizes and indices: shapes, ranges, one of many.

use bytemuck::Pod;
use graph::op::ShapeOf;
use graph::{DType, Op};

use super::gather::Indices;
use super::{Call, Kernel, KernelEntry, elements_mut, run};
use crate::module::Operation;

pub(super) const KERNELS: &[KernelEntry] = &[
    KernelEntry {
        name: "shape",
        operation: "Shape",
        tier: None,
        cost: 1,
        accepts: super::any,
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::ShapeOf(op)) => run(Sizes(*op)),
            _ => unreachable!("the table pairs this kernel with shapes"),
        },
    },
    KernelEntry {
        name: "range",
        operation: "Range",
        tier: None,
        cost: 1,
        accepts: |module, node| super::expect_type(module, node, 0, DType::I64),
        prepare: |_, _, _| run(Range),
    },
    KernelEntry {
        name: "one-hot",
        operation: "OneHot",
        tier: None,
        cost: 1,
        accepts: |module, node| match module.value(node.inputs[0]).dtype {
            DType::I64 | DType::I32 => Ok(()),
            found => Err(format!("takes indices in i64 or i32, found {found}")),
        },
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::OneHot(op)) => run(OneHot { axis: op.axis }),
            _ => unreachable!("the table pairs this kernel with indices"),
        },
    },
];

struct Sizes(ShapeOf);

impl Kernel for Sizes {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let ShapeOf { start, end } = self.0;
        let sizes = call.inputs[0].shape.get(start..end).ok_or("no such dimensions")?;
        let y: &mut [i64] = elements_mut(call.output);
        y.iter_mut().zip(sizes).for_each(|(y, &size)| *y = size as i64);
        Ok(())
    }
}

struct Range;

impl Kernel for Range {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let one = |input: usize| match call.inputs[input].elements::<i64>() {
            [number] => Ok(*number),
            other => Err(format!("expected one number, found {}", other.len())),
        };
        let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
        let y: &mut [i64] = elements_mut(call.output);
        // The planned size is that of the range that the inputs ask for.
        let count = (i128::from(limit) - i128::from(start) + i128::from(delta)
            - i128::from(delta.signum()))
        .checked_div(i128::from(delta))
        .ok_or("a range never ends with a delta of 0")?;
        if count.max(0) != y.len() as i128 {
            return Err(format!("expected a range of {}, found {count}", y.len()));
        }
        let mut number = start;
        for y in y {
            *y = number;
            number = number.wrapping_add(delta);
        }
        Ok(())
    }
}

struct OneHot {
    axis: usize,
}

impl Kernel for OneHot {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.inputs[2].dtype.size_bytes() {
            1 => self.fill::<u8>(call),
            4 => self.fill::<u32>(call),
            8 => self.fill::<u64>(call),
            bytes => Err(format!("does not know elements of {bytes} bytes")),
        }
    }
}

impl OneHot {
    fn fill<T: Pod>(&self, call: Call<'_>) -> Result<(), String> {
        let indices = Indices::of(&call.inputs[0])?;
        let values = call.inputs[2].bytes;
        let values: &[T] = if values.is_empty() { &[] } else { bytemuck::cast_slice(values) };
        let &[off, on] = values else {
            return Err(format!("expected two values, found {}", values.len()));
        };
        let depth = call.shape[self.axis];
        let inner: usize = call.shape[self.axis + 1..].iter().product();
        let y: &mut [T] = elements_mut(call.output);
        y.fill(off);
        if y.is_empty() {
            return Ok(());
        }
        for (block, y) in y.chunks_exact_mut(depth * inner).enumerate() {
            for column in 0..inner {
                // An index that names no entry makes none of them.
                if let Some(entry) = indices.find(block * inner + column, depth) {
                    y[entry * inner + column] = on;
                }
            }
        }
        Ok(())
    }
}
