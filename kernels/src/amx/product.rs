#![allow(unsafe_code, reason = "tile instructions; only called where a `Cpu` proves AMX")]
//! The tile instructions. Rust has no stable intrinsics for them, hence the assembly.
//!
//! Registers 0 and 1 are tiles of sums, 4 and 5 of x, 6 of weights. Each loop is one piece of
//! assembly, since values in tile registers must not have to survive compiled code; only their
//! configuration does, which nothing else touches.

use std::arch::asm;
use std::cell::Cell;

use super::{Sums, TILE_BYTES, TILE_ROWS};
use crate::scratch::lend;

/// The types of a product, with its instruction.
///
/// # Safety
/// `pair` and `single` read and write only what [`Operands`] says.
pub(crate) unsafe trait Product {
    /// Element of x and of packed weights.
    type Element: Copy;
    /// What sums are kept in.
    type Sum: Copy + Default;

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

    /// Lends tiles of sums of unspecified content.
    fn with_scratch<R>(count: usize, run: impl FnOnce(&mut [Sums<Self::Sum>]) -> R) -> R;
}

/// int8 times int8, summed in `i32` without error.
pub(crate) struct Int8;

/// bf16 times bf16, summed in `f32`; subnormal numbers count as 0.
pub(crate) struct Bf16;

/// What the assembly reads and writes.
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
    pub(super) ahead: isize,
    /// Whether to go on from the sums in memory.
    pub(super) resume: bool,
    /// A tile of sums for each of rows, one after another.
    pub(super) sums: *mut u8,
}

/// Prefetches 16 lines into the second-level cache, from which loading them is fast enough.
macro_rules! prefetch_tile {
    () => {
        prefetch_tile!("", "+64", "+128", "+192", "+256", "+320", "+384", "+448", "+512", "+576",
            "+640", "+704", "+768", "+832", "+896", "+960")
    };
    ($($offset:literal),*) => {
        concat!("test {ahead}, {ahead}\n", "jz 4f\n",
            $("prefetcht1 [{w} + {ahead}", $offset, "]\n",)* "4:")
    };
}

macro_rules! product {
    ($product:ty, $element:ty, $sum:ty, $multiply:literal) => {
        // SAFETY: the rows and lines that the loops load, and the tiles that are stored, are
        // exactly those of `Operands`.
        unsafe impl Product for $product {
            type Element = $element;
            type Sum = $sum;

            unsafe fn pair(operands: Operands) {
                // SAFETY: the caller's promise; prefetching cannot fault.
                unsafe {
                    asm!(
                        "tilezero tmm0", "tilezero tmm1",
                        "test {resume}, {resume}",
                        "jz 2f",
                        "tileloadd tmm0, [{sums} + {line}*1]",
                        "tileloadd tmm1, [{sums} + {line}*1 + 1024]",
                        "2:",
                        "tileloadd tmm6, [{w} + {line}*1]",
                        "tileloadd tmm4, [{x0} + {stride}*1]",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm5, [{x1} + {stride}*1]",
                        concat!($multiply, " tmm1, tmm5, tmm6"),
                        prefetch_tile!(),
                        "add {x0}, 64", "add {x1}, 64", "add {w}, 1024",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{sums} + {line}*1], tmm0",
                        "tilestored [{sums} + {line}*1 + 1024], tmm1",
                        x0 = inout(reg) operands.x => _,
                        x1 = inout(reg) operands.x.wrapping_add(TILE_ROWS * operands.stride) => _,
                        stride = in(reg) operands.stride,
                        w = inout(reg) operands.weights => _,
                        line = in(reg) TILE_BYTES,
                        steps = inout(reg) operands.steps => _,
                        ahead = in(reg) operands.ahead,
                        resume = in(reg) u64::from(operands.resume),
                        sums = in(reg) operands.sums,
                        options(nostack),
                    );
                }
            }

            unsafe fn single(operands: Operands) {
                // SAFETY: as for `pair`.
                unsafe {
                    asm!(
                        "tilezero tmm0",
                        "test {resume}, {resume}",
                        "jz 2f",
                        "tileloadd tmm0, [{sums} + {line}*1]",
                        "2:",
                        "tileloadd tmm6, [{w} + {line}*1]",
                        "tileloadd tmm4, [{x} + {stride}*1]",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        prefetch_tile!(),
                        "add {x}, 64", "add {w}, 1024",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{sums} + {line}*1], tmm0",
                        x = inout(reg) operands.x => _,
                        stride = in(reg) operands.stride,
                        w = inout(reg) operands.weights => _,
                        line = in(reg) TILE_BYTES,
                        steps = inout(reg) operands.steps => _,
                        ahead = in(reg) operands.ahead,
                        resume = in(reg) u64::from(operands.resume),
                        sums = in(reg) operands.sums,
                        options(nostack),
                    );
                }
            }

            fn with_scratch<R>(count: usize, run: impl FnOnce(&mut [Sums<$sum>]) -> R) -> R {
                thread_local! {
                    static SUMS: Cell<Vec<Sums<$sum>>> = const { Cell::new(Vec::new()) };
                }
                lend(&SUMS, count, run)
            }
        }
    };
}

product!(Int8, i8, i32, "tdpbssd");
product!(Bf16, u16, f32, "tdpbf16ps");
