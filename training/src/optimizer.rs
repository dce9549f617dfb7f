//! AdamW over a network's trained tensors (Loshchilov & Hutter 2019, arXiv:1711.05101, Alg. 2), but
//! for extra tensors that an objective moves along their plain gradients.
//!
//! Every element moves at every step, also rows of an embedding table that no token of the batch
//! picked: their momentum runs on and their decay applies, as in the dense algorithm.

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Gradients;
use kernels::{AdamW, Cpu};
use rayon::prelude::*;

use crate::network::{Network, Parameter, Role};
use crate::walk::floats::Floats;
use crate::walk::fused;

/// Decay of the first moment.
const BETA1: f32 = 0.9;
/// Decay of the second moment.
const BETA2: f32 = 0.999;
/// Added to the root of the second moment.
const EPSILON: f32 = 1e-8;
/// Learned quantization scales stay above this, so that they can divide.
const LEAST_SCALE: f32 = 1e-8;
/// Elements whose squares are summed by one thread at once.
const CHUNK: usize = 64 * 1024;

/// First and second moment of one parameter.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub(crate) first: Floats,
    pub(crate) second: Floats,
}

/// The optimizer's memory: one entry a parameter of the network, in its order.
#[derive(Debug)]
pub(crate) struct Optimizer {
    pub(crate) moments: Vec<Option<Moments>>,
    gradients: Vec<Option<Floats>>,
    /// Steps done.
    pub(crate) steps: u32,
}

/// The settings of one step.
pub(crate) struct Settings<'a> {
    /// Learning rate of a parameter.
    pub(crate) learning_rate: &'a dyn Fn(&Parameter) -> f64,
    /// Rate of the plain gradient steps of an extra tensor that takes such.
    pub(crate) descent_rate: &'a dyn Fn(&str) -> Option<f64>,
    pub(crate) weight_decay: f64,
    /// Greatest norm of the gradient; 0 for any.
    pub(crate) clip_norm: f64,
    /// Gradients that were added up.
    pub(crate) parts: usize,
}

impl Optimizer {
    pub(crate) fn new(network: &Network) -> Self {
        let count = network.parameters().len();
        Self { moments: vec![None; count], gradients: vec![None; count], steps: 0 }
    }

    /// Adds the gradients of one batch.
    pub(crate) fn accumulate(&mut self, network: &Network, mut found: Gradients) {
        let cpu = network.device().is_cpu();
        for (parameter, sum) in network.parameters().iter().zip(&mut self.gradients) {
            if !parameter.trained {
                continue;
            }
            let value = parameter.value.clone().typed::<1>();
            if let Some(gradient) = value.grad_remove(&mut found) {
                let gradient = Floats(gradient.into_dispatch());
                *sum = Some(match sum.take() {
                    Some(sum) if cpu => {
                        let parts = [sum.0, gradient.0].map(fused::plain_tensor);
                        Floats(fused::plain(fused::add(&parts[0], &parts[1])))
                    }
                    Some(sum) => sum.add(gradient),
                    None => gradient,
                });
            }
        }
    }

    /// Moves every trained tensor that has a gradient, and applies the masks.
    pub(crate) fn step(&mut self, network: &mut Network, settings: &Settings<'_>) {
        self.steps += 1;
        let cpu = network.device().is_cpu();
        let average = 1.0 / settings.parts.max(1) as f32;
        for (parameter, gradient) in network.parameters_mut().iter_mut().zip(&mut self.gradients) {
            if parameter.role == Role::Extra
                && let Some(rate) = (settings.descent_rate)(&parameter.name)
                && let Some(gradient) = gradient.take()
            {
                let value = parameter.value.clone().inner();
                parameter.set(value.sub(gradient.scale(rate as f32 * average)));
            }
        }
        let clip = self.clip(cpu, average, settings.clip_norm);
        let parameters = network.parameters_mut().iter_mut();
        let states = self.gradients.iter_mut().zip(&mut self.moments);
        for (parameter, (gradient, moments)) in parameters.zip(states) {
            let Some(gradient) = gradient.take() else { continue };
            let decays = parameter.shape.len() >= 2 && parameter.role != Role::Scale;
            let update = AdamW {
                learning_rate: (settings.learning_rate)(parameter) as f32,
                beta1: BETA1,
                beta2: BETA2,
                epsilon: EPSILON,
                weight_decay: if decays { settings.weight_decay as f32 } else { 0.0 },
                step: self.steps,
                gradient_scale: average,
            };
            if cpu {
                step_on_cpu(parameter, &update, clip.as_ref(), gradient, moments);
            } else {
                step_on_device(parameter, &update, clip.as_ref(), gradient, moments);
            }
            if parameter.role == Role::Scale {
                let value = parameter.value.clone().inner();
                parameter.set(Floats(Dispatch::float_clamp_min(value.0, LEAST_SCALE.into())));
            }
            parameter.apply_mask();
        }
    }

    /// The factor that brings the averaged gradient to at most `greatest`, `[1]`, on the device.
    fn clip(&self, cpu: bool, average: f32, greatest: f64) -> Option<Floats> {
        if greatest <= 0.0 {
            return None;
        }
        let squares = self.gradients.iter().flatten().map(|gradient| {
            if cpu { square_sum(gradient) } else { gradient.clone().mul(gradient.clone()).sum() }
        });
        let norm = squares.reduce(Floats::add)?.sqrt().scale(average).typed::<1>();
        // Never more than 1, and no division by zero.
        let factor = (norm + 1e-6).recip().mul_scalar(greatest).clamp_max(1.0);
        Some(Floats(factor.into_dispatch()))
    }
}

/// Sum of squares in a fixed order, `[1]`.
fn square_sum(gradient: &Floats) -> Floats {
    let tensor = fused::plain_tensor(gradient.0.clone());
    let elements = fused::elements(&tensor);
    let partial = |piece: &[f32]| -> f64 {
        let mut lanes = [0f32; 16];
        let chunks = piece.chunks_exact(16);
        let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += x * x;
            }
        }
        lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + f64::from(rest)
    };
    let partials: Vec<f64> = elements.par_chunks(CHUNK).map(partial).collect();
    let sum = partials.iter().sum::<f64>() as f32;
    Floats(fused::plain(fused::tensor(&[1], vec![sum])))
}

/// In place, without a copy of anything.
fn step_on_cpu(
    parameter: &mut Parameter,
    update: &AdamW,
    clip: Option<&Floats>,
    gradient: Floats,
    moments: &mut Option<Moments>,
) {
    let factor = clip.map_or(1.0, |clip| clip.to_vec()[0]);
    let update = AdamW { gradient_scale: update.gradient_scale * factor, ..*update };
    let gradient = fused::plain_tensor(gradient.0);
    let zeros = || {
        Floats(fused::plain(fused::tensor(
            &fused::shape(&gradient),
            vec![0.0; gradient.layout().num_elements()],
        )))
    };
    let Moments { first, second } =
        moments.take().unwrap_or_else(|| Moments { first: zeros(), second: zeros() });
    // The leaf is taken apart so that its memory has one owner and is written in place.
    let nothing = Floats(fused::plain(fused::tensor(&[0], Vec::new())));
    let held = std::mem::replace(&mut parameter.value, nothing);
    let mut value = fused::contiguous(&fused::plain_tensor(held.inner().0));
    let mut first = fused::plain_tensor(first.0);
    let mut second = fused::plain_tensor(second.0);
    kernels::adamw_step(
        Cpu::best(),
        &update,
        value.storage_mut::<f32>(),
        &fused::elements(&gradient),
        first.storage_mut::<f32>(),
        second.storage_mut::<f32>(),
    );
    parameter.set(Floats(fused::plain(value)));
    let [first, second] = [first, second].map(|moment| Floats(fused::plain(moment)));
    *moments = Some(Moments { first, second });
}

/// The same arithmetic in Burn's operations, without waiting for the device.
fn step_on_device(
    parameter: &mut Parameter,
    update: &AdamW,
    clip: Option<&Floats>,
    gradient: Floats,
    moments: &mut Option<Moments>,
) {
    let mut gradient = gradient.scale(update.gradient_scale);
    if let Some(clip) = clip {
        gradient = gradient.mul(clip.clone());
    }
    let squared = gradient.clone().mul(gradient.clone());
    let (first, second) = match moments.take() {
        Some(Moments { first, second }) => (
            first.scale(update.beta1).add(gradient.scale(1.0 - update.beta1)),
            second.scale(update.beta2).add(squared.scale(1.0 - update.beta2)),
        ),
        None => (gradient.scale(1.0 - update.beta1), squared.scale(1.0 - update.beta2)),
    };
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(update.step));
    let rate = (f64::from(update.learning_rate) / correction(update.beta1)) as f32;
    let root = (1.0 / correction(update.beta2).sqrt()) as f32;
    let denominator = second.clone().sqrt().scale(root).add_scalar(update.epsilon);
    let keep = 1.0 - update.learning_rate * update.weight_decay;
    let value = parameter.value.clone().inner().scale(keep);
    parameter.set(value.sub(first.clone().div(denominator).scale(rate)));
    *moments = Some(Moments { first, second });
}
