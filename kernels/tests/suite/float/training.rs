//! Gradients against finite differences in f64, and the optimizer against its formula.

use kernels::{
    AdamW, Cpu, LayerNorm, LayerNormGradients, adamw_step, column_sum, gelu_backward, gelu_forward,
    layer_norm_backward, layer_norm_forward, softmax_backward, softmax_forward,
};
use proptest::prelude::*;

use super::rows::softmax_twin;
use crate::{assert_close, numbers, on_any_threads, on_every_tier};

/// d(Σ dy·f(x))/dx by central differences.
fn slope(x: &[f32], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let loss = |x: &[f64]| -> f64 { f(x).iter().zip(dy).map(|(y, &dy)| y * f64::from(dy)).sum() };
    (0..x.len())
        .map(|i| {
            let shifted = |step: f64| {
                let mut x = x.clone();
                x[i] += step;
                loss(&x)
            };
            (shifted(1e-5) - shifted(-1e-5)) / 2e-5
        })
        .collect()
}

fn normalize(x: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
    let cols = gamma.len();
    let mut y = Vec::new();
    for row in x.chunks(cols) {
        let mean = row.iter().sum::<f64>() / cols as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
        let rstd = 1.0 / (variance + 1e-3).sqrt();
        y.extend((0..cols).map(|c| (row[c] - mean) * rstd * gamma[c] + beta[c]));
    }
    y
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn layer_norm_gradients(rows in 0usize..5, cols in 1usize..40, seed: u64) {
        let (x, dy) = (numbers(rows * cols, seed), numbers(rows * cols, seed ^ 1));
        let (gamma, beta) = (numbers(cols, seed ^ 2), numbers(cols, seed ^ 3));
        let all = on_every_tier(|cpu| layer_norm_pass(cpu, &x, &dy, &gamma, &beta));
        let (y, gradients) = all.split_at(x.len());
        assert_close("y", y, &normalize(&wide(&x), &wide(&gamma), &wide(&beta)), 1e-4);
        let mut expected = slope(&x, &dy, |x| normalize(x, &wide(&gamma), &wide(&beta)));
        expected.extend(slope(&gamma, &dy, |gamma| normalize(&wide(&x), gamma, &wide(&beta))));
        expected.extend(slope(&beta, &dy, |beta| normalize(&wide(&x), &wide(&gamma), beta)));
        assert_close("gradients", gradients, &expected, 2e-3);
    }

    #[test]
    fn softmax_gradients(rows in 0usize..5, row_len in 1usize..40, seed: u64) {
        let (x, dy) = (numbers(rows * row_len, seed), numbers(rows * row_len, seed ^ 1));
        let dx = on_every_tier(|cpu| {
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![f32::NAN; x.len()]);
            softmax_forward(cpu, &x, row_len, &mut y);
            softmax_backward(cpu, &y, &dy, row_len, &mut dx);
            dx
        });
        assert_close("dx", &dx, &slope(&x, &dy, |x| softmax_twin(x, row_len)), 1e-5);
    }

    #[test]
    fn column_sums(rows in 0usize..200, cols in 0usize..20, seed: u64) {
        let x = numbers(rows * cols, seed);
        let sums = on_every_tier(|cpu| {
            let mut sums = vec![f32::NAN; cols];
            column_sum(cpu, &x, cols, &mut sums);
            sums
        });
        let expected: Vec<f64> = (0..cols)
            .map(|c| (0..rows).map(|r| f64::from(x[r * cols + c])).sum())
            .collect();
        assert_close("sums", &sums, &expected, 1e-4);
    }

    #[test]
    fn adamw_follows_its_formula(len in 0usize..50, step in 1u32..100, scale in 0.1f32..2.0, seed: u64) {
        let (p, g) = (numbers(len, seed), numbers(len, seed ^ 1));
        let (m, v) = (numbers(len, seed ^ 2), numbers(len, seed ^ 3));
        let v: Vec<_> = v.iter().map(|v| v.abs()).collect();
        let settings = AdamW {
            learning_rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8,
            weight_decay: 0.1, step, gradient_scale: scale,
        };
        let found = on_every_tier(|cpu| {
            let (mut p, mut m, mut v) = (p.clone(), m.clone(), v.clone());
            adamw_step(cpu, &settings, &mut p, &g, &mut m, &mut v);
            [p, m, v].concat()
        });
        let (mut ps, mut ms, mut vs) = (vec![], vec![], vec![]);
        for i in 0..len {
            let g = f64::from(g[i]) * f64::from(scale);
            let m = 0.9 * f64::from(m[i]) + 0.1 * g;
            let v = 0.999 * f64::from(v[i]) + 0.001 * g * g;
            let root = (v / (1.0 - 0.999f64.powi(step as i32))).sqrt() + 1e-8;
            let p = f64::from(p[i]) * (1.0 - 0.01 * 0.1);
            ps.push(p - 0.01 * m / (1.0 - 0.9f64.powi(step as i32)) / root);
            ms.push(m);
            vs.push(v);
        }
        // m/√v is steep where v is near zero; f32 betas differ from the decimal ones by 1e-8.
        assert_close("adamw", &found, &[ps, ms, vs].concat(), 2e-3);
    }
}

/// Forward and backward; y, dx, dgamma and dbeta one after another.
fn layer_norm_pass(cpu: Cpu, x: &[f32], dy: &[f32], gamma: &[f32], beta: &[f32]) -> Vec<f32> {
    let (rows, cols) = (x.len() / gamma.len(), gamma.len());
    let norm = LayerNorm { gamma, beta, epsilon: 1e-3 };
    let (mut y, mut mean, mut rstd) = (vec![f32::NAN; x.len()], vec![0.0; rows], vec![0.0; rows]);
    layer_norm_forward(cpu, x, &norm, &mut y, &mut mean, &mut rstd);
    let (mut dx, mut dgamma, mut dbeta) =
        (vec![f32::NAN; x.len()], vec![f32::NAN; cols], vec![f32::NAN; cols]);
    let out = LayerNormGradients { dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta };
    layer_norm_backward(cpu, x, gamma, &mean, &rstd, dy, out);
    [y, dx, dgamma, dbeta].concat()
}

#[test]
fn gelu_gradient_is_the_slope_of_gelu() {
    let x: Vec<_> = (-60..=60).map(|i| i as f32 / 10.0).collect();
    let ones = vec![1.0; x.len()];
    let y = |shift: f32| {
        on_every_tier(|cpu| {
            let shifted: Vec<_> = x.iter().map(|x| x + shift).collect();
            let mut y = vec![0.0; x.len()];
            gelu_forward(cpu, &shifted, &mut y);
            y
        })
    };
    let dx = on_every_tier(|cpu| {
        let mut dx = vec![f32::NAN; x.len()];
        gelu_backward(cpu, &x, &ones, &mut dx);
        dx
    });
    let (high, low) = (y(0.01), y(-0.01));
    let expected: Vec<_> = high.iter().zip(&low).map(|(a, b)| f64::from(a - b) / 0.02).collect();
    // Central differences in f32: error of the values / step + step².
    assert_close("slope", &dx, &expected, 3e-4);
}

#[test]
fn large_gradients_do_not_depend_on_threads() {
    let (rows, cols) = (300, 129);
    let (x, dy) = (numbers(rows * cols, 1), numbers(rows * cols, 2));
    let (gamma, beta) = (numbers(cols, 3), numbers(cols, 4));
    on_any_threads(|| layer_norm_pass(Cpu::best(), &x, &dy, &gamma, &beta));
    on_any_threads(|| {
        let mut sums = vec![0.0; cols];
        column_sum(Cpu::best(), &x, cols, &mut sums);
        sums
    });
}
