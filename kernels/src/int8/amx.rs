#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AMX")]
//! The int8 linear layer on the tile registers: both operands signed, as they are stored.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

use super::left::Input;
use super::linear::Product;
use super::pack::{GROUP, PANEL};
use super::quantize::quantize_piece;
use crate::amx::{self, BlockSums, Int8, TILE_BYTES, TILE_LINES, TilePanels, TileRows};
use crate::parallel;

/// Rows whose blocks share the weights that a block has brought into the first cache: with k = 384
/// they take 24 of its 48 KiB, and the weights of a block 12.
pub(super) const ROWS: usize = 64;

/// Multiply-adds below which one thread is faster. Tiles multiply some seven times faster than VNNI
/// and the sums are finished no faster: an estimate between the two, not a measurement.
pub(super) const PARALLEL_WORK: usize = 1 << 22;

/// Elements of the left side below which one thread writes them faster.
const PARALLEL_PACKING: usize = 1 << 15;

/// Panels of a block of columns where there are few blocks of rows.
const BLOCK_PANELS: usize = 8;

thread_local! {
    /// Rows as int8, with zeros up to a whole tile. It is taken while in use, so that work which a
    /// waiting thread takes on finds another.
    static PADDED: Cell<Vec<i8>> = const { Cell::new(Vec::new()) };
}

/// Computes the whole result.
pub(super) fn run(product: &Product<'_>) {
    let k = product.layer.weights.inputs();
    let stride = k.next_multiple_of(TILE_BYTES);
    match product.x {
        Input::Int8 { x, .. } if stride == k => blocks(product, x),
        _ => {
            let mut padded = PADDED.take();
            pad(product, stride, &mut padded);
            blocks(product, &padded);
            PADDED.set(padded);
        }
    }
}

/// Writes the left side as rows of `stride` int8, with zeros behind the `k` of a row.
fn pad(product: &Product<'_>, stride: usize, padded: &mut Vec<i8>) {
    /// Rows that a thread takes at a time.
    const PIECE: usize = 16;
    let k = product.layer.weights.inputs();
    padded.resize(product.rows * stride, 0);
    let piece = |first: usize, padded: &mut [i8]| {
        for (offset, padded) in padded.chunks_exact_mut(stride).enumerate() {
            let row = first + offset;
            let (range, (padded, rest)) = (row * k..(row + 1) * k, padded.split_at_mut(k));
            match product.x {
                Input::Int8 { x, .. } => padded.copy_from_slice(&x[range]),
                Input::F32 { x, to } => quantize_piece(product.cpu, &x[range], to, padded),
            }
            rest.fill(0);
        }
    };
    if product.rows * k < PARALLEL_PACKING {
        piece(0, padded);
    } else {
        parallel::for_each_chunk(padded, PIECE * stride, |index, padded| {
            piece(index * PIECE, padded);
        });
    }
}

/// Cuts the result into rectangles and computes each from `x`, rows of whole tiles.
fn blocks(product: &Product<'_>, x: &[i8]) {
    let panels = product.layer.weights.panels();
    if product.work() < PARALLEL_WORK {
        for start in (0..product.rows).step_by(ROWS) {
            strip(product, start..product.rows.min(start + ROWS), 0..panels, x);
        }
        return;
    }
    let row_blocks = product.rows.div_ceil(ROWS);
    let block_panels = if row_blocks < 8 { BLOCK_PANELS } else { panels };
    let column_blocks = panels.div_ceil(block_panels);
    parallel::for_each(row_blocks * column_blocks, |index| {
        let row = index / column_blocks * ROWS;
        let panel = index % column_blocks * block_panels;
        let rows = row..product.rows.min(row + ROWS);
        strip(product, rows, panel..panels.min(panel + block_panels), x);
    });
}

/// Computes the columns of some panels for at most [`ROWS`] rows.
fn strip(product: &Product<'_>, rows: Range<usize>, panels: Range<usize>, x: &[i8]) {
    let weights = product.layer.weights;
    let steps = weights.inputs().div_ceil(TILE_BYTES);
    let stride = steps * TILE_BYTES;
    let x = TileRows::new(&x[rows.start * stride..rows.end * stride], stride, steps);
    let lines = TilePanels::new(weights.lines_for_tiles(), weights.inputs().div_ceil(GROUP));
    let mut sums = BlockSums::new();
    let mut values = [[0.0; PANEL]; amx::TILE_ROWS];
    let block = |tiles: &amx::Tiles, row: usize, columns: Range<usize>, prefetch: bool| {
        let (first, count) = (columns.start, columns.len());
        tiles.multiply::<Int8, _>((x, row), (lines, columns), prefetch, &mut sums);
        for (offset, panel, sums) in tiles.sums_of(&mut sums).filter(|part| part.1 < count) {
            let values = &mut values[..sums.len()];
            finish(product, sums, (rows.start + row + offset, first + panel), values);
        }
    };
    // SAFETY: `linear` comes here only where a `Cpu` of tier `amx` exists.
    unsafe { amx::for_each_block(rows.len(), panels, block) };
}

/// Scales, adds the bias, activates and writes one tile, from `row` on.
fn finish(
    product: &Product<'_>,
    sums: &[[i32; PANEL]],
    (row, panel): (usize, usize),
    values: &mut [[f32; PANEL]],
) {
    let n = product.layer.weights.outputs();
    let column = panel * PANEL;
    let width = PANEL.min(n - column);
    // Columns past the last are computed with the others and not written.
    let of_panel = |numbers: &[f32]| match numbers[column..].first_chunk() {
        Some(panel) => *panel,
        None => std::array::from_fn(|offset| numbers.get(column + offset).map_or(0.0, |x| *x)),
    };
    let mut offsets = [0; PANEL];
    for (offset, &sum) in offsets.iter_mut().zip(product.layer.weights.tile(panel, 1).sums) {
        *offset = i32::from(product.x.zero_point()).wrapping_mul(sum);
    }
    let bias = product.layer.bias.map(of_panel);
    // SAFETY: jobs come here only where a `Cpu` of tier `amx` exists, which has AVX-512.
    unsafe { rescale(sums, &offsets, &of_panel(product.layer.scales), bias.as_ref(), values) };
    product.layer.activation.apply(product.cpu, values.as_flattened_mut());
    // SAFETY: the rows and column + width ≤ n are in the result, whose length `Target::new` checked;
    // strips cover disjoint rectangles, so no other thread touches them.
    unsafe { product.target.write_tile(product.cpu, (row * n + column, n), values, width) };
}

/// `values[r, c] = (sums[r, c] − offsets[c])·scales[c] + bias[c]`, rounded at each step as the other
/// tiers do. Plain loops over short rows become gathers here.
#[target_feature(enable = "avx512f")]
fn rescale(
    sums: &[[i32; PANEL]],
    offsets: &[i32; PANEL],
    scales: &[f32; PANEL],
    bias: Option<&[f32; PANEL]>,
    values: &mut [[f32; PANEL]],
) {
    // SAFETY: each array has the 64 bytes that are read.
    let (offsets, scales, bias) = unsafe {
        (
            _mm512_loadu_si512(offsets.as_ptr().cast()),
            _mm512_loadu_ps(scales.as_ptr()),
            bias.map(|bias| _mm512_loadu_ps(bias.as_ptr())),
        )
    };
    for (values, sums) in values.iter_mut().zip(sums) {
        // SAFETY: a row of sums has the 64 bytes that are read.
        let sums = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums, offsets)), scales);
        let value = bias.map_or(scaled, |bias| _mm512_add_ps(scaled, bias));
        // SAFETY: a row of values has the 64 bytes that are written.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), value) };
    }
}

/// The last panel's tiles may read past its lines, but not past the allocation.
const _: () = assert!(super::pack::SPARE_LINES + 1 == TILE_LINES);
