//! Kernels that write over their input: the same bits as their twins with a separate result.

use crate::activation::Activation;
use crate::elementwise::{add_assign_piece, mul_assign_piece};
use crate::norm::{LayerNorm, check_rows, for_row_blocks, normalize_rows, repeated};
use crate::parallel::{LINE, check_len, for_each_piece};
use crate::softmax::{log_softmax_rows, softmax_rows, unit_of};
use crate::tier::Cpu;

/// `y += x`.
///
/// # Shapes
/// Both have the same length.
pub fn add_assign(cpu: Cpu, y: &mut [f32], x: &[f32]) {
    check_len("add_assign: x", x.len(), y.len());
    for_each_piece(y, LINE, |start, y| add_assign_piece(cpu, y, &x[start..start + y.len()]));
}

/// `y *= x`, element by element.
///
/// # Shapes
/// Both have the same length.
pub fn mul_assign(cpu: Cpu, y: &mut [f32], x: &[f32]) {
    check_len("mul_assign: x", x.len(), y.len());
    for_each_piece(y, LINE, |start, y| mul_assign_piece(cpu, y, &x[start..start + y.len()]));
}

/// `y = activation(y)`.
pub fn activate_in_place(cpu: Cpu, activation: Activation, y: &mut [f32]) {
    for_each_piece(y, LINE, |_, y| activation.apply(cpu, y));
}

/// `y = softmax(y)` over each row.
///
/// # Shapes
/// `y`: `[rows, row_len]`.
pub fn softmax_in_place(cpu: Cpu, y: &mut [f32], row_len: usize) {
    let unit = unit_of("softmax_in_place: y", y.len(), row_len);
    if !y.is_empty() {
        for_each_piece(y, unit, |_, y| softmax_rows(cpu, y, row_len));
    }
}

/// [`crate::log_softmax`] of `y`.
///
/// # Shapes
/// `y`: `[rows, row_len]`.
pub fn log_softmax_in_place(cpu: Cpu, y: &mut [f32], row_len: usize) {
    let unit = unit_of("log_softmax_in_place: y", y.len(), row_len);
    if !y.is_empty() {
        for_each_piece(y, unit, |_, y| log_softmax_rows(cpu, y, row_len));
    }
}

/// [`crate::layer_norm`] of `y`.
///
/// # Shapes
/// `y`: `[rows, cols]`, `cols` the length of `norm.gamma`.
pub fn layer_norm_in_place(cpu: Cpu, y: &mut [f32], norm: &LayerNorm<'_>) {
    check_rows("layer_norm_in_place: y", y.len(), norm);
    if !y.is_empty() {
        for_row_blocks(y, norm.gamma.len(), |_, y| normalize_rows(cpu, y, *norm, None));
    }
}

/// [`crate::layer_norm`] of `y + residual`; a residual of fewer rows repeats.
///
/// # Shapes
/// `y`: `[rows, cols]`; `residual`: `[rows / n, cols]` for some whole n.
pub fn residual_layer_norm_in_place(
    cpu: Cpu,
    y: &mut [f32],
    residual: &[f32],
    norm: &LayerNorm<'_>,
) {
    check_rows("residual_layer_norm_in_place: y", y.len(), norm);
    let repeats = y.len() / residual.len().max(1);
    let all = residual.len() * repeats;
    check_len("residual_layer_norm_in_place: residual, repeated", all, y.len());
    check_rows("residual_layer_norm_in_place: residual", residual.len(), norm);
    if !y.is_empty() {
        for_row_blocks(y, norm.gamma.len(), |start, y| {
            for (part, residual) in repeated(residual, start, y.len()) {
                add_assign_piece(cpu, &mut y[part], residual);
            }
            normalize_rows(cpu, y, *norm, None);
        });
    }
}
