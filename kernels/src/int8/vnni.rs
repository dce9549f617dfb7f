#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves VNNI")]
//! The int8 product with the dot product instruction, which wants its left side unsigned:
//! x + 128 is multiplied, and 128·Σw taken off at the end.

use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use super::epilogue::{self, Epilogue};
use super::linear::Product;
use super::pack::{Columns, GROUP, PANEL};
use crate::parallel::tiles;

/// Rows of a tile: 6 rows × 4 panels of sums, 4 registers of weights and one of activations use 29
/// of the 32 registers.
pub(super) const ROWS: usize = 6;

/// Panels of a tile.
const PANELS: usize = epilogue::FOUR;

/// What makes x unsigned.
const ADDED: i32 = 128;

/// One rectangle of the result, from its rows of `x + 128`. Panels outside, rows inside: the weights
/// of a few panels stay in the cache, and the first rows fetch those of the next.
pub(super) fn block(
    product: &Product<'_>,
    packed: &[[u8; GROUP]],
    rows: Range<usize>,
    panels: Range<usize>,
) {
    let weights = product.layer.weights;
    let groups = weights.groups();
    let mut sums = [[0; PANEL]; ROWS * PANELS];
    for first in panels.clone().step_by(PANELS) {
        let end = panels.end.min(first + PANELS);
        let columns = weights.tile(first, end - first);
        let epilogues: [Epilogue<'_>; PANELS] =
            array::from_fn(|panel| Epilogue::of(product, (first + panel).min(end - 1), ADDED));
        let tiles = tiles(rows.clone(), ROWS);
        let count_of_tiles = tiles.len();
        for (index, tile_rows) in tiles.enumerate() {
            let (row, count) = (tile_rows.start, tile_rows.len());
            let x = &packed[(row - rows.start) * groups..][..count * groups];
            let columns = columns.fetching_next(index, count_of_tiles);
            let sums = &mut sums[..count * columns.panels()];
            // SAFETY: `linear` comes here only where a `Cpu` of tier `vnni` or above exists, that is
            // where `Tier::is_available` found its features.
            unsafe { tile(x, columns, sums) };
            if Epilogue::finish_four(&epilogues, product, sums, row) {
                continue;
            }
            for (epilogue, sums) in epilogues.iter().zip(sums.chunks_exact(count)) {
                epilogue.finish(product, sums, row);
            }
        }
    }
}

/// The sums of at most [`ROWS`] rows and [`PANELS`] panels: for each panel those of each row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile(x: &[[u8; GROUP]], w: Columns<'_>, sums: &mut [[i32; PANEL]]) {
    match w.panels() {
        4 => panels::<4>(x, w, sums),
        3 => panels::<3>(x, w, sums),
        2 => panels::<2>(x, w, sums),
        _ => panels::<1>(x, w, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn panels<const P: usize>(x: &[[u8; GROUP]], w: Columns<'_>, sums: &mut [[i32; PANEL]]) {
    match sums.len() / P {
        6 => rows::<6, P>(x, w, sums),
        5 => rows::<5, P>(x, w, sums),
        4 => rows::<4, P>(x, w, sums),
        3 => rows::<3, P>(x, w, sums),
        2 => rows::<2, P>(x, w, sums),
        _ => rows::<1, P>(x, w, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn rows<const R: usize, const P: usize>(
    x: &[[u8; GROUP]],
    w: Columns<'_>,
    sums: &mut [[i32; PANEL]],
) {
    let groups = w.groups;
    assert!(w.lines.len() == P * groups && x.len() == R * groups && sums.len() == P * R);
    let fetched = w.ahead.panels(P);
    let mut totals = [[_mm512_setzero_si512(); P]; R];
    for group in 0..groups {
        for panel in fetched.clone() {
            let line = panel * groups + group + w.ahead.lines();
            _mm_prefetch::<_MM_HINT_T1>(w.lines.as_ptr().wrapping_add(line).cast());
        }
        let weights: [__m512i; P] = array::from_fn(|panel| {
            // SAFETY: panel < P and group < groups, so the line lies in w (checked above); it has 64
            // bytes and their alignment.
            unsafe { _mm512_load_si512(w.lines.as_ptr().add(panel * groups + group).cast()) }
        });
        for (row, totals) in totals.iter_mut().enumerate() {
            // SAFETY: row < R and group < groups, so the group lies in x (checked above).
            let four = unsafe { *x.get_unchecked(row * groups + group) };
            let four = _mm512_set1_epi32(i32::from_le_bytes(four));
            for (total, &weights) in totals.iter_mut().zip(&weights) {
                *total = _mm512_dpbusd_epi32(*total, four, weights);
            }
        }
    }
    for (row, totals) in totals.iter().enumerate() {
        for (panel, &total) in totals.iter().enumerate() {
            // SAFETY: panel < P and row < R, so the sums lie there (checked above); they have the 64
            // bytes that are written.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(panel * R + row).cast(), total) };
        }
    }
}
