//! Functions of single numbers, as `crate::math` has them: the same steps with the same constants.
//!
//! None calls a function that a GPU has no instruction for: the compiler would look for NVIDIA's
//! library of them, which comes with a toolkit that a machine need not have.
#![allow(clippy::excessive_precision, reason = "as published, see `crate::math`")]

use cubecl::prelude::*;

use crate::int8::{Quantization, has_exact_reciprocal};

/// Adding and subtracting it rounds to an integer, half to even, for magnitudes below 2²².
const ROUNDER: f32 = 12_582_912.0;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
const SQRT_2: f32 = std::f32::consts::SQRT_2;

/// Limits to `low..=high`; NaN stays NaN.
#[cube]
pub(super) fn limit(x: f32, low: f32, high: f32) -> f32 {
    let x = select(x < low, low, x);
    select(x > high, high, x)
}

#[cube]
fn exp_polynomial(r: f32) -> f32 {
    let mut p = f32::new(1.987_569_15e-4);
    p = fma(p, r, 1.398_199_950_7e-3f32);
    p = fma(p, r, 8.333_451_907_3e-3f32);
    p = fma(p, r, 4.166_579_589_4e-2f32);
    p = fma(p, r, 1.666_666_545_9e-1f32);
    p = fma(p, r, 5.000_000_120_1e-1f32);
    fma(p, r * r, r) + 1.0f32
}

/// 2ⁿ for n in −126..=127.
#[cube]
fn power_of_two(n: i32) -> f32 {
    f32::reinterpret((n + 127i32) << 23i32)
}

#[cube]
pub(super) fn exp(x: f32) -> f32 {
    let clamped = limit(x, -87.5f32, 89.0f32);
    let n = (clamped * LOG2_E + ROUNDER) - ROUNDER;
    let r = fma(n, 2.121_944_4e-4f32, fma(n, -0.693_359_375f32, clamped));
    let y = exp_polynomial(r);
    let n = i32::cast_from(n);
    let half = n >> 1i32;
    let y = y * power_of_two(half) * power_of_two(n - half);
    let y = select(x < -87.4f32, 0.0f32, y);
    let y = select(x > 88.722_84f32, f32::INFINITY, y);
    select(x.is_nan(), x, y)
}

/// eˣ for x ≤ 0, as a softmax needs it.
#[cube]
pub(super) fn exp_of_negative(x: f32) -> f32 {
    let clamped = select(x < -87.0f32, -87.0f32, x);
    let shifted = clamped * LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = fma(n, 2.121_944_4e-4f32, fma(n, -0.693_359_375f32, clamped));
    let y = exp_polynomial(r);
    // The lowest bits of `shifted` are n.
    let bits = u32::reinterpret(y) + (u32::reinterpret(shifted) << 23u32);
    let y = select(x < -87.0f32, 0.0f32, f32::reinterpret(bits));
    select(x.is_nan(), x, y)
}

/// The natural logarithm, as Cephes' `logf` has it: a relative error below 2e-7.
#[cube]
pub(super) fn ln(x: f32) -> f32 {
    // Subnormal numbers become normal ones.
    let small = x < 1.175_494_35e-38f32;
    let normal = select(small, x * 8_388_608.0f32, x);
    let bits = u32::reinterpret(normal);
    let exponent = i32::cast_from(bits >> 23u32) - select(small, 150i32, 127i32);
    let mantissa = f32::reinterpret((bits & 0x007f_ffffu32) | 0x3f80_0000u32);
    let above = mantissa > SQRT_2;
    let m = select(above, mantissa * 0.5f32, mantissa) - 1.0f32;
    let e = f32::cast_from(exponent + select(above, 1i32, 0i32));
    let z = m * m;
    let mut p = f32::new(7.037_683_629_2e-2);
    p = fma(p, m, -1.151_461_031_0e-1f32);
    p = fma(p, m, 1.167_699_874_0e-1f32);
    p = fma(p, m, -1.242_014_084_6e-1f32);
    p = fma(p, m, 1.424_932_278_7e-1f32);
    p = fma(p, m, -1.666_805_766_5e-1f32);
    p = fma(p, m, 2.000_071_476_5e-1f32);
    p = fma(p, m, -2.499_999_399_3e-1f32);
    p = fma(p, m, 3.333_333_117_4e-1f32);
    let y = fma(e, -2.121_944_4e-4f32, m * z * p) - 0.5f32 * z;
    let y = fma(e, 0.693_359_375f32, m + y);
    let y = select(x == f32::INFINITY, x, y);
    let y = select(x == 0.0f32, f32::NEG_INFINITY, y);
    select(x < 0.0f32 || x.is_nan(), f32::NAN, y)
}

#[cube]
pub(super) fn erf(x: f32) -> f32 {
    let x = limit(x, -4.0f32, 4.0f32);
    let s = x * x;
    let mut p = f32::new(-2.726_142_258_013_06e-10);
    p = fma(p, s, 2.770_681_424_959_02e-8f32);
    p = fma(p, s, -2.101_024_020_825_08e-6f32);
    p = fma(p, s, -5.692_506_394_623_46e-5f32);
    p = fma(p, s, -7.349_906_303_268_55e-4f32);
    p = fma(p, s, -2.954_599_808_540_25e-3f32);
    p = fma(p, s, -1.609_603_332_624_15e-2f32);
    let mut q = f32::new(-1.456_607_184_649_96e-5);
    q = fma(q, s, -2.133_740_552_789_05e-4f32);
    q = fma(q, s, -1.682_826_974_382_03e-3f32);
    q = fma(q, s, -7.373_329_167_204_68e-3f32);
    q = fma(q, s, -1.426_473_905_141_89e-2f32);
    x * p / q
}

#[cube]
pub(super) fn tanh(x: f32) -> f32 {
    let c = limit(x, -7.905_311_107_635_498f32, 7.905_311_107_635_498f32);
    let s = c * c;
    let mut p = f32::new(-2.760_768_477_423_55e-16);
    p = fma(p, s, 2.000_187_904_824_77e-13f32);
    p = fma(p, s, -8.604_671_522_137_35e-11f32);
    p = fma(p, s, 5.122_297_090_371_14e-8f32);
    p = fma(p, s, 1.485_722_357_179_79e-5f32);
    p = fma(p, s, 6.372_619_288_754_36e-4f32);
    p = fma(p, s, 4.893_524_558_917_86e-3f32);
    let mut q = f32::new(1.198_258_394_667_02e-6);
    q = fma(q, s, 1.185_347_056_866_54e-4f32);
    q = fma(q, s, 2.268_434_632_439_00e-3f32);
    q = fma(q, s, 4.893_525_185_543_85e-3f32);
    let y = c * p / q;
    select(x.abs() < 4e-4f32, x, y)
}

/// `a·b`, rounded: of a product and the sum behind it, the compiler for GPUs makes one rounding. A product
/// that is −0 becomes 0.
#[cube]
pub(super) fn rounded_product(a: f32, b: f32) -> f32 {
    fma(a, b, 0.0f32)
}

/// How numbers are written as int8, as a kernel takes it.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
pub(super) struct Steps {
    scale: f32,
    /// Of the scale, where products with it divide to the bit; 0 elsewhere.
    reciprocal: f32,
    pub(super) zero_point: i32,
    min: i32,
    max: i32,
}

impl StepsLaunch {
    pub(super) fn of(to: Quantization) -> Self {
        let [zero_point, min, max] = [to.zero_point, to.min, to.max].map(i32::from);
        let reciprocal = if has_exact_reciprocal(to.scale) { 1.0 / to.scale } else { 0.0 };
        Self::new(to.scale, reciprocal, zero_point, min, max)
    }
}

/// The integer of a number: halves to even, limited, 0 for NaN.
#[cube]
pub(super) fn quantized(x: f32, to: &Steps) -> i32 {
    let steps = if to.reciprocal > 0.0f32 {
        let most = 1024.0f32 * to.scale;
        let x = limit(x, -most, most);
        let first = x * to.reciprocal;
        fma(fma(-first, to.scale, x), to.reciprocal, first)
    } else {
        limit(x / to.scale, -1024.0f32, 1024.0f32)
    };
    let rounded = i32::cast_from((steps + ROUNDER) - ROUNDER);
    let integer = clamp(rounded + to.zero_point, to.min, to.max);
    select(x.is_nan(), 0i32, integer)
}

/// The number that an integer stands for.
#[cube]
pub(super) fn dequantized(x: i8, from: &Steps) -> f32 {
    rounded_product(f32::cast_from(i32::cast_from(x) - from.zero_point), from.scale)
}

/// The nearest bf16, halves to even, as an f32. With integers, for compilers drop the pair of
/// casts that says the same.
#[cube]
pub(super) fn rounded_to_bf16(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    let odd = (bits >> 16u32) & 1u32;
    let rounded = (bits + 0x7fffu32 + odd) & 0xffff_0000u32;
    select(x.is_nan(), x, f32::reinterpret(rounded))
}
