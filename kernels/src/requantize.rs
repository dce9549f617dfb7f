#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! Integer sums to int8 in one step, where that surely gives what scaling, adding a bias and rounding give
//! one after another.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::hint::{black_box, cold_path};

use crate::int8::Quantization;
use crate::wide::{Rounder, Rounding};

/// Registers whose bytes make one.
pub(crate) const REGISTERS: usize = 4;

/// Elements of these registers.
const AT_ONCE: usize = 16 * REGISTERS;

/// Bounds that no layer reaches that was quantized for what it sees; with them no step is beyond an `i32`.
const LARGEST_FACTOR: f32 = 0.99;
const LARGEST_ADDEND: f32 = (1 << 20) as f32;

/// Rounding of one operation.
const UNIT: f32 = f32::EPSILON / 2.0;

/// `round(sum·factor + addend)` in place of `round((sum·scale + bias) / step)`, with the factor `scale / step`
/// and the addend `bias / step`.
///
/// Both are the same integer unless the real quotient lies close to the middle of two. Let N be the size of
/// `sum·scale / step`, B that of `bias / step` and V that of their sum. One after another, the operations err
/// by `N + 2V` units of rounding; in one step, whose factor and addend are products with a rounded reciprocal,
/// by `2N + 2B + V`. With N ≤ V + B that is `6V + 5B` together, and where V is beyond 256 both become the same
/// limit.
pub(crate) struct Requantizer {
    factors: [__m512; REGISTERS],
    addends: [__m512; REGISTERS],
    steps: Steps,
    /// What goes one after another.
    scales: [__m512; REGISTERS],
    bias: [__m512; REGISTERS],
}

impl Requantizer {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(crate) fn new(
        scales: [__m512; REGISTERS],
        bias: [__m512; REGISTERS],
        rounding: &Rounding,
    ) -> Self {
        let inverse = _mm512_set1_ps(rounding.inverse());
        let factors = scales.map(|scales| _mm512_mul_ps(scales, inverse));
        let addends = bias.map(|bias| _mm512_mul_ps(bias, inverse));
        // What is no number is not below a bound.
        let are_below = |numbers: [__m512; REGISTERS], bound: f32| {
            let bound = _mm512_set1_ps(bound);
            numbers.into_iter().all(|numbers| {
                _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(numbers), bound) == u16::MAX
            })
        };
        let are_usual = are_below(factors, LARGEST_FACTOR) && are_below(addends, LARGEST_ADDEND);
        let [a, b, c, d] = addends.map(|addends| _mm512_abs_ps(addends));
        let most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)));
        let error = if are_usual { 8.0 * UNIT * (257.0 + most) } else { 1.0 };
        Self { factors, addends, steps: Steps::new(rounding, error), scales, bias }
    }

    /// The integers of sums, of which each 128 bits have four neighbours from each register.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(crate) fn round(&self, sums: [__m512i; REGISTERS]) -> __m512i {
        let steps = from_fn(|i| {
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), self.factors[i], self.addends[i])
        });
        if let Some(integers) = self.steps.round(steps) {
            return integers;
        }
        cold_path();
        self.one_after_another(sums)
    }

    /// Part of its caller: a call would have the sums laid down, whether it is made or not.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    fn one_after_another(&self, sums: [__m512i; REGISTERS]) -> __m512i {
        self.steps.rounder.round_four(from_fn(|i| {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i]), self.scales[i]);
            _mm512_add_ps(scaled, self.bias[i])
        }))
    }
}

/// `round(a·factor + b·factor)` in place of `round((a·scale + b·scale) / step)`, for the sum of two int8 values.
///
/// With the sizes A and B of the two addends in steps, and V that of their sum, the operations err by
/// `A + B + 2V` units of rounding one after another, and by `3A + 2B + V` in one step, together by at most
/// `7 (A + B)`.
pub(crate) struct RequantizedSum {
    zeros: [__m512i; 2],
    factors: [__m512; 2],
    steps: Steps,
    /// What goes one after another.
    scales: [__m512; 2],
}

impl RequantizedSum {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(crate) fn new(from: [Quantization; 2], rounding: &Rounding) -> Self {
        let factors = from.map(|from| from.scale * rounding.inverse());
        let most = 255.0 * (factors[0].abs() + factors[1].abs());
        // What is no number is not below a bound.
        let error = if most < LARGEST_ADDEND { 8.0 * UNIT * (1.0 + most) } else { 1.0 };
        Self {
            zeros: from.map(|from| _mm512_set1_epi32(from.zero_point.into())),
            factors: factors.map(|factor| _mm512_set1_ps(factor)),
            steps: Steps::new(rounding, error),
            scales: from.map(|from| _mm512_set1_ps(from.scale)),
        }
    }

    /// Writes sums of as many elements as registers have, and says how many they were: the last ones fill
    /// none.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(crate) fn write(&self, [a, b]: [&[i8]; 2], y: &mut [i8]) -> usize {
        let (a, b) = (a.as_chunks::<AT_ONCE>().0, b.as_chunks::<AT_ONCE>().0);
        for ((a, b), y) in a.iter().zip(b).zip(y.as_chunks_mut::<AT_ONCE>().0) {
            let [a, b] = [self.terms(a, 0), self.terms(b, 1)];
            let [of_a, of_b] = self.factors;
            let steps = from_fn(|i| _mm512_fmadd_ps(b[i], of_b, _mm512_mul_ps(a[i], of_a)));
            let integers = self.steps.round(steps).unwrap_or_else(|| {
                cold_path();
                let [of_a, of_b] = self.scales;
                self.steps.rounder.round_four(from_fn(|i| {
                    _mm512_add_ps(_mm512_mul_ps(a[i], of_a), _mm512_mul_ps(b[i], of_b))
                }))
            });
            // SAFETY: the array has the 64 bytes that are written.
            unsafe { _mm512_storeu_si512(y.as_mut_ptr().cast(), by_register(integers)) };
        }
        y.len() / AT_ONCE * AT_ONCE
    }

    /// Distances to the zero point.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    fn terms(&self, x: &[i8; AT_ONCE], which: usize) -> [__m512; REGISTERS] {
        from_fn(|i| {
            // SAFETY: 16 bytes from each sixteenth on are some of the 64.
            let bytes = unsafe { _mm_loadu_si128(x.as_ptr().add(16 * i).cast()) };
            _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepi8_epi32(bytes), self.zeros[which]))
        })
    }
}

/// Of four neighbours from each register in turn, to those of one register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn by_register(values: __m512i) -> __m512i {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, values)
}

/// Rounding of steps that are known but for an error.
struct Steps {
    /// 1, unknown to the compiler, which would take a difference for the product with it.
    one: __m512,
    /// Distance to the nearest integer from which on another may be meant.
    doubtful: __m512,
    /// Of 16 bits.
    zero: __m512i,
    /// Of 8 bits.
    low: __m512i,
    high: __m512i,
    /// For steps one after another.
    rounder: Rounder,
}

impl Steps {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(rounding: &Rounding, error: f32) -> Self {
        let to = rounding.to();
        Self {
            one: black_box(_mm512_set1_ps(1.0)),
            doubtful: _mm512_set1_ps(0.5 - error),
            zero: _mm512_set1_epi16(to.zero_point.into()),
            low: _mm512_set1_epi8(to.min),
            high: _mm512_set1_epi8(to.max),
            rounder: rounding.rounder(),
        }
    }

    /// The integers, where all are sure: each 128 bits have four neighbours from each register.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    fn round(&self, steps: [__m512; REGISTERS]) -> Option<__m512i> {
        const ROUNDING: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // The larger size, without a sign.
        const LARGER: i32 = 0b1011;
        let integers = steps.map(|steps| _mm512_cvt_roundps_epi32::<ROUNDING>(steps));
        // A difference as a product: other units compute those than conversions.
        let beside: [__m512; REGISTERS] =
            from_fn(|i| _mm512_fnmadd_ps(_mm512_cvtepi32_ps(integers[i]), self.one, steps[i]));
        let farthest = beside
            .into_iter()
            .fold(beside[0], |far, beside| _mm512_range_ps::<LARGER>(far, beside));
        // What is no number is not below either.
        if _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(farthest, self.doubtful) != 0 {
            return None;
        }
        let [a, b, c, d] = integers;
        // Packing limits to 16 and to 8 bits.
        let low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), self.zero);
        let high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), self.zero);
        let values = _mm512_packs_epi16(low, high);
        Some(_mm512_min_epi8(self.high, _mm512_max_epi8(self.low, values)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::{Cpu, Tier};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    fn compare(scale: f32, bias: f32, to: Quantization, sums: &[[i32; 16]; REGISTERS]) {
        // Lanes differ, so that one of many decides.
        let lanes = |x: f32| from_fn(|i| _mm512_set1_ps(x * (1.0 + i as f32 / 64.0)));
        let rounding = Rounding::new(to).expect("its reciprocal is exact enough");
        let requantizer = Requantizer::new(lanes(scale), lanes(bias), &rounding);
        // SAFETY: an array has the 64 bytes that are read.
        let registers = sums.map(|sums| unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) });
        let (found, expected) =
            (requantizer.round(registers), requantizer.one_after_another(registers));
        let same = _mm512_cmpeq_epi8_mask(found, expected);
        assert_eq!(same, u64::MAX, "scale {scale:e}, bias {bias:e}, {to:?}, sums {sums:?}");
    }

    #[test]
    fn one_step_gives_what_several_give() {
        if Cpu::with_tier(Tier::Avx512).is_err() {
            eprintln!("skipped: this CPU has no AVX-512");
            return;
        }
        let usual = Quantization { scale: 0.0237, zero_point: -3, min: -128, max: 127 };
        let limited = Quantization { scale: 0.5, zero_point: 100, min: 100, max: 120 };
        for to in [usual, limited, Quantization::symmetric(1.7e-4)] {
            // Half a step a sum has every other one in the middle of two integers; a factor of 2, a bias of
            // many steps and numbers that are none are beyond what one step is for.
            for factor in [0.5, 0.25, 0.013, 1.1e-3, 3.7e-5, 2.0, f32::NAN, f32::INFINITY] {
                for bias in [0.0, 0.3, -77.5, 1e7, f32::NAN, f32::NEG_INFINITY] {
                    let near = |i: usize| (256.0 / factor).min(1e9) as i32 / 977 * i as i32;
                    for turn in 0..40 {
                        let sums = from_fn(|register| {
                            from_fn(|lane| {
                                let i = turn * 64 + register * 16 + lane;
                                near(i * 7919 % 1955) - near(977) + i as i32 % 5
                            })
                        });
                        // SAFETY: the CPU has AVX-512, which was asked for.
                        unsafe { compare(factor * to.scale, bias * to.scale, to, &sums) };
                    }
                    let most = [[i32::MIN; 16], [i32::MAX; 16], [0; 16], [1 << 25; 16]];
                    // SAFETY: as above.
                    unsafe { compare(factor * to.scale, bias * to.scale, to, &most) };
                }
            }
        }
    }
}
