//! Elements and rows picked by index: rows of tables, along any axis, one by one, and by rows of
//! indices. But for rows of f32, elements are of any type.

use bytemuck::{Pod, cast_slice};
use graph::{DType, Op};
use kernels::{for_each_row, gather_rows};

use super::{
    Call, Kernel, KernelEntry, MOST_DIMENSIONS, Operand, elements_mut, expect_type, few_dimensions,
    run,
};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[
    KernelEntry {
        name: "gather.f32",
        operation: "Gather",
        tier: None,
        cost: 1,
        accepts: accepts_gather,
        prepare: |_, _, _| run(GatherRows),
    },
    KernelEntry {
        name: "gather.copy",
        operation: "Gather",
        tier: None,
        cost: 2,
        accepts: super::any,
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::Gather(op)) => run(Gather { axis: op.axis }),
            _ => unreachable!("the table pairs this kernel with gathers"),
        },
    },
    KernelEntry {
        name: "gather-elements.copy",
        operation: "GatherElements",
        tier: None,
        cost: 1,
        accepts: |module, node| few_dimensions(module, node.output, MOST_DIMENSIONS),
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::GatherElements(op)) => run(GatherElements { axis: op.axis }),
            _ => unreachable!("the table pairs this kernel with gathers of elements"),
        },
    },
    KernelEntry {
        name: "gather-nd.copy",
        operation: "GatherND",
        tier: None,
        cost: 1,
        accepts: super::any,
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::GatherNd(op)) => run(GatherNd { batch_dims: op.batch_dims }),
            _ => unreachable!("the table pairs this kernel with gathers by rows of indices"),
        },
    },
];

pub(crate) fn accepts_gather(module: &Module, node: &Node) -> Result<(), String> {
    expect_type(module, node, 0, DType::F32)?;
    expect_type(module, node, 1, DType::I64)?;
    match &node.operation {
        Operation::Graph(Op::Gather(op)) if op.axis == 0 => Ok(()),
        _ => Err("takes axis 0 only".to_owned()),
    }
}

struct GatherRows;

impl Kernel for GatherRows {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (rows, rest) = call.inputs[0].shape.split_first().ok_or("expected a table")?;
        let row_len = rest.iter().product();
        let indices = call.inputs[1].elements();
        gather_rows(call.f32(0), [*rows, row_len], indices, elements_mut(call.output))
            .map_err(|error| error.to_string())
    }
}

/// Integers that name entries.
#[derive(Clone, Copy)]
pub(super) enum Indices<'a> {
    Long(&'a [i64]),
    Short(&'a [i32]),
}

impl<'a> Indices<'a> {
    pub(super) fn of(operand: &Operand<'a>) -> Result<Self, String> {
        match operand.dtype {
            DType::I64 => Ok(Self::Long(operand.elements())),
            DType::I32 => Ok(Self::Short(operand.elements())),
            other => Err(format!("expected integer indices, found {other}")),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Long(indices) => indices.len(),
            Self::Short(indices) => indices.len(),
        }
    }

    #[inline]
    fn index(&self, at: usize) -> i64 {
        match self {
            Self::Long(indices) => indices[at],
            Self::Short(indices) => i64::from(indices[at]),
        }
    }

    /// The entry of a dimension that index `at` names, from its end where the index is negative;
    /// `None` where there is no such.
    #[inline]
    pub(super) fn find(&self, at: usize, size: usize) -> Option<usize> {
        let index = self.index(at);
        let from_start = if index < 0 { index.wrapping_add(size as i64) } else { index };
        usize::try_from(from_start).ok().filter(|&entry| entry < size)
    }

    /// [`Self::find`] of an index that has to name one.
    #[inline]
    pub(super) fn entry(&self, at: usize, size: usize) -> Result<usize, String> {
        self.find(at, size).ok_or_else(|| {
            format!("index {} is outside a dimension of size {size}", self.index(at))
        })
    }
}

struct Gather {
    axis: usize,
}

impl Kernel for Gather {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (data, indices) = (&call.inputs[0], Indices::of(&call.inputs[1])?);
        let size = data.shape[self.axis];
        let inner = data.dtype.size_bytes() * data.shape[self.axis + 1..].iter().product::<usize>();
        let (count, output) = (indices.len(), call.output);
        if output.is_empty() {
            // Every index still has to name an entry.
            return (0..count).try_for_each(|at| indices.entry(at, size).map(drop));
        }
        if data.bytes.is_empty() {
            return Err("expected entries to pick, found an empty tensor".to_owned());
        }
        let blocks = data.bytes.chunks_exact(size * inner);
        for (output, block) in output.chunks_exact_mut(count * inner).zip(blocks) {
            match data.dtype.size_bytes() {
                // Elements of their own are moved as such, rows by copies.
                4 if inner == 4 => pick::<u32>(indices, size, block, output)?,
                8 if inner == 8 => pick::<u64>(indices, size, block, output)?,
                _ => {
                    for (at, y) in output.chunks_exact_mut(inner).enumerate() {
                        y.copy_from_slice(&block[indices.entry(at, size)? * inner..][..inner]);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Picks elements of one block.
fn pick<T: Pod>(
    indices: Indices<'_>,
    size: usize,
    block: &[u8],
    output: &mut [u8],
) -> Result<(), String> {
    let x: &[T] = cast_slice(block);
    for (at, y) in elements_mut::<T>(output).iter_mut().enumerate() {
        *y = x[indices.entry(at, size)?];
    }
    Ok(())
}

struct GatherElements {
    axis: usize,
}

impl Kernel for GatherElements {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.inputs[0].dtype.size_bytes() {
            1 => self.pick::<u8>(call),
            4 => self.pick::<u32>(call),
            8 => self.pick::<u64>(call),
            bytes => Err(format!("does not know elements of {bytes} bytes")),
        }
    }
}

impl GatherElements {
    fn pick<T: Pod>(&self, call: Call<'_>) -> Result<(), String> {
        let (data, indices) = (&call.inputs[0], Indices::of(&call.inputs[1])?);
        let x: &[T] = if data.bytes.is_empty() { &[] } else { cast_slice(data.bytes) };
        let output: &mut [T] = elements_mut(call.output);
        for_each_place(&indices, call.shape, data.shape, self.axis, |at, place| {
            output[at] = x[place];
        })
    }
}

/// Calls `visit` with where each index lies and the element of the data that it names: the one at the index's
/// own place, but for the axis.
pub(super) fn for_each_place(
    indices: &Indices<'_>,
    shape: &[usize],
    data: &[usize],
    axis: usize,
    mut visit: impl FnMut(usize, usize),
) -> Result<(), String> {
    if shape.contains(&0) {
        return Ok(());
    }
    let beyond = |(at, (index, size)): (usize, (&usize, &usize))| at != axis && index > size;
    if shape.iter().zip(data).enumerate().any(beyond) {
        return Err(format!("indices of shape {shape:?} reach beyond {data:?}"));
    }
    let mut strides = [1; MOST_DIMENSIONS];
    for dim in (0..shape.len() - 1).rev() {
        strides[dim] = strides[dim + 1] * data[dim + 1];
    }
    let (last, size, stride) = (shape.len() - 1, data[axis], strides[axis]);
    // Along the axis it is the index that moves.
    strides[axis] = 0;
    let (columns, step) = (shape[last], strides[last]);
    let (mut places, mut base) = ([0; MOST_DIMENSIONS], 0);
    for row in 0..shape[..last].iter().product() {
        for column in 0..columns {
            let at = row * columns + column;
            visit(at, base + column * step + indices.entry(at, size)? * stride);
        }
        for dim in (0..last).rev() {
            places[dim] += 1;
            base += strides[dim];
            if places[dim] < shape[dim] {
                break;
            }
            base -= places[dim] * strides[dim];
            places[dim] = 0;
        }
    }
    Ok(())
}

struct GatherNd {
    batch_dims: usize,
}

impl Kernel for GatherNd {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (data, indices) = (&call.inputs[0], Indices::of(&call.inputs[1])?);
        let (&length, leading) =
            call.inputs[1].shape.split_last().ok_or("expected rows of indices")?;
        if leading[..self.batch_dims] != data.shape[..self.batch_dims] {
            return Err("the batch dimensions of data and indices differ".to_owned());
        }
        let [axes, slice] = {
            let (batch_and_axes, slice) = data.shape.split_at(self.batch_dims + length);
            [&batch_and_axes[self.batch_dims..], slice]
        };
        let inner = data.dtype.size_bytes() * slice.iter().product::<usize>();
        let rows_a_batch = leading[self.batch_dims..].iter().product::<usize>().max(1);
        let place = |row: usize| -> Result<usize, String> {
            let mut place = row / rows_a_batch;
            for (at, &size) in axes.iter().enumerate() {
                place = place * size + indices.entry(row * length + at, size)?;
            }
            Ok(place)
        };
        // First, because a thread cannot give an error back.
        (0..leading.iter().product()).try_for_each(|row| place(row).map(|_| ()))?;
        for_each_row(call.output, inner, |row, y| {
            let place = place(row).expect("all places are there");
            y.copy_from_slice(&data.bytes[place * inner..][..inner]);
        });
        Ok(())
    }
}
