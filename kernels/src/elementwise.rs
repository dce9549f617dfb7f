#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Sums and products, element by element.

use crate::parallel::{self, LINE, check_len, rows_per_chunk};
use crate::tier::{Cpu, tiered};

tiered! {
    fn add_piece(a: &[f32], b: &[f32], y: &mut [f32]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

tiered! {
    fn mul_piece(a: &[f32], b: &[f32], y: &mut [f32]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = a * b;
        }
    }
}

tiered! {
    pub(crate) fn add_assign_piece(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

tiered! {
    pub(crate) fn mul_assign_piece(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y *= x;
        }
    }
}

/// `y = a + b`.
///
/// # Shapes
/// All three have the same length.
pub fn add(cpu: Cpu, a: &[f32], b: &[f32], y: &mut [f32]) {
    check_len("add: b", b.len(), a.len());
    check_len("add: y", y.len(), a.len());
    parallel::zip(a, b, y, LINE, |a, b, y| add_piece(cpu, a, b, y));
}

/// `y = a · b`, element by element.
///
/// # Shapes
/// All three have the same length.
pub fn mul(cpu: Cpu, a: &[f32], b: &[f32], y: &mut [f32]) {
    check_len("mul: b", b.len(), a.len());
    check_len("mul: y", y.len(), a.len());
    parallel::zip(a, b, y, LINE, |a, b, y| mul_piece(cpu, a, b, y));
}

/// Adds `row` to every row of `y`.
///
/// # Shapes
/// `row` is `[cols]`, `y` is `[rows, cols]`; a row of no columns needs an empty `y`.
pub fn add_row(cpu: Cpu, y: &mut [f32], row: &[f32]) {
    let cols = row.len();
    if cols == 0 {
        check_len("add_row: y", y.len(), 0);
        return;
    }
    check_len("add_row: y", y.len(), y.len() / cols * cols);
    parallel::for_each_row(y, cols, rows_per_chunk(cols), |_, y| add_assign_piece(cpu, y, row));
}
