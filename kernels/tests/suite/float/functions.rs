//! Functions of single numbers, and batch normalization.

use kernels::{BatchNorm, Function, Trigonometric, batch_norm, map, map_in_place};
use proptest::prelude::*;

use crate::{assert_close, numbers, on_any_threads, on_every_tier};

/// The widest bound that a function states, here on numbers up to 2, and a rounding.
const TOLERANCE: f64 = 1e-6;

/// A function's slow twin.
type Twin = fn(f64) -> f64;

fn functions() -> Vec<(Function, Twin)> {
    vec![
        (Function::Abs, f64::abs),
        (Function::Neg, |x| -x),
        (Function::Reciprocal, |x| 1.0 / x),
        (Function::Floor, f64::floor),
        (Function::Ceil, f64::ceil),
        (Function::Sqrt, f64::sqrt),
        (Function::Exp, f64::exp),
        (Function::Log, f64::ln),
        (Function::Erf, erf),
        (Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        (Function::Swish { alpha: 1.5 }, |x| x / (1.0 + (-1.5 * x).exp())),
        (Function::HardSigmoid { alpha: 0.5, beta: 0.25 }, |x| (0.5 * x + 0.25).clamp(0.0, 1.0)),
        (Function::HardSwish, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        (Function::LeakyRelu { alpha: 0.25 }, |x| if x < 0.0 { 0.25 * x } else { x }),
        (Function::Elu { alpha: 1.5 }, |x| if x < 0.0 { 1.5 * x.exp_m1() } else { x }),
        (Function::Sign, |x| if x == 0.0 { 0.0 } else { x.signum() }),
        (Function::Round, f64::round_ties_even),
        (Function::Sin, f64::sin),
        (Function::Cos, f64::cos),
        (Function::Softplus, |x| x.exp().ln_1p()),
        (Function::Softsign, |x| x / (1.0 + x.abs())),
        (Function::Mish, |x| x * x.exp().ln_1p().tanh()),
        (Function::Celu { alpha: 1.5 }, |x| if x < 0.0 { 1.5 * (x / 1.5).exp_m1() } else { x }),
        (Function::Selu { alpha: 1.5, gamma: 1.25 }, |x| {
            1.25 * if x < 0.0 { 1.5 * x.exp_m1() } else { x }
        }),
        (Function::Clip { low: -0.5, high: 0.75 }, |x| x.clamp(-0.5, 0.75)),
    ]
}

/// Its Taylor series.
fn erf(x: f64) -> f64 {
    let (mut term, mut total) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        total += term / f64::from(2 * n + 1);
    }
    total * std::f64::consts::FRAC_2_SQRT_PI
}

/// Numbers for which every function has a value.
fn domain(function: Function, len: usize, seed: u64) -> Vec<f32> {
    let positive = matches!(function, Function::Sqrt | Function::Log | Function::Reciprocal);
    let number = |x: f32| if positive { x.abs() + 0.125 } else { x };
    numbers(len, seed).into_iter().map(number).collect()
}

proptest! {
    #[test]
    fn functions_of_any_length(len in 0usize..70, seed: u64) {
        for (function, twin) in functions() {
            let x = domain(function, len, seed);
            let expected: Vec<_> = x.iter().map(|&x| twin(f64::from(x))).collect();
            let y = on_every_tier(|cpu| {
                let mut y = vec![f32::NAN; len];
                map(cpu, function, &x, &mut y);
                y
            });
            assert_close(&format!("{function:?}"), &y, &expected, TOLERANCE);
            let over = on_every_tier(|cpu| {
                let mut y = x.clone();
                map_in_place(cpu, function, &mut y);
                y
            });
            assert_eq!(over, y);
        }
    }

    #[test]
    fn batch_norm_by_channel(batch in 0usize..3, channels in 0usize..5, image in 0usize..40, seed: u64) {
        let x = numbers(batch * channels * image, seed);
        let [scale, bias, mean] = [1, 2, 3].map(|other| numbers(channels, seed ^ other));
        let variance: Vec<_> = numbers(channels, seed ^ 4).into_iter().map(f32::abs).collect();
        let epsilon = 0.125;
        let (scale, bias, mean, variance) = (&scale, &bias, &mean, &variance);
        let norm = BatchNorm { scale, bias, mean, variance, epsilon };
        let y = on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; x.len()];
            batch_norm(cpu, &x, &norm, image, &mut y);
            y
        });
        let twin = |(index, &x): (usize, &f32)| {
            let channel = index / image % channels;
            let [x, scale, bias, mean, variance] =
                [x, scale[channel], bias[channel], mean[channel], variance[channel]].map(f64::from);
            (x - mean) / (variance + f64::from(epsilon)).sqrt() * scale + bias
        };
        let expected: Vec<_> = x.iter().enumerate().map(twin).collect();
        assert_close("batch_norm", &y, &expected, 4.0 * TOLERANCE);
    }
}

#[test]
fn not_a_number_stays() {
    for (function, _) in functions() {
        let y = on_any_threads(|| {
            let mut y = vec![f32::NAN; 40_000];
            map_in_place(kernels::Cpu::best(), function, &mut y);
            y.iter().map(|y| f32::from(u8::from(y.is_nan()))).collect()
        });
        assert!(y.iter().all(|&y| y == 1.0), "{function:?}");
    }
}

#[test]
fn trigonometric_functions_keep_to_their_bound() {
    let near = (-4000..=4000).map(|at| at as f32 / 1000.0);
    let far = [1e-30, 1e-7, 0.5, 10.0, 88.0, 89.0, 1499.0, 1501.0, 1e30, f32::INFINITY];
    let x: Vec<f32> = near.chain(far).chain(far.map(|x| -x)).chain([f32::NAN, 0.0]).collect();
    let twins: [(Trigonometric, Twin); 9] = [
        (Trigonometric::Tan, f64::tan),
        (Trigonometric::Asin, f64::asin),
        (Trigonometric::Acos, f64::acos),
        (Trigonometric::Atan, f64::atan),
        (Trigonometric::Sinh, f64::sinh),
        (Trigonometric::Cosh, f64::cosh),
        (Trigonometric::Asinh, f64::asinh),
        (Trigonometric::Acosh, f64::acosh),
        (Trigonometric::Atanh, f64::atanh),
    ];
    for (function, twin) in twins {
        // NaN is compared by its bits, which are one kind's.
        let y = on_any_threads(|| {
            on_every_tier(|cpu| {
                let mut y = vec![0.0; x.len()];
                function.map(cpu, &x, &mut y);
                let mut over = x.clone();
                function.map_in_place(cpu, &mut over);
                let number = |y: f32| if y.is_nan() { f32::MAX } else { y };
                let y: Vec<f32> = y.into_iter().map(number).collect();
                assert_eq!(over.into_iter().map(number).collect::<Vec<_>>(), y);
                y
            })
        });
        for (&x, y) in x.iter().zip(y) {
            let exact = twin(f64::from(x));
            let expected = if exact.is_nan() { f32::MAX } else { exact as f32 };
            let scale = if function == Trigonometric::Acos { 1.0 } else { 0.0 };
            let bound = 4e-7 * exact.abs().max(scale);
            let close = (f64::from(y) - exact).abs() <= bound;
            assert!(y == expected || close, "{function:?}({x}): expected {expected}, found {y}");
        }
    }
    Trigonometric::Atan.map(kernels::Cpu::best(), &[], &mut []);
}
