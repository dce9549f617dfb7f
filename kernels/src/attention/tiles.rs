#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves them")]
//! Attention in bf16, on the tile registers or with the dot product of pairs.
//!
//! A tile of scores has a row for each key and a column for each query. Two rows of what the softmax
//! leaves are a line of the second product, whose left side are the values with a row for each element
//! of a head.
//!
//! Where the products are to be [`Products::Split`], an operand is a sum of two bf16, `x = h + l`,
//! and a product `h·h′ + h·l′ + l·h′`: a left side has the parts `h`, `h`, `l` one after another
//! along the inner dimension, a right side `h`, `l`, `h`.

use std::arch::x86_64::*;
use std::ops::Range;
use std::slice;

use super::columns::panels;
use super::registers::{
    Row, STEP, exp2_of_negative, load, paired, rounded_bits, split_pair, store, turned,
};
use super::{HeadData, Products, Run, floats, with_scratch};
use crate::amx::{Bf16, TILE_LINES, TileRows, Tiles};
use crate::bf16::dot;
use crate::float::{Line, PANEL};
use crate::parallel;
use crate::wide::transposed;

/// Most panels of queries at a time.
const MOST_PANELS: usize = 2;

/// Which half of an operand each part is: 0 for `h`, 1 for `l`.
const LEFT_PARTS: [usize; 3] = [0, 0, 1];
const RIGHT_PARTS: [usize; 3] = [0, 1, 0];

/// What multiplies.
pub(super) trait Unit {
    /// Panels of queries at a time.
    const PANELS: usize;

    /// Products of a left side and some panels of a right side: for each panel a line of results for
    /// each row. A row, and a column of a panel, have `stride` elements.
    fn multiply(&self, left: &[u16], panels: &[Line], stride: usize, results: &mut [Line]);
}

impl Unit for Tiles {
    /// While the tiles are at work, the panel before is turned into weights, and written.
    const PANELS: usize = 1;

    fn multiply(&self, left: &[u16], panels: &[Line], stride: usize, results: &mut [Line]) {
        let x = TileRows::new(left, stride, stride / STEP);
        let len = results.len() / TILE_LINES;
        // SAFETY: a tile of sums is 16 lines, as aligned as one.
        let sums = unsafe { slice::from_raw_parts_mut(results.as_mut_ptr().cast(), len) };
        self.panel::<Bf16, _>(x, panels, sums);
    }
}

/// The dot product of pairs: [`Cpu::has_fast_bf16_dot`](crate::Cpu::has_fast_bf16_dot).
pub(super) struct Dot(());

impl Dot {
    /// # Safety
    /// The CPU has AVX512-BF16.
    pub(super) const unsafe fn new() -> Self {
        Self(())
    }
}

impl Unit for Dot {
    /// An element of a left side is read for two products, and the scores of 128 keys stay in the
    /// first cache.
    const PANELS: usize = 2;

    fn multiply(&self, left: &[u16], panels: &[Line], stride: usize, results: &mut [Line]) {
        let count = panels.len() / (stride / 2);
        let rows = results.len() / count;
        let w = dot::Panels::new(panels, stride / 2);
        for tile in parallel::tiles(0..rows, dot::ROWS) {
            let x = &left[tile.start * stride..tile.end * stride];
            let sums = sums_mut(&mut results[tile.start..]);
            let sums = dot::Sums::new(sums, rows, [tile.len(), count]);
            // SAFETY: the CPU has the instruction (`Dot::new`), and the sums have a place.
            unsafe { dot::tile((x, stride), (w, count), &sums) };
        }
    }
}

/// How many lines each operand takes.
#[derive(Clone, Copy)]
struct Sizes {
    /// 3 where operands are split, or 1.
    parts: usize,
    keys: usize,
    head_size: usize,
}

impl Sizes {
    /// Elements of a part in the first product.
    fn width(self) -> usize {
        self.head_size.next_multiple_of(STEP)
    }

    /// Elements of a part in the second product.
    fn length(self) -> usize {
        self.keys.next_multiple_of(STEP)
    }

    /// Lines of: keys, values, and for each panel queries, scores, weights, results.
    fn lines(self, panels: usize) -> [usize; 6] {
        let (key_rows, value_rows) =
            (self.keys.next_multiple_of(TILE_LINES), self.head_size.next_multiple_of(TILE_LINES));
        [
            key_rows * self.parts * self.width() / STEP,
            value_rows * self.parts * self.length() / STEP,
            panels * self.parts * self.width() / 2,
            panels * key_rows,
            panels * self.parts * self.length() / 2,
            panels * value_rows,
        ]
    }
}

impl Run<'_> {
    /// The given queries of one head of one sequence, which has keys and elements.
    ///
    /// # Safety
    /// The CPU has AVX-512 F, BW, DQ, VL and BF16.
    pub(super) unsafe fn head_in_bf16<U: Unit>(
        &self,
        unit: &U,
        place: (usize, usize),
        queries: Range<usize>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.sizes.products {
                Products::Bf16 => self.head_in_parts::<U, false>(unit, place, queries),
                _ => self.head_in_parts::<U, true>(unit, place, queries),
            }
        }
    }

    /// [`Self::head_in_bf16`] with split operands or not.
    ///
    /// # Safety
    /// As there.
    unsafe fn head_in_parts<U: Unit, const SPLIT: bool>(
        &self,
        unit: &U,
        place: (usize, usize),
        queries: Range<usize>,
    ) {
        let parts = if SPLIT { RIGHT_PARTS.len() } else { 1 };
        let sizes = Sizes { parts, keys: self.sizes.keys, head_size: self.sizes.head_size };
        let lines = sizes.lines(U::PANELS);
        with_scratch(lines.iter().sum(), |mut rest| {
            let [keys, values, queried, scores, weights, results] = lines.map(|count| {
                let (lines, after) = std::mem::take(&mut rest).split_at_mut(count);
                rest = after;
                lines
            });
            // SAFETY: the caller's promise.
            unsafe {
                self.pack_keys::<SPLIT>(sizes, place, keys);
                self.pack_values::<SPLIT>(sizes, place, values);
            }
            let (keys, values) = (elements(keys), elements(values));
            let of_panel = lines.map(|count| count / U::PANELS);
            let (width, length) = (parts * sizes.width(), parts * sizes.length());
            let mut score = |first: usize, scores: &mut [Line]| {
                let panels = panels(first..queries.end, U::PANELS);
                for (panel, lines) in panels.clone().zip(queried.chunks_exact_mut(of_panel[2])) {
                    // SAFETY: the caller's promise.
                    unsafe { self.pack_queries::<SPLIT>(sizes, place, panel, lines) };
                }
                let count = panels.len();
                let queried = &queried[..count * of_panel[2]];
                unit.multiply(keys, queried, width, &mut scores[..count * of_panel[3]]);
            };
            score(queries.start, scores);
            for first in queries.clone().step_by(U::PANELS * PANEL) {
                let panels = panels(first..queries.end, U::PANELS);
                let count = panels.len();
                let mut inverses = [Line::default(); MOST_PANELS];
                let scored = scores.chunks_exact_mut(of_panel[3]);
                let weighed = weights.chunks_exact_mut(of_panel[4]);
                for (((panel, scores), weights), inverse) in
                    panels.clone().zip(scored).zip(weighed).zip(&mut inverses)
                {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let greatest = self.scale(scores, place, &panel);
                        store(inverse, weigh::<SPLIT>(scores, sizes, greatest, weights));
                    }
                }
                let results = &mut results[..count * of_panel[5]];
                unit.multiply(values, &weights[..count * of_panel[4]], length, results);
                // Tiles are at work meanwhile, on the values and on the next scores.
                if first + count * PANEL < queries.end {
                    score(first + count * PANEL, scores);
                }
                let results = results.chunks_exact(of_panel[5]);
                for ((panel, results), inverse) in panels.zip(results).zip(&inverses) {
                    // SAFETY: the caller's promise.
                    unsafe { self.write(place, &panel, results, load(&inverse.0)) };
                }
            }
        });
    }

    /// One token of a head, from its first element on.
    fn token(&self, part: usize, place: (usize, usize), token: usize) -> Row<'_> {
        let start = self.qkv[part].start(place, token);
        let elements = start..start + self.sizes.head_size;
        match self.qkv[part].data {
            HeadData::F32(data) => Row::F32(&data[elements]),
            HeadData::Bf16(data) => Row::Bf16(&data[elements]),
        }
    }

    /// The left side of the first product: a row for each key.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn pack_keys<const SPLIT: bool>(
        &self,
        sizes: Sizes,
        place: (usize, usize),
        packed: &mut [Line],
    ) {
        let part_lines = sizes.width() / STEP;
        for (key, row) in packed.chunks_exact_mut(sizes.parts * part_lines).enumerate() {
            if key >= sizes.keys {
                row.fill(Line::default());
                continue;
            }
            let elements = self.token(1, place, key);
            for step in 0..part_lines {
                store_left(elements.halves::<SPLIT>(step * STEP), row, part_lines, step);
            }
        }
    }

    /// The left side of the second product: a row for each element of a head.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn pack_values<const SPLIT: bool>(
        &self,
        sizes: Sizes,
        place: (usize, usize),
        packed: &mut [Line],
    ) {
        let part_lines = sizes.length() / STEP;
        let zero = _mm512_setzero_ps();
        for (panels, rows) in packed.chunks_mut(STEP * sizes.parts * part_lines).enumerate() {
            let values = |key: usize| match key < sizes.keys {
                true => self.token(2, place, key).halves::<SPLIT>(panels * STEP),
                false => [zero; 2],
            };
            for step in 0..part_lines {
                let keys: [[__m512; 2]; STEP] =
                    std::array::from_fn(|offset| values(step * STEP + offset));
                let high = turned(keys.map(|[high, _]| high));
                let low = if SPLIT { turned(keys.map(|[_, low]| low)) } else { high };
                let rows = rows.chunks_exact_mut(sizes.parts * part_lines);
                for (row, halves) in rows.zip(high.into_iter().zip(low)) {
                    store_left(halves.into(), row, part_lines, step);
                }
            }
        }
    }

    /// The right side of the first product: a column for each query, zeros past the last.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn pack_queries<const SPLIT: bool>(
        &self,
        sizes: Sizes,
        place: (usize, usize),
        queries: Range<usize>,
        packed: &mut [Line],
    ) {
        let part_lines = sizes.width() / 2;
        for (step, column) in (0..sizes.width()).step_by(STEP).enumerate() {
            let mut rows = [[_mm512_setzero_ps(); PANEL]; 2];
            for (offset, query) in queries.clone().enumerate() {
                let row = self.token(0, place, query);
                for (rows, half) in rows.iter_mut().zip(row.halves::<SPLIT>(column)) {
                    rows[offset] = half;
                }
            }
            let halves = rows.map(|rows| transposed(rows));
            for (part, half) in RIGHT_PARTS[..sizes.parts].iter().enumerate() {
                let lines = &mut packed[part * part_lines + step * TILE_LINES..][..TILE_LINES];
                for (line, &pairs) in lines.iter_mut().zip(&halves[*half]) {
                    store(line, pairs);
                }
            }
        }
    }
}

/// Turns scores into weights, as the right side of the second product, and gives one divided by the
/// sum of each query's.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn weigh<const SPLIT: bool>(
    scores: &[Line],
    sizes: Sizes,
    greatest: __m512,
    weights: &mut [Line],
) -> __m512 {
    let log2_e = _mm512_set1_ps(std::f32::consts::LOG2_E);
    let weight = |key: usize| match scores[..sizes.keys].get(key) {
        // Their difference first: a mask of `f32::MIN` times log₂e would be infinite.
        Some(score) => {
            let below = _mm512_sub_ps(load(&score.0), greatest);
            exp2_of_negative::<SPLIT>(_mm512_mul_ps(below, log2_e))
        }
        None => _mm512_setzero_ps(),
    };
    let mut sums = [_mm512_setzero_ps(); 2];
    let part_lines = sizes.length() / 2;
    for pair in 0..part_lines {
        let values = [weight(2 * pair), weight(2 * pair + 1)];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = _mm512_add_ps(*sum, value);
        }
        if SPLIT {
            let halves = split_pair(values);
            for (part, half) in RIGHT_PARTS.into_iter().enumerate() {
                store(&mut weights[part * part_lines + pair], halves[half]);
            }
        } else {
            store(&mut weights[pair], paired(values.map(|x| rounded_bits(x))));
        }
    }
    _mm512_div_ps(_mm512_set1_ps(1.0), _mm512_add_ps(sums[0], sums[1]))
}

/// Writes line `step` of each part of a row of a left side.
#[target_feature(enable = "avx512f")]
fn store_left(halves: [__m512; 2], row: &mut [Line], part_lines: usize, step: usize) {
    for (part, half) in row.chunks_exact_mut(part_lines).zip(LEFT_PARTS) {
        store(&mut part[step], halves[half]);
    }
}

/// Lines as sums.
fn sums_mut(lines: &mut [Line]) -> &mut [[f32; PANEL]] {
    floats(lines).as_chunks_mut().0
}

/// Lines as elements of bf16.
fn elements(lines: &[Line]) -> &[u16] {
    // SAFETY: a line is 64 bytes without padding, and any bits are a `u16`.
    unsafe { slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * STEP) }
}
