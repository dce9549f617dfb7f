#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Layer normalisation over the last dimension (Ba et al. 2016, arXiv:1607.06450).

use std::ops::Range;

use rayon::prelude::*;

use crate::elementwise::add_assign_piece;
use crate::lanes;
use crate::parallel::{self, check_len, rows_per_chunk};
use crate::reduce::BLOCK_ROWS;
use crate::tier::{Cpu, tiered};

/// Elements of a thread, some 1 µs, below which one is faster.
const PARALLEL_ELEMENTS: usize = 1 << 11;

/// The parameters of a layer normalisation.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Scale, `[cols]`.
    pub gamma: &'a [f32],
    /// Shift, `[cols]`.
    pub beta: &'a [f32],
    /// Added to the population variance, inside the root.
    pub epsilon: f32,
}

/// Where [`layer_norm_backward`] writes. All are overwritten.
#[derive(Debug)]
pub struct LayerNormGradients<'a> {
    /// Gradient of the input, `[rows, cols]`.
    pub dx: &'a mut [f32],
    /// Gradient of the scale, `[cols]`.
    pub dgamma: &'a mut [f32],
    /// Gradient of the shift, `[cols]`.
    pub dbeta: &'a mut [f32],
}

tiered! {
    /// Normalises each row of `y` in place; `stats` gets (mean, 1/deviation) a row.
    pub(crate) fn normalize_rows(y: &mut [f32], norm: LayerNorm<'_>, stats: Option<(&mut [f32], &mut [f32])>) {
        let mut stats = stats;
        let cols = norm.gamma.len();
        for (index, row) in y.chunks_exact_mut(cols).enumerate() {
            let mean = lanes::sum(row, |x| x) / cols as f32;
            let variance = lanes::sum(row, |x| (x - mean) * (x - mean)) / cols as f32;
            let rstd = 1.0 / (variance + norm.epsilon).sqrt();
            for ((y, &gamma), &beta) in row.iter_mut().zip(norm.gamma).zip(norm.beta) {
                *y = (*y - mean) * rstd * gamma + beta;
            }
            if let Some((means, rstds)) = &mut stats {
                means[index] = mean;
                rstds[index] = rstd;
            }
        }
    }
}

tiered! {
    fn add_rows(x: &[f32], residual: &[f32], y: &mut [f32]) {
        for ((y, &x), &residual) in y.iter_mut().zip(x).zip(residual) {
            *y = x + residual;
        }
    }
}

tiered! {
    /// One row of the backward pass; adds to `dgamma` and `dbeta`.
    fn backward_row(x: &[f32], gamma: &[f32], mean: f32, rstd: f32, dy: &[f32], out: LayerNormGradients<'_>) {
        let cols = gamma.len() as f32;
        let LayerNormGradients { dx, dgamma, dbeta } = out;
        for (((dx, &dy), &gamma), dbeta) in dx.iter_mut().zip(dy).zip(gamma).zip(dbeta) {
            *dx = dy * gamma;
            *dbeta += dy;
        }
        for ((dgamma, &dy), &x) in dgamma.iter_mut().zip(dy).zip(x) {
            *dgamma += dy * ((x - mean) * rstd);
        }
        let sum = lanes::sum(dx, |d| d) / cols;
        let sum_normalized = lanes::sum_pairs(dx, x, |d, x| d * ((x - mean) * rstd)) / cols;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = (*dx - sum - (x - mean) * rstd * sum_normalized) * rstd;
        }
    }
}

/// Checks a `[rows, cols]` slice and returns the number of rows.
#[track_caller]
pub(crate) fn check_rows(what: &str, len: usize, norm: &LayerNorm<'_>) -> usize {
    let cols = norm.gamma.len();
    check_len("layer norm: beta", norm.beta.len(), cols);
    if cols == 0 {
        check_len(what, len, 0);
        return 0;
    }
    check_len(what, len, len / cols * cols);
    len / cols
}

/// Runs `kernel` on (row range start, rows of y), cut by size.
pub(crate) fn for_row_blocks(
    y: &mut [f32],
    cols: usize,
    kernel: impl Fn(usize, &mut [f32]) + Sync,
) {
    let block = parallel::rows_of_threads(y.len() / cols, cols, PARALLEL_ELEMENTS) * cols;
    parallel::for_each_chunk(y, block, |index, rows| kernel(index * block, rows));
}

/// `y = (x − mean)/√(variance + ε)·γ + β` for each row, population variance.
///
/// # Shapes
/// `x`, `y`: `[rows, cols]`, `cols` the length of `norm.gamma`.
pub fn layer_norm(cpu: Cpu, x: &[f32], norm: &LayerNorm<'_>, y: &mut [f32]) {
    check_rows("layer_norm: x", x.len(), norm);
    check_len("layer_norm: y", y.len(), x.len());
    if x.is_empty() {
        return;
    }
    for_row_blocks(y, norm.gamma.len(), |start, y| {
        y.copy_from_slice(&x[start..start + y.len()]);
        normalize_rows(cpu, y, *norm, None);
    });
}

/// [`layer_norm`] of `x + residual`; a residual of fewer rows repeats.
///
/// # Shapes
/// `x`, `y`: `[rows, cols]`; `residual`: `[rows / n, cols]` for some whole n.
pub fn residual_layer_norm(
    cpu: Cpu,
    x: &[f32],
    residual: &[f32],
    norm: &LayerNorm<'_>,
    y: &mut [f32],
) {
    check_rows("residual_layer_norm: x", x.len(), norm);
    let repeats = x.len() / residual.len().max(1);
    check_len("residual_layer_norm: residual, repeated", residual.len() * repeats, x.len());
    check_rows("residual_layer_norm: residual", residual.len(), norm);
    check_len("residual_layer_norm: y", y.len(), x.len());
    if x.is_empty() {
        return;
    }
    for_row_blocks(y, norm.gamma.len(), |start, y| {
        for (part, residual) in repeated(residual, start, y.len()) {
            let x = &x[start + part.start..start + part.end];
            add_rows(cpu, x, residual, &mut y[part]);
        }
        normalize_rows(cpu, y, *norm, None);
    });
}

/// The parts of `len` elements from element `start` of a repeated slice on, and what of it lies there.
pub(crate) fn repeated<T>(
    slice: &[T],
    start: usize,
    len: usize,
) -> impl Iterator<Item = (Range<usize>, &[T])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let from = (start + done) % slice.len().max(1);
        let count = (slice.len() - from).min(len - done);
        let part = done..done + count;
        done = part.end;
        (count > 0).then(|| (part, &slice[from..from + count]))
    })
}

tiered! {
    fn rms_rows(y: &mut [f32], scale: &[f32], epsilon: f32) {
        for row in y.chunks_exact_mut(scale.len()) {
            let mean_square = lanes::sum(row, |x| x * x) / scale.len() as f32;
            let factor = 1.0 / (mean_square + epsilon).sqrt();
            for (y, &scale) in row.iter_mut().zip(scale) {
                *y = *y * factor * scale;
            }
        }
    }
}

/// `y = x/√(mean(x²) + ε)·scale` for each row (Zhang & Sennrich 2019, arXiv:1910.07467).
///
/// # Shapes
/// `x`, `y`: `[rows, cols]`, `cols` the length of `scale`.
pub fn rms_norm(cpu: Cpu, x: &[f32], scale: &[f32], epsilon: f32, y: &mut [f32]) {
    check_len("rms_norm: y", y.len(), x.len());
    check_whole_rows("rms_norm: x", x.len(), scale.len());
    if !x.is_empty() {
        for_row_blocks(y, scale.len(), |start, y| {
            y.copy_from_slice(&x[start..start + y.len()]);
            rms_rows(cpu, y, scale, epsilon);
        });
    }
}

/// [`rms_norm`] of `y`, over it.
///
/// # Shapes
/// As those of [`rms_norm`].
pub fn rms_norm_in_place(cpu: Cpu, y: &mut [f32], scale: &[f32], epsilon: f32) {
    check_whole_rows("rms_norm: y", y.len(), scale.len());
    if !y.is_empty() {
        for_row_blocks(y, scale.len(), |_, y| rms_rows(cpu, y, scale, epsilon));
    }
}

/// Panics unless `len` elements are whole rows.
#[track_caller]
fn check_whole_rows(what: &str, len: usize, cols: usize) {
    check_len(what, len, len.checked_div(cols).unwrap_or(0) * cols);
}

/// [`layer_norm`] that keeps what the backward pass needs.
///
/// # Shapes
/// `x`, `y`: `[rows, cols]`; `mean` and `rstd` (1/√(variance + ε)): `[rows]`.
pub fn layer_norm_forward(
    cpu: Cpu,
    x: &[f32],
    norm: &LayerNorm<'_>,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    let rows = check_rows("layer_norm_forward: x", x.len(), norm);
    check_len("layer_norm_forward: y", y.len(), x.len());
    if x.is_empty() && norm.gamma.is_empty() {
        return;
    }
    check_len("layer_norm_forward: mean", mean.len(), rows);
    check_len("layer_norm_forward: rstd", rstd.len(), rows);
    let cols = norm.gamma.len();
    let block = rows_per_chunk(cols);
    let stats = mean.par_chunks_mut(block).zip(rstd.par_chunks_mut(block));
    y.par_chunks_mut(block * cols).zip(x.par_chunks(block * cols)).zip(stats).for_each(
        |((y, x), stats)| {
            y.copy_from_slice(x);
            normalize_rows(cpu, y, *norm, Some(stats));
        },
    );
}

/// The gradients of [`layer_norm_forward`], from its input and the statistics it kept.
///
/// # Shapes
/// `x`, `dy`: `[rows, cols]`; `gamma`: `[cols]`; `mean`, `rstd`: `[rows]`.
pub fn layer_norm_backward(
    cpu: Cpu,
    x: &[f32],
    gamma: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
    out: LayerNormGradients<'_>,
) {
    let cols = gamma.len();
    let rows = mean.len();
    check_len("layer_norm_backward: x", x.len(), rows * cols);
    check_len("layer_norm_backward: rstd", rstd.len(), rows);
    check_len("layer_norm_backward: dy", dy.len(), x.len());
    check_len("layer_norm_backward: dx", out.dx.len(), x.len());
    check_len("layer_norm_backward: dgamma", out.dgamma.len(), cols);
    check_len("layer_norm_backward: dbeta", out.dbeta.len(), cols);
    out.dgamma.fill(0.0);
    out.dbeta.fill(0.0);
    if x.is_empty() {
        return;
    }
    let block = BLOCK_ROWS * cols;
    let mut partial = vec![0.0; rows.div_ceil(BLOCK_ROWS) * 2 * cols];
    out.dx.par_chunks_mut(block).zip(partial.par_chunks_mut(2 * cols)).enumerate().for_each(
        |(index, (dx, partial))| {
            let (dgamma, dbeta) = partial.split_at_mut(cols);
            for (offset, dx) in dx.chunks_exact_mut(cols).enumerate() {
                let row = index * BLOCK_ROWS + offset;
                let range = row * cols..(row + 1) * cols;
                let out = LayerNormGradients { dx, dgamma, dbeta };
                let (x, dy) = (&x[range.clone()], &dy[range]);
                backward_row(cpu, x, gamma, mean[row], rstd[row], dy, out);
            }
        },
    );
    for block in partial.chunks_exact(2 * cols) {
        add_assign_piece(cpu, out.dgamma, &block[..cols]);
        add_assign_piece(cpu, out.dbeta, &block[cols..]);
    }
}
