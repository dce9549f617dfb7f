#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! The int8 product with 512-bit multiply-adds of 16-bit numbers, for CPUs without VNNI.

use std::arch::x86_64::*;

use super::pack::{Columns, GROUP, Line, PANEL};

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;

/// Registers of sums per row and panel: 8 columns each, two partial sums a column.
const PARTS: usize = 2;

/// The twin of [`super::portable::tile`], for at most [`ROWS`] rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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

/// Two panels at a time: 6 rows × 4 registers of sums, 4 of weights and one of activations use 29
/// of the 32 registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn rows<const R: usize>(x: &[[i16; GROUP]], w: Columns<'_>, sums: &mut [i32]) {
    let width = w.panels() * PANEL;
    for (pair, lines) in w.lines.chunks(2 * w.groups).enumerate() {
        let start = pair * 2 * PANEL;
        if lines.len() == 2 * w.groups {
            store(&panels::<R, 2>(x, lines), start, width, sums);
        } else {
            store(&panels::<R, 1>(x, lines), start, width, sums);
        }
    }
}

fn store<const R: usize, const P: usize>(
    totals: &[[[i32; PANEL]; P]; R],
    start: usize,
    width: usize,
    sums: &mut [i32],
) {
    for (total, sums) in totals.iter().zip(sums.chunks_exact_mut(width)) {
        sums[start..start + P * PANEL].copy_from_slice(total.as_flattened());
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn panels<const R: usize, const P: usize>(
    x: &[[i16; GROUP]],
    lines: &[Line],
) -> [[[i32; PANEL]; P]; R] {
    let groups = lines.len() / P;
    let mut parts = [[[_mm512_setzero_si512(); PARTS]; P]; R];
    for (group, fours) in x.as_chunks::<R>().0.iter().enumerate().take(groups) {
        let weights: [[__m512i; PARTS]; P] = std::array::from_fn(|panel| {
            let line = &lines[panel * groups + group];
            std::array::from_fn(|part| {
                // SAFETY: a line has 64 bytes, part < 2, and 32 bytes are read at 32·part.
                let bytes = unsafe { _mm256_load_si256(line.0.as_ptr().add(32 * part).cast()) };
                _mm512_cvtepi8_epi16(bytes)
            })
        });
        for (four, parts) in fours.iter().zip(&mut parts) {
            // SAFETY: four 16-bit numbers are the 8 bytes that are read.
            let four = unsafe { four.as_ptr().cast::<i64>().read_unaligned() };
            let four = _mm512_set1_epi64(four);
            let parts = parts.as_flattened_mut().iter_mut();
            for (part, &weights) in parts.zip(weights.as_flattened()) {
                *part = _mm512_add_epi32(*part, _mm512_madd_epi16(four, weights));
            }
        }
    }
    parts.map(|panels| {
        panels.map(|parts| {
            let mut sums = [0; PANEL];
            for (part, sums) in parts.into_iter().zip(sums.as_chunks_mut::<8>().0) {
                // The two partial sums of a column are the halves of a 64-bit number.
                let both = _mm512_add_epi32(part, _mm512_srli_epi64::<32>(part));
                // SAFETY: `sums` has the 32 bytes that are written.
                unsafe {
                    _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(both))
                };
            }
            sums
        })
    })
}
