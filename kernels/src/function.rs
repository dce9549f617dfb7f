#![allow(unsafe_code, reason = "calls code for detected instruction sets")]
//! Functions of single numbers, applied to every element.

use crate::math;
use crate::parallel::{self, LINE, check_len};
#[cfg(target_arch = "x86_64")]
use crate::tier::Tier;
use crate::tier::{Cpu, tiered};
#[cfg(target_arch = "x86_64")]
use crate::wide;

/// A function of one number. NaN stays NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `|x|`
    Abs,
    /// `−x`
    Neg,
    /// `1 / x`
    Reciprocal,
    /// The largest whole number not above `x`.
    Floor,
    /// The smallest whole number not below `x`.
    Ceil,
    /// `√x`
    Sqrt,
    /// `eˣ`; relative error below 2e-7 for x in −87..88, 0 below.
    Exp,
    /// Natural logarithm; relative error below 2e-7.
    Log,
    /// Error function; absolute error below 5e-7.
    Erf,
    /// `1 / (1 + e⁻ˣ)`; absolute error below 3e-7.
    Sigmoid,
    /// `x / (1 + e^(−alpha · x))`; absolute error below 3e-7·max(1, |x|).
    Swish {
        /// Steepness of the gate.
        alpha: f32,
    },
    /// `min(max(alpha · x + beta, 0), 1)`
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `x · min(max(x/6 + 1/2, 0), 1)`
    HardSwish,
    /// `x` above 0, `alpha · x` below.
    LeakyRelu {
        /// Slope below 0.
        alpha: f32,
    },
    /// `x` above 0, `alpha · (eˣ − 1)` below; absolute error below 3e-7·|alpha|.
    Elu {
        /// Negative of the lower limit.
        alpha: f32,
    },
    /// −1, 0 or 1, as `x` is.
    Sign,
    /// The nearest whole number, the even one of two.
    Round,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// `ln(1 + eˣ)`; absolute error below 3e-7·max(1, |x|).
    Softplus,
    /// `x / (1 + |x|)`
    Softsign,
    /// `x · tanh(ln(1 + eˣ))`; absolute error below 1e-6·max(1, |x|).
    Mish,
    /// `max(x, 0) + min(alpha · (e^(x/alpha) − 1), 0)`, for alpha above 0; absolute error below
    /// 3e-7·alpha.
    Celu {
        /// Width of the bend.
        alpha: f32,
    },
    /// `gamma · x` above 0, `gamma · alpha · (eˣ − 1)` below; absolute error below
    /// 3e-7·|gamma · alpha|.
    Selu {
        /// Negative of the lower limit, before scaling.
        alpha: f32,
        /// Scale.
        gamma: f32,
    },
    /// `min(max(x, low), high)`
    Clip {
        /// Lower bound.
        low: f32,
        /// Upper bound; wins over the lower.
        high: f32,
    },
}

/// Defines `name(cpu, y, parameters…)`, which writes the expression in place of each `x`.
macro_rules! functions {
    ($($name:ident($x:ident $(, $parameter:ident)*) = $value:expr;)*) => {
        $(tiered! {
            fn $name(y: &mut [f32] $(, $parameter: f32)*) {
                for y in y {
                    let $x = *y;
                    *y = $value;
                }
            }
        })*
    };
}

functions! {
    abs(x) = x.abs();
    neg(x) = -x;
    reciprocal(x) = 1.0 / x;
    floor(x) = x.floor();
    ceil(x) = x.ceil();
    sqrt(x) = x.sqrt();
    exp(x) = math::exp(x);
    log(x) = math::ln(x);
    erf(x) = math::erf(x);
    sigmoid(x) = 1.0 / (1.0 + math::exp(-x));
    swish(x, alpha) = x / (1.0 + math::exp(-alpha * x));
    hard_sigmoid(x, alpha, beta) = math::clamp(alpha * x + beta, 0.0, 1.0);
    hard_swish(x) = x * math::clamp(x / 6.0 + 0.5, 0.0, 1.0);
    leaky_relu(x, alpha) = if x < 0.0 { alpha * x } else { x };
    elu(x, alpha) = if x < 0.0 { alpha * (math::exp(x) - 1.0) } else { x };
    sign(x) = if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x };
    round(x) = x.round_ties_even();
    sin(x) = x.sin();
    cos(x) = x.cos();
    softplus(x) = math::softplus(x);
    softsign(x) = x / (1.0 + x.abs());
    mish(x) = x * math::tanh(math::softplus(x));
    celu(x, alpha) = if x < 0.0 { alpha * (math::exp(x / alpha) - 1.0) } else { x };
    selu(x, alpha, gamma) = gamma * if x < 0.0 { alpha * (math::exp(x) - 1.0) } else { x };
    clip(x, low, high) = math::clamp(x, low, high);
}

fn swish_in_place(cpu: Cpu, y: &mut [f32], alpha: f32) {
    #[cfg(target_arch = "x86_64")]
    if cpu.tier() >= Tier::Avx512 {
        // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
        unsafe { wide::swish_in_place(y, alpha) };
        return;
    }
    swish(cpu, y, alpha);
}

impl Function {
    /// Applies to a small slice, on this thread.
    pub(crate) fn apply(self, cpu: Cpu, y: &mut [f32]) {
        match self {
            Self::Abs => abs(cpu, y),
            Self::Neg => neg(cpu, y),
            Self::Reciprocal => reciprocal(cpu, y),
            Self::Floor => floor(cpu, y),
            Self::Ceil => ceil(cpu, y),
            Self::Sqrt => sqrt(cpu, y),
            Self::Exp => exp(cpu, y),
            Self::Log => log(cpu, y),
            Self::Erf => erf(cpu, y),
            Self::Sigmoid => sigmoid(cpu, y),
            Self::Swish { alpha } => swish_in_place(cpu, y, alpha),
            Self::HardSigmoid { alpha, beta } => hard_sigmoid(cpu, y, alpha, beta),
            Self::HardSwish => hard_swish(cpu, y),
            Self::LeakyRelu { alpha } => leaky_relu(cpu, y, alpha),
            Self::Elu { alpha } => elu(cpu, y, alpha),
            Self::Sign => sign(cpu, y),
            Self::Round => round(cpu, y),
            Self::Sin => sin(cpu, y),
            Self::Cos => cos(cpu, y),
            Self::Softplus => softplus(cpu, y),
            Self::Softsign => softsign(cpu, y),
            Self::Mish => mish(cpu, y),
            Self::Celu { alpha } => celu(cpu, y, alpha),
            Self::Selu { alpha, gamma } => selu(cpu, y, alpha, gamma),
            Self::Clip { low, high } => clip(cpu, y, low, high),
        }
    }
}

/// `y = function(x)`.
///
/// # Shapes
/// Both have the same length.
pub fn map(cpu: Cpu, function: Function, x: &[f32], y: &mut [f32]) {
    check_len("map: y", y.len(), x.len());
    parallel::map(x, y, LINE, |x, y| {
        y.copy_from_slice(x);
        function.apply(cpu, y);
    });
}

/// `y = function(y)`.
pub fn map_in_place(cpu: Cpu, function: Function, y: &mut [f32]) {
    parallel::for_each_piece(y, LINE, |_, y| function.apply(cpu, y));
}
