#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX2")]
//! The int8 product with 16-bit multiply-adds. They cannot saturate: |x·w| ≤ 2¹⁴, summed in pairs
//! into 32 bits.

use std::arch::x86_64::*;

use super::pack::{Columns, GROUP, Line, PANEL};

/// Rows of a tile: 6 rows × 2 registers of sums leave 4 of 16 registers for the operands.
pub(crate) const ROWS: usize = 6;

/// Registers of sums per row: 4 columns each, two partial sums a column.
const PARTS: usize = 2;

/// Columns that are summed at once.
const COLUMNS: usize = 4 * PARTS;

/// The twin of [`super::portable::tile`], for at most [`ROWS`] rows.
#[target_feature(enable = "avx2")]
pub(crate) fn tile(x: &[[i16; GROUP]], w: Columns<'_>, sums: &mut [i32]) {
    match sums.len() / (w.panels() * PANEL) {
        6 => rows::<6>(x, w, sums),
        5 => rows::<5>(x, w, sums),
        4 => rows::<4>(x, w, sums),
        3 => rows::<3>(x, w, sums),
        2 => rows::<2>(x, w, sums),
        _ => rows::<1>(x, w, sums),
    }
}

/// Widens groups of four and writes each to every `step`-th place, four groups at a time. Gives how
/// many were written: at most three are left.
#[target_feature(enable = "avx2")]
pub(crate) fn interleave(
    groups: &[[i8; GROUP]],
    step: usize,
    packed: &mut [[i16; GROUP]],
) -> usize {
    let fours = groups.as_chunks::<4>().0;
    assert!(fours.is_empty() || packed.len() > (4 * fours.len() - 1) * step);
    for (index, four) in fours.iter().enumerate() {
        // SAFETY: four groups are the 16 bytes that are read.
        let bytes = unsafe { _mm_loadu_si128(four.as_ptr().cast()) };
        let wide = _mm256_cvtepi8_epi16(bytes);
        let halves = [_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide)];
        for (half, two) in halves.into_iter().enumerate() {
            // SAFETY: the second of these places is (4·index + 2·half + 1)·step, at most the last of
            // those checked above; a group is the 8 bytes that are written.
            unsafe {
                let place = packed.as_mut_ptr().add((4 * index + 2 * half) * step);
                _mm_storel_epi64(place.cast(), two);
                _mm_storeh_pd(place.add(step).cast(), _mm_castsi128_pd(two));
            }
        }
    }
    4 * fours.len()
}

#[target_feature(enable = "avx2")]
fn rows<const R: usize>(x: &[[i16; GROUP]], w: Columns<'_>, sums: &mut [i32]) {
    let width = w.panels() * PANEL;
    for (panel, lines) in w.lines.chunks_exact(w.groups).enumerate() {
        for half in 0..PANEL / COLUMNS {
            let totals = half_panel::<R>(x, lines, half);
            for (total, sums) in totals.iter().zip(sums.chunks_exact_mut(width)) {
                let start = panel * PANEL + half * COLUMNS;
                sums[start..start + COLUMNS].copy_from_slice(total);
            }
        }
    }
}

/// The sums of eight columns of a panel.
#[target_feature(enable = "avx2")]
fn half_panel<const R: usize>(
    x: &[[i16; GROUP]],
    lines: &[Line],
    half: usize,
) -> [[i32; COLUMNS]; R] {
    assert!(half < PANEL / COLUMNS);
    let mut parts = [[_mm256_setzero_si256(); PARTS]; R];
    for (fours, line) in x.as_chunks::<R>().0.iter().zip(lines) {
        let weights: [__m256i; PARTS] = std::array::from_fn(|part| {
            // SAFETY: a line has 64 bytes; half < 2 (checked above) and part < 2, so the 16 bytes
            // at 32·half + 16·part lie in it.
            let bytes =
                unsafe { _mm_load_si128(line.0.as_ptr().add(32 * half + 16 * part).cast()) };
            _mm256_cvtepi8_epi16(bytes)
        });
        for (four, parts) in fours.iter().zip(&mut parts) {
            // SAFETY: four 16-bit numbers are the 8 bytes that are read.
            let four = unsafe { four.as_ptr().cast::<i64>().read_unaligned() };
            let four = _mm256_set1_epi64x(four);
            for (part, &weights) in parts.iter_mut().zip(&weights) {
                *part = _mm256_add_epi32(*part, _mm256_madd_epi16(four, weights));
            }
        }
    }
    parts.map(|[low, high]| {
        let pairs = _mm256_hadd_epi32(low, high);
        let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
        let mut sums = [0; COLUMNS];
        // SAFETY: `sums` has the 32 bytes that are written.
        unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), ordered) };
        sums
    })
}
