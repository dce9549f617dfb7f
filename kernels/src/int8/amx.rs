#![allow(unsafe_code, reason = "tiles; only called where a `Cpu` proves AMX")]
//! The int8 linear layer on the tile registers: both operands signed, as they are stored.

use std::cell::Cell;
use std::ops::Range;
use std::slice;

use super::epilogue::Epilogue;
use super::left::{Input, Source};
use super::linear::Product;
use super::pack::{GROUP, PANEL};
use super::quantize::quantize_piece;
use crate::amx::{self, Int8, TILE_BYTES, TILE_LINES, TilePanels, TileRows};
use crate::parallel;

/// Rows that pass by a panel before the next: 512 inputs of theirs take 32 of the 48 KiB of the first
/// cache.
const ROWS: usize = 64;

/// Multiply-adds below which one thread is faster. Tiles multiply some seven times faster than VNNI
/// and the sums are finished no faster: an estimate between the two, not a measurement.
const PARALLEL_WORK: usize = 1 << 21;

/// Elements of the left side below which one thread writes them faster.
const PARALLEL_PACKING: usize = 1 << 15;

/// Panels that are worth a configuration of the tiles.
const LEAST_PANELS: usize = 3;

thread_local! {
    /// Rows as int8, with zeros up to a whole tile. It is taken while in use, so that work which a
    /// waiting thread takes on finds another.
    static PADDED: Cell<Vec<Segment>> = const { Cell::new(Vec::new()) };
}

/// A row of a tile of x, which is loaded twice as fast where it is a line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Segment([i8; TILE_BYTES]);

/// Computes the whole result.
pub(super) fn run(product: &Product<'_>) {
    let k = product.layer.weights.inputs();
    let stride = k.next_multiple_of(TILE_BYTES);
    match product.x {
        Source::Rows(Input::Int8 { x, .. }) if stride == k => blocks(product, x),
        _ => {
            let mut padded = PADDED.take();
            pad(product, stride, &mut padded);
            let len = padded.len() * TILE_BYTES;
            // SAFETY: a segment is so many bytes without padding.
            blocks(product, unsafe { slice::from_raw_parts(padded.as_ptr().cast(), len) });
            PADDED.set(padded);
        }
    }
}

/// Writes the left side as rows of `stride` int8, with zeros behind the `k` of a row.
fn pad(product: &Product<'_>, stride: usize, padded: &mut Vec<Segment>) {
    /// Rows that a thread takes at a time.
    const PIECE: usize = 16;
    let k = product.layer.weights.inputs();
    let segments = stride / TILE_BYTES;
    padded.resize(product.rows * segments, Segment([0; TILE_BYTES]));
    let piece = |first: usize, padded: &mut [Segment]| {
        for (offset, padded) in padded.chunks_exact_mut(segments).enumerate() {
            let row = first + offset;
            // SAFETY: as in `run`.
            let padded = unsafe { slice::from_raw_parts_mut(padded.as_mut_ptr().cast(), stride) };
            let (range, (padded, rest)) = (row * k..(row + 1) * k, padded.split_at_mut(k));
            match product.x {
                Source::Rows(Input::Int8 { x, .. }) => padded.copy_from_slice(&x[range]),
                Source::Rows(Input::F32 { x, to }) => {
                    quantize_piece(product.cpu, &x[range], to, padded);
                }
                Source::Windows { x, .. } => {
                    for (index, piece) in x.starts_of(row..row + 1).flat_map(|at| x.pieces(at)) {
                        padded[index..index + piece.len()].copy_from_slice(piece);
                    }
                }
            }
            rest.fill(0);
        }
    };
    if product.rows * k < PARALLEL_PACKING {
        piece(0, padded);
    } else {
        parallel::for_each_chunk(padded, PIECE * segments, |index, padded| {
            piece(index * PIECE, padded);
        });
    }
}

/// Cuts the result into rectangles and computes each from `x`, rows of whole tiles.
fn blocks(product: &Product<'_>, x: &[i8]) {
    let panels = product.layer.weights.panels();
    if !parallel::is_worth_sharing(product.work(), PARALLEL_WORK) {
        for start in (0..product.rows).step_by(ROWS) {
            strip(product, start..product.rows.min(start + ROWS), 0..panels, x);
        }
        return;
    }
    parallel::for_each_rectangle([product.rows, panels], [ROWS, LEAST_PANELS], |rows, panels| {
        strip(product, rows, panels, x);
    });
}

/// Computes the columns of some panels for at most [`ROWS`] rows.
fn strip(product: &Product<'_>, rows: Range<usize>, panels: Range<usize>, x: &[i8]) {
    let weights = product.layer.weights;
    let steps = weights.inputs().div_ceil(TILE_BYTES);
    let stride = steps * TILE_BYTES;
    let x = TileRows::new(&x[rows.start * stride..rows.end * stride], stride, steps);
    let lines = TilePanels::new(weights.lines_for_tiles(), weights.inputs().div_ceil(GROUP));
    let mut epilogue = Epilogue::of(product, panels.start, 0);
    let finish = |sums: &mut [[i32; PANEL]], row: usize, panel: usize| {
        if epilogue.panel() != panel {
            epilogue = Epilogue::of(product, panel, 0);
        }
        epilogue.finish(product, sums, rows.start + row);
    };
    // SAFETY: `linear` comes here only where a `Cpu` of tier `amx` exists.
    unsafe { amx::multiply::<Int8, _>((x, rows.len()), (lines, panels), rows.start == 0, finish) };
}

/// The last panel's tiles may read past its lines, but not past the allocation.
const _: () = assert!(super::pack::SPARE_LINES + 1 == TILE_LINES);
