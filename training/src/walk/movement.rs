//! Data movement: picking rows, other shapes and orders.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Int, Tensor, TensorData};
use graph::{Bindings, op};

use super::floats::Floats;
use super::fused::{self, Operation};
use crate::device::Device;

/// Rows of a table, picked by index.
#[derive(Clone, Debug)]
struct Rows {
    indices: Arc<Vec<usize>>,
    shape: Vec<usize>,
}

impl Operation<1> for Rows {
    type Saved = [usize; 2];

    fn forward(&self, [table]: &[FlexTensor; 1]) -> (FlexTensor, [usize; 2]) {
        let [rows, width] = fused::shape(table)[..] else { unreachable!("tables have rank 2") };
        let elements = fused::elements(table);
        let mut y = Vec::with_capacity(self.indices.len() * width);
        for &index in self.indices.iter() {
            y.extend_from_slice(&elements[index * width..(index + 1) * width]);
        }
        (fused::tensor(&self.shape, y), [rows, width])
    }

    fn backward(
        &self,
        [rows, width]: [usize; 2],
        gradient: &FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let dy = fused::elements(gradient);
        let mut table = vec![0f32; rows * width];
        for (&index, dy) in self.indices.iter().zip(dy.chunks_exact(width.max(1))) {
            let row = &mut table[index * width..(index + 1) * width];
            for (sum, &dy) in row.iter_mut().zip(dy) {
                *sum += dy;
            }
        }
        [Some(fused::tensor(&[rows, width], table))]
    }
}

/// Entries of `data` along `op.axis` at `indices`.
///
/// # Errors
///
/// When an index lies outside the dimension.
pub(super) fn gather(
    fuse: bool,
    device: &Device,
    op: &op::Gather,
    data: Floats,
    indices: &graph::Tensor,
) -> Result<Floats, String> {
    let shape = data.shape();
    let size = shape[op.axis];
    let picked = indices.elements::<i64>().map_err(|error| error.to_string())?;
    let checked = |&index: &i64| {
        let index = usize::try_from(index).ok().filter(|&index| index < size);
        index.ok_or_else(|| index_error(picked, op.axis, size))
    };
    let rows: Vec<usize> = picked.iter().map(checked).collect::<Result<_, _>>()?;
    let output = [&shape[..op.axis], indices.shape(), &shape[op.axis + 1..]].concat();
    if fuse && op.axis == 0 && shape.len() == 2 {
        let operation = Rows { indices: Arc::new(rows), shape: output };
        return Ok(Floats(fused::apply(&operation, [data.0])));
    }
    let indices = TensorData::new(picked.to_vec(), [picked.len()]);
    let indices = Tensor::<1, Int>::from_data(indices, device.burn());
    Ok(data.select(op.axis, indices).reshape(&output))
}

fn index_error(indices: &[i64], axis: usize, size: usize) -> String {
    let outside = |index: &&i64| usize::try_from(**index).map_or(true, |index| index >= size);
    let index = indices.iter().find(outside).copied().unwrap_or_default();
    format!("index {index} is outside dimension {axis} of size {size}")
}

/// The same elements under the shape that `op` asks for.
pub(super) fn reshape(op: &op::Reshape, x: Floats) -> Floats {
    let from = x.shape();
    let known: usize = op
        .shape
        .iter()
        .enumerate()
        .map(|(axis, &size)| match size {
            0 => from[axis],
            -1 => 1,
            size => usize::try_from(size).expect("the graph's shape rule checked the sizes"),
        })
        .product();
    let size = |(axis, &size): (usize, &i64)| match size {
        0 => from[axis],
        -1 => from.iter().product::<usize>() / known.max(1),
        size => usize::try_from(size).expect("the graph's shape rule checked the sizes"),
    };
    let shape: Vec<usize> = op.shape.iter().enumerate().map(size).collect();
    x.reshape(&shape)
}

/// Extra dimensions of size 1.
pub(super) fn unsqueeze(op: &op::Unsqueeze, x: Floats) -> Floats {
    let mut shape = x.shape();
    for &axis in &op.axes {
        shape.insert(axis, 1);
    }
    x.reshape(&shape)
}

/// The range along `op.axis`.
///
/// # Errors
///
/// When the end is not bound or lies outside.
pub(super) fn slice(op: &op::Slice, x: Floats, bindings: &Bindings) -> Result<Floats, String> {
    let end = bindings.size(&op.end).ok_or_else(|| format!("`{}` is not bound", op.end))?;
    let (axis, size) = (op.axis, x.shape()[op.axis]);
    if op.start > end || end > size {
        return Err(format!(
            "{}..{end} is outside dimension {axis} of size {size}: the longest input has more \
             tokens than the model has positions",
            op.start
        ));
    }
    Ok(x.slice(axis, op.start, end))
}
