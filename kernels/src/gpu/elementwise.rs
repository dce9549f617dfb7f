//! Functions of one element, and of pairs of elements that broadcast.

use cubecl::prelude::*;

use super::copy::{Strided, Walk, WalkLaunch};
use super::math::{erf, limit};
use super::{Buffer, Gpu};
use crate::Function;

/// [`Function`] without its parameters: what a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
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
    Clip,
}

/// The kind of a function, and its parameters or zeros.
fn parts(function: Function) -> (Kind, [f32; 2]) {
    match function {
        Function::Abs => (Kind::Abs, [0.0; 2]),
        Function::Neg => (Kind::Neg, [0.0; 2]),
        Function::Reciprocal => (Kind::Reciprocal, [0.0; 2]),
        Function::Floor => (Kind::Floor, [0.0; 2]),
        Function::Ceil => (Kind::Ceil, [0.0; 2]),
        Function::Sqrt => (Kind::Sqrt, [0.0; 2]),
        Function::Exp => (Kind::Exp, [0.0; 2]),
        Function::Log => (Kind::Log, [0.0; 2]),
        Function::Erf => (Kind::Erf, [0.0; 2]),
        Function::Sigmoid => (Kind::Sigmoid, [0.0; 2]),
        Function::Swish { alpha } => (Kind::Swish, [alpha, 0.0]),
        Function::HardSigmoid { alpha, beta } => (Kind::HardSigmoid, [alpha, beta]),
        Function::HardSwish => (Kind::HardSwish, [0.0; 2]),
        Function::LeakyRelu { alpha } => (Kind::LeakyRelu, [alpha, 0.0]),
        Function::Elu { alpha } => (Kind::Elu, [alpha, 0.0]),
        Function::Clip { low, high } => (Kind::Clip, [low, high]),
    }
}

#[cube]
fn value(x: f32, alpha: f32, beta: f32, #[comptime] kind: Kind) -> f32 {
    match kind {
        Kind::Abs => x.abs(),
        Kind::Neg => -x,
        Kind::Reciprocal => 1.0f32 / x,
        Kind::Floor => x.floor(),
        Kind::Ceil => x.ceil(),
        Kind::Sqrt => x.sqrt(),
        Kind::Exp => x.exp(),
        Kind::Log => x.ln(),
        Kind::Erf => erf(x),
        Kind::Sigmoid => 1.0f32 / (1.0f32 + (-x).exp()),
        Kind::Swish => x / (1.0f32 + (-alpha * x).exp()),
        Kind::HardSigmoid => limit(alpha * x + beta, 0.0f32, 1.0f32),
        Kind::HardSwish => x * limit(x / 6.0f32 + 0.5f32, 0.0f32, 1.0f32),
        Kind::LeakyRelu => select(x < 0.0f32, alpha * x, x),
        Kind::Elu => select(x < 0.0f32, alpha * (x.exp() - 1.0f32), x),
        Kind::Clip => limit(x, alpha, beta),
    }
}

#[cube(launch_unchecked)]
fn map_kernel(x: &[f32], y: &mut [f32], alpha: f32, beta: f32, #[comptime] kind: Kind) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        y[index] = value(x[index], alpha, beta, kind);
        index += step;
    }
}

/// `y = function(x)`, see [`crate::map`].
///
/// # Shapes
/// `x` and `y` are f32 of the same length.
pub fn map(gpu: &Gpu, function: Function, x: &Buffer, y: &Buffer) {
    let elements = y.len() / size_of::<f32>();
    let x = x.argument::<f32>("map: x", elements);
    let y = y.argument::<f32>("map: y", elements);
    let (cubes, units) = gpu.spread(elements);
    let (kind, [alpha, beta]) = parts(function);
    // SAFETY: the kernel stays below the length of y, which is also that of x.
    unsafe { map_kernel::launch_unchecked(&gpu.client, cubes, units, x, y, alpha, beta, kind) };
}

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pair {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
}

#[cube(launch_unchecked)]
fn pairs_kernel(
    a: &[f32],
    b: &[f32],
    y: &mut [f32],
    of_a: Walk,
    of_b: Walk,
    #[comptime] pair: Pair,
) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let (a, b) = (a[of_a.place(index)], b[of_b.place(index)]);
        y[index] = match pair {
            Pair::Add => a + b,
            Pair::Sub => a - b,
            Pair::Mul => a * b,
            Pair::Div => a / b,
        };
        index += step;
    }
}

/// `y[i] = pair(a[i'], b[i''])`: dimensions of `a` and `b` that are 1 or lacking repeat.
///
/// # Shapes
/// f32; `y`: `shape`, of at most four dimensions; `a` and `b` broadcast to it.
///
/// # Panics
/// When they do not.
pub fn pairs(
    gpu: &Gpu,
    pair: Pair,
    [a, b]: [(&Buffer, &[usize]); 2],
    (y, shape): (&Buffer, &[usize]),
) {
    let elements = shape.iter().product();
    let [of_a, of_b] = [a.1, b.1].map(|own| Strided::broadcast(own, shape));
    let count = |own: &[usize]| own.iter().product::<usize>();
    let (cubes, units) = gpu.spread(elements);
    let y = y.argument::<f32>("pairs: y", elements);
    if elements == 0 {
        return;
    }
    let a = a.0.argument::<f32>("pairs: a", count(a.1));
    let b = b.0.argument::<f32>("pairs: b", count(b.1));
    let (of_a, of_b) = (WalkLaunch::of(&of_a), WalkLaunch::of(&of_b));
    // SAFETY: the kernel stays below the length of y; `broadcast` made strides that stay in a, b.
    unsafe {
        pairs_kernel::launch_unchecked(&gpu.client, cubes, units, a, b, y, of_a, of_b, pair);
    };
}
