//! Element by element and row by row.

use kernels::{
    Activation, Cpu, LayerNorm, Reduction, activate, activate_in_place, add, add_assign, add_row,
    layer_norm, layer_norm_in_place, mul, mul_assign, reduce, residual_layer_norm,
    residual_layer_norm_in_place, softmax_forward, softmax_in_place,
};
use proptest::prelude::*;

use crate::{assert_close, numbers, on_any_threads, on_every_tier};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn layer_norm_twin(x: &[f64], gamma: &[f32], beta: &[f32], epsilon: f64) -> Vec<f64> {
    let cols = gamma.len();
    let mut y = Vec::new();
    for row in x.chunks(cols) {
        let mean = row.iter().sum::<f64>() / cols as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
        for (col, x) in row.iter().enumerate() {
            let normal = (x - mean) / (variance + epsilon).sqrt();
            y.push(normal * f64::from(gamma[col]) + f64::from(beta[col]));
        }
    }
    y
}

pub(crate) fn softmax_twin(x: &[f64], row_len: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(row_len) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
        y.extend(row.iter().map(|x| (x - max).exp() / sum));
    }
    y
}

const REDUCTIONS: [Reduction; 8] = [
    Reduction::Sum,
    Reduction::Product,
    Reduction::Mean,
    Reduction::SumSquare,
    Reduction::L1,
    Reduction::L2,
    Reduction::Max,
    Reduction::Min,
];

/// In doubles, whose order hardly shows in what is rounded to f32.
fn reduction_twin(reduction: Reduction, line: Vec<f64>) -> f32 {
    let sum = |term: fn(f64) -> f64| line.iter().fold(0.0, |sum, &x| sum + term(x));
    let value = match reduction {
        Reduction::Sum => sum(|x| x),
        Reduction::Product => line.iter().product(),
        Reduction::Mean => sum(|x| x) / line.len() as f64,
        Reduction::SumSquare => sum(|x| x * x),
        Reduction::L1 => sum(f64::abs),
        Reduction::L2 => sum(|x| x * x).sqrt(),
        Reduction::Max => line.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduction::Min => line.iter().copied().fold(f64::INFINITY, f64::min),
    };
    value as f32
}

proptest! {
    #[test]
    fn sums_and_products(len in 0usize..100, seed: u64) {
        let (a, b) = (numbers(len, seed), numbers(len, seed ^ 1));
        let run = |kernel: fn(kernels::Cpu, &[f32], &[f32], &mut [f32])| on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; len];
            kernel(cpu, &a, &b, &mut y);
            y
        });
        let pairs = || a.iter().zip(&b);
        prop_assert_eq!(run(add), pairs().map(|(a, b)| a + b).collect::<Vec<_>>());
        prop_assert_eq!(run(mul), pairs().map(|(a, b)| a * b).collect::<Vec<_>>());
    }

    #[test]
    fn rows_get_a_row_added(rows in 0usize..9, cols in 0usize..40, seed: u64) {
        let (x, row) = (numbers(rows * cols, seed), numbers(cols, seed ^ 1));
        let y = on_every_tier(|cpu| {
            let mut y = x.clone();
            add_row(cpu, &mut y, &row);
            y
        });
        let expected: Vec<_> = x.iter().enumerate().map(|(i, x)| x + row[i % cols]).collect();
        prop_assert_eq!(y, expected);
    }

    #[test]
    fn activations(len in 0usize..100, seed: u64) {
        let x: Vec<_> = numbers(len, seed).iter().map(|x| x * 3.0).collect();
        let run = |activation| on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; len];
            activate(cpu, activation, &x, &mut y);
            y
        });
        let twin = |f: fn(f64) -> f64| wide(&x).into_iter().map(f).collect::<Vec<_>>();
        prop_assert_eq!(&run(Activation::Identity), &x);
        assert_close("relu", &run(Activation::Relu), &twin(|x| x.max(0.0)), 0.0);
        assert_close("tanh", &run(Activation::Tanh), &twin(f64::tanh), 4e-7);
    }

    #[test]
    fn layer_norms(rows in 0usize..9, cols in 1usize..70, seed: u64) {
        let (x, residual) = (numbers(rows * cols, seed), numbers(rows * cols, seed ^ 1));
        let (gamma, beta) = (numbers(cols, seed ^ 2), numbers(cols, seed ^ 3));
        let norm = LayerNorm { gamma: &gamma, beta: &beta, epsilon: 1e-5 };
        let y = on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; x.len()];
            layer_norm(cpu, &x, &norm, &mut y);
            y
        });
        // The deviation of two close values can amplify their rounding a hundredfold.
        assert_close("layer norm", &y, &layer_norm_twin(&wide(&x), &gamma, &beta, 1e-5), 2e-4);
        let y = on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; x.len()];
            residual_layer_norm(cpu, &x, &residual, &norm, &mut y);
            y
        });
        let sum: Vec<_> = x.iter().zip(&residual).map(|(a, b)| f64::from(a + b)).collect();
        assert_close("residual", &y, &layer_norm_twin(&sum, &gamma, &beta, 1e-5), 2e-4);
    }

    #[test]
    fn residuals_repeat(repeats in 1usize..5, rows in 1usize..9, cols in 1usize..70, seed: u64) {
        let (x, table) = (numbers(repeats * rows * cols, seed), numbers(rows * cols, seed ^ 1));
        let (gamma, beta) = (numbers(cols, seed ^ 2), numbers(cols, seed ^ 3));
        let norm = LayerNorm { gamma: &gamma, beta: &beta, epsilon: 1e-5 };
        let run = |residual: &[f32]| {
            on_every_tier(|cpu| {
                let mut y = vec![f32::NAN; x.len()];
                residual_layer_norm(cpu, &x, residual, &norm, &mut y);
                y
            })
        };
        prop_assert_eq!(run(&table), run(&table.repeat(repeats)));
    }

    #[test]
    fn reductions(outer in 0usize..40, count in 0usize..40, wide: bool, seed: u64) {
        let inner = if wide { 3 } else { 1 };
        let x = numbers(outer * count * inner, seed);
        for reduction in REDUCTIONS {
            let y = on_every_tier(|cpu| {
                let mut y = vec![f32::NAN; outer * inner];
                reduce(cpu, reduction, &x, [outer, count, inner], &mut y);
                y
            });
            for (index, &y) in y.iter().enumerate() {
                let line = (0..count).map(|place| {
                    f64::from(x[(index / inner * count + place) * inner + index % inner])
                });
                let expected = reduction_twin(reduction, line.collect());
                // A tie between two floats may fall either way.
                let close = (f64::from(y) - f64::from(expected)).abs()
                    <= 1.2e-7 * f64::from(expected).abs();
                let same = y == expected || close || y.is_nan() && expected.is_nan();
                prop_assert!(same, "{reduction:?}: {y} for {expected}");
            }
        }
    }

    #[test]
    fn softmaxes(rows in 0usize..9, row_len in 1usize..70, seed: u64) {
        let x: Vec<_> = numbers(rows * row_len, seed).iter().map(|x| x * 10.0).collect();
        let y = on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; x.len()];
            softmax_forward(cpu, &x, row_len, &mut y);
            y
        });
        assert_close("softmax", &y, &softmax_twin(&wide(&x), row_len), 1e-6);
    }
}

#[test]
fn masked_scores_weigh_nothing() {
    for masked in [f32::NEG_INFINITY, f32::MIN, -1e9, -1e4] {
        let y = on_every_tier(|cpu| {
            let mut y = vec![0.0; 3];
            softmax_forward(cpu, &[1.0, masked, 1.0], 3, &mut y);
            y
        });
        assert_eq!(y, [0.5, 0.0, 0.5]);
    }
}

/// Rows beside each other that the same registers hold.
#[test]
fn no_row_shows_in_another() {
    let rows = [[1.0, 2.0], [f32::NAN, 1.0], [f32::NEG_INFINITY; 2], [1e30, 1.0], [2.0, 1.0]];
    let y = on_every_tier(|cpu| {
        let mut y = vec![0.0; 10];
        softmax_forward(cpu, rows.as_flattened(), 2, &mut y);
        y.iter().map(|&y| if y.is_nan() { -1.0 } else { y }).collect()
    });
    assert_eq!(y[2..6], [-1.0; 4]);
    assert_eq!(y[6..8], [1.0, 0.0]);
    assert_eq!(y[..2], [y[9], y[8]]);
}

#[test]
fn nan_is_not_hidden() {
    for activation in [Activation::Relu, Activation::Gelu, Activation::Tanh] {
        let y = on_every_tier(|cpu| {
            let mut y = vec![0.0];
            activate(cpu, activation, &[f32::NAN], &mut y);
            vec![f32::from(u8::from(y[0].is_nan()))]
        });
        assert_eq!(y, [1.0], "{activation:?}");
    }
}

#[test]
fn large_inputs_do_not_depend_on_threads() {
    let (rows, cols) = (100, 401);
    let x = numbers(rows * cols, 1);
    let (gamma, beta) = (numbers(cols, 2), numbers(cols, 3));
    let norm = LayerNorm { gamma: &gamma, beta: &beta, epsilon: 1e-12 };
    on_any_threads(|| {
        let cpu = kernels::Cpu::best();
        let mut y = vec![0.0; x.len()];
        residual_layer_norm(cpu, &x, &x, &norm, &mut y);
        let mut z = vec![0.0; x.len()];
        softmax_forward(cpu, &y, cols, &mut z);
        z
    });
}

/// Fails unless `over`, which writes over its copy of `x`, gives the bits of `apart`, on every
/// tier and with any number of threads.
#[track_caller]
fn assert_same_in_place(
    x: &[f32],
    apart: impl Fn(Cpu, &mut [f32]) + Sync + Send,
    over: impl Fn(Cpu, &mut [f32]) + Sync + Send,
) {
    let on_all = |kernel: &(dyn Fn(Cpu, &mut [f32]) + Sync + Send)| {
        on_any_threads(|| {
            on_every_tier(|cpu| {
                let mut y = x.to_vec();
                kernel(cpu, &mut y);
                y
            })
        })
    };
    let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(on_all(&over)), bits(on_all(&apart)));
}

#[test]
fn kernels_that_write_over_their_input_give_the_same_bits() {
    // The last is cut into pieces for threads.
    for [rows, cols] in [[0, 5], [1, 1], [3, 7], [5, 33], [90, 384]] {
        let [x, other] = [1, 2].map(|seed| numbers(rows * cols, seed));
        let [gamma, beta] = [3, 4].map(|seed| numbers(cols, seed));
        let norm = LayerNorm { gamma: &gamma, beta: &beta, epsilon: 1e-5 };
        assert_same_in_place(&x, |c, y| add(c, &x, &other, y), |c, y| add_assign(c, y, &other));
        assert_same_in_place(&x, |c, y| mul(c, &x, &other, y), |c, y| mul_assign(c, y, &other));
        for kind in [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::Tanh] {
            let over = |c, y: &mut [f32]| activate_in_place(c, kind, y);
            assert_same_in_place(&x, |c, y| activate(c, kind, &x, y), over);
        }
        let over = |c, y: &mut [f32]| softmax_in_place(c, y, cols);
        assert_same_in_place(&x, |c, y| softmax_forward(c, &x, cols, y), over);
        let over = |c, y: &mut [f32]| layer_norm_in_place(c, y, &norm);
        assert_same_in_place(&x, |c, y| layer_norm(c, &x, &norm, y), over);
        let over = |c, y: &mut [f32]| residual_layer_norm_in_place(c, y, &other, &norm);
        assert_same_in_place(&x, |c, y| residual_layer_norm(c, &x, &other, &norm, y), over);
        let shorter = &other[..cols.min(other.len())];
        let over = |c, y: &mut [f32]| residual_layer_norm_in_place(c, y, shorter, &norm);
        assert_same_in_place(&x, |c, y| residual_layer_norm(c, &x, shorter, &norm, y), over);
    }
}
