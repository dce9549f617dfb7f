//! Functions of single numbers, as `crate::math` has them: the same steps with the same constants.
#![allow(clippy::excessive_precision, reason = "as published, see `crate::math`")]

use cubecl::prelude::*;

use crate::int8::Quantization;

/// Adding and subtracting it rounds to an integer, half to even, for magnitudes below 2²².
const ROUNDER: f32 = 12_582_912.0;

/// Limits to `low..=high`; NaN stays NaN.
#[cube]
pub(super) fn limit(x: f32, low: f32, high: f32) -> f32 {
    let x = select(x < low, low, x);
    select(x > high, high, x)
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

/// How numbers are written as int8, as a kernel takes it.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
pub(super) struct Steps {
    scale: f32,
    pub(super) zero_point: i32,
    min: i32,
    max: i32,
}

impl StepsLaunch {
    pub(super) fn of(to: Quantization) -> Self {
        let [zero_point, min, max] = [to.zero_point, to.min, to.max].map(i32::from);
        Self::new(to.scale, zero_point, min, max)
    }
}

/// The integer of a number: halves to even, limited, 0 for NaN.
#[cube]
pub(super) fn quantized(x: f32, to: &Steps) -> i32 {
    let steps = limit(x / to.scale, -1024.0f32, 1024.0f32);
    let rounded = i32::cast_from((steps + ROUNDER) - ROUNDER);
    let integer = clamp(rounded + to.zero_point, to.min, to.max);
    select(x.is_nan(), 0i32, integer)
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
