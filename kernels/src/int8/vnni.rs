#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves VNNI")]
//! The int8 product with the dot product instruction, which wants its left side unsigned:
//! x + 128 is multiplied, and 128·Σw taken off at the end.

use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use super::epilogue::{self, Columns as EndColumns, Epilogue};
use super::linear::Product;
use super::output::Target;
use super::pack::{Columns, GROUP, PANEL};
use crate::parallel::{Shared, tiles};
use crate::requantize::{Requantizer, by_register};

/// Rows of a tile: 6 rows × 4 panels of sums, 4 registers of weights and one of activations use 29
/// of the 32 registers.
pub(super) const ROWS: usize = 6;

/// Panels of a tile.
const PANELS: usize = epilogue::FOUR;

/// What makes x unsigned.
const ADDED: i32 = 128;

/// What `R` rows of x and `P` panels of w add to what their panels start from, `[[__m512i; P]; R]`. A function
/// was seen to be called, which lays all of them down.
macro_rules! totals {
    ($x:expr, $w:expr, $start:expr, $rows:expr, $panels:expr) => {{
        let (x, w) = ($x, $w);
        let groups = w.groups;
        assert!(w.lines.len() == $panels * groups && x.len() == $rows * groups);
        let fetched = w.ahead.panels();
        let mut totals = [$start; $rows];
        for group in 0..groups {
            for panel in fetched.clone() {
                let line = panel * groups + group + w.ahead.lines();
                _mm_prefetch::<_MM_HINT_T1>(w.lines.as_ptr().wrapping_add(line).cast());
            }
            let weights: [__m512i; $panels] = array::from_fn(|panel| {
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
        totals
    }};
}

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
        // SAFETY: `linear` comes here only where a `Cpu` of tier `vnni` or above exists, that is where
        // `Tier::is_available` found its features.
        let ending = match unsafe { Rounded::of(product, first..end) } {
            Some(rounded) => Ending::Rounded(rounded),
            None => Ending::Any(array::from_fn(|panel| {
                Epilogue::of(product, (first + panel).min(end - 1), ADDED)
            })),
        };
        let tiles = tiles(rows.clone(), ROWS);
        let count_of_tiles = tiles.len();
        for (index, tile_rows) in tiles.enumerate() {
            let (row, count) = (tile_rows.start, tile_rows.len());
            let x = &packed[(row - rows.start) * groups..][..count * groups];
            let columns = columns.fetching_next(index, count_of_tiles);
            let epilogues = match &ending {
                Ending::Rounded(rounded) => {
                    // SAFETY: as above; rows and panels are those of the product.
                    unsafe { rounded_tile((x, count), columns, rounded, row) };
                    continue;
                }
                Ending::Any(epilogues) => epilogues,
            };
            let sums = &mut sums[..count * columns.panels()];
            // SAFETY: as above.
            unsafe { tile(x, columns, sums) };
            if Epilogue::finish_four(epilogues, product, sums, row) {
                continue;
            }
            for (epilogue, sums) in epilogues.iter().zip(sums.chunks_exact(count)) {
                epilogue.finish(product, sums, row);
            }
        }
    }
}

/// What follows the sums of some panels.
#[allow(clippy::large_enum_variant, reason = "one is made for some tiles, and stays where it is")]
enum Ending<'a> {
    Rounded(Rounded),
    Any([Epilogue<'a>; PANELS]),
}

/// What makes int8 of the sums of a tile before they are laid down.
struct Rounded {
    requantizer: Requantizer,
    /// What sums start from, so that they are those of `x − zero_point`.
    start: [__m512i; PANELS],
    y: Shared<i8>,
    stride: usize,
    column: usize,
    /// The bytes of a row that there are.
    width: __mmask64,
}

impl Rounded {
    /// `None` where the result is not just rounded.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn of(product: &Product<'_>, panels: Range<usize>) -> Option<Self> {
        let Target::Int8(y, to) = product.target else { return None };
        let rounding = product.ending().rounding(to)?;
        let stride = product.layer.weights.outputs();
        let column = panels.start * PANEL;
        let count = panels.len();
        let of_panels = panels.map(|panel| Epilogue::of(product, panel, ADDED).columns());
        let mut columns = [EndColumns::none(); PANELS];
        columns.iter_mut().zip(of_panels).for_each(|(columns, of_panel)| *columns = of_panel);
        // Registers hold the panels of one row after another.
        let columns: [EndColumns; PANELS] = array::from_fn(|index| columns[index % count]);
        let zero = _mm512_setzero_ps();
        let requantizer = Requantizer::new(
            columns.map(|columns| columns.scales),
            columns.map(|columns| columns.bias.unwrap_or(zero)),
            &rounding,
        );
        let start = columns.map(|columns| {
            let none = _mm512_setzero_si512();
            columns.offsets.map_or(none, |offsets| _mm512_sub_epi32(none, offsets))
        });
        let width = u64::MAX >> (PANELS * PANEL - (stride - column).min(count * PANEL));
        Some(Self { requantizer, start, y, stride, column, width })
    }

    /// Writes the rows of `P` panels that fill a register, as far as they are rows of the tile: from `row` on,
    /// of which there are `rows`.
    ///
    /// # Safety
    /// They are rows of the result, and no other thread touches these columns of them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn write<const P: usize>(&self, row: usize, rows: usize, values: __m512i) {
        let values = by_register(values);
        let width = self.width;
        // SAFETY: the caller's promise.
        let y = unsafe { self.y.at(row * self.stride + self.column) };
        let of_row = |index: usize| y.wrapping_add(index * self.stride);
        // SAFETY: the caller's promise; the mask keeps what is behind the last column.
        unsafe {
            match P {
                4 if width == u64::MAX => _mm512_storeu_si512(y.cast(), values),
                3 | 4 => _mm512_mask_storeu_epi8(y, width, values),
                2 => {
                    let width = width as u32;
                    _mm256_mask_storeu_epi8(y, width, _mm512_castsi512_si256(values));
                    if rows > 1 {
                        let values = _mm512_extracti64x4_epi64::<1>(values);
                        _mm256_mask_storeu_epi8(of_row(1), width, values);
                    }
                }
                _ => {
                    let width = width as u16;
                    _mm_mask_storeu_epi8(y, width, _mm512_castsi512_si128(values));
                    if rows > 1 {
                        let values = _mm512_extracti32x4_epi32::<1>(values);
                        _mm_mask_storeu_epi8(of_row(1), width, values);
                    }
                    if rows > 2 {
                        let values = _mm512_extracti32x4_epi32::<2>(values);
                        _mm_mask_storeu_epi8(of_row(2), width, values);
                    }
                    if rows > 3 {
                        let values = _mm512_extracti32x4_epi32::<3>(values);
                        _mm_mask_storeu_epi8(of_row(3), width, values);
                    }
                }
            }
        }
    }
}

/// Computes and writes a tile of at most [`ROWS`] rows from `row` on and [`PANELS`] panels.
///
/// # Safety
/// The rows are rows of the result, and no other thread touches these columns of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn rounded_tile(x: (&[[u8; GROUP]], usize), w: Columns<'_>, to: &Rounded, row: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match w.panels() {
            4 => rounded_panels::<4>(x, w, to, row),
            3 => rounded_panels::<3>(x, w, to, row),
            2 => rounded_panels::<2>(x, w, to, row),
            _ => rounded_panels::<1>(x, w, to, row),
        }
    }
}

/// # Safety
/// As for [`rounded_tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn rounded_panels<const P: usize>(
    (x, rows): (&[[u8; GROUP]], usize),
    w: Columns<'_>,
    to: &Rounded,
    row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            6 => rounded_rows::<6, P>(x, w, to, row),
            5 => rounded_rows::<5, P>(x, w, to, row),
            4 => rounded_rows::<4, P>(x, w, to, row),
            3 => rounded_rows::<3, P>(x, w, to, row),
            2 => rounded_rows::<2, P>(x, w, to, row),
            _ => rounded_rows::<1, P>(x, w, to, row),
        }
    }
}

/// # Safety
/// As for [`rounded_tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn rounded_rows<const R: usize, const P: usize>(
    x: &[[u8; GROUP]],
    w: Columns<'_>,
    to: &Rounded,
    row: usize,
) {
    let start: [__m512i; P] = array::from_fn(|panel| to.start[panel]);
    let totals = totals!(x, w, start, R, P);
    // One by one, for a loop over rows lays all of them down.
    macro_rules! finish {
        ($($index:literal)*) => {$(
            if $index < R && $index % (PANELS / P) == 0 {
                let sums = array::from_fn(|i| totals[($index + i / P).min(R - 1)][i % P]);
                let values = to.requantizer.round(sums);
                // SAFETY: the caller's promise.
                unsafe { to.write::<P>(row + $index, R - $index, values) };
            }
        )*};
    }
    finish!(0 1 2 3 4 5);
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
    assert!(sums.len() == P * R);
    let totals = totals!(x, w, [_mm512_setzero_si512(); P], R, P);
    for (row, totals) in totals.iter().enumerate() {
        for (panel, &total) in totals.iter().enumerate() {
            // SAFETY: panel < P and row < R, so the sums lie there (checked above); they have the 64
            // bytes that are written.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add(panel * R + row).cast(), total) };
        }
    }
}
