#![allow(unsafe_code, reason = "blocks of one row-major result are written by different threads")]
//! The `f32` linear layer: product, bias and activation in one pass over the result.

use rayon::prelude::*;

use crate::activation::Activation;
use crate::elementwise::add_assign_piece;
use crate::matrix::{Matrix, gemm_into};
use crate::parallel::{Shared, check_len};
use crate::tier::Cpu;

/// Rows and columns whose results are finished while they are in the cache. The `gemm` crate packs
/// both operands of each block anew: larger blocks pack less, smaller ones share the work better.
const BLOCK_ROWS: usize = 256;
const BLOCK_COLUMNS: usize = 192;

/// Multiply-adds below which one thread is faster.
const PARALLEL_WORK: usize = 1 << 20;

/// `y = activation(x·w + bias)`.
///
/// # Shapes
/// `x`: `[m, k]`, `w`: `[k, n]`, any strides; `bias`: `[n]` where there is one; `y`: `[m, n]`,
/// row-major.
///
/// # Panics
/// When a size differs.
pub fn linear(
    cpu: Cpu,
    x: Matrix<'_>,
    w: Matrix<'_>,
    bias: Option<&[f32]>,
    activation: Activation,
    y: &mut [f32],
) {
    let (m, n) = (x.rows(), w.cols());
    check_len("linear: rows of w", w.rows(), x.cols());
    check_len("linear: y", y.len(), m * n);
    if let Some(bias) = bias {
        check_len("linear: bias", bias.len(), n);
    }
    if y.is_empty() {
        return;
    }
    if x.cols() == 0 {
        y.fill(0.0);
    }
    let small = m.saturating_mul(n).saturating_mul(x.cols()) < PARALLEL_WORK;
    let target = Shared::new(y);
    let block_columns = if small { n } else { BLOCK_COLUMNS };
    let column_blocks = n.div_ceil(block_columns);
    let blocks = m.div_ceil(BLOCK_ROWS) * column_blocks;
    let block = |index: usize| {
        let row = index / column_blocks * BLOCK_ROWS;
        let column = index % column_blocks * block_columns;
        let (rows, columns) = (BLOCK_ROWS.min(m - row), block_columns.min(n - column));
        let (x, w) = (x.row_range(row, rows), w.column_range(column, columns));
        if x.cols() > 0 {
            // SAFETY: the block lies in y, whose length was checked above, and no other index
            // stands for any of its elements.
            unsafe { gemm_into(x, w, target, row * n + column, n) };
        }
        for row in row..row + rows {
            // SAFETY: as above; the product of this block is done.
            let y = unsafe { target.range(row * n + column, columns) };
            if let Some(bias) = bias {
                add_assign_piece(cpu, y, &bias[column..column + columns]);
            }
            activation.apply(cpu, y);
        }
    };
    if small {
        (0..blocks).for_each(block);
    } else {
        (0..blocks).into_par_iter().for_each(block);
    }
}
