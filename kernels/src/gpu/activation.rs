//! Functions of single numbers: activations, alone or behind a product.

use cubecl::prelude::*;

use super::math::{erf, exp, limit, ln, tanh};
use super::{Buffer, Gpu};
use crate::{Activation, Function};

/// [`Activation`] without its parameters: what a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Curve {
    Identity,
    Relu,
    Gelu,
    GeluTanh,
    Tanh,
    Abs,
    Neg,
    Reciprocal,
    Floor,
    Ceil,
    Sqrt,
    Exp,
    Log,
    Erf,
    Sigmoid,
    Swish,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Elu,
    Sign,
    Round,
    Sin,
    Cos,
    Softplus,
    Softsign,
    Mish,
    Celu,
    Selu,
    Clip,
}

impl Curve {
    /// The curve of an activation, and its parameters or zeros.
    pub(super) fn of(activation: Activation) -> (Self, [f32; 2]) {
        let function = match activation {
            Activation::Identity => return (Self::Identity, [0.0; 2]),
            Activation::Relu => return (Self::Relu, [0.0; 2]),
            Activation::Gelu => return (Self::Gelu, [0.0; 2]),
            Activation::GeluTanh => return (Self::GeluTanh, [0.0; 2]),
            Activation::Tanh => return (Self::Tanh, [0.0; 2]),
            Activation::Map(function) => function,
        };
        match function {
            Function::Abs => (Self::Abs, [0.0; 2]),
            Function::Neg => (Self::Neg, [0.0; 2]),
            Function::Reciprocal => (Self::Reciprocal, [0.0; 2]),
            Function::Floor => (Self::Floor, [0.0; 2]),
            Function::Ceil => (Self::Ceil, [0.0; 2]),
            Function::Sqrt => (Self::Sqrt, [0.0; 2]),
            Function::Exp => (Self::Exp, [0.0; 2]),
            Function::Log => (Self::Log, [0.0; 2]),
            Function::Erf => (Self::Erf, [0.0; 2]),
            Function::Sigmoid => (Self::Sigmoid, [0.0; 2]),
            Function::Swish { alpha } => (Self::Swish, [alpha, 0.0]),
            Function::HardSigmoid { alpha, beta } => (Self::HardSigmoid, [alpha, beta]),
            Function::HardSwish => (Self::HardSwish, [0.0; 2]),
            Function::LeakyRelu { alpha } => (Self::LeakyRelu, [alpha, 0.0]),
            Function::Elu { alpha } => (Self::Elu, [alpha, 0.0]),
            Function::Sign => (Self::Sign, [0.0; 2]),
            Function::Round => (Self::Round, [0.0; 2]),
            Function::Sin => (Self::Sin, [0.0; 2]),
            Function::Cos => (Self::Cos, [0.0; 2]),
            Function::Softplus => (Self::Softplus, [0.0; 2]),
            Function::Softsign => (Self::Softsign, [0.0; 2]),
            Function::Mish => (Self::Mish, [0.0; 2]),
            Function::Celu { alpha } => (Self::Celu, [alpha, 0.0]),
            Function::Selu { alpha, gamma } => (Self::Selu, [alpha, gamma]),
            Function::Clip { low, high } => (Self::Clip, [low, high]),
        }
    }
}

/// The curve's value at x.
#[cube]
pub(super) fn activated(x: f32, alpha: f32, beta: f32, #[comptime] curve: Curve) -> f32 {
    match curve {
        Curve::Identity => x,
        Curve::Relu => select(x < 0.0f32, 0.0f32, x),
        Curve::Gelu => 0.5f32 * x * (1.0f32 + erf(x * 0.707_106_77f32)),
        Curve::GeluTanh => {
            let inner = 0.797_884_6f32 * (x + 0.044_715f32 * x * x * x);
            0.5f32 * x * (1.0f32 + tanh(inner))
        }
        Curve::Tanh => tanh(x),
        Curve::Abs => x.abs(),
        Curve::Neg => -x,
        Curve::Reciprocal => 1.0f32 / x,
        Curve::Floor => x.floor(),
        Curve::Ceil => x.ceil(),
        Curve::Sqrt => x.sqrt(),
        Curve::Exp => exp(x),
        Curve::Log => ln(x),
        Curve::Erf => erf(x),
        Curve::Sigmoid => 1.0f32 / (1.0f32 + exp(-x)),
        Curve::Swish => x / (1.0f32 + exp(-alpha * x)),
        Curve::HardSigmoid => limit(alpha * x + beta, 0.0f32, 1.0f32),
        Curve::HardSwish => x * limit(x / 6.0f32 + 0.5f32, 0.0f32, 1.0f32),
        Curve::LeakyRelu => select(x < 0.0f32, alpha * x, x),
        Curve::Elu => select(x < 0.0f32, alpha * (exp(x) - 1.0f32), x),
        Curve::Sign => select(x > 0.0f32, 1.0f32, select(x < 0.0f32, -1.0f32, x)),
        Curve::Round => {
            // Adding it leaves no bits for fractions, and rounds to the even one of two.
            let rounded = (x + 12_582_912.0f32) - 12_582_912.0f32;
            select(x.abs() < 4_194_304.0f32, rounded, x)
        }
        Curve::Sin => x.sin(),
        Curve::Cos => x.cos(),
        Curve::Softplus => softplus(x),
        Curve::Softsign => x / (1.0f32 + x.abs()),
        Curve::Mish => x * tanh(softplus(x)),
        Curve::Celu => select(x < 0.0f32, alpha * (exp(x / alpha) - 1.0f32), x),
        Curve::Selu => beta * select(x < 0.0f32, alpha * (exp(x) - 1.0f32), x),
        Curve::Clip => limit(x, alpha, beta),
    }
}

/// ln(1 + eˣ).
#[cube]
fn softplus(x: f32) -> f32 {
    select(x < 0.0f32, 0.0f32, x) + ln(1.0f32 + exp(-x.abs()))
}

#[cube(launch_unchecked)]
fn activate_kernel(x: &[f32], y: &mut [f32], alpha: f32, beta: f32, #[comptime] curve: Curve) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        y[index] = activated(x[index], alpha, beta, curve);
        index += step;
    }
}

/// `y = activation(x)`, see [`crate::activate`] and [`crate::map`].
///
/// # Shapes
/// `x` and `y` are f32 of the same length.
pub fn activate(gpu: &Gpu, activation: Activation, x: &Buffer, y: &Buffer) {
    let elements = y.len() / size_of::<f32>();
    let x = x.argument::<f32>("activate: x", elements);
    let y = y.argument::<f32>("activate: y", elements);
    if elements == 0 {
        return;
    }
    let (cubes, units) = gpu.spread(elements);
    let (curve, [alpha, beta]) = Curve::of(activation);
    let client = &gpu.client;
    // SAFETY: the kernel stays below the length of y, which is also that of x.
    unsafe { activate_kernel::launch_unchecked(client, cubes, units, x, y, alpha, beta, curve) };
}
