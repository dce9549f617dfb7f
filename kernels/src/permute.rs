#![allow(unsafe_code, reason = "threads write disjoint columns of one result")]
//! Dimensions in another order.

use crate::float::{Rows, transpose_rows};
use crate::parallel::{CHUNK, Shared, check_len, for_each, for_each_row, rows_per_chunk};
use crate::tier::Cpu;

/// Dimensions of a tensor at most, after those that stay neighbours are merged.
const MOST: usize = 8;

/// Rows below which a square of them is not worth its registers.
const FEW_ROWS: usize = 8;

/// A dimension of the output: how many entries, and how far apart they are in the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Axis {
    size: usize,
    stride: usize,
}

/// The dimensions of an output, from the outermost on.
struct Axes {
    axes: [Axis; MOST],
    len: usize,
}

impl Axes {
    /// Neighbours that stay neighbours in one; those of one entry left out.
    fn new(shape: &[usize], permutation: &[usize]) -> Option<Self> {
        let mut found = Self { axes: [Axis::default(); MOST], len: 0 };
        for &axis in permutation {
            let size = *shape.get(axis)?;
            let stride = shape[axis + 1..].iter().product();
            if size == 1 {
                continue;
            }
            match found.axes[..found.len].last_mut() {
                Some(last) if last.stride == size * stride => {
                    *last = Axis { size: last.size * size, stride };
                }
                _ => {
                    *found.axes.get_mut(found.len)? = Axis { size, stride };
                    found.len += 1;
                }
            }
        }
        Some(found)
    }

    fn all(&self) -> &[Axis] {
        &self.axes[..self.len]
    }
}

/// Where entry `index` of some dimensions starts in the input.
fn place(axes: &[Axis], mut index: usize) -> usize {
    let mut place = 0;
    for axis in axes.iter().rev() {
        place += index % axis.size * axis.stride;
        index /= axis.size;
    }
    place
}

/// `y` has dimension `permutation[i]` of `x` as its dimension `i`.
///
/// # Shapes
/// `x`: `shape`; `y`: as many elements.
///
/// # Panics
/// When a length differs, `permutation` lacks a dimension, or more than 8
/// dimensions are left after those that stay neighbours are merged.
pub fn permute(cpu: Cpu, x: &[f32], shape: &[usize], permutation: &[usize], y: &mut [f32]) {
    permuted(x, shape, permutation, y, |x, rows, columns, y| {
        if rows.size >= FEW_ROWS && columns >= FEW_ROWS {
            transpose_rows(cpu, Rows::new(x, rows.size, columns, rows.stride), y);
        } else {
            some_columns(x, rows, columns, y);
        }
    });
}

/// [`permute`] of elements of any type.
///
/// # Shapes and panics
/// As [`permute`].
pub fn permute_any<T: Copy + Send + Sync>(
    x: &[T],
    shape: &[usize],
    permutation: &[usize],
    y: &mut [T],
) {
    permuted(x, shape, permutation, y, some_columns);
}

/// `transpose` turns the first columns of rows that are a stride apart, see [`some_columns`].
fn permuted<T: Copy + Send + Sync>(
    x: &[T],
    shape: &[usize],
    permutation: &[usize],
    y: &mut [T],
    transpose: impl Fn(&[T], Axis, usize, &mut [T]) + Sync,
) {
    check_len("permute: x", x.len(), shape.iter().product());
    check_len("permute: y", y.len(), x.len());
    check_len("permute: permutation", permutation.len(), shape.len());
    let is_named = |axis: usize| permutation.contains(&axis);
    assert!((0..shape.len()).all(is_named), "permute: {permutation:?} of {shape:?}");
    if y.is_empty() {
        return;
    }
    let axes = Axes::new(shape, permutation);
    let axes = axes.unwrap_or_else(|| panic!("permute: {permutation:?} of {shape:?}"));
    match axes.all() {
        [] => y.copy_from_slice(x),
        [outer @ .., Axis { size, stride: 1 }] => {
            for_each_row(y, *size, rows_per_chunk(*size), |row, y| {
                y.copy_from_slice(&x[place(outer, row)..][..*size]);
            });
        }
        [outer @ .., Axis { size: columns, stride: 1 }, rows] => {
            transposed(x, outer, *columns, *rows, y, transpose);
        }
        [outer @ .., last] => for_each_row(y, last.size, rows_per_chunk(last.size), |row, y| {
            let x = x[place(outer, row)..].iter().step_by(last.stride);
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = x);
        }),
    }
}

/// Matrices `[rows, columns]` whose rows are a stride apart, as `[columns, rows]`.
fn transposed<T: Copy + Send + Sync>(
    x: &[T],
    outer: &[Axis],
    columns: usize,
    rows: Axis,
    y: &mut [T],
    transpose: impl Fn(&[T], Axis, usize, &mut [T]) + Sync,
) {
    let matrix_len = columns * rows.size;
    if matrix_len <= CHUNK {
        for_each_row(y, matrix_len, rows_per_chunk(matrix_len), |matrix, y| {
            transpose(&x[place(outer, matrix)..], rows, columns, y);
        });
        return;
    }
    // Columns at once: whole squares.
    let at_once = (CHUNK / rows.size).next_multiple_of(FEW_ROWS).max(FEW_ROWS);
    let pieces = columns.div_ceil(at_once);
    let (matrices, shared) = (y.len() / matrix_len, Shared::new(y));
    for_each(matrices * pieces, |index| {
        let (matrix, piece) = (index / pieces, index % pieces);
        let (first, last) = (piece * at_once, columns.min((piece + 1) * at_once));
        let (start, len) = ((matrix * columns + first) * rows.size, (last - first) * rows.size);
        // SAFETY: the columns are some of a matrix, and nobody else has them.
        let y = unsafe { shared.range(start, len) };
        transpose(&x[place(outer, matrix) + first..], rows, last - first, y);
    });
}

/// The first columns of rows that are a stride apart, one after another.
fn some_columns<T: Copy>(x: &[T], rows: Axis, columns: usize, y: &mut [T]) {
    for row in 0..rows.size {
        let y = y[row..].iter_mut().step_by(rows.size);
        y.zip(&x[row * rows.stride..][..columns]).for_each(|(y, &x)| *y = x);
    }
}
