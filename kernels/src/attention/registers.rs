#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves them")]
//! What attention does with 16 numbers, or 32 bf16, in a register. All of it is inlined: a
//! release is built without optimization across units of compilation.

use std::arch::x86_64::*;

use crate::float::{Line, PANEL};
use crate::wide::transposed;

/// Elements of a row of a tile: bf16 in a register.
pub(super) const STEP: usize = 32;

/// 2ˣ for x ≤ 0 down to −126, 0 below; NaN stays NaN. The relative error is below 3e-7, or below 1.1e-4
/// where the result is rounded to bf16, which errs by up to 2⁻⁹.
///
/// What is hidden by a mask lies far below: a subnormal result there would take the CPU's slow path,
/// some hundred cycles.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn exp2_of_negative<const EXACT: bool>(x: __m512) -> __m512 {
    /// Least relative error on ±½, by Lawson's algorithm.
    const COEFFICIENTS: [f32; 5] =
        [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, std::f32::consts::LN_2];
    const FEW_COEFFICIENTS: [f32; 3] = [5.500_893_3e-2, 2.422_109_7e-1, 6.932_829e-1];
    let coefficients = if EXACT { &COEFFICIENTS[..] } else { &FEW_COEFFICIENTS };
    let least = _mm512_set1_ps(-126.0);
    // Also where x is not a number.
    let counts = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, least);
    // Where x is not a number, the second operand is taken.
    let x = _mm512_max_ps(least, x);
    let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let rest = _mm512_sub_ps(x, whole);
    let sum =
        coefficients[1..].iter().fold(_mm512_set1_ps(coefficients[0]), |sum, &coefficient| {
            _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient))
        });
    _mm512_maskz_scalef_ps(counts, _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.0)), whole)
}

/// The bf16 next to 32 numbers, and the bf16 next to what is left of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn split(x: [__m512; 2]) -> [__m512; 2] {
    let high = rounded(x);
    let back = [_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64::<1>(high)]
        .map(|half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))));
    let left = rounded([_mm512_sub_ps(x[0], back[0]), _mm512_sub_ps(x[1], back[1])]);
    [_mm512_castsi512_ps(high), _mm512_castsi512_ps(left)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded([low, high]: [__m512; 2]) -> __m512i {
    // SAFETY: both types are 512 bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// [`split`] for two rows at once that are not negative, as pairs of an element of each.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn split_pair(values: [__m512; 2]) -> [__m512; 2] {
    let high = values.map(|x| rounded_bits(x));
    let left = [0, 1].map(|i| rounded_bits(_mm512_sub_ps(values[i], _mm512_castsi512_ps(high[i]))));
    [paired(high), paired(left)]
}

/// The bits of the bf16 next to numbers that are not negative, as upper halves.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn rounded_bits(x: __m512) -> __m512i {
    let half = _mm512_set1_epi32(0x8000);
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper)
}

/// The upper halves of two rows as pairs of an element of each.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn paired([even, odd]: [__m512i; 2]) -> __m512 {
    _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32::<16>(even), odd))
}

/// The elements of one token of a head.
#[derive(Clone, Copy)]
pub(super) enum Row<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

impl Row<'_> {
    /// [`split`] of elements `column..column + 32`, zeros past the last; without `SPLIT` the second half
    /// is anything.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn halves<const SPLIT: bool>(self, column: usize) -> [__m512; 2] {
        match self {
            Self::F32(row) => {
                let rest = row.get(column..).unwrap_or_default();
                let values = match rest.first_chunk::<STEP>() {
                    // SAFETY: there are so many elements.
                    Some(row) => [0, PANEL].map(|i| unsafe { _mm512_loadu_ps(row[i..].as_ptr()) }),
                    None => {
                        let mut row = [0.0; STEP];
                        row[..rest.len()].copy_from_slice(rest);
                        // SAFETY: as above.
                        [0, PANEL].map(|i| unsafe { _mm512_loadu_ps(row[i..].as_ptr()) })
                    }
                };
                if SPLIT { split(values) } else { [_mm512_castsi512_ps(rounded(values)); 2] }
            }
            Self::Bf16(row) => {
                let rest = row.get(column..).unwrap_or_default();
                let mask = if rest.len() < STEP { (1 << rest.len()) - 1 } else { u32::MAX };
                // SAFETY: no more elements are read than there are.
                let high = unsafe { _mm512_maskz_loadu_epi16(mask, rest.as_ptr().cast()) };
                [_mm512_castsi512_ps(high), _mm512_setzero_ps()]
            }
        }
    }
}

/// 32 rows of 32 bf16 as columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub(super) fn turned(rows: [__m512; STEP]) -> [__m512; STEP] {
    let rows = rows.map(|row| _mm512_castps_si512(row));
    // Pairs of rows: elements 8·i to 8·i + 3 of both, and those behind.
    let low = std::array::from_fn(|i| _mm512_unpacklo_epi16(rows[2 * i], rows[2 * i + 1]));
    let high = std::array::from_fn(|i| _mm512_unpackhi_epi16(rows[2 * i], rows[2 * i + 1]));
    let turned = [low, high]
        .map(|pairs: [__m512i; PANEL]| transposed(pairs.map(|pair| _mm512_castsi512_ps(pair))));
    std::array::from_fn(|column| turned[column % 8 / 4][column / 8 * 4 + column % 4])
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(values: &[f32; PANEL]) -> __m512 {
    // SAFETY: the array has the 64 bytes that are read.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(line: &mut Line, values: __m512) {
    // SAFETY: a line has the 64 bytes that are written.
    unsafe { _mm512_storeu_ps(line.0.as_mut_ptr(), values) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::{Cpu, Tier};

    #[target_feature(enable = "avx512f")]
    fn exp2_of<const EXACT: bool>(x: &[f32; PANEL]) -> [f32; PANEL] {
        let mut y = Line::default();
        store(&mut y, exp2_of_negative::<EXACT>(load(x)));
        y.0
    }

    #[test]
    fn exp2_is_within_its_bound_and_never_subnormal() {
        if Cpu::with_tier(Tier::Avx512).is_err() {
            eprintln!("skipped: this CPU has no AVX-512");
            return;
        }
        check_exp2::<true>(3e-7);
        check_exp2::<false>(1.1e-4);
    }

    fn check_exp2<const EXACT: bool>(bound: f64) {
        // SAFETY: the caller found the tier.
        let exp2 = |x: &[f32; PANEL]| unsafe { exp2_of::<EXACT>(x) };
        for first in 0..20_000 {
            let x: [f32; PANEL] = std::array::from_fn(|i| -((first * PANEL + i) as f32) / 2500.0);
            for (x, found) in x.into_iter().zip(exp2(&x)) {
                let expected = f64::from(x).exp2();
                if x < -126.0 {
                    assert_eq!(found, 0.0, "{x}");
                } else {
                    assert!(found.is_normal(), "{x}: {found:e}");
                    assert!((f64::from(found) / expected - 1.0).abs() < bound, "{x}: {found:e}");
                }
            }
        }
        assert_eq!(exp2(&[f32::NEG_INFINITY; PANEL]), [0.0; PANEL]);
        assert_eq!(exp2(&[-3.4e38; PANEL]), [0.0; PANEL]);
        assert!(exp2(&[f32::NAN; PANEL]).iter().all(|y| y.is_nan()));
    }
}
