#![allow(unsafe_code, reason = "threads fill disjoint ranges of one slice")]
//! Results that are kept as numbers, or rounded to int8 or bf16 as they are written.

use super::quantize::{Quantization, quantize_piece};
use crate::bf16::round_piece;
use crate::parallel::{Shared, check_len};
use crate::tier::Cpu;

/// Where a result goes.
#[derive(Debug)]
pub enum Output<'a> {
    /// As it is.
    F32(&'a mut [f32]),
    /// Rounded, as [`super::quantize()`] would.
    Int8(&'a mut [i8], Quantization),
    /// Rounded to the nearest bf16, halves to even; subnormal numbers may become 0.
    Bf16(&'a mut [u16]),
}

/// A result that threads fill in disjoint ranges.
pub(crate) enum Target {
    F32(Shared<f32>),
    Int8(Shared<i8>, Quantization),
    Bf16(Shared<u16>),
}

impl Target {
    /// # Panics
    /// When the result does not have `len` elements.
    #[track_caller]
    pub(crate) fn new(output: Output<'_>, len: usize) -> Self {
        match output {
            Output::F32(y) => {
                check_len("y", y.len(), len);
                Self::F32(Shared::new(y))
            }
            Output::Int8(y, to) => {
                check_len("y", y.len(), len);
                Self::Int8(Shared::new(y), to)
            }
            Output::Bf16(y) => {
                check_len("y", y.len(), len);
                Self::Bf16(Shared::new(y))
            }
        }
    }

    /// Writes `values` from element `start` on.
    ///
    /// # Safety
    /// The range lies in the slice given to [`Target::new`], that borrow is still alive, and
    /// nothing else accesses the range meanwhile.
    pub(crate) unsafe fn write(&self, cpu: Cpu, start: usize, values: &[f32]) {
        match *self {
            Self::F32(y) => {
                // SAFETY: the caller's promise.
                let y = unsafe { y.range(start, values.len()) };
                y.copy_from_slice(values);
            }
            Self::Int8(y, to) => {
                // SAFETY: the caller's promise.
                let y = unsafe { y.range(start, values.len()) };
                quantize_piece(cpu, values, to, y);
            }
            Self::Bf16(y) => {
                // SAFETY: the caller's promise.
                round_piece(cpu, values, unsafe { y.range(start, values.len()) });
            }
        }
    }

    /// Writes `width` values of each row, rows `stride` elements apart, the first at `start`.
    ///
    /// # Safety
    /// As for [`Target::write`], for each row's range.
    ///
    /// # Panics
    /// When there are more than 16 rows.
    pub(crate) unsafe fn write_tile(
        &self,
        cpu: Cpu,
        (start, stride): (usize, usize),
        rows: &[[f32; SIDE]],
        width: usize,
    ) {
        match *self {
            Self::F32(y) => {
                for (index, row) in rows.iter().enumerate() {
                    // SAFETY: the caller's promise.
                    copy(row, unsafe { y.range(start + index * stride, width) });
                }
            }
            Self::Int8(y, to) => {
                let mut rounded = [[0; SIDE]; SIDE];
                let rounded = &mut rounded[..rows.len()];
                quantize_piece(cpu, rows.as_flattened(), to, rounded.as_flattened_mut());
                for (index, row) in rounded.iter().enumerate() {
                    // SAFETY: the caller's promise.
                    copy(row, unsafe { y.range(start + index * stride, width) });
                }
            }
            Self::Bf16(y) => {
                let mut rounded = [[0; SIDE]; SIDE];
                let rounded = &mut rounded[..rows.len()];
                round_piece(cpu, rows.as_flattened(), rounded.as_flattened_mut());
                for (index, row) in rounded.iter().enumerate() {
                    // SAFETY: the caller's promise.
                    copy(row, unsafe { y.range(start + index * stride, width) });
                }
            }
        }
    }
}

/// Rows and columns of the largest tile that is written at once.
const SIDE: usize = 16;

/// Copies as many elements as there is room for: a whole row is a move or two, where a copy of a
/// number of elements that is not known is a call.
fn copy<T: Copy>(row: &[T; SIDE], y: &mut [T]) {
    match y.as_mut_array() {
        Some(y) => *y = *row,
        None => y.copy_from_slice(&row[..y.len()]),
    }
}
