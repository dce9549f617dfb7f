#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! The `f32` product with 512-bit fused multiply-adds.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::tile::{Destination, Start};
use super::{Left, Line, PANEL, Panels};
use crate::activation::Activation;
use crate::wide::{AT_ONCE, gelu, relu, transposed};

/// Rows of a tile: 12 rows × 2 panels of sums, 2 registers of weights and one of the left side use
/// 27 of 32 registers.
pub(super) const ROWS: usize = 12;

/// The twin of [`super::portable::tile`], for at most [`ROWS`] rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn tile(x: Left<'_>, w: Panels<'_>, values: &mut [f32]) {
    match x.count() {
        12 => panels::<12, 2>(x, w, values),
        11 => panels::<11, 2>(x, w, values),
        10 => panels::<10, 2>(x, w, values),
        9 => panels::<9, 2>(x, w, values),
        8 => panels::<8, 2>(x, w, values),
        7 => panels::<7, 2>(x, w, values),
        6 => panels::<6, 4>(x, w, values),
        5 => panels::<5, 4>(x, w, values),
        4 => panels::<4, 4>(x, w, values),
        3 => panels::<3, 4>(x, w, values),
        2 => panels::<2, 4>(x, w, values),
        _ => panels::<1, 4>(x, w, values),
    }
}

/// `P` panels at a time: few rows need several to hide the latency.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn panels<const R: usize, const P: usize>(x: Left<'_>, w: Panels<'_>, values: &mut [f32]) {
    let width = values.len() / R;
    let mut column = 0;
    for lines in w.lines.chunks(P * x.k()) {
        if lines.len() == P * x.k() {
            rows::<R, P>(x, Panels { lines, ..w }, &mut values[column..], width);
        } else {
            for (panel, lines) in lines.chunks_exact(x.k()).enumerate() {
                let values = &mut values[column + panel * PANEL..];
                rows::<R, 1>(x, Panels { lines, ..w }, values, width);
            }
        }
        column += P * PANEL;
    }
}

/// Adds to `P` panels of each row of `values`, rows `width` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn rows<const R: usize, const P: usize>(
    x: Left<'_>,
    w: Panels<'_>,
    values: &mut [f32],
    width: usize,
) {
    assert!(values.len() >= (R - 1) * width + P * PANEL);
    let place = |row: usize, panel: usize| row * width + panel * PANEL;
    let sums = from_fn(|row| {
        from_fn(|panel| {
            // SAFETY: row < R and panel < P, so 16 elements lie at this place (checked above).
            unsafe { _mm512_loadu_ps(values.as_ptr().add(place(row, panel))) }
        })
    });
    let sums: [[__m512; P]; R] = chains(x, w, sums);
    for (row, sums) in sums.iter().enumerate() {
        for (panel, &sum) in sums.iter().enumerate() {
            // SAFETY: as for the loads.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr().add(place(row, panel)), sum) };
        }
    }
}

/// Goes on with the sums of `R` rows and `P` panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn chains<const R: usize, const P: usize>(
    x: Left<'_>,
    Panels { lines: w, ahead }: Panels<'_>,
    mut sums: [[__m512; P]; R],
) -> [[__m512; P]; R] {
    let k = x.k();
    assert!(w.len() == P * k);
    let starts: [usize; R] = x.starts();
    let mut first = 0;
    while first < k {
        let (data, len) = x.run(starts[R - 1], first);
        for inside in 0..len {
            let index = first + inside;
            for panel in 0..P {
                let next = w.as_ptr().wrapping_add(panel * k + index + ahead);
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
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
    }
    sums
}

/// [`tile`] whose sums start and go where `to` says, without being laid down in between.
///
/// # Safety
/// As for [`multiply_into`](super::tile::multiply_into).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn tile_into(
    x: Left<'_>,
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
    x: Left<'_>,
    w: Panels<'_>,
    to: &Destination<'_>,
    activation: Activation,
) {
    for (group, lines) in w.lines.chunks(P * x.k()).enumerate() {
        let column = group * P * PANEL;
        // SAFETY: the caller's promise.
        unsafe {
            if lines.len() == P * x.k() {
                rows_into::<R, P>(x, Panels { lines, ..w }, to, (column, activation));
            } else {
                for (panel, lines) in lines.chunks_exact(x.k()).enumerate() {
                    let column = column + panel * PANEL;
                    rows_into::<R, 1>(x, Panels { lines, ..w }, to, (column, activation));
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
    x: Left<'_>,
    w: Panels<'_>,
    to: &Destination<'_>,
    (column, activation): (usize, Activation),
) {
    let column_of = |panel: usize| column + panel * PANEL;
    let kept: [__mmask16; P] = from_fn(|panel| {
        let kept = to.columns.saturating_sub(column_of(panel)).min(PANEL);
        ((1u32 << kept) - 1) as __mmask16
    });
    let place = |row: usize, panel: usize| to.y.wrapping_add(row * to.stride + column_of(panel));
    let sums = match to.start {
        Start::Zeros => [[_mm512_setzero_ps(); P]; R],
        Start::Bias(bias) => {
            let bias: [__m512; P] = from_fn(|panel| {
                let bias = bias.as_ptr().wrapping_add(column_of(panel));
                // SAFETY: the bias has an element for each column, and no others are read.
                unsafe { _mm512_maskz_loadu_ps(kept[panel], bias) }
            });
            [bias; R]
        }
        Start::RowBias(bias) => {
            let bias: &[f32; R] = bias.first_chunk().expect("an element for each row");
            bias.map(|bias| [_mm512_set1_ps(bias); P])
        }
        Start::Result => from_fn(|row| {
            from_fn(|panel| {
                // SAFETY: the caller's promise: these are elements of the result, and no others
                // are read.
                unsafe { _mm512_maskz_loadu_ps(kept[panel], place(row, panel)) }
            })
        }),
    };
    let mut sums: [[__m512; P]; R] = chains(x, w, sums);
    if let Some(addend) = to.addend {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (panel, sum) in sums.iter_mut().enumerate() {
                let addend = addend.wrapping_add(row * to.stride + column_of(panel));
                // SAFETY: the caller's promise: it has the elements of the result.
                let addend = unsafe { _mm512_maskz_loadu_ps(kept[panel], addend) };
                *sum = _mm512_add_ps(*sum, addend);
            }
        }
    }
    match activation {
        Activation::Relu => sums.as_flattened_mut().iter_mut().for_each(|sum| *sum = relu(*sum)),
        Activation::Gelu => {
            let (several, rest) = sums.as_flattened_mut().as_chunks_mut::<AT_ONCE>();
            several.iter_mut().for_each(|sums| *sums = gelu(*sums));
            rest.iter_mut().for_each(|sum| [*sum] = gelu([*sum]));
        }
        _ => {}
    }
    for (row, sums) in sums.iter().enumerate() {
        for (panel, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise, as above.
            unsafe { _mm512_mask_storeu_ps(place(row, panel), kept[panel], sum) };
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
