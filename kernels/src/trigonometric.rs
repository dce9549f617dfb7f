#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Trigonometric and hyperbolic functions, and their inverses, applied to every element.

use std::f32::consts::{FRAC_PI_2, FRAC_PI_4, LN_2, PI};

use crate::math::{self, polynomial};
use crate::parallel::{self, LINE, check_len};
use crate::tier::{Cpu, tiered};

/// A function of one number. NaN stays NaN; relative errors are below 4e-7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigonometric {
    /// Tangent of radians.
    Tan,
    /// Inverse sine, in radians; NaN outside −1..1.
    Asin,
    /// Inverse cosine, in radians; NaN outside −1..1. The error is relative to 1 at least.
    Acos,
    /// Inverse tangent, in radians.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Inverse hyperbolic sine.
    Asinh,
    /// Inverse hyperbolic cosine; NaN below 1.
    Acosh,
    /// Inverse hyperbolic tangent; ±∞ at ±1, NaN beyond.
    Atanh,
}

// Polynomials of Cephes' functions of single precision (S. L. Moshier, 1989), the coefficient of the
// highest power first. The numbers are as published.

/// (asin(x) − x)/x³ in x², for x up to ½.
#[allow(clippy::excessive_precision, reason = "as published")]
const ASIN: [f32; 5] = [
    4.216_319_904_8e-2,
    2.418_131_104_9e-2,
    4.547_002_599_8e-2,
    7.495_300_268_6e-2,
    1.666_675_242_2e-1,
];

/// (atan(x) − x)/x³ in x², for x up to tan(π/8).
#[allow(clippy::excessive_precision, reason = "as published")]
const ATAN: [f32; 4] =
    [8.053_744_495_38e-2, -1.387_768_560_32e-1, 1.997_771_064_78e-1, -3.333_294_915_39e-1];

/// (sinh(x) − x)/x³ in x², for x up to 1.
#[allow(clippy::excessive_precision, reason = "as published")]
const SINH: [f32; 3] = [2.037_219_129_45e-4, 8.330_283_762_39e-3, 1.666_671_602_11e-1];

/// (asinh(x) − x)/x³ in x², for x up to ½.
#[allow(clippy::excessive_precision, reason = "as published")]
const ASINH: [f32; 4] =
    [2.012_200_330_9e-2, -4.269_934_097_2e-2, 7.484_758_608_8e-2, -1.666_628_813_4e-1];

/// acosh(1 + z)/√z in z, for z up to ½.
#[allow(clippy::excessive_precision, reason = "as published")]
const ACOSH: [f32; 5] = [
    1.759_688_107_1e-3,
    -7.527_288_671_3e-3,
    2.645_490_501_9e-2,
    -1.178_474_170_3e-1,
    1.414_213_526_3,
];

/// (atanh(x) − x)/x³ in x², for x up to ½.
#[allow(clippy::excessive_precision, reason = "as published")]
const ATANH: [f32; 5] = [
    1.817_400_783_49e-1,
    8.243_703_010_58e-2,
    1.466_914_317_30e-1,
    1.997_821_645_00e-1,
    3.333_373_003_03e-1,
];

/// Beyond it, x² + 1 is x² for a logarithm's purposes.
const LARGE: f32 = 1500.0;

/// `x + x³·p(x²)`.
#[allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
#[inline(always)]
fn odd<const N: usize>(p: [f32; N], x: f32) -> f32 {
    let square = x * x;
    (polynomial(p, square) * square).mul_add(x, x)
}

/// Inverse sine of half of what is left to 1, where |x| is above ½, and of |x| elsewhere.
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn asin_of_part(magnitude: f32) -> f32 {
    let part = if magnitude > 0.5 { (0.5 * (1.0 - magnitude)).sqrt() } else { magnitude };
    odd(ASIN, part)
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn asin(x: f32) -> f32 {
    let (magnitude, part) = (x.abs(), asin_of_part(x.abs()));
    (if magnitude > 0.5 { FRAC_PI_2 - 2.0 * part } else { part }).copysign(x)
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn acos(x: f32) -> f32 {
    let (magnitude, part) = (x.abs(), asin_of_part(x.abs()));
    let far = if x < 0.0 { PI - 2.0 * part } else { 2.0 * part };
    if magnitude > 0.5 { far } else { FRAC_PI_2 - part.copysign(x) }
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn atan(x: f32) -> f32 {
    /// tan(π/8) and tan(3π/8).
    const BOUNDS: [f32; 2] = [0.414_213_56, 2.414_213_6];
    let magnitude = x.abs();
    let near = (magnitude - 1.0) / (magnitude + 1.0);
    let (start, rest) = if magnitude > BOUNDS[0] { (FRAC_PI_4, near) } else { (0.0, magnitude) };
    let (start, rest) =
        if magnitude > BOUNDS[1] { (FRAC_PI_2, -1.0 / magnitude) } else { (start, rest) };
    (start + odd(ATAN, rest)).copysign(x)
}

/// Half of e to the power of |x|, in two factors: the whole may be more than a float holds.
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn half_exp(x: f32) -> [f32; 2] {
    let root = math::exp(0.5 * x.abs());
    [0.5 * root, root]
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn sinh(x: f32) -> f32 {
    let [half, root] = half_exp(x);
    let far = half * root - 0.5 / root / root;
    if x.abs() > 1.0 { far.copysign(x) } else { odd(SINH, x) }
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn cosh(x: f32) -> f32 {
    let [half, root] = half_exp(x);
    half * root + 0.5 / root / root
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn asinh(x: f32) -> f32 {
    let magnitude = x.abs();
    let root = magnitude.mul_add(magnitude, 1.0).sqrt();
    let far =
        if magnitude > LARGE { math::ln(magnitude) + LN_2 } else { math::ln(magnitude + root) };
    if magnitude < 0.5 { odd(ASINH, x) } else { far.copysign(x) }
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn acosh(x: f32) -> f32 {
    let above = x - 1.0;
    let near = above.sqrt() * polynomial(ACOSH, above);
    let far = if x > LARGE { math::ln(x) + LN_2 } else { math::ln(x + (above * (x + 1.0)).sqrt()) };
    if above < 0.5 { near } else { far }
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn atanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let far = 0.5 * math::ln((1.0 + magnitude) / (1.0 - magnitude));
    if magnitude < 0.5 { odd(ATANH, x) } else { far.copysign(x) }
}

/// Defines `name(cpu, y)`, which writes the function in place of each x.
macro_rules! functions {
    ($($name:ident($x:ident) = $value:expr;)*) => {
        $(tiered! {
            fn $name(y: &mut [f32]) {
                for y in y {
                    let $x = *y;
                    *y = $value;
                }
            }
        })*
    };
}

functions! {
    all_tan(x) = x.tan();
    all_asin(x) = asin(x);
    all_acos(x) = acos(x);
    all_atan(x) = atan(x);
    all_sinh(x) = sinh(x);
    all_cosh(x) = cosh(x);
    all_asinh(x) = asinh(x);
    all_acosh(x) = acosh(x);
    all_atanh(x) = atanh(x);
}

impl Trigonometric {
    fn apply(self, cpu: Cpu, y: &mut [f32]) {
        match self {
            Self::Tan => all_tan(cpu, y),
            Self::Asin => all_asin(cpu, y),
            Self::Acos => all_acos(cpu, y),
            Self::Atan => all_atan(cpu, y),
            Self::Sinh => all_sinh(cpu, y),
            Self::Cosh => all_cosh(cpu, y),
            Self::Asinh => all_asinh(cpu, y),
            Self::Acosh => all_acosh(cpu, y),
            Self::Atanh => all_atanh(cpu, y),
        }
    }

    /// `y = function(x)`.
    ///
    /// # Shapes
    /// Both have the same length.
    pub fn map(self, cpu: Cpu, x: &[f32], y: &mut [f32]) {
        check_len("trigonometric: y", y.len(), x.len());
        parallel::map(x, y, LINE, |x, y| {
            y.copy_from_slice(x);
            self.apply(cpu, y);
        });
    }

    /// `y = function(y)`.
    pub fn map_in_place(self, cpu: Cpu, y: &mut [f32]) {
        parallel::for_each_piece(y, LINE, |_, y| self.apply(cpu, y));
    }
}
