#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! The int8 product with 512-bit multiply-adds of 16-bit numbers, for CPUs without VNNI.

use std::arch::x86_64::*;

use super::pack::{Columns, GROUP, PANEL, Rows, tail_group};

/// Rows of a tile.
pub(crate) const ROWS: usize = 4;

/// Registers of sums per row: 8 columns each, two partial sums a column.
const PARTS: usize = 2;

/// The twin of [`super::portable::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn tile(x: Rows<'_>, w: Columns<'_>, sums: &mut [i32]) {
    match sums.len() / PANEL {
        4 => rows::<4>(x, w, sums),
        3 => rows::<3>(x, w, sums),
        2 => rows::<2>(x, w, sums),
        _ => rows::<1>(x, w, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn rows<const R: usize>(x: Rows<'_>, w: Columns<'_>, sums: &mut [i32]) {
    assert!(x.data.len() == R * x.k && sums.len() == R * PANEL && w.lines.len() == w.groups);
    let full = x.k / GROUP;
    let mut parts = [[_mm512_setzero_si512(); PARTS]; R];
    for (group, line) in w.lines.iter().enumerate() {
        let weights: [__m512i; PARTS] = std::array::from_fn(|part| {
            // SAFETY: a line has 64 bytes, `part` < 2, and 32 bytes are read at 32·part.
            let bytes = unsafe { _mm256_load_si256(line.0.as_ptr().add(32 * part).cast()) };
            _mm512_cvtepi8_epi16(bytes)
        });
        for (row, parts) in parts.iter_mut().enumerate() {
            let start = row * x.k + group * GROUP;
            let four = if group < full {
                // SAFETY: group < full = k/4, so the 4 bytes lie in this row of x (checked above).
                unsafe { x.data.as_ptr().add(start).cast::<i32>().read_unaligned() }
            } else {
                tail_group(&x.data[start..(row + 1) * x.k])
            };
            let four = _mm512_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
            for (part, &weights) in parts.iter_mut().zip(&weights) {
                *part = _mm512_add_epi32(*part, _mm512_madd_epi16(four, weights));
            }
        }
    }
    for (parts, sums) in parts.iter().zip(sums.chunks_exact_mut(PANEL)) {
        for (&part, sums) in parts.iter().zip(sums.chunks_exact_mut(8)) {
            let mut halves = [0i32; 16];
            // SAFETY: `halves` has the 64 bytes that are written.
            unsafe { _mm512_storeu_si512(halves.as_mut_ptr().cast(), part) };
            for (sum, halves) in sums.iter_mut().zip(halves.as_chunks::<2>().0) {
                *sum = halves[0].wrapping_add(halves[1]);
            }
        }
    }
}
