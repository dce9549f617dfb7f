#![allow(unsafe_code, reason = "tile instructions; only called where a `Cpu` proves AMX")]
//! Products of matrix tiles in the tile registers: the part that int8 and bf16 share.
//!
//! A tile has 16 rows of 64 bytes. One instruction multiplies a tile of x (16 rows × 64 int8, or
//! 32 bf16, of the inner dimension) by a tile of packed weights (16 lines, see the `pack` modules)
//! and adds to a tile of 16 × 16 sums.
//!
//! Two tiles of rows are multiplied at a time, so that a tile of weights is loaded for two products.
//! Blocks of 2 × 2 tiles of sums would load a third fewer tiles; but they write eight registers in
//! turn, and take twice as long where the core's other hardware thread is awake (docs/performance.md,
//! *Tile registers*).

#[cfg(not(feature = "amx-emulated"))]
mod detect;
#[cfg_attr(feature = "amx-emulated", path = "emulated.rs")]
mod instructions;
mod product;

use std::marker::PhantomData;
use std::ops::Range;

pub(crate) use instructions::is_available;
use product::Operands;
pub(crate) use product::{Bf16, Int8, Product};

/// Rows of a tile of x and of sums.
pub(crate) const TILE_ROWS: usize = 16;

/// Bytes in a row of a tile.
pub(crate) const TILE_BYTES: usize = 64;

/// Lines of packed weights in a tile.
pub(crate) const TILE_LINES: usize = 16;

/// Rows that are multiplied at a time.
const PAIR_ROWS: usize = 2 * TILE_ROWS;

/// Most of x that is multiplied by one panel after another, so that it stays in the first cache
/// beside a panel.
const PART_BYTES: usize = 32 * 1024;

/// Panels whose sums wait in memory for the next part of the inner dimension, where it has several:
/// the more, the less often x is read again, and the fewer fit the first cache.
const WAITING_PANELS: usize = 4;

/// A tile of sums.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Sums<T>(pub(crate) [[T; TILE_ROWS]; TILE_ROWS]);

/// Rows of x in the form that tiles are loaded from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileRows<'a, T> {
    data: &'a [T],
    /// Elements from one row to the next.
    stride: usize,
    /// Tiles along a row.
    steps: usize,
}

impl<'a, T> TileRows<'a, T> {
    /// Rows `stride` elements apart, of which the first `64·steps` bytes are multiplied.
    ///
    /// # Panics
    /// When the rows overlap.
    pub(crate) fn new(data: &'a [T], stride: usize, steps: usize) -> Self {
        assert!(steps * TILE_BYTES <= stride * size_of::<T>() && steps > 0);
        Self { data, stride, steps }
    }
}

/// Packed weights in the form that tiles are loaded from: panels of 16 columns, each of lines of
/// 64 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TilePanels<'a, L> {
    lines: &'a [L],
    /// Lines from one panel to the next.
    panel_lines: usize,
}

impl<'a, L> TilePanels<'a, L> {
    /// Panels `panel_lines` lines apart.
    pub(crate) const fn new(lines: &'a [L], panel_lines: usize) -> Self {
        assert!(size_of::<L>() == TILE_BYTES);
        Self { lines, panel_lines }
    }

    /// Where tile `step` of a panel starts.
    const fn place(&self, panel: usize, step: usize) -> usize {
        panel * self.panel_lines + step * TILE_LINES
    }
}

/// The tile registers of this thread, configured for tiles of a number of rows, and released when
/// dropped.
///
/// Loading a configuration clears all eight registers and costs as much as several products of
/// tiles, so that it is done once for all tiles of a piece of work, hundreds of products and more.
/// It is not kept for the next: registers in use are 8 KiB that every switch of threads saves.
#[derive(Debug)]
pub(crate) struct Tiles {
    rows: usize,
    /// The registers are those of the thread.
    not_send: PhantomData<*const ()>,
}

/// The operand of `ldtilecfg` (Intel SDM, volume 2).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Configures for tiles of 1 to 16 rows of x.
    ///
    /// # Safety
    /// The CPU has AMX and the process may use it: a [`Cpu`](crate::Cpu) of that tier exists.
    ///
    /// # Panics
    /// When `rows` is out of range.
    pub(crate) unsafe fn configure(rows: usize) -> Self {
        assert!((1..=TILE_ROWS).contains(&rows), "a tile has 1 to 16 rows, found {rows}");
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        configuration.row_bytes[..8].fill(TILE_BYTES as u16);
        configuration.rows[..8].fill(rows as u8);
        // The weights, see `instructions`.
        configuration.rows[6] = TILE_LINES as u8;
        // SAFETY: AMX is there (the caller's promise), and the configuration is one of palette 1: at
        // most 16 rows of at most 64 bytes.
        unsafe { instructions::configure(&configuration) };
        Self { rows, not_send: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: AMX is there, or `configure` could not have been called.
        unsafe { instructions::release() };
    }
}

/// Multiplies the first `rows` rows of x by some panels, and calls `finish` with the sums of each
/// tile, its first row and its panel.
///
/// Panels are outside and rows inside, so that the weights of a panel are read again from the cache.
/// The rows that do not fill a tile come last, since they want another configuration.
/// `prefetch`: the weights are read for the first time.
///
/// # Safety
/// As for [`Tiles::configure`].
pub(crate) unsafe fn multiply<P: Product, L: Copy>(
    (x, rows): (TileRows<'_, P::Element>, usize),
    (weights, panels): (TilePanels<'_, L>, Range<usize>),
    prefetch: bool,
    mut finish: impl FnMut(&mut [[P::Sum; TILE_ROWS]], usize, usize),
) {
    let full = rows / TILE_ROWS * TILE_ROWS;
    for part in [0..full, full..rows] {
        if !part.is_empty() {
            let prefetch = prefetch && part.start == 0;
            // SAFETY: the caller's promise.
            let tiles = unsafe { Tiles::configure(part.len().min(TILE_ROWS)) };
            tiles.walk::<P, L>((x, part), (weights, panels.clone()), prefetch, &mut finish);
        }
    }
}

impl Tiles {
    /// [`multiply`] for rows that are tiles of the configured number.
    fn walk<P: Product, L: Copy>(
        &self,
        (x, rows): (TileRows<'_, P::Element>, Range<usize>),
        (weights, panels): (TilePanels<'_, L>, Range<usize>),
        prefetch: bool,
        mut finish: impl FnMut(&mut [[P::Sum; TILE_ROWS]], usize, usize),
    ) {
        let walk = Walk { tiles: self, x, rows, weights, prefetch };
        let row_tiles = walk.rows.len().div_ceil(TILE_ROWS);
        if x.steps <= walk.part_steps() {
            P::with_scratch(2 * row_tiles, |sums| {
                walk.whole_panels::<P>(panels, sums, &mut finish);
            });
            return;
        }
        P::with_scratch(WAITING_PANELS * row_tiles, |sums| {
            for first in panels.clone().step_by(WAITING_PANELS) {
                let end = panels.end.min(first + WAITING_PANELS);
                walk.parts_of_panels::<P>(first..end, panels.end, sums, &mut finish);
            }
        });
    }

    /// Multiplies some rows of x, which are tiles of the configured number, by one panel, and leaves
    /// the sums of each tile.
    ///
    /// # Panics
    /// When x or the panel end before, or there are fewer tiles of sums.
    pub(crate) fn panel<P: Product, L: Copy>(
        &self,
        x: TileRows<'_, P::Element>,
        panel: &[L],
        sums: &mut [Sums<P::Sum>],
    ) {
        let weights = TilePanels::new(panel, panel.len());
        let rows = 0..sums.len() * self.rows;
        let walk = Walk { tiles: self, x, rows, weights, prefetch: false };
        walk.panel::<P>(0, 0..x.steps, None, false, sums);
    }
}

/// Some rows with the weights that they are multiplied by.
struct Walk<'a, T, L> {
    tiles: &'a Tiles,
    x: TileRows<'a, T>,
    rows: Range<usize>,
    weights: TilePanels<'a, L>,
    prefetch: bool,
}

impl<T: Copy, L: Copy> Walk<'_, T, L> {
    /// Panels that are multiplied in one go. A panel is finished after the next is multiplied: a
    /// tile that was stored just before is waited for.
    fn whole_panels<P: Product<Element = T>>(
        &self,
        panels: Range<usize>,
        sums: &mut [Sums<P::Sum>],
        finish: &mut impl FnMut(&mut [[P::Sum; TILE_ROWS]], usize, usize),
    ) {
        let (mut current, mut last) = sums.split_at_mut(sums.len() / 2);
        for panel in panels.clone() {
            let next = (panel + 1 < panels.end).then_some((panel + 1, 0));
            self.panel::<P>(panel, 0..self.x.steps, next, false, current);
            if panel > panels.start {
                self.finish::<P>(last, panel - 1, finish);
            }
            (current, last) = (last, current);
        }
        if let Some(panel) = panels.last() {
            self.finish::<P>(last, panel, finish);
        }
    }

    /// Panels that are multiplied part by part. `end`: behind the last panel after these.
    fn parts_of_panels<P: Product<Element = T>>(
        &self,
        panels: Range<usize>,
        end: usize,
        sums: &mut [Sums<P::Sum>],
        finish: &mut impl FnMut(&mut [[P::Sum; TILE_ROWS]], usize, usize),
    ) {
        let row_tiles = self.rows.len().div_ceil(TILE_ROWS);
        let parts = self.x.steps.div_ceil(self.part_steps());
        let start = |part: usize| part * self.x.steps / parts;
        for part in 0..parts {
            for (panel, sums) in panels.clone().zip(sums.chunks_exact_mut(row_tiles)) {
                let next = if panel + 1 < panels.end {
                    Some((panel + 1, start(part)))
                } else if part + 1 < parts {
                    Some((panels.start, start(part + 1)))
                } else {
                    (panels.end < end).then_some((panels.end, 0))
                };
                self.panel::<P>(panel, start(part)..start(part + 1), next, part > 0, sums);
            }
        }
        for (panel, sums) in panels.zip(sums.chunks_exact_mut(row_tiles)) {
            self.finish::<P>(sums, panel, finish);
        }
    }

    /// Most tiles of the inner dimension at a time.
    fn part_steps(&self) -> usize {
        (PART_BYTES / (self.rows.len() * TILE_BYTES)).max(1)
    }

    /// Multiplies all rows by tiles `steps` of a panel. The results are added to `sums` where
    /// `resume` says so, and replace them otherwise. `next`: the panel and tile that are read next.
    fn panel<P: Product<Element = T>>(
        &self,
        panel: usize,
        steps: Range<usize>,
        next: Option<(usize, usize)>,
        resume: bool,
        sums: &mut [Sums<P::Sum>],
    ) {
        let blocks = self.rows.clone().step_by(PAIR_ROWS).zip(sums.chunks_mut(2));
        for (row, sums) in blocks {
            let block = row..self.rows.end.min(row + PAIR_ROWS);
            let next = next.filter(|_| self.prefetch && row == self.rows.start);
            self.multiply::<P>(&block, (panel, &steps), next, resume, sums);
        }
    }

    /// [`Walk::panel`] for one or two tiles of rows.
    fn multiply<P: Product<Element = T>>(
        &self,
        block: &Range<usize>,
        (panel, steps): (usize, &Range<usize>),
        next: Option<(usize, usize)>,
        resume: bool,
        sums: &mut [Sums<P::Sum>],
    ) {
        const { assert!(size_of::<Sums<P::Sum>>() == TILE_ROWS * TILE_BYTES) };
        let (x, element) = (self.x, size_of::<P::Element>());
        let elements = TILE_BYTES / element;
        let x_end = (block.end - 1) * x.stride + steps.end * elements;
        assert!(x_end <= x.data.len(), "x ends inside the block");
        let (lines, first) = (self.weights.lines, self.weights.place(panel, steps.start));
        assert!(
            self.weights.place(panel, steps.end) <= lines.len() && !steps.is_empty(),
            "the weights end inside the block"
        );
        let tiles = block.len().div_ceil(self.tiles.rows);
        assert!(sums.len() >= tiles && block.len() == tiles * self.tiles.rows);
        let ahead = next.map_or(0, |(panel, step)| {
            (self.weights.place(panel, step).cast_signed() - first.cast_signed())
                * TILE_BYTES.cast_signed()
        });
        let operands = Operands {
            x: x.data.as_ptr().wrapping_add(block.start * x.stride + steps.start * elements).cast(),
            stride: x.stride * element,
            weights: lines.as_ptr().wrapping_add(first).cast(),
            steps: steps.len(),
            ahead,
            resume,
            sums: sums.as_mut_ptr().cast(),
        };
        // SAFETY: `Tiles::configure` was promised AMX and set the tiles up for so many rows, 16
        // where there are two tiles of them (`panel` and the assertion: 32 rows, or one tile). That
        // all rows and lines lie in their slices, and that there is a tile of sums of 1024 bytes for
        // each of rows, was checked just above; a line has 64 bytes (`TilePanels::new`).
        unsafe { if tiles == 2 { P::pair(operands) } else { P::single(operands) } };
    }

    fn finish<P: Product<Element = T>>(
        &self,
        sums: &mut [Sums<P::Sum>],
        panel: usize,
        finish: &mut impl FnMut(&mut [[P::Sum; TILE_ROWS]], usize, usize),
    ) {
        for (row, sums) in self.rows.clone().step_by(TILE_ROWS).zip(sums) {
            finish(&mut sums.0[..self.tiles.rows], row, panel);
        }
    }
}
