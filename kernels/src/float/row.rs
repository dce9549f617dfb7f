#![allow(unsafe_code, reason = "pieces of one row are written by different threads")]
//! One row times a matrix that is read where it lies: laying it out for tiles takes longer.

use super::Rows;
use crate::matrix::Write;
use crate::parallel::{self, Shared};
use crate::tier::{Cpu, tiered};

/// Columns whose sums are in registers at once.
const COLUMNS: usize = 64;

tiered! {
    fn multiply(x: &[f32], b: Rows<'_>, first: usize, sums: &mut [f32; COLUMNS]) {
        let mut values = *sums;
        for (row, &x) in x.iter().enumerate() {
            let b = &b.row(row)[first..][..COLUMNS];
            for (value, &b) in values.iter_mut().zip(b) {
                *value = x.mul_add(b, *value);
            }
        }
        *sums = values;
    }
}

tiered! {
    fn multiply_rest(x: &[f32], b: Rows<'_>, first: usize, sums: &mut [f32]) {
        for (row, &x) in x.iter().enumerate() {
            for (sum, &b) in sums.iter_mut().zip(&b.row(row)[first..]) {
                *sum = x.mul_add(b, *sum);
            }
        }
    }
}

/// `c = x·b`, or `c += x·b`, each element one chain of fused multiply-adds, on all threads where they
/// are to share.
///
/// # Shapes
/// `x`: `[k]`; `b`: k rows of the elements of `c`.
///
/// # Safety
/// `c` has as many elements as a row of `b`. They are alive, and initialized unless they are
/// overwritten; nothing else accesses them meanwhile.
pub(super) unsafe fn row_product(
    cpu: Cpu,
    x: &[f32],
    b: Rows<'_>,
    c: Shared<f32>,
    write: Write,
    share: bool,
) {
    let columns = b.k();
    let piece = |index: usize| {
        let first = index * COLUMNS;
        let count = COLUMNS.min(columns - first);
        let mut sums = [0.0; COLUMNS];
        if write == Write::Accumulate {
            // SAFETY: the columns lie in c, whose elements are initialized, by the caller's promise,
            // and no other piece has them.
            sums[..count].copy_from_slice(unsafe { c.read(first, count) });
        }
        if count == COLUMNS {
            multiply(cpu, x, b, first, &mut sums);
        } else {
            multiply_rest(cpu, x, b, first, &mut sums[..count]);
        }
        // SAFETY: as above; that they are initialized is not needed.
        unsafe { c.write(first, &sums[..count]) };
    };
    let pieces = columns.div_ceil(COLUMNS);
    if share { parallel::for_each(pieces, piece) } else { (0..pieces).for_each(piece) }
}
