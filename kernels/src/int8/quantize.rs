#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Between `f32` and int8, with the meaning of ONNX `QuantizeLinear` and `DequantizeLinear`.

use crate::math;
use crate::parallel::{self, CHUNK, check_len, rows_per_chunk};
use crate::tier::{Cpu, tiered};

/// How numbers of a tensor are written as int8: `x ≈ (q − zero_point)·scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// Size of one step, > 0.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero_point: i8,
    /// The smallest integer used: −128, or −127 where the range is symmetric.
    pub min: i8,
    /// The largest integer used.
    pub max: i8,
}

impl Quantization {
    /// Zero point 0 and the range of ONNX, −128..=127.
    #[must_use]
    pub const fn symmetric(scale: f32) -> Self {
        Self { scale, zero_point: 0, min: i8::MIN, max: i8::MAX }
    }
}

tiered! {
    #[allow(clippy::cast_possible_truncation, reason = "limited to the range of i8 just before")]
    pub(crate) fn quantize_piece(x: &[f32], to: Quantization, y: &mut [i8]) {
        let zero_point = i32::from(to.zero_point);
        let (min, max) = (i32::from(to.min), i32::from(to.max));
        for (y, &x) in y.iter_mut().zip(x) {
            // No i8 lies further from its zero point than 255, so the limit changes no result; it
            // keeps the rounding trick in its range.
            let steps = math::clamp(x / to.scale, -1024.0, 1024.0);
            let rounded = math::round_even_to_int(steps);
            let limited = (rounded + zero_point).max(min).min(max);
            *y = if x.is_nan() { 0 } else { limited as i8 };
        }
    }
}

tiered! {
    fn dequantize_piece(x: &[i8], from: Quantization, y: &mut [f32]) {
        let zero_point = i32::from(from.zero_point);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (i32::from(x) - zero_point) as f32 * from.scale;
        }
    }
}

tiered! {
    fn dequantize_row(x: &[i8], scales: &[f32], y: &mut [f32]) {
        for ((y, &x), &scale) in y.iter_mut().zip(x).zip(scales) {
            *y = f32::from(x) * scale;
        }
    }
}

/// `y = limit(round(x / scale) + zero_point)`, halves to even; NaN becomes 0.
///
/// # Shapes
/// `x` and `y` have the same length.
pub fn quantize(cpu: Cpu, x: &[f32], to: Quantization, y: &mut [i8]) {
    check_len("quantize: y", y.len(), x.len());
    parallel::map(x, y, CHUNK, |x, y| quantize_piece(cpu, x, to, y));
}

/// `y = (x − zero_point)·scale`.
///
/// # Shapes
/// `x` and `y` have the same length.
pub fn dequantize(cpu: Cpu, x: &[i8], from: Quantization, y: &mut [f32]) {
    check_len("dequantize: y", y.len(), x.len());
    parallel::map(x, y, CHUNK, |x, y| dequantize_piece(cpu, x, from, y));
}

/// `y[r, c] = x[r, c]·scales[c]`: zero point 0, a scale for each column.
///
/// # Shapes
/// `x`, `y`: `[rows, cols]`; `scales`: `[cols]`.
pub fn dequantize_columns(cpu: Cpu, x: &[i8], scales: &[f32], y: &mut [f32]) {
    let cols = scales.len();
    check_len("dequantize_columns: y", y.len(), x.len());
    if x.is_empty() {
        return;
    }
    check_len("dequantize_columns: x", x.len(), x.len() / cols.max(1) * cols);
    parallel::for_each_row(y, cols, rows_per_chunk(cols), |row, y| {
        dequantize_row(cpu, &x[row * cols..][..cols], scales, y);
    });
}

/// One row of [`dequantize`] or, with several scales, of [`dequantize_columns`].
pub(crate) fn dequantize_one(cpu: Cpu, x: &[i8], scales: &[f32], y: &mut [f32]) {
    match scales {
        [scale] => dequantize_piece(cpu, x, Quantization::symmetric(*scale), y),
        _ => dequantize_row(cpu, x, scales, y),
    }
}
