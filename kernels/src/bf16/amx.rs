#![allow(unsafe_code, reason = "only called where a `Cpu` proves AMX")]
//! The bf16 product on the tile registers.

use std::ops::Range;

use super::pack::{PANEL, PackedBf16, TILE_INPUTS};
use crate::amx::{self, Bf16, BlockSums, TilePanels, TileRows};

/// Calls `finish` with the sums of every tile of `rows` × `panels`, its first row and its panel.
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
    mut finish: impl FnMut(&mut [[f32; PANEL]], usize, usize),
) {
    let steps = stride / TILE_INPUTS;
    let rows = x.len() / stride;
    let x = TileRows::new(x, stride, steps);
    let columns = TilePanels::new(weights.lines(), weights.panel_lines());
    let mut sums = BlockSums::new();
    let block = |tiles: &amx::Tiles, row: usize, panels: Range<usize>, prefetch: bool| {
        let (first, count) = (panels.start, panels.len());
        tiles.multiply::<Bf16, _>((x, row), (columns, panels), prefetch, &mut sums);
        for (offset, panel, sums) in tiles.sums_of(&mut sums).filter(|part| part.1 < count) {
            finish(sums, row + offset, first + panel);
        }
    };
    // SAFETY: the caller's promise.
    unsafe { amx::for_each_block(rows, panels, block) };
}
