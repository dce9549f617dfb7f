#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Softmax over rows, forward and backward.

use crate::lanes;
use crate::math;
use crate::parallel::{self, check_len};
use crate::tier::{Cpu, tiered};

/// Rows of so many elements at most are worked on side by side.
const SHORT: usize = 16;

/// Rows that are.
const ROWS: usize = 16;

tiered! {
    /// Softmax of each of at most [`ROWS`] rows of at most [`SHORT`] elements, in place.
    fn softmax_short(y: &mut [f32], row_len: usize) {
        // A column an element; what rows there are not is of no use, and of no harm.
        let mut columns = [[0.0; ROWS]; SHORT];
        let columns = &mut columns[..row_len];
        for (place, row) in y.chunks_exact(row_len).enumerate().take(ROWS) {
            columns.iter_mut().zip(row).for_each(|(column, &value)| column[place] = value);
        }
        let mut max = [f32::NEG_INFINITY; ROWS];
        for column in &*columns {
            for (max, &value) in max.iter_mut().zip(column) {
                *max = if value > *max { value } else { *max };
            }
        }
        let mut sums = [0.0; ROWS];
        for column in &mut *columns {
            for ((value, max), sum) in column.iter_mut().zip(max).zip(&mut sums) {
                *value = math::exp(*value - max);
                *sum += *value;
            }
        }
        let inverse = sums.map(|sum| 1.0 / sum);
        for column in &mut *columns {
            column.iter_mut().zip(inverse).for_each(|(value, inverse)| *value *= inverse);
        }
        for (place, row) in y.chunks_exact_mut(row_len).enumerate().take(ROWS) {
            row.iter_mut().zip(&*columns).for_each(|(value, column)| *value = column[place]);
        }
    }
}

/// Softmax of each row of `y`, in place.
pub(crate) fn softmax_rows(cpu: Cpu, y: &mut [f32], row_len: usize) {
    if row_len <= SHORT {
        y.chunks_mut(ROWS * row_len).for_each(|rows| softmax_short(cpu, rows, row_len));
    } else {
        softmax_long(cpu, y, row_len);
    }
}

tiered! {
    fn softmax_long(y: &mut [f32], row_len: usize) {
        for row in y.chunks_exact_mut(row_len) {
            let max = lanes::max(row);
            for value in row.iter_mut() {
                *value = math::exp(*value - max);
            }
            let inverse = 1.0 / lanes::sum(row, |value| value);
            for value in row.iter_mut() {
                *value *= inverse;
            }
        }
    }
}

tiered! {
    /// Logarithms of the softmax of each row of `y`, in place.
    pub(crate) fn log_softmax_rows(y: &mut [f32], row_len: usize) {
        for row in y.chunks_exact_mut(row_len) {
            let max = lanes::max(row);
            let log = math::ln(lanes::sum(row, |value| math::exp(value - max)));
            for value in row.iter_mut() {
                // In this order: the difference from the greatest is exact where it is small.
                *value = (*value - max) - log;
            }
        }
    }
}

tiered! {
    fn softmax_slope(y: &[f32], dy: &[f32], row_len: usize, dx: &mut [f32]) {
        let rows = y.chunks_exact(row_len).zip(dy.chunks_exact(row_len));
        for (dx, (y, dy)) in dx.chunks_exact_mut(row_len).zip(rows) {
            let dot = lanes::sum_pairs(y, dy, |y, dy| y * dy);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - dot);
            }
        }
    }
}

/// Checks that `len` is a whole number of rows; returns what pieces consist of.
#[track_caller]
pub(crate) fn unit_of(what: &str, len: usize, row_len: usize) -> usize {
    if row_len == 0 {
        check_len(what, len, 0);
        return 1;
    }
    check_len(what, len, len / row_len * row_len);
    row_len
}

/// `y = softmax(x)` over each row: `exp(x − max)/Σ exp(x − max)`.
///
/// # Shapes
/// `x`, `y`: `[rows, row_len]`.
pub fn softmax_forward(cpu: Cpu, x: &[f32], row_len: usize, y: &mut [f32]) {
    let unit = unit_of("softmax_forward: x", x.len(), row_len);
    check_len("softmax_forward: y", y.len(), x.len());
    if x.is_empty() {
        return;
    }
    parallel::map(x, y, unit, |x, y| {
        y.copy_from_slice(x);
        softmax_rows(cpu, y, row_len);
    });
}

/// `y = x − max − ln Σ exp(x − max)` over each row.
///
/// # Shapes
/// `x`, `y`: `[rows, row_len]`.
pub fn log_softmax(cpu: Cpu, x: &[f32], row_len: usize, y: &mut [f32]) {
    let unit = unit_of("log_softmax: x", x.len(), row_len);
    check_len("log_softmax: y", y.len(), x.len());
    if x.is_empty() {
        return;
    }
    parallel::map(x, y, unit, |x, y| {
        y.copy_from_slice(x);
        log_softmax_rows(cpu, y, row_len);
    });
}

/// `dx = y·(dy − Σ y·dy)` over each row, `y` the result of [`softmax_forward`].
///
/// # Shapes
/// All slices: `[rows, row_len]`.
pub fn softmax_backward(cpu: Cpu, y: &[f32], dy: &[f32], row_len: usize, dx: &mut [f32]) {
    let unit = unit_of("softmax_backward: y", y.len(), row_len);
    check_len("softmax_backward: dy", dy.len(), y.len());
    check_len("softmax_backward: dx", dx.len(), y.len());
    if y.is_empty() {
        return;
    }
    parallel::zip(y, dy, dx, unit, |y, dy, dx| softmax_slope(cpu, y, dy, row_len, dx));
}
