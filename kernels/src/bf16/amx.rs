#![allow(unsafe_code, reason = "tiles and intrinsics; only called where a `Cpu` proves AMX")]
//! The bf16 product on the tile registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::pack::{PANEL, PackedBf16, TILE_INPUTS};
use crate::amx::{self, Bf16, TilePanels, TileRows};

/// Calls `finish` with the sums of every tile of `rows` × `panels`, its first row and its panel.
/// `prefetch`: the weights are read for the first time.
///
/// # Shapes
/// `x`: `[rows, stride]`, each row filled up with zeros to whole tiles.
///
/// # Safety
/// The CPU has AMX and the process may use it: a [`Cpu`](crate::Cpu) of that tier exists.
pub(super) unsafe fn multiply(
    (x, stride): (&[u16], usize),
    weights: &PackedBf16,
    panels: Range<usize>,
    prefetch: bool,
    finish: impl FnMut(&mut [[f32; PANEL]], usize, usize),
) {
    let steps = stride / TILE_INPUTS;
    let rows = x.len() / stride;
    let x = TileRows::new(x, stride, steps);
    let columns = TilePanels::new(weights.lines(), weights.panel_lines());
    // SAFETY: the caller's promise.
    unsafe { amx::multiply::<Bf16, _>((x, rows), (columns, panels), prefetch, finish) };
}

/// `y[r·stride + c] = sums[r, c] + bias[c]`. Plain loops over short rows become gathers here.
///
/// # Safety
/// 16 elements from `y + r·stride` on can be written for each row r of the sums.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn write_rows(
    sums: &[[f32; PANEL]],
    bias: Option<&[f32; PANEL]>,
    y: *mut f32,
    stride: usize,
) {
    // SAFETY: the bias has the 64 bytes that are read.
    let bias = bias.map(|bias| unsafe { _mm512_loadu_ps(bias.as_ptr()) });
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: a row of sums has the 64 bytes that are read.
        let sums = unsafe { _mm512_loadu_ps(sums.as_ptr()) };
        let value = bias.map_or(sums, |bias| _mm512_add_ps(sums, bias));
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(y.add(row * stride), value) };
    }
}
