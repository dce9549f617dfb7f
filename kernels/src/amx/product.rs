#![allow(unsafe_code, reason = "declares what the tile instructions promise")]
//! What is multiplied in tiles.

use std::cell::Cell;

use super::Sums;
use crate::scratch::lend;

/// The types of a product.
pub(crate) trait Product: Instruction {
    /// Element of x and of packed weights.
    type Element: Copy;
    /// What sums are kept in.
    type Sum: Copy + Default;

    /// Lends tiles of sums of unspecified content.
    fn with_scratch<R>(count: usize, run: impl FnOnce(&mut [Sums<Self::Sum>]) -> R) -> R;
}

/// The instruction of a product.
///
/// # Safety
/// `pair` and `single` read and write only what [`Operands`] says.
pub(crate) unsafe trait Instruction {
    /// Two tiles of rows.
    ///
    /// # Safety
    /// The CPU has AMX, its tiles are configured for 16 rows, and the operands are as [`Operands`]
    /// says.
    unsafe fn pair(operands: Operands);

    /// One tile of rows.
    ///
    /// # Safety
    /// As for `pair`, with tiles of any number of rows.
    unsafe fn single(operands: Operands);
}

/// int8 times int8, summed in `i32` without error.
pub(crate) struct Int8;

/// bf16 times bf16, summed in `f32`; subnormal numbers count as 0.
pub(crate) struct Bf16;

/// What the instructions read and write.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// First row of x. Each row has `64·steps` readable bytes.
    pub(super) x: *const u8,
    /// Bytes from one row of x to the next.
    pub(super) stride: usize,
    /// Lines of a panel, `1024·steps` readable bytes.
    pub(super) weights: *const u8,
    /// Tiles along the inner dimension, at least 1.
    pub(super) steps: usize,
    /// Bytes from the lines that are multiplied to those to prefetch; 0 for none.
    #[cfg_attr(feature = "amx-emulated", allow(dead_code, reason = "caches are not emulated"))]
    pub(super) ahead: isize,
    /// Whether to go on from the sums in memory.
    pub(super) resume: bool,
    /// A tile of sums for each of rows, one after another.
    pub(super) sums: *mut u8,
}

macro_rules! product {
    ($product:ty, $element:ty, $sum:ty) => {
        impl Product for $product {
            type Element = $element;
            type Sum = $sum;

            fn with_scratch<R>(count: usize, run: impl FnOnce(&mut [Sums<$sum>]) -> R) -> R {
                thread_local! {
                    static SUMS: Cell<Vec<Sums<$sum>>> = const { Cell::new(Vec::new()) };
                }
                lend(&SUMS, count, run)
            }
        }
    };
}

product!(Int8, i8, i32);
product!(Bf16, u16, f32);
