#![allow(unsafe_code, reason = "calls code for detected instruction sets")]
//! Activation functions, forward and backward.

use crate::function::Function;
use crate::math;
use crate::parallel::{self, LINE, check_len};
#[cfg(target_arch = "x86_64")]
use crate::tier::Tier;
use crate::tier::{Cpu, tiered};
#[cfg(target_arch = "x86_64")]
use crate::wide;

/// What is applied to each element after a linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// max(0, x); NaN stays NaN.
    Relu,
    /// x·Φ(x) with the error function; absolute error below 2.5e-7·max(1, |x|), or 1.3e-4 where a layer
    /// says that it may be coarse.
    Gelu,
    /// `0.5x(1 + tanh(√(2/π)(x + 0.044715x³)))`; absolute error below 4e-7·max(1, |x|).
    GeluTanh,
    /// Hyperbolic tangent; absolute error below 4e-7.
    Tanh,
    /// Another function of single numbers.
    Map(Function),
}

tiered! {
    fn gelu_one_by_one(x: &mut [f32]) {
        for value in x {
            *value = math::gelu(*value);
        }
    }
}

tiered! {
    /// In place of [`Activation::Gelu`] where the result is rounded to steps of at least
    /// [`COARSE_STEP`], off by at most a thirtieth of one, or to bf16, whose rounding errs as
    /// much from 0.07 on.
    pub(crate) fn coarse_gelu_in_place(x: &mut [f32]) {
        for value in x {
            *value = math::coarse_gelu(*value);
        }
    }
}

/// The least step that results of [`coarse_gelu_in_place`] may be rounded to.
pub(crate) const COARSE_STEP: f32 = 1.0 / 256.0;

fn gelu_in_place(cpu: Cpu, x: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if cpu.tier() >= Tier::Avx512 {
        // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
        unsafe { wide::gelu_in_place(x) };
        return;
    }
    gelu_one_by_one(cpu, x);
}

tiered! {
    fn gelu_tanh_in_place(x: &mut [f32]) {
        for value in x {
            *value = math::gelu_tanh(*value);
        }
    }
}

tiered! {
    fn tanh_in_place(x: &mut [f32]) {
        for value in x {
            *value = math::tanh(*value);
        }
    }
}

tiered! {
    fn relu_in_place(x: &mut [f32]) {
        for value in x {
            *value = if *value < 0.0 { 0.0 } else { *value };
        }
    }
}

tiered! {
    fn gelu_slope(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = dy * math::gelu_derivative(x);
        }
    }
}

impl Activation {
    /// What numbers are kept between, where that is all that is done.
    #[must_use]
    pub const fn limits(self) -> Option<[f32; 2]> {
        match self {
            Self::Relu => Some([0.0, f32::INFINITY]),
            Self::Map(Function::Clip { low, high }) => Some([low, high]),
            _ => None,
        }
    }

    /// Applies to a small slice, on this thread.
    pub(crate) fn apply(self, cpu: Cpu, x: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Relu => relu_in_place(cpu, x),
            Self::Gelu => gelu_in_place(cpu, x),
            Self::GeluTanh => gelu_tanh_in_place(cpu, x),
            Self::Tanh => tanh_in_place(cpu, x),
            Self::Map(function) => function.apply(cpu, x),
        }
    }
}

/// Elements that are copied and then activated: they stay in the first-level cache, and the C
/// library copies so few by loads and stores. More it copies by `rep movsb`, which was seen to take
/// 1.5 ns an element on Zen 3.
const PIECE: usize = 512;

/// `y = activation(x)`.
///
/// # Shapes
/// `x` and `y` have the same length.
pub fn activate(cpu: Cpu, activation: Activation, x: &[f32], y: &mut [f32]) {
    check_len("activate: y", y.len(), x.len());
    parallel::map(x, y, LINE, |x, y| {
        for (x, y) in x.chunks(PIECE).zip(y.chunks_mut(PIECE)) {
            y.copy_from_slice(x);
            activation.apply(cpu, y);
        }
    });
}

/// `y = x·Φ(x)`, the exact (erf) GELU. Absolute error below 2.5e-7·max(1, |x|).
///
/// # Shapes
/// `x` and `y` have the same length.
pub fn gelu_forward(cpu: Cpu, x: &[f32], y: &mut [f32]) {
    activate(cpu, Activation::Gelu, x, y);
}

/// `dx = dy·(Φ(x) + x·φ(x))`, the gradient of [`gelu_forward`] at `x`.
///
/// # Shapes
/// All three have the same length.
pub fn gelu_backward(cpu: Cpu, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    check_len("gelu_backward: dy", dy.len(), x.len());
    check_len("gelu_backward: dx", dx.len(), x.len());
    parallel::zip(x, dy, dx, LINE, |x, dy, dx| gelu_slope(cpu, x, dy, dx));
}
