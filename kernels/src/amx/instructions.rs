#![allow(unsafe_code, reason = "tile instructions; only called where a `Cpu` proves AMX")]
//! The tile instructions. Rust has no stable intrinsics for them, hence the assembly.
//!
//! Registers 0 and 1 are tiles of sums, 4 and 5 of x, 6 of weights. Each loop is one piece of
//! assembly, since values in tile registers must not have to survive compiled code; only their
//! configuration does, which nothing else touches.

use std::arch::asm;

pub(crate) use super::detect::is_available;
use super::product::{Bf16, Instruction, Int8, Operands};
use super::{Configuration, TILE_BYTES, TILE_ROWS};

/// Configures the tiles of this thread, and clears them.
///
/// # Safety
/// The CPU has AMX, the process may use it, and the configuration is one of palette 1.
pub(super) unsafe fn configure(configuration: &Configuration) {
    // SAFETY: the caller's promise; 64 bytes are read. Compiled code never uses the tile registers.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const *configuration, options(nostack, preserves_flags));
    }
}

/// Gives the tiles of this thread back.
///
/// # Safety
/// The CPU has AMX, and the process may use it.
pub(super) unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
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

macro_rules! instruction {
    ($product:ty, $multiply:literal) => {
        // SAFETY: the rows and lines that the loops load, and the tiles that are stored, are
        // exactly those of `Operands`.
        unsafe impl Instruction for $product {
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
        }
    };
}

instruction!(Int8, "tdpbssd");
instruction!(Bf16, "tdpbf16ps");
