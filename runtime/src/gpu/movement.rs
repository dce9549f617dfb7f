//! Elements that move: slices, transpositions, rows of tables, other element types.

use graph::{DType, Op};
use kernels::gpu::{Gpu, Number, Strided, cast, copy, copy_part, gather_rows};

use super::{Call, GpuEntry, GpuKernel, operator};
use crate::kernel::gather::accepts_gather;
use crate::kernel::movement::slice;
use crate::module::{Module, Node};

/// Most dimensions that kernels walk over.
const MOST_DIMENSIONS: usize = 4;

pub(super) const KERNELS: &[GpuEntry] = &[
    GpuEntry { name: "gpu.slice", operation: "Slice", prepare: prepare_slice },
    GpuEntry { name: "gpu.transpose", operation: "Transpose", prepare: prepare_transpose },
    GpuEntry { name: "gpu.gather", operation: "Gather", prepare: prepare_gather },
    GpuEntry { name: "gpu.cast", operation: "Cast", prepare: prepare_cast },
    GpuEntry { name: "gpu.concat", operation: "Concat", prepare: prepare_concat },
];

/// Accepts nodes whose output has few enough dimensions.
pub(super) fn few_dimensions(module: &Module, node: &Node) -> Result<(), String> {
    match module.value(node.output).shape.len() {
        rank if rank <= MOST_DIMENSIONS => Ok(()),
        rank => Err(format!("takes at most {MOST_DIMENSIONS} dimensions, found {rank}")),
    }
}

/// For each dimension, the distance of neighbours.
fn row_major(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

struct Slice {
    axis: usize,
    start: usize,
}

/// Bytes that vectors of every kernel are aligned to.
const ALIGNED: usize = 32;

fn prepare_slice(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    let found = slice(node);
    let input = module.value(node.inputs[0]);
    let row = input.shape.iter().skip(1).try_fold(1usize, |row, dim| row.checked_mul(dim.fixed()?));
    let start =
        row.and_then(|row| found.start.checked_mul(row)?.checked_mul(input.dtype.size_bytes()));
    if found.axis == 0 && start.is_some_and(|start| start.is_multiple_of(ALIGNED)) {
        return Err("leaves whole vectors of axis 0 to a view".to_owned());
    }
    few_dimensions(module, node)?;
    Ok(Box::new(Slice { axis: found.axis, start: found.start }))
}

impl GpuKernel for Slice {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let x = &call.inputs[0];
        let (size, end) = (x.shape[self.axis], self.start + call.shape[self.axis]);
        if end > size {
            let start = self.start;
            let axis = self.axis;
            return Err(format!("{start}..{end} is outside dimension {axis} of size {size}"));
        }
        let strides = row_major(x.shape);
        let strided = Strided::new(call.shape, &strides, self.start * strides[self.axis]);
        copy(gpu, x.dtype.size_bytes(), &x.buffer, &strided, &call.output);
        Ok(())
    }
}

struct Transpose {
    permutation: Vec<usize>,
}

/// Dimensions of a transposition's output as runs of the input's that stay neighbours.
fn runs(permutation: &[usize]) -> impl Iterator<Item = &[usize]> {
    permutation.chunk_by(|a, b| a + 1 == *b)
}

fn prepare_transpose(_: &Gpu, _: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    let Some(Op::Transpose(op)) = operator(node) else {
        return Err("takes transpositions only".to_owned());
    };
    match runs(&op.permutation).count() {
        count if count <= MOST_DIMENSIONS => {
            Ok(Box::new(Transpose { permutation: op.permutation.clone() }))
        }
        count => Err(format!("moves at most {MOST_DIMENSIONS} dimensions, found {count}")),
    }
}

impl GpuKernel for Transpose {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let x = &call.inputs[0];
        let strides = row_major(x.shape);
        let size = |run: &[usize]| run.iter().map(|&axis| x.shape[axis]).product();
        let shape: Vec<usize> = runs(&self.permutation).map(size).collect();
        let last = |run: &[usize]| run.last().map_or(1, |&axis| strides[axis]);
        let strides: Vec<usize> = runs(&self.permutation).map(last).collect();
        let strided = Strided::new(&shape, &strides, 0);
        copy(gpu, x.dtype.size_bytes(), &x.buffer, &strided, &call.output);
        Ok(())
    }
}

/// Accepts nodes whose indices the host knows before the launch: a GPU cannot refuse a wrong one.
pub(super) fn known_indices(module: &Module, node: &Node, input: usize) -> Result<(), String> {
    let id = node.inputs[input];
    if module.inputs.contains(&id) || module.constant(id).is_some() {
        return Ok(());
    }
    Err("takes indices that are an input of the model or constant, to check them".to_owned())
}

struct Gather;

fn prepare_gather(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    accepts_gather(module, node)?;
    known_indices(module, node, 1)?;
    Ok(Box::new(Gather))
}

impl GpuKernel for Gather {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let (table, indices) = (&call.inputs[0], &call.inputs[1]);
        let (&rows, rest) = table.shape.split_first().ok_or("expected a table")?;
        let size = [rows, rest.iter().product()];
        gather_rows(gpu, &table.buffer, size, &indices.buffer, &call.output);
        Ok(())
    }

    fn indices(&self) -> Option<usize> {
        Some(1)
    }
}

struct Cast {
    from: Number,
    to: Number,
}

fn accepts_cast(module: &Module, node: &Node) -> Result<(), String> {
    let (from, to) = (module.value(node.inputs[0]).dtype, module.value(node.output).dtype);
    match (from, to) {
        (DType::I64, DType::F32) | (DType::F32, DType::I64) => Ok(()),
        (from, to) if from == to => Ok(()),
        (from, to) => Err(format!("takes i64 and f32 only, found {from} to {to}")),
    }
}

fn prepare_cast(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    accepts_cast(module, node)?;
    let number = |dtype| match dtype {
        DType::I64 => Ok(Number::I64),
        DType::F32 => Ok(Number::F32),
        other => Err(format!("takes i64 and f32 only, found {other}")),
    };
    let from = number(module.value(node.inputs[0]).dtype)?;
    Ok(Box::new(Cast { from, to: number(module.value(node.output).dtype)? }))
}

impl GpuKernel for Cast {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        cast(gpu, (&call.inputs[0].buffer, self.from), (&call.output, self.to));
        Ok(())
    }
}

struct Concat {
    axis: usize,
}

fn prepare_concat(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    let bytes = module.value(node.output).dtype.size_bytes();
    match operator(node) {
        Some(Op::Concat(op)) if matches!(bytes, 1 | 4 | 8) => {
            Ok(Box::new(Concat { axis: op.axis }))
        }
        _ => Err(format!("takes elements of 1, 4 or 8 bytes, found {bytes}")),
    }
}

impl GpuKernel for Concat {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let (axis, shape) = (self.axis, call.shape);
        let along: usize = call.inputs.iter().map(|part| part.shape[axis]).sum();
        let others =
            |part: &[usize]| part[..axis] == shape[..axis] && part[axis + 1..] == shape[axis + 1..];
        if along != shape[axis] || !call.inputs.iter().all(|part| others(part.shape)) {
            return Err(format!("the parts' sizes do not make {shape:?}"));
        }
        let inner: usize = shape[axis + 1..].iter().product();
        let row = shape[axis] * inner;
        let mut start = 0;
        for part in call.inputs {
            let width = part.shape[axis] * inner;
            let bytes = part.dtype.size_bytes();
            copy_part(gpu, bytes, &part.buffer, width, &call.output, [row, start]);
            start += width;
        }
        Ok(())
    }
}
