#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! The bf16 product with fused multiply-adds of `f32`, as on AVX2. The dot product instruction of
//! AVX512-BF16 is no faster on Intel's CPUs, and rounds otherwise; see `dot` for AMD's.

use std::arch::x86_64::*;

use super::pack::{GROUP, Line, PANEL};

/// Rows of a tile: 12 sums and 2 registers of weights, with two products in flight for each sum.
pub(super) const ROWS: usize = 12;

/// The twin of [`super::portable::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn tile(x: &[u16], stride: usize, lines: &[Line], sums: &mut [[f32; PANEL]]) {
    let mut rest = (x, sums);
    while !rest.1.is_empty() {
        let count = match rest.1.len() {
            12.. => 12,
            4.. => 4,
            _ => 1,
        };
        let (x, x_rest) = rest.0.split_at(count * stride);
        let (sums, sums_rest) = rest.1.split_at_mut(count);
        match count {
            12 => rows::<12>(x, stride, lines, sums),
            4 => rows::<4>(x, stride, lines, sums),
            _ => rows::<1>(x, stride, lines, sums),
        }
        rest = (x_rest, sums_rest);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn rows<const R: usize>(x: &[u16], stride: usize, lines: &[Line], sums: &mut [[f32; PANEL]]) {
    assert!(sums.len() == R && lines.len() * GROUP <= stride && x.len() == R * stride);
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let mut totals = [_mm512_setzero_ps(); R];
    for (group, line) in lines.iter().enumerate() {
        // SAFETY: a line has 64 bytes and their alignment.
        let pairs = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
        let first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
        let second = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
        for (row, total) in totals.iter_mut().enumerate() {
            // SAFETY: 2·group + 1 < stride and row < R, so the pair lies in x (checked above).
            let pair = unsafe {
                x.as_ptr().add(row * stride + group * GROUP).cast::<i32>().read_unaligned()
            };
            let pair = _mm512_set1_epi32(pair);
            let x_first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
            let x_second = _mm512_castsi512_ps(_mm512_and_si512(pair, upper));
            *total = _mm512_fmadd_ps(x_first, first, *total);
            *total = _mm512_fmadd_ps(x_second, second, *total);
        }
    }
    for (&total, sums) in totals.iter().zip(sums) {
        // SAFETY: `sums` has the 64 bytes that are written.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
    }
}
