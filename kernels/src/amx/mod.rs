#![allow(unsafe_code, reason = "tile instructions; only called where a `Cpu` proves AMX")]
//! Products of matrix tiles in the tile registers: the part that int8 and bf16 share.
//!
//! A tile has 16 rows of 64 bytes. One instruction multiplies a tile of x (16 rows × 64 int8, or
//! 32 bf16, of the inner dimension) by a tile of packed weights (16 lines, see the `pack` modules)
//! and adds to a tile of 16 × 16 sums.

mod detect;
mod product;

use std::arch::asm;
use std::marker::PhantomData;
use std::ops::Range;

pub(crate) use detect::is_available;
use product::Operands;
pub(crate) use product::{Bf16, Int8, Product};

/// Rows of a tile of x and of sums.
pub(crate) const TILE_ROWS: usize = 16;

/// Bytes in a row of a tile.
pub(crate) const TILE_BYTES: usize = 64;

/// Lines of packed weights in a tile.
pub(crate) const TILE_LINES: usize = 16;

/// Rows of the largest block of sums.
pub(crate) const BLOCK_ROWS: usize = 2 * TILE_ROWS;

/// Tiles of sums in a block. Four chains of products hide the 52 cycles that each link takes, with
/// a new product every 16 (Intel optimization manual, chapter on AMX).
const TILES: usize = 4;

/// A tile of sums.
pub(crate) type Sums<T> = [[T; TILE_ROWS]; TILE_ROWS];

/// How the tile registers form a block of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// 17 to 32 rows × 2 panels: each tile that is loaded is multiplied twice.
    Square,
    /// Up to 16 rows × 4 panels.
    Wide,
}

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
}

/// The tile registers of this thread, configured for blocks of a number of rows, and released when
/// dropped.
///
/// Loading a configuration clears all eight registers and costs as much as several products of
/// tiles, so that it is done once for all blocks of a piece of work, hundreds of products and more.
/// It is not kept for the next: registers in use are 8 KiB that every switch of threads saves.
#[derive(Debug)]
pub(crate) struct Tiles {
    rows: usize,
    form: Form,
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
    /// Configures for blocks of 1 to 32 rows.
    ///
    /// # Safety
    /// The CPU has AMX and the process may use it: a [`Cpu`](crate::Cpu) of that tier exists.
    ///
    /// # Panics
    /// When `rows` is out of range.
    pub(crate) unsafe fn configure(rows: usize) -> Self {
        assert!((1..=BLOCK_ROWS).contains(&rows), "a block has 1 to 32 rows, found {rows}");
        let first = rows.min(TILE_ROWS) as u8;
        let second = (rows - usize::from(first)) as u8;
        let (form, rows_of) = if second > 0 {
            (Form::Square, [first, first, second, second, first, second, 16, 16])
        } else {
            (Form::Wide, [first, first, first, first, first, 16, 16, 16])
        };
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        configuration.row_bytes[..8].fill(TILE_BYTES as u16);
        configuration.rows[..8].copy_from_slice(&rows_of);
        // SAFETY: AMX is there (the caller's promise); 64 bytes are read, and the configuration
        // is one of palette 1: at most 16 rows of at most 64 bytes. Compiled code never uses the
        // tile registers.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, preserves_flags));
        }
        Self { rows, form, not_send: PhantomData }
    }

    /// Panels of a block.
    pub(crate) const fn panels(&self) -> usize {
        match self.form {
            Form::Square => 2,
            Form::Wide => 4,
        }
    }

    /// Multiplies the configured number of rows of x, from `row` on, by `count` panels from `panel`
    /// on. `prefetch`: the block after this one is going to be read for the first time.
    ///
    /// Tile `(i, j)` of the sums holds rows `16·i..` and panel `j`; see [`Tiles::sums_of`].
    ///
    /// # Panics
    /// When x or the panels end before the block.
    pub(crate) fn multiply<P: Product, L>(
        &self,
        (x, row): (TileRows<'_, P::Element>, usize),
        (weights, panels): (TilePanels<'_, L>, Range<usize>),
        prefetch: bool,
        sums: &mut BlockSums<P::Sum>,
    ) {
        let element = size_of::<P::Element>();
        let x_end = (row + self.rows - 1) * x.stride + x.steps * TILE_BYTES / element;
        assert!(x_end <= x.data.len(), "x ends inside the block");
        assert!(!panels.is_empty() && panels.len() <= self.panels());
        let lines_end = (panels.end - 1) * weights.panel_lines + x.steps * TILE_LINES;
        assert!(lines_end <= weights.lines.len(), "the weights end inside the block");
        // Where a block has fewer panels than the registers have room for, the last is multiplied
        // again: what would be saved is less than the test for it costs.
        let panel = |index: usize| {
            let panel = (panels.start + index).min(panels.end - 1);
            weights.lines.as_ptr().wrapping_add(panel * weights.panel_lines).cast()
        };
        let operands = Operands {
            x: x.data.as_ptr().wrapping_add(row * x.stride).cast(),
            stride: x.stride * element,
            panels: std::array::from_fn(panel),
            steps: x.steps,
            ahead: if prefetch { self.panels() * weights.panel_lines * TILE_BYTES } else { 0 },
            sums: sums.0.as_mut_ptr().cast(),
        };
        // SAFETY: `configure` was promised AMX and set the tiles up in this form; steps > 0 was
        // checked by `TileRows::new`, and that all rows and lines lie in their slices just above.
        // A line has 64 bytes (`TilePanels::new`), a block of sums 4 tiles of 1024. Prefetching
        // cannot fault.
        unsafe {
            match self.form {
                Form::Square => P::square(operands),
                Form::Wide => P::wide(operands),
            }
        }
    }

    /// Where the sums of a block are: for each tile its first row, its panel within the block, and
    /// its rows of 16 sums.
    pub(crate) fn sums_of<'a, T>(
        &self,
        sums: &'a mut BlockSums<T>,
    ) -> impl Iterator<Item = (usize, usize, &'a mut [[T; TILE_ROWS]])> {
        let (rows, panels) = (self.rows, self.panels());
        sums.0.iter_mut().enumerate().map(move |(index, tile)| {
            let (row, panel) = (index / panels * TILE_ROWS, index % panels);
            (row, panel, &mut tile[..TILE_ROWS.min(rows - row)])
        })
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: AMX is there, or `configure` could not have been called.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// The sums of a block.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct BlockSums<T>([Sums<T>; TILES]);

impl<T: Copy + Default> BlockSums<T> {
    pub(crate) fn new() -> Self {
        Self([[[T::default(); TILE_ROWS]; TILE_ROWS]; TILES])
    }
}

/// Calls `block` for each block of `rows` × `panels`, and whether the next block reads weights
/// that no block before it has read.
///
/// Panels outside, rows inside, so that the weights of a block are read again from the cache; the
/// rows that do not fill a block come last, since they want another configuration.
///
/// # Safety
/// As for [`Tiles::configure`].
pub(crate) unsafe fn for_each_block(
    rows: usize,
    panels: Range<usize>,
    mut block: impl FnMut(&Tiles, usize, Range<usize>, bool),
) {
    let full = rows / BLOCK_ROWS * BLOCK_ROWS;
    for part in [0..full, full..rows] {
        if part.is_empty() {
            continue;
        }
        // SAFETY: the caller's promise.
        let tiles = unsafe { Tiles::configure(part.len().min(BLOCK_ROWS)) };
        for panel in panels.clone().step_by(tiles.panels()) {
            let end = panels.end.min(panel + tiles.panels());
            for row in part.clone().step_by(BLOCK_ROWS) {
                let first_read = part.start == 0 && row == 0 && end < panels.end;
                block(&tiles, row, panel..end, first_read);
            }
        }
    }
}
