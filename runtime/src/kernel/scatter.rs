//! Elements and slices written to places that are given as values, over the data where it may be.
//!
//! Updates go one after another: several may name one place.

use bytemuck::Pod;
use graph::op::Scattering;
use graph::{DType, Op};

use super::gather::{Indices, for_each_place};
use super::{Call, Kernel, KernelEntry, MOST_DIMENSIONS, elements_mut, few_dimensions, run};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[
    KernelEntry {
        name: "scatter-elements",
        operation: "ScatterElements",
        tier: None,
        cost: 1,
        accepts: |module, node| {
            few_dimensions(module, node.output, MOST_DIMENSIONS)?;
            combines(module, node)
        },
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::ScatterElements(op)) => {
                run(Elements { axis: op.axis, reduction: op.reduction })
            }
            _ => unreachable!("the table pairs this kernel with scattered elements"),
        },
    },
    KernelEntry {
        name: "scatter-nd",
        operation: "ScatterND",
        tier: None,
        cost: 1,
        accepts: combines,
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::ScatterNd(op)) => run(Slices { reduction: op.reduction }),
            _ => unreachable!("the table pairs this kernel with scattered slices"),
        },
    },
];

/// Accepts what replaces, and what combines numbers of four and eight bytes.
fn combines(module: &Module, node: &Node) -> Result<(), String> {
    let reduction = match &node.operation {
        Operation::Graph(Op::ScatterElements(op)) => op.reduction,
        Operation::Graph(Op::ScatterNd(op)) => op.reduction,
        _ => unreachable!("the table pairs this kernel with operators that scatter"),
    };
    match module.value(node.inputs[0]).dtype {
        _ if reduction == Scattering::Replace => Ok(()),
        DType::F32 | DType::I64 | DType::I32 => Ok(()),
        found => Err(format!("combines f32, i64 and i32, found {found}")),
    }
}

/// Numbers that updates are combined with.
trait Number: Pod + PartialOrd {
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn is_none(self) -> bool;
}

macro_rules! number {
    ($type:ty, $add:expr, $mul:expr, $is_none:expr) => {
        impl Number for $type {
            fn add(self, other: Self) -> Self {
                $add(self, other)
            }

            fn mul(self, other: Self) -> Self {
                $mul(self, other)
            }

            fn is_none(self) -> bool {
                $is_none(self)
            }
        }
    };
}

number!(f32, |a, b| a + b, |a, b| a * b, f32::is_nan);
number!(i64, i64::wrapping_add, i64::wrapping_mul, |_| false);
number!(i32, i32::wrapping_add, i32::wrapping_mul, |_| false);

/// Writes updates of any type to their places, as the kernel's own loop finds them.
trait Scatter {
    fn scatter<T: Pod>(&self, call: Call<'_>, combine: impl Fn(T, T) -> T) -> Result<(), String>;

    /// Copies the data to where the output goes unless it lies there, and writes the updates.
    fn all(&self, reduction: Scattering, call: Call<'_>) -> Result<(), String> {
        if call.in_place.is_none() {
            call.output.copy_from_slice(call.inputs[0].bytes);
        }
        let dtype = call.inputs[0].dtype;
        match (reduction, dtype) {
            (Scattering::Replace, _) => match dtype.size_bytes() {
                1 => self.scatter::<u8>(call, |_, new| new),
                4 => self.scatter::<u32>(call, |_, new| new),
                8 => self.scatter::<u64>(call, |_, new| new),
                bytes => Err(format!("does not know elements of {bytes} bytes")),
            },
            (_, DType::F32) => self.numbers::<f32>(reduction, call),
            (_, DType::I64) => self.numbers::<i64>(reduction, call),
            (_, DType::I32) => self.numbers::<i32>(reduction, call),
            (_, other) => Err(format!("combines f32, i64 and i32, found {other}")),
        }
    }

    fn numbers<T: Number>(&self, reduction: Scattering, call: Call<'_>) -> Result<(), String> {
        match reduction {
            Scattering::Replace => self.scatter(call, |_, new: T| new),
            Scattering::Add => self.scatter(call, T::add),
            Scattering::Mul => self.scatter(call, T::mul),
            // A number that is none stays.
            Scattering::Max => {
                self.scatter(call, |old: T, new| if old > new || old.is_none() { old } else { new })
            }
            Scattering::Min => {
                self.scatter(call, |old: T, new| if old < new || old.is_none() { old } else { new })
            }
        }
    }
}

struct Elements {
    axis: usize,
    reduction: Scattering,
}

impl Kernel for Elements {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        self.all(self.reduction, call)
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

impl Scatter for Elements {
    fn scatter<T: Pod>(&self, call: Call<'_>, combine: impl Fn(T, T) -> T) -> Result<(), String> {
        let shape = call.inputs[1].shape;
        let (indices, updates) = (Indices::of(&call.inputs[1])?, values::<T>(&call, 2));
        if shape != call.inputs[2].shape {
            let found = call.inputs[2].shape;
            return Err(format!("expected an update an index: {shape:?} and {found:?}"));
        }
        let output: &mut [T] = elements_mut(call.output);
        for_each_place(&indices, shape, call.shape, self.axis, |at, place| {
            output[place] = combine(output[place], updates[at]);
        })
    }
}

struct Slices {
    reduction: Scattering,
}

impl Kernel for Slices {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        self.all(self.reduction, call)
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

impl Scatter for Slices {
    fn scatter<T: Pod>(&self, call: Call<'_>, combine: impl Fn(T, T) -> T) -> Result<(), String> {
        let (indices, updates) = (Indices::of(&call.inputs[1])?, values::<T>(&call, 2));
        let (&length, leading) =
            call.inputs[1].shape.split_last().ok_or("expected rows of indices")?;
        let (axes, slice) = call.shape.split_at(length);
        let found = call.inputs[2].shape;
        if found.len() != leading.len() + slice.len()
            || !found.iter().eq(leading.iter().chain(slice))
        {
            let indices = call.inputs[1].shape;
            return Err(format!("expected an update a row: {indices:?} and {found:?}"));
        }
        let inner = slice.iter().product::<usize>();
        let output: &mut [T] = elements_mut(call.output);
        for row in 0..leading.iter().product() {
            let mut place = 0;
            for (at, &size) in axes.iter().enumerate() {
                place = place * size + indices.entry(row * length + at, size)?;
            }
            let updates = &updates[row * inner..][..inner];
            for (y, &update) in output[place * inner..][..inner].iter_mut().zip(updates) {
                *y = combine(*y, update);
            }
        }
        Ok(())
    }
}

/// The elements of an input as numbers or bits of their size.
fn values<'a, T: Pod>(call: &Call<'a>, input: usize) -> &'a [T] {
    let bytes = call.inputs[input].bytes;
    // No bytes may start anywhere.
    if bytes.is_empty() { &[] } else { bytemuck::cast_slice(bytes) }
}
