//! Softmax temperatures of distillation: constant, annealed, per row, or learned against the student.

use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, softmax};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Temperature that softens student and teacher logits, unitless, > 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Temperature {
    /// The same all along (Hinton et al. 2015; DistilBERT takes 2).
    Constant {
        /// Temperature, > 0.
        #[serde(deserialize_with = "positive")]
        #[schemars(range(min = 0.01, max = 1000.0))]
        value: f64,
    },
    /// Annealed over the training steps.
    Schedule {
        /// Temperature of the first step, > 0.
        #[serde(deserialize_with = "positive")]
        #[schemars(range(min = 0.01, max = 1000.0))]
        from: f64,
        /// Temperature of the last step, > 0.
        #[serde(deserialize_with = "positive")]
        #[schemars(range(min = 0.01, max = 1000.0))]
        to: f64,
        /// Way from the first to the last.
        #[serde(default)]
        shape: Shape,
    },
    /// One a row, around `base`: lower where the row's weight is above the batch's mean
    /// (arXiv:1911.07471, § 3.2).
    PerSample {
        /// What weighs a row.
        method: Weighting,
        /// Temperature of a row of mean weight, > 0.
        #[serde(default = "default_base", deserialize_with = "positive")]
        #[schemars(range(min = 0.01, max = 1000.0))]
        base: f64,
        /// How far a weight moves the temperature, ≥ 0.
        #[serde(default = "default_one", deserialize_with = "non_negative")]
        #[schemars(range(min = 0.0, max = 1000.0))]
        beta: f64,
        /// Exponent of the weight of `flsw`, > 0; `cwsm` has none.
        #[serde(default = "default_one", deserialize_with = "positive")]
        #[schemars(range(min = 0.01, max = 1000.0))]
        gamma: f64,
    },
    /// Trained against the student, T = `floor` + `span`·σ(θ) with a reversed gradient that grows
    /// from none to full (CTKD, arXiv:2211.16231). θ takes plain gradient steps at rate 0.5, whatever
    /// the student's optimizer.
    Learned {
        /// Lowest temperature, > 0.
        #[serde(default = "default_one", deserialize_with = "positive")]
        #[schemars(range(min = 0.01, max = 1000.0))]
        floor: f64,
        /// Highest temperature less the lowest, > 0.
        #[serde(default = "default_span", deserialize_with = "positive")]
        #[schemars(range(min = 0.01, max = 1000.0))]
        span: f64,
        /// θ before training, any finite number.
        #[serde(default = "default_one", deserialize_with = "finite")]
        initial: f64,
        /// Strength of the reversed gradient at the end of training, ≥ 0; the authors take 1.
        #[serde(default = "default_one", deserialize_with = "non_negative")]
        #[schemars(range(min = 0.0, max = 1000.0))]
        max_lambda: f64,
    },
}

/// How a schedule goes from its first to its last value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// In equal steps.
    #[default]
    Linear,
    /// Slow at both ends, half a cosine wave.
    Cosine,
}

/// What weighs a row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// Focal-loss style: (1 − cos(student, teacher))^γ, high where they still disagree.
    Flsw,
    /// Confidence weighted by student max: 1 / (max softmax(student) + 10⁻³), high where the
    /// student is unsure.
    Cwsm,
}

/// Learning rate of the learned temperature's plain gradient steps: as far as the authors' 0.05 on
/// CIFAR-100 goes with a momentum of 0.9.
pub const RATE: f64 = 0.5;

/// Per-row temperatures never fall below this: T = 0 has no softmax.
pub const LOWEST: f64 = 0.1;

impl Temperature {
    /// Temperatures of a batch, ready for [`crate::loss::Distillation::loss`].
    ///
    /// `progress` is 0 at the first step and 1 at the last
    /// ([`crate::Step::schedule_progress`]).
    /// `parameter` is the trained θ; only [`Temperature::Learned`] looks at it, and starts from its
    /// initial value when it is absent. Only that variant lets a gradient through.
    ///
    /// # Shapes
    ///
    /// student and teacher logits `[batch, classes]`, parameter `[1]` → `[batch]` for
    /// [`Temperature::PerSample`], `[1]` for the others
    pub fn of_batch(
        &self,
        progress: f64,
        student: &Tensor<2>,
        teacher: &Tensor<2>,
        parameter: Option<Tensor<1>>,
    ) -> Tensor<1> {
        let scalar = |value: f64| Tensor::<1>::from_floats([value as f32], &student.device());
        match *self {
            Self::Constant { value } => scalar(value),
            Self::Schedule { from, to, shape } => scalar(shape.between(from, to, progress)),
            Self::PerSample { method, base, beta, gamma } => {
                let weights =
                    method.weights(student.clone().detach(), teacher.clone().detach(), gamma);
                let difference = weights.clone().mean() - weights;
                (difference * beta + base).clamp_min(LOWEST)
            }
            Self::Learned { floor, span, initial, .. } => {
                let parameter = parameter.unwrap_or_else(|| scalar(initial));
                sigmoid(parameter) * span + floor
            }
        }
    }

    /// Value of the extra trained tensor θ before training; `None` when nothing is learned.
    pub fn initial_parameter(&self) -> Option<f32> {
        match *self {
            Self::Learned { initial, .. } => Some(initial as f32),
            _ => None,
        }
    }

    /// Rate at which θ descends its gradient: 0 at the start, −`max_lambda`·[`RATE`] at the end,
    /// along half a cosine wave, so that θ climbs the loss that the student descends. `None` when
    /// nothing is learned.
    pub fn descent_rate(&self, progress: f64) -> Option<f64> {
        match *self {
            Self::Learned { max_lambda, .. } => {
                Some(Shape::Cosine.between(0.0, -max_lambda, progress) * RATE)
            }
            _ => None,
        }
    }
}

impl Shape {
    fn between(self, from: f64, to: f64, progress: f64) -> f64 {
        let progress = progress.clamp(0.0, 1.0);
        let share = match self {
            Self::Linear => progress,
            Self::Cosine => (1.0 - (std::f64::consts::PI * progress).cos()) / 2.0,
        };
        from + (to - from) * share
    }
}

impl Weighting {
    /// `[batch, classes]` twice → `[batch]`
    fn weights(self, student: Tensor<2>, teacher: Tensor<2>, gamma: f64) -> Tensor<1> {
        match self {
            Self::Flsw => {
                let dot = (student.clone() * teacher.clone()).sum_dim(1);
                let norm = |logits: Tensor<2>| (logits.clone() * logits).sum_dim(1).sqrt() + 1e-4;
                let cosine = dot / (norm(student) * norm(teacher));
                // Rounding can take a cosine past 1, and a fractional power of that is NaN.
                (cosine.neg() + 1.0).clamp_min(0.0).powf_scalar(gamma).squeeze_dim::<1>(1)
            }
            Self::Cwsm => (softmax(student, 1).max_dim(1) + 1e-3).recip().squeeze_dim::<1>(1),
        }
    }
}

fn default_one() -> f64 {
    1.0
}

fn default_base() -> f64 {
    2.0
}

fn default_span() -> f64 {
    20.0
}

fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    bounded(deserializer, "a finite number", f64::is_finite)
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    bounded(deserializer, "a number from 0.01 to 1000", |value| (0.01..=1000.0).contains(&value))
}

fn non_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    bounded(deserializer, "a number from 0 to 1000", |value| (0.0..=1000.0).contains(&value))
}

fn bounded<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
    within: impl Fn(f64) -> bool,
) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if within(value) {
        return Ok(value);
    }
    Err(serde::de::Error::custom(format_args!("expected {expected}, found {value}")))
}

#[cfg(test)]
mod tests;
