#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves them")]
//! The bf16 product with the dot product instruction, which adds pairs of products.

use std::arch::x86_64::*;
use std::array;
use std::marker::PhantomData;

use super::pack::{GROUP, PANEL};
use crate::element::lanes::Lanes;
use crate::wide::Finish;

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

/// Where sums go: 16 columns of a row at a time.
pub(crate) trait Sink {
    /// # Safety
    /// The CPU has the instructions of [`tile`], and the sink has a place for the row of this panel.
    unsafe fn put(&self, row: usize, panel: usize, sums: __m512);
}

/// Sums as they are: row r of panel p goes to `p·stride + r`.
pub(crate) struct Sums<'a> {
    sums: *mut [f32; PANEL],
    stride: usize,
    borrowed: PhantomData<&'a mut [[f32; PANEL]]>,
}

impl<'a> Sums<'a> {
    /// Sums of `rows` rows and `panels` panels.
    ///
    /// # Panics
    /// When there is no place for all.
    pub(crate) fn new(
        sums: &'a mut [[f32; PANEL]],
        stride: usize,
        [rows, panels]: [usize; 2],
    ) -> Self {
        assert!(panels == 0 || sums.len() >= (panels - 1) * stride + rows);
        Self { sums: sums.as_mut_ptr(), stride, borrowed: PhantomData }
    }
}

impl Sink for Sums<'_> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn put(&self, row: usize, panel: usize, sums: __m512) {
        // SAFETY: the caller's promise; a row has the 64 bytes that are written.
        unsafe { _mm512_storeu_ps(self.sums.add(panel * self.stride + row).cast(), sums) };
    }
}

/// Results: what becomes of sums, as `f32` or rounded. `WHOLE`: all panels have all columns.
struct Finished<'a, T, const WHOLE: bool> {
    /// What becomes of them in each panel.
    finish: [Finish<'a>; PANELS],
    /// The first result.
    y: *mut T,
    /// Elements from a row to the next.
    stride: usize,
}

impl<T: Lanes, const WHOLE: bool> Sink for Finished<'_, T, WHOLE> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn put(&self, row: usize, panel: usize, sums: __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let y = self.y.add(row * self.stride + panel * PANEL);
            self.finish[panel].write::<WHOLE, T>(row, sums, y);
        }
    }
}

/// The products of at most [`ROWS`] rows and the first `panels` panels, of which there are at most
/// [`PANELS`].
///
/// # Shapes
/// `x`: rows of `stride` elements, at least 2: as many groups as a panel has lines, or fewer.
///
/// # Safety
/// The sink has a place for each row and panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn tile<L>(
    x: (&[u16], usize),
    (w, panels): (Panels<'_, L>, usize),
    sink: &impl Sink,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match panels {
            2 => of_panels::<2, L>(x, w, sink),
            _ => of_panels::<1, L>(x, w, sink),
        }
    }
}

/// The results of such, what becomes of sums written from `y` on.
///
/// # Shapes
/// `y`: rows `stride` elements apart.
///
/// # Safety
/// What [`Finish::write`] asks for holds of each row and panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) unsafe fn finish<L, T: Lanes>(
    x: (&[u16], usize),
    (w, panels): (Panels<'_, L>, usize),
    finish: [Finish<'_>; PANELS],
    (y, stride): (*mut T, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        if finish[..panels].iter().all(Finish::is_whole) {
            tile(x, (w, panels), &Finished::<T, true> { finish, y, stride });
        } else {
            tile(x, (w, panels), &Finished::<T, false> { finish, y, stride });
        }
    }
}

/// # Safety
/// As for [`tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn of_panels<const P: usize, L>(x: (&[u16], usize), w: Panels<'_, L>, sink: &impl Sink) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.0.len() / x.1 {
            12 => of_rows::<12, P, L>(x, w, sink),
            11 => of_rows::<11, P, L>(x, w, sink),
            10 => of_rows::<10, P, L>(x, w, sink),
            9 => of_rows::<9, P, L>(x, w, sink),
            8 => of_rows::<8, P, L>(x, w, sink),
            7 => of_rows::<7, P, L>(x, w, sink),
            6 => of_rows::<6, P, L>(x, w, sink),
            5 => of_rows::<5, P, L>(x, w, sink),
            4 => of_rows::<4, P, L>(x, w, sink),
            3 => of_rows::<3, P, L>(x, w, sink),
            2 => of_rows::<2, P, L>(x, w, sink),
            _ => of_rows::<1, P, L>(x, w, sink),
        }
    }
}

/// # Safety
/// As for [`tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn of_rows<const R: usize, const P: usize, L>(
    (x, stride): (&[u16], usize),
    w: Panels<'_, L>,
    sink: &impl Sink,
) {
    let groups = stride / GROUP;
    assert!(x.len() == R * stride && stride == groups * GROUP && groups <= w.of_one);
    assert!(w.lines.len() >= P * w.of_one);
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
            // SAFETY: the caller's promise: panel < P and row < R.
            unsafe { sink.put(row, panel, total) };
        }
    }
}
