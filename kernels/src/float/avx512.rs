#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! The `f32` product with 512-bit fused multiply-adds.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::ptr;

use super::tile::{Destination, Start};
use super::{Left, Line, PANEL, Panels};
use crate::activation::Activation;
use crate::wide::{AT_ONCE, clamp, gelu, transposed};

/// Rows of a tile: 12 rows × 2 panels of sums, 2 registers of weights and one of the left side use
/// 27 of 32 registers.
pub(super) const ROWS: usize = 12;

/// The twin of [`super::portable::tile`], for at most [`ROWS`] rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn tile(x: Left<'_>, w: Panels<'_>, values: &mut [f32]) {
    let width = values.len() / x.count();
    let to = Destination {
        start: Start::Result,
        y: values.as_mut_ptr(),
        stride: width,
        columns: width,
        addend: None,
    };
    // SAFETY: rows of so many columns lie in the values, which are borrowed.
    unsafe { tile_into(&x, w, &to, Activation::Identity) };
}

/// [`tile`] whose sums start and go where `to` says, without being laid down in between.
///
/// # Safety
/// As for [`multiply_into`](super::tile::multiply_into).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn tile_into(
    x: &Left<'_>,
    w: Panels<'_>,
    to: &Destination<'_>,
    activation: Activation,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.count() {
            12 => panels_into::<12, 2>(x, w, to, activation),
            11 => panels_into::<11, 2>(x, w, to, activation),
            10 => panels_into::<10, 2>(x, w, to, activation),
            9 => panels_into::<9, 2>(x, w, to, activation),
            8 => panels_into::<8, 2>(x, w, to, activation),
            7 => panels_into::<7, 2>(x, w, to, activation),
            6 => panels_into::<6, 4>(x, w, to, activation),
            5 => panels_into::<5, 4>(x, w, to, activation),
            4 => panels_into::<4, 4>(x, w, to, activation),
            3 => panels_into::<3, 4>(x, w, to, activation),
            2 => panels_into::<2, 4>(x, w, to, activation),
            _ => panels_into::<1, 4>(x, w, to, activation),
        }
    }
}

/// # Safety
/// As for [`tile_into`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn panels_into<const R: usize, const P: usize>(
    x: &Left<'_>,
    w: Panels<'_>,
    to: &Destination<'_>,
    activation: Activation,
) {
    let starts: [usize; R] = x.starts();
    for (group, lines) in w.lines.chunks(P * x.k()).enumerate() {
        let column = group * P * PANEL;
        // SAFETY: the caller's promise.
        unsafe {
            if lines.len() == P * x.k() {
                rows_into::<R, P>((x, &starts), Panels { lines, ..w }, to, (column, activation));
            } else {
                for (panel, lines) in lines.chunks_exact(x.k()).enumerate() {
                    let column = column + panel * PANEL;
                    rows_into::<R, 1>(
                        (x, &starts),
                        Panels { lines, ..w },
                        to,
                        (column, activation),
                    );
                }
            }
        }
    }
}

/// `P` panels from `column` on.
///
/// # Safety
/// As for [`tile_into`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn rows_into<const R: usize, const P: usize>(
    (x, starts): (&Left<'_>, &[usize; R]),
    w: Panels<'_>,
    to: &Destination<'_>,
    (column, activation): (usize, Activation),
) {
    let kept = from_fn(|panel| {
        let kept = to.columns.saturating_sub(column + panel * PANEL).min(PANEL);
        ((1u32 << kept) - 1) as __mmask16
    });
    let y = Place { at: to.y.wrapping_add(column), stride: to.stride };
    let zeros = [0.0; MOST_PANELS * PANEL];
    let start = match to.start {
        Start::Zeros => Place { at: zeros.as_ptr(), stride: 0 },
        Start::Bias(bias) => Place { at: bias.as_ptr().wrapping_add(column), stride: 0 },
        Start::Result => Place { at: y.at.cast_const(), stride: y.stride },
        Start::RowBias(bias) => {
            for (row, &bias) in bias.iter().enumerate() {
                for (panel, &kept) in kept.iter().enumerate() {
                    let bias = _mm512_set1_ps(bias);
                    // SAFETY: the caller's promise: these are elements of the result.
                    unsafe { _mm512_mask_storeu_ps(y.of(row, panel), kept, bias) };
                }
            }
            Place { at: y.at.cast_const(), stride: y.stride }
        }
    };
    // SAFETY: the caller's promise: the elements of the result, of an addend, and of a bias, of which
    // there is one for each column, are there; no others are kept.
    unsafe {
        // A pointer goes through a register, where an option of more goes through memory.
        let addend = match to.addend {
            Some(addend) => addend.wrapping_add(column),
            None => ptr::null(),
        };
        sums::<R, P>((x, starts), w, kept, (start, y), (addend, activation.limits()));
        if activation == Activation::Gelu {
            gelu_of::<R, P>(kept, y);
        }
    }
}

/// Panels of a row that are multiplied at once, over all numbers of rows.
const MOST_PANELS: usize = 4;

/// Rows of elements, `stride` apart.
#[derive(Clone, Copy)]
struct Place<T> {
    at: T,
    stride: usize,
}

impl Place<*const f32> {
    #[inline]
    fn of(self, row: usize, panel: usize) -> *const f32 {
        self.at.wrapping_add(row * self.stride + panel * PANEL)
    }
}

impl Place<*mut f32> {
    #[inline]
    fn of(self, row: usize, panel: usize) -> *mut f32 {
        self.at.wrapping_add(row * self.stride + panel * PANEL)
    }
}

/// `y = start + x·w + addend`, within limits where there are some, for `R` rows and `P` panels. An addend
/// is laid out like y; null is none.
///
/// A function of its own from the first load to the last store: compiled into another, it was seen to
/// lose half of its speed, because sums did not stay in registers.
///
/// # Safety
/// The kept elements of `start` and of an addend can be read, those of y be written.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn sums<const R: usize, const P: usize>(
    (x, starts): (&Left<'_>, &[usize; R]),
    Panels { lines: w, ahead }: Panels<'_>,
    kept: [__mmask16; P],
    (start, y): (Place<*const f32>, Place<*mut f32>),
    (addend, limits): (*const f32, Option<[f32; 2]>),
) {
    let k = x.k();
    assert!(w.len() == P * k);
    // Found before there are sums, which would leave their registers for it.
    let (mut data, mut len) = x.run(starts[R - 1], 0);
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (panel, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *sum = unsafe { _mm512_maskz_loadu_ps(kept[panel], start.of(row, panel)) };
        }
    }
    let mut first = 0;
    loop {
        for inside in 0..len {
            let index = first + inside;
            // A row alone is as fast as its weights come, and asks for them in order.
            if R > 1 {
                for panel in 0..P {
                    let next = w.as_ptr().wrapping_add(panel * k + index + ahead);
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                }
            }
            let weights: [__m512; P] = from_fn(|panel| {
                // SAFETY: panel < P and index < k, so the line lies in w (checked above); it has
                // 64 bytes and their alignment.
                unsafe { _mm512_load_ps(w.as_ptr().add(panel * k + index).cast()) }
            });
            for (start, sums) in starts.iter().zip(&mut sums) {
                // SAFETY: inside < len, and `Left::run` checked so many from the last start on, which
                // is the greatest.
                let x = _mm512_set1_ps(unsafe { *data.get_unchecked(start + inside) });
                for (sum, &weights) in sums.iter_mut().zip(&weights) {
                    *sum = _mm512_fmadd_ps(x, weights, *sum);
                }
            }
        }
        first += len;
        if first >= k {
            break;
        }
        (data, len) = x.run(starts[R - 1], first);
    }
    if !addend.is_null() {
        let addend = Place { at: addend, stride: y.stride };
        for (row, sums) in sums.iter_mut().enumerate() {
            for (panel, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let addend = unsafe { _mm512_maskz_loadu_ps(kept[panel], addend.of(row, panel)) };
                *sum = _mm512_add_ps(*sum, addend);
            }
        }
    }
    if let Some([low, high]) = limits {
        for sums in &mut sums {
            for sum in sums {
                *sum = clamp(*sum, low, high);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (panel, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { _mm512_mask_storeu_ps(y.of(row, panel), kept[panel], sum) };
        }
    }
}

/// `y = gelu(y)`, while y is in the cache.
///
/// # Safety
/// The kept elements of y can be read and written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn gelu_of<const R: usize, const P: usize>(kept: [__mmask16; P], y: Place<*mut f32>) {
    let mut values: [[__m512; P]; R] = from_fn(|row| {
        // SAFETY: the caller's promise.
        from_fn(|panel| unsafe { _mm512_maskz_loadu_ps(kept[panel], y.of(row, panel)) })
    });
    let (several, rest) = values.as_flattened_mut().as_chunks_mut::<AT_ONCE>();
    several.iter_mut().for_each(|values| *values = gelu(*values));
    rest.iter_mut().for_each(|value| [*value] = gelu([*value]));
    for (row, values) in values.iter().enumerate() {
        for (panel, &value) in values.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { _mm512_mask_storeu_ps(y.of(row, panel), kept[panel], value) };
        }
    }
}

/// Writes the columns of 16 rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn square(rows: [&[f32; PANEL]; PANEL], lines: &mut [Line; PANEL]) {
    // SAFETY: a row has the 64 bytes that are read.
    let columns = transposed(rows.map(|row| unsafe { _mm512_loadu_ps(row.as_ptr()) }));
    for (line, column) in lines.iter_mut().zip(columns) {
        // SAFETY: a line has the 64 bytes that are written.
        unsafe { _mm512_storeu_ps(line.0.as_mut_ptr(), column) };
    }
}
