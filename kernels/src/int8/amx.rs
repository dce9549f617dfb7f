#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AMX")]
//! The int8 linear layer on the tile registers: both operands signed, as they are stored.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

use super::linear::{Job, Target};
use super::pack::{GROUP, PANEL};
use super::quantize::quantize_piece;
use crate::amx::{self, BlockSums, Int8, TILE_BYTES, TILE_LINES, TilePanels, TileRows};

/// Rows whose blocks share the weights that a block has brought into the first cache: with k = 384
/// they take 24 of its 48 KiB, and the weights of a block 12.
pub(super) const ROWS: usize = 64;

/// Multiply-adds below which one thread is faster. Tiles multiply some seven times faster than VNNI
/// and the sums are finished no faster: an estimate between the two, not a measurement.
pub(super) const PARALLEL_WORK: usize = 1 << 22;

/// Sums of a tile.
const TILE: usize = PANEL * amx::TILE_ROWS;

thread_local! {
    /// Rows with zeros up to a whole tile. It is taken while in use, so that work which a waiting
    /// thread takes on finds another.
    static PADDED: Cell<Vec<i8>> = const { Cell::new(Vec::new()) };
}

/// Computes the job's rectangle of the result.
pub(super) fn run(job: &Job<'_>, target: &Target) {
    let k = job.layer.weights.inputs();
    let steps = k.div_ceil(TILE_BYTES);
    let mut padded = PADDED.take();
    for start in job.rows.clone().step_by(ROWS) {
        let rows = start..job.rows.end.min(start + ROWS);
        let x = &job.x[rows.start * k..rows.end * k];
        let x = if k.is_multiple_of(TILE_BYTES) {
            TileRows::new(x, k, steps)
        } else {
            pad(x, k, steps * TILE_BYTES, &mut padded);
            TileRows::new(&padded, steps * TILE_BYTES, steps)
        };
        strip(job, rows, x, target);
    }
    PADDED.set(padded);
}

/// Copies rows of `k` elements to rows of `stride`, with zeros behind them.
fn pad(x: &[i8], k: usize, stride: usize, padded: &mut Vec<i8>) {
    padded.clear();
    for row in x.chunks_exact(k) {
        padded.extend_from_slice(row);
        padded.resize(padded.len() + stride - k, 0);
    }
}

/// Computes the job's columns of at most [`ROWS`] rows.
fn strip(job: &Job<'_>, rows: Range<usize>, x: TileRows<'_, i8>, target: &Target) {
    let weights = job.layer.weights;
    let panels = TilePanels::new(weights.lines_for_tiles(), weights.inputs().div_ceil(GROUP));
    let mut sums = BlockSums::new();
    let block = |tiles: &amx::Tiles, row: usize, columns: Range<usize>, prefetch: bool| {
        let (first, count) = (columns.start, columns.len());
        tiles.multiply::<Int8, _>((x, row), (panels, columns), prefetch, &mut sums);
        for (offset, panel, sums) in tiles.sums_of(&mut sums).filter(|part| part.1 < count) {
            finish(job, sums, rows.start + row + offset, first + panel, target);
        }
    };
    // SAFETY: jobs come here only where a `Cpu` of tier `amx` exists.
    unsafe { amx::for_each_block(rows.len(), job.panels.clone(), block) };
}

/// Scales, adds the bias, activates and writes one tile, from `row` on.
fn finish(job: &Job<'_>, sums: &[[i32; PANEL]], row: usize, panel: usize, target: &Target) {
    let n = job.layer.weights.outputs();
    let column = panel * PANEL;
    let width = PANEL.min(n - column);
    // Columns past the last are computed with the others and not written.
    let of_panel = |numbers: &[f32]| {
        let mut panel = [0.0; PANEL];
        panel[..width].copy_from_slice(&numbers[column..column + width]);
        panel
    };
    let mut values = [[0.0; PANEL]; amx::TILE_ROWS];
    let values = &mut values[..sums.len()];
    let mut offsets = [0; PANEL];
    for (offset, &sum) in offsets.iter_mut().zip(job.layer.weights.tile(panel, 1).sums) {
        *offset = i32::from(job.layer.zero_point).wrapping_mul(sum);
    }
    let bias = job.layer.bias.map(of_panel);
    // SAFETY: jobs come here only where a `Cpu` of tier `amx` exists, which has AVX-512.
    unsafe { rescale(sums, &offsets, &of_panel(job.layer.scales), bias.as_ref(), values) };
    let values = values.as_flattened_mut();
    job.layer.activation.apply(job.cpu, values);
    match *target {
        Target::F32(y) => {
            for (offset, values) in values.chunks_exact(PANEL).enumerate() {
                // SAFETY: row + offset < rows and column + width ≤ n, so the range lies in y,
                // whose length `Target::new` checked; jobs cover disjoint rectangles, so no other
                // thread touches it.
                let y = unsafe { y.range((row + offset) * n + column, width) };
                y.copy_from_slice(&values[..width]);
            }
        }
        Target::Int8(y, to) => {
            let mut rounded = [0; TILE];
            let rounded = &mut rounded[..values.len()];
            quantize_piece(job.cpu, values, to, rounded);
            for (offset, values) in rounded.chunks_exact(PANEL).enumerate() {
                // SAFETY: as above.
                let y = unsafe { y.range((row + offset) * n + column, width) };
                y.copy_from_slice(&values[..width]);
            }
        }
    }
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
