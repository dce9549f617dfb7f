#![allow(unsafe_code, reason = "intrinsics, and calls of code for detected instruction sets")]
//! Products of windows with few filters: a panel of 16 filters would be mostly zeros, so the lanes are
//! elements of a window.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::float::Left;
use crate::parallel::check_len;
#[cfg(target_arch = "x86_64")]
use crate::tier::Tier;
use crate::tier::{Cpu, tiered};

/// Sums that a product is kept in, which are added by halves in the end.
const LANES: usize = 16;

/// What adding up the lanes takes, in products of as many.
const ADDING: usize = 10;

/// Products of lanes, or what takes as long, for a window.
pub(super) const fn steps(filters: usize, k: usize) -> usize {
    filters * (k / LANES + ADDING)
}

/// Whether so few filters of `k` elements take less time so: at most half as many steps.
pub(super) const fn are_few(filters: usize, k: usize) -> bool {
    filters > 0 && 2 * steps(filters, k) <= k
}

/// `y[window, filter] = window · filter`. The elements of each piece of a window go to the lanes in turn.
///
/// # Shapes
/// `filters`: `[y.len() / windows, k]`
///
/// # Panics
/// When a length differs.
pub(super) fn multiply(cpu: Cpu, windows: &Left<'_>, filters: &[f32], y: &mut [f32]) {
    let k = windows.k();
    let count = filters.len() / k.max(1);
    check_len("few: filters", filters.len(), count * k);
    check_len("few: y", y.len(), windows.count() * count);
    if y.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if cpu.tier() >= Tier::Avx512 {
        // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
        unsafe { avx512(windows, filters, y) };
        return;
    }
    one_by_one(cpu, windows, filters, y);
}

tiered! {
    fn one_by_one(windows: &Left<'_>, filters: &[f32], y: &mut [f32]) {
        let k = windows.k();
        let starts = windows.starts_of(0..windows.count());
        for (start, y) in starts.zip(y.chunks_exact_mut(filters.len() / k)) {
            for (filter, y) in filters.chunks_exact(k).zip(y) {
                let mut lanes = [0.0f32; LANES];
                for (index, piece) in windows.pieces(start) {
                    let filter = &filter[index..][..piece.len()];
                    for (x, weights) in piece.chunks(LANES).zip(filter.chunks(LANES)) {
                        for ((lane, &x), &weight) in lanes.iter_mut().zip(x).zip(weights) {
                            *lane = x.mul_add(weight, *lane);
                        }
                    }
                }
                let mut half = LANES / 2;
                while half > 0 {
                    for lane in 0..half {
                        lanes[lane] += lanes[lane + half];
                    }
                    half /= 2;
                }
                *y = lanes[0];
            }
        }
    }
}

/// [`one_by_one`] in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn avx512(windows: &Left<'_>, filters: &[f32], y: &mut [f32]) {
    let k = windows.k();
    let starts = windows.starts_of(0..windows.count());
    for (start, y) in starts.zip(y.chunks_exact_mut(filters.len() / k)) {
        for (filter, y) in filters.chunks_exact(k).zip(y) {
            let mut lanes = _mm512_setzero_ps();
            for (index, piece) in windows.pieces(start) {
                lanes = multiply_add(piece, &filter[index..][..piece.len()], lanes);
            }
            *y = added(lanes);
        }
    }
}

/// Adds the products of two slices, which have the same length, to lanes in turn.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add(x: &[f32], weights: &[f32], mut lanes: __m512) -> __m512 {
    let len = x.len().min(weights.len());
    for start in (0..len).step_by(LANES) {
        let mask = ((1u32 << (len - start).min(LANES)) - 1) as __mmask16;
        // SAFETY: start < len, and the lanes of the mask are among those up to `len` in both slices.
        let [x, weights] = [x, weights]
            .map(|slice| unsafe { _mm512_maskz_loadu_ps(mask, slice.as_ptr().add(start)) });
        // Lanes that are not there keep their sums, of whatever sign.
        lanes = _mm512_mask3_fmadd_ps(x, weights, lanes, mask);
    }
    lanes
}

/// The sum of all lanes, by halves.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn added(lanes: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
