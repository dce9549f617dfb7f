#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2).

use rayon::prelude::*;

use crate::parallel::{CHUNK, check_len};
use crate::tier::{Cpu, tiered};

/// The settings of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Step size of this very step, schedule included.
    pub learning_rate: f32,
    /// Decay of the first moment, in 0..1.
    pub beta1: f32,
    /// Decay of the second moment, in 0..1.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay: `learning_rate · weight_decay · parameter` is subtracted.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub step: u32,
    /// Factor on the gradient, as clipping or accumulation wants it; 1 for none.
    pub gradient_scale: f32,
}

/// The numbers of a step that do not change from element to element.
#[derive(Clone, Copy)]
struct Factors {
    beta1: f32,
    beta2: f32,
    gradient_scale: f32,
    keep: f32,
    rate: f32,
    root_correction: f32,
    epsilon: f32,
}

tiered! {
    fn update(factors: Factors, parameter: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32]) {
        let state = m.iter_mut().zip(v);
        for ((p, &g), (m, v)) in parameter.iter_mut().zip(gradient).zip(state) {
            let g = g * factors.gradient_scale;
            *m = factors.beta1 * *m + (1.0 - factors.beta1) * g;
            *v = factors.beta2 * *v + (1.0 - factors.beta2) * (g * g);
            let denominator = (*v).sqrt() * factors.root_correction + factors.epsilon;
            *p = *p * factors.keep - factors.rate * (*m / denominator);
        }
    }
}

/// Moves `parameter` one step against `gradient` and updates the moments `m` and `v`.
///
/// # Shapes
/// All four have the same length.
///
/// # Panics
/// When a length differs or `step` is 0.
pub fn adamw_step(
    cpu: Cpu,
    settings: &AdamW,
    parameter: &mut [f32],
    gradient: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    check_len("adamw_step: gradient", gradient.len(), parameter.len());
    check_len("adamw_step: m", m.len(), parameter.len());
    check_len("adamw_step: v", v.len(), parameter.len());
    assert!(settings.step > 0, "adamw_step: steps count from 1, found 0");
    let factors = settings.factors();
    if parameter.len() <= CHUNK {
        update(cpu, factors, parameter, gradient, m, v);
        return;
    }
    let state = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
    parameter
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(state)
        .for_each(|((p, g), (m, v))| update(cpu, factors, p, g, m, v));
}

impl AdamW {
    #[allow(clippy::cast_possible_truncation, reason = "computed in f64, used in f32")]
    fn factors(&self) -> Factors {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(self.step));
        Factors {
            beta1: self.beta1,
            beta2: self.beta2,
            gradient_scale: self.gradient_scale,
            keep: 1.0 - self.learning_rate * self.weight_decay,
            rate: (f64::from(self.learning_rate) / correction(self.beta1)) as f32,
            root_correction: (1.0 / correction(self.beta2).sqrt()) as f32,
            epsilon: self.epsilon,
        }
    }
}
