#![allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
//! Branch-free functions that the compiler can vectorise. Tests state and check the error bounds.
//!
//! Products are added with one rounding, on every tier: one instruction where the CPU has it, and a
//! call of the system's `fmaf` in the portable tier.

/// Adding and subtracting it rounds to an integer, half to even, for magnitudes below 2²².
pub(crate) const ROUNDER: f32 = 12_582_912.0;

/// Rounds half to even; exact for |x| < 2²².
#[inline(always)]
pub(crate) fn round_even(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

/// The nearest integer, half to even, of a value in ±2²²; anything for NaN.
#[inline(always)]
#[allow(
    clippy::cast_possible_wrap,
    reason = "reads the mantissa bits as a two's complement number"
)]
pub(crate) fn round_even_to_int(x: f32) -> i32 {
    ((x + ROUNDER).to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32)
}

/// `a·b + c`, rounded once.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// 2ⁿ for n in −126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n + 127).cast_unsigned() << 23)
}

/// Two parts whose sum is ln 2; the first has few bits, so that products with it are exact. Of Cephes
/// `expf` (S. L. Moshier, 1989), as is [`EXP`].
#[allow(clippy::excessive_precision, reason = "as published")]
pub(crate) const LN_2: [f32; 2] = [0.693_359_375, -2.121_944_4e-4];

/// (eʳ − 1 − r)/r² for r within ±½·ln 2, the coefficient of the highest power first.
#[allow(clippy::excessive_precision, reason = "as published")]
pub(crate) const EXP: [f32; 6] = [
    1.987_569_15e-4,
    1.398_199_950_7e-3,
    8.333_451_907_3e-3,
    4.166_579_589_4e-2,
    1.666_666_545_9e-1,
    5.000_000_120_1e-1,
];

/// e to the power of x − n·ln 2, for n the integer nearest to x/ln 2.
#[inline(always)]
fn exp_of_rest(x: f32, n: f32) -> f32 {
    let [high, low] = LN_2;
    let r = fused(-n, low, fused(-n, high, x));
    fused(polynomial(EXP, r), r * r, r) + 1.0
}

/// Where [`exp`] is 0 below, and infinite above; and a little beyond, where arithmetic stays in range.
pub(crate) const EXP_ZERO: f32 = -87.4;
pub(crate) const EXP_INFINITE: f32 = 88.722_84;
pub(crate) const EXP_LIMITS: [f32; 2] = [-87.5, 89.0];

/// eˣ with a relative error below 2e-7 for x in −87..88; 0 below, infinity above 88.73.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let [low, high] = EXP_LIMITS;
    let clamped = clamp(x, low, high);
    let n = round_even(clamped * std::f32::consts::LOG2_E);
    let y = exp_of_rest(clamped, n);
    let n = round_even_to_int(n);
    let half = n >> 1;
    let y = y * power_of_two(half) * power_of_two(n - half);
    let y = if x < EXP_ZERO { 0.0 } else { y };
    if x > EXP_INFINITE { f32::INFINITY } else { y }
}

/// eˣ for x ≤ 0, as a softmax needs it: a relative error below 2e-7 down to −87, 0 below.
///
/// [`exp`] in fewer steps: 2ⁿ is added to the exponent, which cannot overflow.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    let clamped = if x < EXP_LEAST { EXP_LEAST } else { x };
    let shifted = fused(clamped, std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let y = exp_of_rest(clamped, n);
    // The lowest bits of `shifted` are n.
    let y = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < EXP_LEAST { 0.0 } else { y }
}

/// (ln(1 + z) − z + z²/2)/z³ for 1 + z from √½ to √2, the coefficient of the highest power first: of
/// Cephes `logf`.
#[allow(clippy::excessive_precision, reason = "as published")]
const LN: [f32; 9] = [
    7.037_683_629_2e-2,
    -1.151_461_031_0e-1,
    1.167_699_874_0e-1,
    -1.242_014_084_6e-1,
    1.424_932_278_7e-1,
    -1.666_805_766_5e-1,
    2.000_071_476_5e-1,
    -2.499_999_399_3e-1,
    3.333_333_117_4e-1,
];

/// Natural logarithm with a relative error below 2e-7; of 0 it is −∞, of those below 0 NaN.
#[inline(always)]
#[allow(
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "reads the exponent's bits"
)]
pub(crate) fn ln(x: f32) -> f32 {
    const ROOT: u32 = std::f32::consts::FRAC_1_SQRT_2.to_bits();
    // Subnormal numbers have no exponent of their own.
    let is_small = x < f32::MIN_POSITIVE;
    let (scaled, offset) = if is_small { (x * 8_388_608.0, 23.0) } else { (x, 0.0) };
    // A mantissa from √½ to √2, and the exponent that goes with it.
    let shifted = scaled.to_bits().wrapping_sub(ROOT);
    let exponent = (shifted as i32 >> 23) as f32 - offset;
    let z = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(ROOT)) - 1.0;
    let square = z * z;
    let [high, low] = LN_2;
    let y = fused(exponent, low, z * square * polynomial(LN, z));
    let y = fused(exponent, high, z + fused(-0.5, square, y));
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x < 0.0 { f32::NAN } else { y };
    if x < f32::INFINITY { y } else { x }
}

/// ln(1 + eˣ); absolute error below 3e-7·max(1, |x|).
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let above = if x < 0.0 { 0.0 } else { x };
    above + ln(1.0 + exp_of_negative(-x.abs()))
}

/// Below it [`exp_of_negative`] is 0.
pub(crate) const EXP_LEAST: f32 = -87.0;

/// x·P(x²)/Q(x²) is erf(x) on ±4, the coefficient of the highest power first: those of Eigen's
/// `generic_fast_erf_float` (MPL-2.0 project; the numbers are facts).
#[allow(clippy::excessive_precision, reason = "as published")]
pub(crate) const ERF_NUMERATOR: [f32; 7] = [
    -2.726_142_258_013_06e-10,
    2.770_681_424_959_02e-8,
    -2.101_024_020_825_08e-6,
    -5.692_506_394_623_46e-5,
    -7.349_906_303_268_55e-4,
    -2.954_599_808_540_25e-3,
    -1.609_603_332_624_15e-2,
];
/// Q of [`ERF_NUMERATOR`].
#[allow(clippy::excessive_precision, reason = "as published")]
pub(crate) const ERF_DENOMINATOR: [f32; 5] = [
    -1.456_607_184_649_96e-5,
    -2.133_740_552_789_05e-4,
    -1.682_826_974_382_03e-3,
    -7.373_329_167_204_68e-3,
    -1.426_473_905_141_89e-2,
];

/// erf(x) with an absolute error below 5e-7: a rational approximation on ±4, ±1 beyond.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = clamp(x, -4.0, 4.0);
    let s = x * x;
    x * polynomial(ERF_NUMERATOR, s) / polynomial(ERF_DENOMINATOR, s)
}

/// The coefficient of the highest power first.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "with an array's iterator in the way, the compiler does not vectorise the callers"
)]
pub(crate) fn polynomial<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut sum = coefficients[0];
    for place in 1..N {
        sum = fused(sum, x, coefficients[place]);
    }
    sum
}

/// tanh(x) with an absolute error below 4e-7.
///
/// Coefficients of Eigen's `generic_fast_tanh_float`.
#[inline(always)]
#[allow(clippy::excessive_precision, reason = "as published")]
pub(crate) fn tanh(x: f32) -> f32 {
    let c = clamp(x, -7.905_311_107_635_498, 7.905_311_107_635_498);
    let s = c * c;
    let mut p = -2.760_768_477_423_55e-16;
    p = fused(p, s, 2.000_187_904_824_77e-13);
    p = fused(p, s, -8.604_671_522_137_35e-11);
    p = fused(p, s, 5.122_297_090_371_14e-8);
    p = fused(p, s, 1.485_722_357_179_79e-5);
    p = fused(p, s, 6.372_619_288_754_36e-4);
    p = fused(p, s, 4.893_524_558_917_86e-3);
    let mut q = 1.198_258_394_667_02e-6;
    q = fused(q, s, 1.185_347_056_866_54e-4);
    q = fused(q, s, 2.268_434_632_439_00e-3);
    q = fused(q, s, 4.893_525_185_543_85e-3);
    let y = c * p / q;
    if x.abs() < 4e-4 { x } else { y }
}

/// x·Φ(x), Φ the standard normal distribution (Hendrycks and Gimpel 2016, arXiv:1606.08415).
/// Absolute error below 2.5e-7·max(1, |x|).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let half = 0.5 * x;
    fused(half, erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

/// x·P(x²) + ½ is near Φ(x) on ±4, the coefficient of the highest power first: the least greatest error
/// by Lawson's algorithm, 3.2e-5, where 4·P(16) = ½, so that Φ(±4) is 1 and 0.
pub(crate) const PHI: [f32; 8] = [
    -1.276_355_9e-9,
    1.043_476_5e-7,
    -3.707_409_6e-6,
    7.616_428e-5,
    -1.020_884e-3,
    9.580_875e-3,
    -6.606_338e-2,
    0.398_805_74,
];

/// [`gelu`] for results that are rounded coarsely, in half the steps. Absolute error below 1.3e-4,
/// most of it at ±4, and below 3.4e-5·max(1, |x|).
#[inline(always)]
pub(crate) fn coarse_gelu(x: f32) -> f32 {
    let near = clamp(x, -4.0, 4.0);
    x * fused(near, polynomial(PHI, near * near), 0.5)
}

/// The tanh form of GELU: `0.5x(1 + tanh(√(2/π)(x + 0.044715x³)))`.
/// Absolute error below 4e-7·max(1, |x|).
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    /// √(2/π).
    const FACTOR: f32 = 0.797_884_6;
    let half = 0.5 * x;
    fused(half, tanh(FACTOR * fused(0.044_715 * x, x * x, x)), half)
}

/// d/dx of [`gelu`]: Φ(x) + x·φ(x).
#[inline(always)]
pub(crate) fn gelu_derivative(x: f32) -> f32 {
    /// 1/√(2π), the standard normal density at its centre.
    const DENSITY: f32 = 0.398_942_3;
    let distribution = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    distribution + x * (DENSITY * exp(-0.5 * x * x))
}

/// Limits to `low..=high`; NaN stays NaN, which `f32::max` would hide.
#[inline(always)]
pub(crate) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Taylor series in f64, exact enough to judge f32 on ±5.
    fn erf_series(x: f64) -> f64 {
        let mut term = x;
        let mut total = x;
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            total += term / f64::from(2 * n + 1);
        }
        total * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn worst(low: f32, high: f32, error: impl Fn(f32) -> f64) -> f64 {
        const STEPS: i32 = 40_000;
        (0..=STEPS)
            .map(|step| error(low + (high - low) * (step as f32 / STEPS as f32)))
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_its_bound() {
        let relative = |x: f32| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
        let error = worst(-87.0, 88.0, relative);
        assert!(error < 2e-7, "worst relative error {error:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e9), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp_of_negative_is_within_its_bound() {
        let relative = |x: f32| (f64::from(exp_of_negative(x)) / f64::from(x).exp() - 1.0).abs();
        let error = worst(-87.0, 0.0, relative);
        assert!(error < 2e-7, "worst relative error {error:e}");
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(-1e9), 0.0);
        assert_eq!(exp_of_negative(f32::NEG_INFINITY), 0.0);
        assert!(exp_of_negative(f32::NAN).is_nan());
    }

    #[test]
    fn ln_is_within_its_bound() {
        let relative = |x: f32| {
            let exact = f64::from(x).ln();
            (f64::from(ln(x)) - exact).abs() / exact.abs().max(1e-12)
        };
        for (low, high) in
            [(1e-44, 1e-38), (1e-37, 1e-30), (0.25, 0.999), (1.001, 9.0), (1e3, 3e38)]
        {
            let error = worst(low, high, relative);
            assert!(error < 2e-7, "worst relative error {error:e} in {low}..{high}");
        }
        assert_eq!([ln(1.0), ln(0.0), ln(f32::INFINITY)], [0.0, f32::NEG_INFINITY, f32::INFINITY]);
        assert!(ln(-1.0).is_nan() && ln(f32::NAN).is_nan());
    }

    #[test]
    fn softplus_is_within_its_bound() {
        let error = worst(-100.0, 100.0, |x| {
            let exact = f64::from(x).max(0.0) + (-f64::from(x).abs()).exp().ln_1p();
            (f64::from(softplus(x)) - exact).abs() / f64::from(x.abs().max(1.0))
        });
        assert!(error < 3e-7, "worst error {error:e}");
        assert!(softplus(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_its_bound() {
        let error = worst(-4.5, 4.5, |x| (f64::from(erf(x)) - erf_series(f64::from(x))).abs());
        assert!(error < 5e-7, "worst absolute error {error:e}");
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_its_bound() {
        let error = worst(-12.0, 12.0, |x| (f64::from(tanh(x)) - f64::from(x).tanh()).abs());
        assert!(error < 4e-7, "worst absolute error {error:e}");
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_is_within_its_bound() {
        let reference = |x: f64| 0.5 * x * (1.0 + erf_series(x / 2f64.sqrt()));
        let error = worst(-6.0, 6.0, |x| {
            (f64::from(gelu(x)) - reference(f64::from(x))).abs() / f64::from(x.abs().max(1.0))
        });
        assert!(error < 2.5e-7, "worst error {error:e}");
    }

    #[test]
    fn coarse_gelu_is_within_its_bounds() {
        let reference = |x: f64| 0.5 * x * (1.0 + erf_series(x / 2f64.sqrt()));
        let error = |x: f32| (f64::from(coarse_gelu(x)) - reference(f64::from(x))).abs();
        let worst_at_all = worst(-6.0, 6.0, error);
        assert!(worst_at_all < 1.3e-4, "worst error {worst_at_all:e}");
        let relative = worst(-6.0, 6.0, |x| error(x) / f64::from(x.abs().max(1.0)));
        assert!(relative < 3.4e-5, "worst error {relative:e}");
        for x in [4.0, 5.5, 1e30] {
            assert_eq!([coarse_gelu(x), coarse_gelu(-x)], [x, 0.0]);
        }
        assert!(coarse_gelu(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_tanh_is_within_its_bound() {
        let reference = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        };
        let error = worst(-8.0, 8.0, |x| {
            (f64::from(gelu_tanh(x)) - reference(f64::from(x))).abs() / f64::from(x.abs().max(1.0))
        });
        assert!(error < 4e-7, "worst error {error:e}");
    }

    #[test]
    fn gelu_derivative_matches_finite_differences() {
        let reference = |x: f64| 0.5 * x * (1.0 + erf_series(x / 2f64.sqrt()));
        let error = worst(-5.0, 5.0, |x| {
            let x64 = f64::from(x);
            let slope = (reference(x64 + 1e-5) - reference(x64 - 1e-5)) / 2e-5;
            (f64::from(gelu_derivative(x)) - slope).abs()
        });
        assert!(error < 1e-6, "worst error {error:e}");
    }

    #[test]
    fn rounding_is_half_to_even() {
        for (x, rounded) in
            [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (3.2, 3), (-3.7, -4)]
        {
            assert_eq!(round_even_to_int(x), rounded);
            assert_eq!(round_even(x), rounded as f32);
        }
    }
}
