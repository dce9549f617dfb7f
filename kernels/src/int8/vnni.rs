#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves VNNI")]
//! The int8 product with the dot product instruction, which wants its left side unsigned:
//! x + 128 is multiplied, and 128·Σw taken off at the end.

use std::arch::x86_64::*;

use super::pack::{Columns, GROUP, PANEL};

/// Rows of a tile: 6 rows × 4 panels of sums, 4 registers of weights and one of activations use 29
/// of the 32 registers.
pub(crate) const ROWS: usize = 6;

/// The twin of [`super::portable::tile`] for `x + 128`, for at most [`ROWS`] rows and 4 panels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn tile(x: &[[u8; GROUP]], w: Columns<'_>, sums: &mut [i32]) {
    match w.panels() {
        4 => panels::<4>(x, w, sums),
        3 => panels::<3>(x, w, sums),
        2 => panels::<2>(x, w, sums),
        _ => panels::<1>(x, w, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn panels<const P: usize>(x: &[[u8; GROUP]], w: Columns<'_>, sums: &mut [i32]) {
    match sums.len() / (P * PANEL) {
        6 => rows::<6, P>(x, w, sums),
        5 => rows::<5, P>(x, w, sums),
        4 => rows::<4, P>(x, w, sums),
        3 => rows::<3, P>(x, w, sums),
        2 => rows::<2, P>(x, w, sums),
        _ => rows::<1, P>(x, w, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn rows<const R: usize, const P: usize>(x: &[[u8; GROUP]], w: Columns<'_>, sums: &mut [i32]) {
    assert!(w.lines.len() == P * w.groups && w.sums.len() == P * PANEL);
    assert!(x.len() == R * w.groups && sums.len() == R * P * PANEL);
    let mut totals = [[_mm512_setzero_si512(); P]; R];
    for (group, fours) in x.as_chunks::<R>().0.iter().enumerate() {
        let weights: [__m512i; P] = std::array::from_fn(|panel| {
            // SAFETY: group < w.groups, as x has R·groups groups, so the line lies in panel `panel`
            // of the P·groups lines (checked above); it has 64 bytes and their alignment.
            unsafe { _mm512_load_si512(w.lines.as_ptr().add(panel * w.groups + group).cast()) }
        });
        for (four, totals) in fours.iter().zip(&mut totals) {
            let four = _mm512_set1_epi32(i32::from_le_bytes(*four));
            for (total, &weights) in totals.iter_mut().zip(&weights) {
                *total = _mm512_dpbusd_epi32(*total, four, weights);
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums.chunks_exact_mut(P * PANEL)) {
        for (panel, &total) in totals.iter().enumerate() {
            // SAFETY: w.sums and this row of sums have P·16 numbers (checked above) and panel < P.
            unsafe {
                let column_sums = _mm512_loadu_si512(w.sums.as_ptr().add(panel * PANEL).cast());
                let total = _mm512_sub_epi32(total, _mm512_slli_epi32::<7>(column_sums));
                _mm512_storeu_si512(sums.as_mut_ptr().add(panel * PANEL).cast(), total);
            }
        }
    }
}
