#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX2")]
//! The bf16 product with fused multiply-adds of `f32`. A product of two bf16 has at most 16 bits
//! and is exact, so that fusing it rounds no differently.

use std::arch::x86_64::*;

use super::pack::{GROUP, Line, PANEL};

/// Rows of a tile: 4 rows × 2 registers of sums, 4 of weights and 2 of x are 14 of 16 registers.
pub(super) const ROWS: usize = 4;

/// Registers of sums per row.
const PARTS: usize = 2;

/// The twin of [`super::portable::tile`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn tile(x: &[u16], stride: usize, lines: &[Line], sums: &mut [[f32; PANEL]]) {
    match sums.len() {
        4 => rows::<4>(x, stride, lines, sums),
        3 => rows::<3>(x, stride, lines, sums),
        2 => rows::<2>(x, stride, lines, sums),
        _ => rows::<1>(x, stride, lines, sums),
    }
}

#[target_feature(enable = "avx2,fma")]
fn rows<const R: usize>(x: &[u16], stride: usize, lines: &[Line], sums: &mut [[f32; PANEL]]) {
    assert!(sums.len() == R && lines.len() * GROUP <= stride && x.len() == R * stride);
    let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    let mut totals = [[_mm256_setzero_ps(); PARTS]; R];
    for (group, line) in lines.iter().enumerate() {
        let pairs: [__m256i; PARTS] = std::array::from_fn(|part| {
            // SAFETY: a line has 64 bytes, aligned, `part` < 2, and 32 bytes are read at 32·part.
            unsafe { _mm256_load_si256(line.0.as_ptr().add(PANEL * part).cast()) }
        });
        let first = pairs.map(|pair| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair)));
        let second = pairs.map(|pair| _mm256_castsi256_ps(_mm256_and_si256(pair, upper)));
        for (row, totals) in totals.iter_mut().enumerate() {
            // SAFETY: 2·group + 1 < stride and row < R, so the pair lies in x (checked above).
            let pair = unsafe {
                x.as_ptr().add(row * stride + group * GROUP).cast::<i32>().read_unaligned()
            };
            let pair = _mm256_set1_epi32(pair);
            let x_first = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
            let x_second = _mm256_castsi256_ps(_mm256_and_si256(pair, upper));
            for (part, total) in totals.iter_mut().enumerate() {
                *total = _mm256_fmadd_ps(x_first, first[part], *total);
                *total = _mm256_fmadd_ps(x_second, second[part], *total);
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums) {
        for (&total, sums) in totals.iter().zip(sums.as_chunks_mut::<8>().0) {
            // SAFETY: `sums` has the 32 bytes that are written.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), total) };
        }
    }
}
