#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! Attention in f32 with 512-bit registers, a column for each query. To the bit what the narrower
//! tiers make of rows: every element of a product is one chain in its order, and sums of weights are
//! those of [`lanes`](crate::lanes).

use std::arch::x86_64::*;
use std::array::from_mut;
use std::ops::Range;

use super::columns::{panels, square};
use super::registers::{load, store};
use super::{Floats, Run, floats, with_scratch};
use crate::float::{Line, PANEL};
use crate::lanes::LANES;
use crate::parallel::check_len;
use crate::wide::exp_of_negative;

/// Panels of queries at a time: an element of a left side is read for two products, and the scores of
/// 128 keys stay in the first cache.
const PANELS: usize = 2;

/// Most rows of a tile: 12 rows × 2 panels of sums, 2 registers of the right side and one of the left
/// use 27 of 32 registers.
const ROWS: usize = 12;

/// Lines whose weights are found side by side: each waits for its own last step.
const AT_ONCE: usize = 4;

impl Run<'_> {
    /// The given queries of one head of one sequence, which has keys and elements.
    ///
    /// # Safety
    /// The CPU has AVX-512 F, BW, DQ and VL.
    pub(super) unsafe fn head_in_columns(
        &self,
        [q, k, v]: [Floats<'_>; 3],
        place: (usize, usize),
        queries: Range<usize>,
    ) {
        let (keys, head_size) = (self.sizes.keys, self.sizes.head_size);
        let copied = (keys * head_size).div_ceil(PANEL);
        let result_rows = head_size.next_multiple_of(PANEL);
        let lines = [copied, copied, PANELS * head_size, PANELS * keys, PANELS * result_rows];
        with_scratch(lines.iter().sum(), |mut rest| {
            let [packed_k, packed_v, queried, scores, results] = lines.map(|count| {
                let (lines, after) = std::mem::take(&mut rest).split_at_mut(count);
                rest = after;
                lines
            });
            let [packed_k, packed_v] = [(k, packed_k), (v, packed_v)].map(|(part, packed)| {
                let packed = &mut floats(packed)[..keys * head_size];
                for (key, row) in packed.chunks_exact_mut(head_size).enumerate() {
                    row.copy_from_slice(&part.from(place, key)[..head_size]);
                }
                &*packed
            });
            // What is past the last element of a head is turned too.
            results.fill(Line::default());
            for first in queries.clone().step_by(PANELS * PANEL) {
                let panels = panels(first..queries.end, PANELS);
                let count = panels.len();
                let queried = &mut queried[..count * head_size];
                let scores = &mut scores[..count * keys];
                let results = &mut results[..count * result_rows];
                // SAFETY: the caller's promise.
                unsafe {
                    for (panel, lines) in panels.clone().zip(queried.chunks_exact_mut(head_size)) {
                        let queries = q.from(place, panel.start);
                        pack_queries(queries, q.step(), panel.len(), lines);
                    }
                    multiply::<false>(packed_k, queried, head_size, scores, keys);
                    let mut inverses = [Line::default(); PANELS];
                    let scored = scores.chunks_exact_mut(keys);
                    for ((panel, scores), inverse) in panels.clone().zip(scored).zip(&mut inverses)
                    {
                        let greatest = self.scale(scores, place, &panel);
                        store(inverse, weigh(scores, greatest));
                    }
                    multiply::<true>(packed_v, scores, keys, results, result_rows);
                    let results = results.chunks_exact(result_rows);
                    for ((panel, results), inverse) in panels.zip(results).zip(&inverses) {
                        self.write(place, &panel, results, load(&inverse.0));
                    }
                }
            }
        });
    }
}

/// A column for each of at most 16 queries, zeros past the last.
#[target_feature(enable = "avx512f,avx512dq")]
fn pack_queries(q: &[f32], stride: usize, queries: usize, packed: &mut [Line]) {
    for (first, lines) in (0..).step_by(PANEL).zip(packed.chunks_mut(PANEL)) {
        let columns = square(q, stride, first, [queries, lines.len()]);
        for (line, column) in lines.iter_mut().zip(columns) {
            store(line, column);
        }
    }
}

/// Turns the scores of each key into weights, and gives one divided by the sum of each query's.
#[target_feature(enable = "avx512f")]
fn weigh(scores: &mut [Line], greatest: __m512) -> __m512 {
    let mut sums = [Line::default(); LANES];
    for lines in scores.chunks_mut(LANES) {
        for (lines, sums) in lines.chunks_mut(AT_ONCE).zip(sums.chunks_mut(AT_ONCE)) {
            if let (Some(lines), Some(sums)) = (lines.as_mut_array(), sums.as_mut_array()) {
                weigh_lines::<AT_ONCE>(lines, greatest, sums);
                continue;
            }
            for (line, sum) in lines.iter_mut().zip(sums) {
                weigh_lines(from_mut(line), greatest, from_mut(sum));
            }
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let sum = _mm512_add_ps(load(&sums[lane].0), load(&sums[lane + width].0));
            store(&mut sums[lane], sum);
        }
        width /= 2;
    }
    _mm512_div_ps(_mm512_set1_ps(1.0), load(&sums[0].0))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn weigh_lines<const N: usize>(lines: &mut [Line; N], greatest: __m512, sums: &mut [Line; N]) {
    let below = lines.each_ref().map(|line| _mm512_sub_ps(load(&line.0), greatest));
    for ((line, sum), weight) in lines.iter_mut().zip(sums).zip(exp_of_negative(below)) {
        store(line, weight);
        let added = _mm512_add_ps(load(&sum.0), weight);
        store(sum, added);
    }
}

/// For each panel of `depth` lines a line of results for each row of a left side, `result_rows` from
/// panel to panel: `Σ left[row, i]·panel[i]`. The left side is `[rows, depth]`, or where it is turned
/// `[depth, rows]`.
#[target_feature(enable = "avx512f")]
fn multiply<const TURNED: bool>(
    left: &[f32],
    panels: &[Line],
    depth: usize,
    results: &mut [Line],
    result_rows: usize,
) {
    let rows = left.len() / depth;
    let sizes = [rows, depth, result_rows];
    let tiles = rows.div_ceil(ROWS);
    for tile in 0..tiles {
        let edge = |tile: usize| tile * rows / tiles;
        let rows = edge(tile)..edge(tile + 1);
        match panels.len() / depth {
            1 => tile_of::<1, TURNED>(left, panels, sizes, rows, results),
            _ => tile_of::<PANELS, TURNED>(left, panels, sizes, rows, results),
        }
    }
}

#[target_feature(enable = "avx512f")]
fn tile_of<const P: usize, const TURNED: bool>(
    left: &[f32],
    panels: &[Line],
    sizes: [usize; 3],
    rows: Range<usize>,
    results: &mut [Line],
) {
    let first = rows.start;
    match rows.len() {
        12 => tile::<12, P, TURNED>(left, panels, sizes, first, results),
        11 => tile::<11, P, TURNED>(left, panels, sizes, first, results),
        10 => tile::<10, P, TURNED>(left, panels, sizes, first, results),
        9 => tile::<9, P, TURNED>(left, panels, sizes, first, results),
        8 => tile::<8, P, TURNED>(left, panels, sizes, first, results),
        7 => tile::<7, P, TURNED>(left, panels, sizes, first, results),
        6 => tile::<6, P, TURNED>(left, panels, sizes, first, results),
        5 => tile::<5, P, TURNED>(left, panels, sizes, first, results),
        4 => tile::<4, P, TURNED>(left, panels, sizes, first, results),
        3 => tile::<3, P, TURNED>(left, panels, sizes, first, results),
        2 => tile::<2, P, TURNED>(left, panels, sizes, first, results),
        _ => tile::<1, P, TURNED>(left, panels, sizes, first, results),
    }
}

/// Rows `first..first + R` of the results of `P` panels.
#[target_feature(enable = "avx512f")]
fn tile<const R: usize, const P: usize, const TURNED: bool>(
    left: &[f32],
    panels: &[Line],
    [rows, depth, result_rows]: [usize; 3],
    first: usize,
    results: &mut [Line],
) {
    assert!(first + R <= rows && rows <= result_rows, "a tile lies in its results");
    check_len("attention: left side", left.len(), rows * depth);
    check_len("attention: right side", panels.len(), P * depth);
    check_len("attention: results", results.len(), P * result_rows);
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    for index in 0..depth {
        let right: [__m512; P] = std::array::from_fn(|panel| {
            // SAFETY: panel < P and index < depth, so the line is one of the panels (checked above).
            unsafe { _mm512_load_ps(panels.as_ptr().add(panel * depth + index).cast()) }
        });
        for (row, sums) in sums.iter_mut().enumerate() {
            let place =
                if TURNED { index * rows + first + row } else { (first + row) * depth + index };
            // SAFETY: row < R, so that first + row is a row, and index < depth: the place lies in the
            // left side (checked above).
            let left = _mm512_set1_ps(unsafe { *left.get_unchecked(place) });
            for (sum, &right) in sums.iter_mut().zip(&right) {
                *sum = _mm512_fmadd_ps(left, right, *sum);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (panel, sum) in sums.into_iter().enumerate() {
            store(&mut results[panel * result_rows + first + row], sum);
        }
    }
}
