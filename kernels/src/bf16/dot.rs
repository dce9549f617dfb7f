#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves them")]
//! The bf16 product with the dot product instruction, which adds pairs of products.

use std::arch::x86_64::*;
use std::array;

use super::pack::{GROUP, Line, PANEL, PackedBf16};

/// Rows of a tile: 6 rows × 4 panels of sums, 4 registers of weights and one of x use 29 of the 32
/// registers.
pub(super) const ROWS: usize = 6;

/// Panels of a tile.
pub(super) const PANELS: usize = 4;

/// The products of at most [`ROWS`] rows and `panels`, of which there are at most [`PANELS`], from
/// `first` on: for each panel the sums of each row.
///
/// # Shapes
/// `x`: rows of `stride` elements, at least 1.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn tile(
    (x, stride): (&[u16], usize),
    weights: &PackedBf16,
    (first, panels): (usize, usize),
    sums: &mut [[f32; PANEL]],
) {
    let lines = &weights.lines()[first * weights.panel_lines()..];
    let w = (lines, weights.panel_lines());
    match panels {
        4 => of_panels::<4>((x, stride), w, sums),
        3 => of_panels::<3>((x, stride), w, sums),
        2 => of_panels::<2>((x, stride), w, sums),
        _ => of_panels::<1>((x, stride), w, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn of_panels<const P: usize>(
    (x, stride): (&[u16], usize),
    w: (&[Line], usize),
    sums: &mut [[f32; PANEL]],
) {
    match x.len() / stride {
        6 => of_rows::<6, P>((x, stride), w, sums),
        5 => of_rows::<5, P>((x, stride), w, sums),
        4 => of_rows::<4, P>((x, stride), w, sums),
        3 => of_rows::<3, P>((x, stride), w, sums),
        2 => of_rows::<2, P>((x, stride), w, sums),
        _ => of_rows::<1, P>((x, stride), w, sums),
    }
}

/// `w`: lines, and how many a panel has.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn of_rows<const R: usize, const P: usize>(
    (x, stride): (&[u16], usize),
    (lines, panel_lines): (&[Line], usize),
    sums: &mut [[f32; PANEL]],
) {
    assert!(x.len() == R * stride && stride == panel_lines * GROUP);
    assert!(lines.len() >= P * panel_lines && sums.len() == P * R);
    let mut totals = [[_mm512_setzero_ps(); P]; R];
    for group in 0..panel_lines {
        let weights: [__m512bh; P] = array::from_fn(|panel| {
            // SAFETY: panel < P and group < panel_lines, so the line is there (checked above); it
            // has 64 bytes and their alignment, and any bits are bf16.
            unsafe { lines.as_ptr().add(panel * panel_lines + group).cast::<__m512bh>().read() }
        });
        for (row, totals) in totals.iter_mut().enumerate() {
            // SAFETY: row < R and 2·group + 1 < stride, so the pair lies in x (checked above); both
            // types have 512 bits.
            let pair = unsafe {
                let pair = x.as_ptr().add(row * stride + group * GROUP).cast::<i32>();
                std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair.read_unaligned()))
            };
            for (total, &weights) in totals.iter_mut().zip(&weights) {
                *total = _mm512_dpbf16_ps(*total, pair, weights);
            }
        }
    }
    for (row, totals) in totals.iter().enumerate() {
        for (panel, &total) in totals.iter().enumerate() {
            // SAFETY: panel < P and row < R, so the sums lie there (checked above); they have the 64
            // bytes that are written.
            unsafe { _mm512_storeu_ps(sums[panel * R + row].as_mut_ptr(), total) };
        }
    }
}
