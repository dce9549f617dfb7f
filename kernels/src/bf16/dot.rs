#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves them")]
//! The bf16 product with the dot product instruction, which adds pairs of products.

use std::arch::x86_64::*;
use std::array;

use super::pack::{GROUP, PANEL};

/// Rows of a tile: 12 rows × 2 panels of sums, 2 registers of weights and one of x use 27 of the 32
/// registers.
pub(crate) const ROWS: usize = 12;

/// Most panels of a tile.
pub(crate) const PANELS: usize = 2;

/// Panels of 16 columns, each of so many lines of 16 pairs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a, L> {
    lines: &'a [L],
    of_one: usize,
    /// Lines from one that is multiplied to the one that is fetched meanwhile.
    ahead: usize,
}

impl<'a, L> Panels<'a, L> {
    /// Panels of `of_one` lines.
    pub(crate) const fn new(lines: &'a [L], of_one: usize) -> Self {
        assert!(size_of::<L>() == 64 && align_of::<L>() == 64);
        Self { lines, of_one, ahead: 0 }
    }

    /// The same, for a product that fetches what lies so many lines behind what it reads: the panels
    /// that come next, where the caches of a core do not hold them.
    pub(crate) const fn fetching(self, ahead: usize) -> Self {
        Self { ahead, ..self }
    }
}

/// The products of at most [`ROWS`] rows and the first `panels` panels, of which there are at most
/// [`PANELS`]: row r of panel p is left in `sums[p·stride + r]`.
///
/// # Shapes
/// `x`: rows of `stride` elements, at least 2: as many groups as a panel has lines, or fewer.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) fn tile<L>(
    x: (&[u16], usize),
    (w, panels): (Panels<'_, L>, usize),
    sums: (&mut [[f32; PANEL]], usize),
) {
    match panels {
        2 => of_panels::<2, L>(x, w, sums),
        _ => of_panels::<1, L>(x, w, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn of_panels<const P: usize, L>(
    x: (&[u16], usize),
    w: Panels<'_, L>,
    sums: (&mut [[f32; PANEL]], usize),
) {
    match x.0.len() / x.1 {
        12 => of_rows::<12, P, L>(x, w, sums),
        11 => of_rows::<11, P, L>(x, w, sums),
        10 => of_rows::<10, P, L>(x, w, sums),
        9 => of_rows::<9, P, L>(x, w, sums),
        8 => of_rows::<8, P, L>(x, w, sums),
        7 => of_rows::<7, P, L>(x, w, sums),
        6 => of_rows::<6, P, L>(x, w, sums),
        5 => of_rows::<5, P, L>(x, w, sums),
        4 => of_rows::<4, P, L>(x, w, sums),
        3 => of_rows::<3, P, L>(x, w, sums),
        2 => of_rows::<2, P, L>(x, w, sums),
        _ => of_rows::<1, P, L>(x, w, sums),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn of_rows<const R: usize, const P: usize, L>(
    (x, stride): (&[u16], usize),
    w: Panels<'_, L>,
    (sums, sums_stride): (&mut [[f32; PANEL]], usize),
) {
    let groups = stride / GROUP;
    assert!(x.len() == R * stride && stride == groups * GROUP && groups <= w.of_one);
    assert!(w.lines.len() >= P * w.of_one && sums.len() >= (P - 1) * sums_stride + R);
    let mut totals = [[_mm512_setzero_ps(); P]; R];
    for group in 0..groups {
        for panel in 0..P {
            let line = panel * w.of_one + group + w.ahead;
            _mm_prefetch::<_MM_HINT_T1>(w.lines.as_ptr().wrapping_add(line).cast());
        }
        let weights: [__m512bh; P] = array::from_fn(|panel| {
            // SAFETY: panel < P and group < groups, so the line is there (checked above); it has 64
            // bytes and their alignment (`Panels::new`), and any bits are bf16.
            unsafe { w.lines.as_ptr().add(panel * w.of_one + group).cast::<__m512bh>().read() }
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
            unsafe { _mm512_storeu_ps(sums[panel * sums_stride + row].as_mut_ptr(), total) };
        }
    }
}
