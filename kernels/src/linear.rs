//! The `f32` linear layer: product, bias and activation in one pass over the result.

use rayon::prelude::*;

use crate::activation::Activation;
use crate::elementwise::add_assign_piece;
use crate::matrix::{Matrix, Write, gemm_here};
use crate::parallel::check_len;
use crate::tier::Cpu;

/// Rows whose results are finished while they are in the cache. Fewer would pack the weights
/// too often.
const BLOCK_ROWS: usize = 64;

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
    let block = |(index, y): (usize, &mut [f32])| {
        let rows = x.row_range(index * BLOCK_ROWS, BLOCK_ROWS);
        gemm_here(rows, w, y, Write::Overwrite);
        for y in y.chunks_exact_mut(n) {
            if let Some(bias) = bias {
                add_assign_piece(cpu, y, bias);
            }
            activation.apply(cpu, y);
        }
    };
    let pieces = BLOCK_ROWS * n;
    if m.saturating_mul(n).saturating_mul(x.cols()) < PARALLEL_WORK {
        y.chunks_mut(pieces).enumerate().for_each(block);
    } else {
        y.par_chunks_mut(pieces).enumerate().for_each(block);
    }
}
