#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX2")]
//! The int8 product with 16-bit multiply-adds. They cannot saturate: |x·w| ≤ 2¹⁴, summed in pairs
//! into 32 bits.

use std::arch::x86_64::*;

use super::pack::{Columns, GROUP, PANEL, Rows, tail_group};

/// Rows of a tile: 2 rows × 4 sums registers leave room for the operands in 16 registers.
pub(crate) const ROWS: usize = 2;

/// Registers of sums per row: 4 columns each, two partial sums a column.
const PARTS: usize = 4;

/// The twin of [`super::portable::tile`].
#[target_feature(enable = "avx2")]
pub(crate) fn tile(x: Rows<'_>, w: Columns<'_>, sums: &mut [i32]) {
    match sums.len() / PANEL {
        2 => rows::<2>(x, w, sums),
        _ => rows::<1>(x, w, sums),
    }
}

#[target_feature(enable = "avx2")]
fn rows<const R: usize>(x: Rows<'_>, w: Columns<'_>, sums: &mut [i32]) {
    assert!(x.data.len() == R * x.k && sums.len() == R * PANEL && w.lines.len() == w.groups);
    let full = x.k / GROUP;
    let mut parts = [[_mm256_setzero_si256(); PARTS]; R];
    for (group, line) in w.lines.iter().enumerate() {
        let weights: [__m256i; PARTS] = std::array::from_fn(|part| {
            // SAFETY: a line has 64 bytes, `part` < 4, and 16 bytes are read at 16·part.
            let bytes = unsafe { _mm_load_si128(line.0.as_ptr().add(16 * part).cast()) };
            _mm256_cvtepi8_epi16(bytes)
        });
        for (row, parts) in parts.iter_mut().enumerate() {
            let start = row * x.k + group * GROUP;
            let four = if group < full {
                // SAFETY: group < full = k/4, so the 4 bytes lie in this row of x (checked above).
                unsafe { x.data.as_ptr().add(start).cast::<i32>().read_unaligned() }
            } else {
                tail_group(&x.data[start..(row + 1) * x.k])
            };
            let four = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
            for (part, &weights) in parts.iter_mut().zip(&weights) {
                *part = _mm256_add_epi32(*part, _mm256_madd_epi16(four, weights));
            }
        }
    }
    for (parts, sums) in parts.iter().zip(sums.chunks_exact_mut(PANEL)) {
        for (&part, sums) in parts.iter().zip(sums.chunks_exact_mut(4)) {
            let mut halves = [0i32; 8];
            // SAFETY: `halves` has the 32 bytes that are written.
            unsafe { _mm256_storeu_si256(halves.as_mut_ptr().cast(), part) };
            for (sum, halves) in sums.iter_mut().zip(halves.as_chunks::<2>().0) {
                *sum = halves[0].wrapping_add(halves[1]);
            }
        }
    }
}
