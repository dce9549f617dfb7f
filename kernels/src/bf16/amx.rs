#![allow(unsafe_code, reason = "tile instructions; only called where a `Cpu` proves AMX")]
//! The bf16 product on the tile registers.

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
