#![allow(unsafe_code, reason = "intrinsics; only called where AVX2 and FMA were detected")]
//! The `f32` product with 256-bit fused multiply-adds.

use std::arch::x86_64::*;

use super::transpose::SIDE;
use super::{Left, Line, PANEL};

/// Rows of a tile: 6 rows × 2 registers of sums leave 4 of 16 registers for the operands.
pub(super) const ROWS: usize = 6;

/// Elements of a register.
const LANES: usize = 8;

/// Lines that are fetched before they are multiplied: what does not fit the first cache comes from
/// the second as fast as it is used.
const AHEAD: usize = 12;

/// The twin of [`super::portable::tile`], for at most [`ROWS`] rows.
#[target_feature(enable = "avx2,fma")]
pub(super) fn tile(x: Left<'_>, w: &[Line], values: &mut [f32]) {
    match x.count() {
        6 => panels::<6, 2>(x, w, values),
        5 => panels::<5, 2>(x, w, values),
        4 => panels::<4, 2>(x, w, values),
        3 => panels::<3, 4>(x, w, values),
        2 => panels::<2, 4>(x, w, values),
        _ => panels::<1, 8>(x, w, values),
    }
}

/// `V` registers of columns at a time: few rows need several panels to hide the latency.
#[target_feature(enable = "avx2,fma")]
fn panels<const R: usize, const V: usize>(x: Left<'_>, w: &[Line], values: &mut [f32]) {
    let at_once = V * LANES / PANEL;
    let width = values.len() / R;
    let mut column = 0;
    for lines in w.chunks(at_once * x.k()) {
        if lines.len() == at_once * x.k() {
            rows::<R, V>(x, lines, &mut values[column..], width);
        } else {
            for (panel, lines) in lines.chunks_exact(x.k()).enumerate() {
                rows::<R, 2>(x, lines, &mut values[column + panel * PANEL..], width);
            }
        }
        column += at_once * PANEL;
    }
}

/// Adds to `V` registers of each row of `values`, rows `width` apart.
#[target_feature(enable = "avx2,fma")]
fn rows<const R: usize, const V: usize>(x: Left<'_>, w: &[Line], values: &mut [f32], width: usize) {
    let k = x.k();
    assert!(w.len() == V * LANES / PANEL * k && values.len() >= (R - 1) * width + V * LANES);
    let place = |row: usize, part: usize| row * width + part * LANES;
    let mut sums: [[__m256; V]; R] = std::array::from_fn(|row| {
        std::array::from_fn(|part| {
            // SAFETY: row < R and part < V, so 8 elements lie at this place (checked above).
            unsafe { _mm256_loadu_ps(values.as_ptr().add(place(row, part))) }
        })
    });
    let starts: [usize; R] = x.starts();
    let mut first = 0;
    while first < k {
        let (data, len) = x.run(starts[R - 1], first);
        for inside in 0..len {
            let index = first + inside;
            for panel in 0..V * LANES / PANEL {
                let next = w.as_ptr().wrapping_add(panel * k + index + AHEAD);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
            }
            let weights: [__m256; V] = std::array::from_fn(|part| {
                let line = part * LANES / PANEL * k + index;
                let lane = part * LANES % PANEL;
                // SAFETY: part·8/16 < V·8/16 and index < k, so the line lies in w (checked above);
                // half a line is 32 aligned bytes.
                unsafe { _mm256_load_ps(w.as_ptr().add(line).cast::<f32>().add(lane)) }
            });
            for (start, sums) in starts.iter().zip(&mut sums) {
                // SAFETY: inside < len, and `Left::run` checked so many from the last start on, which
                // is the greatest.
                let x = unsafe { _mm256_broadcast_ss(data.get_unchecked(start + inside)) };
                for (sum, &weights) in sums.iter_mut().zip(&weights) {
                    *sum = _mm256_fmadd_ps(x, weights, *sum);
                }
            }
        }
        first += len;
    }
    for (row, sums) in sums.iter().enumerate() {
        for (part, &sum) in sums.iter().enumerate() {
            // SAFETY: as for the loads.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr().add(place(row, part)), sum) };
        }
    }
}

/// Writes the columns of eight rows. Left to itself, the compiler moves one element at a time.
#[target_feature(enable = "avx2")]
pub(super) fn square(rows: [&[f32; SIDE]; SIDE], places: [&mut [f32; SIDE]; SIDE]) {
    // SAFETY: a row has the 32 bytes that are read.
    let rows = rows.map(|row| unsafe { _mm256_loadu_ps(row.as_ptr()) });
    // Pairs of rows, then fours, then all eight.
    let pair = |i: usize| {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        [_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)].map(|row| _mm256_castps_pd(row))
    };
    let four = |[a, b]: [[__m256d; 2]; 2]| {
        [
            _mm256_unpacklo_pd(a[0], b[0]),
            _mm256_unpackhi_pd(a[0], b[0]),
            _mm256_unpacklo_pd(a[1], b[1]),
            _mm256_unpackhi_pd(a[1], b[1]),
        ]
        .map(|row| _mm256_castpd_ps(row))
    };
    let (low, high) = (four([pair(0), pair(1)]), four([pair(2), pair(3)]));
    for (column, place) in places.into_iter().enumerate() {
        let (a, b) = (low[column % 4], high[column % 4]);
        let values = if column < 4 {
            _mm256_permute2f128_ps::<0x20>(a, b)
        } else {
            _mm256_permute2f128_ps::<0x31>(a, b)
        };
        // SAFETY: a place has the 32 bytes that are written.
        unsafe { _mm256_storeu_ps(place.as_mut_ptr(), values) };
    }
}
