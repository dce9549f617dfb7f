#![allow(unsafe_code, reason = "tile instructions; only called where a `Cpu` proves AMX")]
//! The loops of tile instructions. Rust has no stable intrinsics for them, hence the assembly.
//!
//! Each loop is one piece of assembly, since values in tile registers must not have to survive
//! compiled code; only their configuration does, which nothing else touches.

use std::arch::asm;

use super::{TILE_BYTES, TILE_ROWS, TILES};

/// The types of a product, with its instruction.
///
/// # Safety
/// `square` and `wide` read and write only what [`Operands`] says.
pub(crate) unsafe trait Product {
    /// Element of x and of packed weights.
    type Element: Copy;
    /// What sums are kept in.
    type Sum: Copy + Default;

    /// A block of 2 × 2 tiles.
    ///
    /// # Safety
    /// The CPU has AMX, its tiles are configured as [`Form::Square`](super::Form), and the operands are as
    /// [`Operands`] says.
    unsafe fn square(operands: Operands);

    /// A block of 1 × 4 tiles.
    ///
    /// # Safety
    /// As for `square`, with [`Form::Wide`](super::Form).
    unsafe fn wide(operands: Operands);
}

/// int8 times int8, summed in `i32` without error.
pub(crate) struct Int8;

/// bf16 times bf16, summed in `f32`; subnormal numbers count as 0.
pub(crate) struct Bf16;

/// What the assembly reads and writes.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// First row of x. Each configured row has `64·steps` readable bytes.
    pub(super) x: *const u8,
    /// Bytes from one row of x to the next.
    pub(super) stride: usize,
    /// Lines of each panel, `1024·steps` readable bytes.
    pub(super) panels: [*const u8; TILES],
    /// Tiles along the inner dimension, at least 1.
    pub(super) steps: usize,
    /// Bytes from the lines that are multiplied to those to prefetch; 0 for none.
    pub(super) ahead: usize,
    /// Four tiles of sums, written one after another.
    pub(super) sums: *mut u8,
}

/// Prefetches 16 lines into the second-level cache: the first has no room for lines that are read
/// only after a whole block.
macro_rules! prefetch_tile {
    ($base:literal) => {
        prefetch_tile!(@lines $base, "", "+64", "+128", "+192", "+256", "+320", "+384", "+448",
            "+512", "+576", "+640", "+704", "+768", "+832", "+896", "+960")
    };
    (@lines $base:literal, $($offset:literal),*) => {
        concat!($("prefetcht1 [{", $base, "} + {ahead}", $offset, "]\n"),*)
    };
}

macro_rules! product {
    ($product:ty, $element:ty, $sum:ty, $multiply:literal) => {
        // SAFETY: the rows and lines that the loops load, and the tiles that are stored, are
        // exactly those of `Operands`.
        unsafe impl Product for $product {
            type Element = $element;
            type Sum = $sum;

            unsafe fn square(operands: Operands) {
                // SAFETY: the caller's promise. Tiles 0–3 are sums, 4–5 x, 6–7 weights.
                unsafe {
                    asm!(
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                        "2:",
                        "tileloadd tmm6, [{w0} + {line}*1]",
                        "tileloadd tmm4, [{x0} + {stride}*1]",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{w1} + {line}*1]",
                        concat!($multiply, " tmm1, tmm4, tmm7"),
                        "tileloadd tmm5, [{x1} + {stride}*1]",
                        concat!($multiply, " tmm2, tmm5, tmm6"),
                        concat!($multiply, " tmm3, tmm5, tmm7"),
                        "test {ahead}, {ahead}",
                        "jz 3f",
                        prefetch_tile!("w0"),
                        prefetch_tile!("w1"),
                        "3:",
                        "add {x0}, 64", "add {x1}, 64",
                        "add {w0}, 1024", "add {w1}, 1024",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{sums} + {line}*1], tmm0",
                        "tilestored [{sums} + {line}*1 + 1024], tmm1",
                        "tilestored [{sums} + {line}*1 + 2048], tmm2",
                        "tilestored [{sums} + {line}*1 + 3072], tmm3",
                        x0 = inout(reg) operands.x => _,
                        x1 = inout(reg) operands.x.wrapping_add(TILE_ROWS * operands.stride) => _,
                        stride = in(reg) operands.stride,
                        w0 = inout(reg) operands.panels[0] => _,
                        w1 = inout(reg) operands.panels[1] => _,
                        line = in(reg) TILE_BYTES,
                        steps = inout(reg) operands.steps => _,
                        ahead = in(reg) operands.ahead,
                        sums = in(reg) operands.sums,
                        options(nostack),
                    );
                }
            }

            unsafe fn wide(operands: Operands) {
                // SAFETY: the caller's promise. Tiles 0–3 are sums, 4 x, 5–7 weights in turn.
                unsafe {
                    asm!(
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                        "2:",
                        "tileloadd tmm4, [{x} + {stride}*1]",
                        "tileloadd tmm5, [{w0} + {line}*1]",
                        concat!($multiply, " tmm0, tmm4, tmm5"),
                        "tileloadd tmm6, [{w1} + {line}*1]",
                        concat!($multiply, " tmm1, tmm4, tmm6"),
                        "tileloadd tmm7, [{w2} + {line}*1]",
                        concat!($multiply, " tmm2, tmm4, tmm7"),
                        "tileloadd tmm5, [{w3} + {line}*1]",
                        concat!($multiply, " tmm3, tmm4, tmm5"),
                        "test {ahead}, {ahead}",
                        "jz 3f",
                        prefetch_tile!("w0"),
                        prefetch_tile!("w1"),
                        prefetch_tile!("w2"),
                        prefetch_tile!("w3"),
                        "3:",
                        "add {x}, 64",
                        "add {w0}, 1024", "add {w1}, 1024", "add {w2}, 1024", "add {w3}, 1024",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{sums} + {line}*1], tmm0",
                        "tilestored [{sums} + {line}*1 + 1024], tmm1",
                        "tilestored [{sums} + {line}*1 + 2048], tmm2",
                        "tilestored [{sums} + {line}*1 + 3072], tmm3",
                        x = inout(reg) operands.x => _,
                        stride = in(reg) operands.stride,
                        w0 = inout(reg) operands.panels[0] => _,
                        w1 = inout(reg) operands.panels[1] => _,
                        w2 = inout(reg) operands.panels[2] => _,
                        w3 = inout(reg) operands.panels[3] => _,
                        line = in(reg) TILE_BYTES,
                        steps = inout(reg) operands.steps => _,
                        ahead = in(reg) operands.ahead,
                        sums = in(reg) operands.sums,
                        options(nostack),
                    );
                }
            }
        }
    };
}

product!(Int8, i8, i32, "tdpbssd");
product!(Bf16, u16, f32, "tdpbf16ps");
