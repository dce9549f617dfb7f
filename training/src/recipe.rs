//! How long, how fast and with what regularization a network is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::examples::Bucket;

/// The settings of a training run. The defaults suit the fine-tuning of a pretrained encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// Passes over the training rows, ≥ 1.
    pub epochs: usize,
    /// Rows that go through the network together, ≥ 1.
    pub batch_size: usize,
    /// Batches whose gradients are averaged before one optimizer step, ≥ 1.
    pub accumulation: usize,
    /// Greatest learning rate of AdamW, > 0.
    pub learning_rate: f64,
    /// Learning rate of the last linear layer, > 0, where it differs: a fresh classifier on a
    /// pretrained encoder learns better with more.
    pub classifier_learning_rate: Option<f64>,
    /// Decoupled weight decay of weights with two or more dimensions, ≥ 0.
    pub weight_decay: f64,
    /// Part of all steps in which the learning rate rises linearly from 0, in 0..1.
    pub warmup: f64,
    /// What the learning rate does after the warm-up.
    pub schedule: Schedule,
    /// Greatest L2 norm of the whole gradient; longer ones are scaled down. 0 switches it off.
    pub clip_norm: f64,
    /// Part of the hidden values that is dropped, in 0..1.
    pub dropout: f64,
    /// Epochs without a better validation score after which training ends, ≥ 1; never when absent.
    pub early_stopping: Option<usize>,
    /// Which epoch's weights a run ends with.
    pub keep: Keep,
    /// Whether texts of a similar length share a batch. Saves padding.
    pub bucket: bool,
    /// Seed of shuffling and dropout.
    pub seed: u64,
}

/// Which epoch's weights a training run ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Those of the best validation accuracy (ties: lower loss); the last without validation rows.
    #[default]
    Best,
    /// Those of the last epoch: with few validation rows the best one is largely luck, and a rate
    /// that has come down to 0 has settled.
    Last,
}

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Falls in a straight line to 0.
    #[default]
    Linear,
    /// Falls along half a cosine to 0.
    Cosine,
    /// Stays.
    Constant,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 3,
            batch_size: 32,
            accumulation: 1,
            learning_rate: 5e-5,
            classifier_learning_rate: None,
            weight_decay: 0.01,
            warmup: 0.1,
            schedule: Schedule::Linear,
            clip_norm: 1.0,
            dropout: 0.1,
            early_stopping: None,
            keep: Keep::Best,
            bucket: true,
            seed: 0,
        }
    }
}

impl Recipe {
    /// Checks every range.
    ///
    /// # Errors
    ///
    /// Names the first setting that is out of its range.
    pub fn check(&self) -> Result<()> {
        let at_least_one = [
            ("epochs", self.epochs),
            ("batch-size", self.batch_size),
            ("accumulation", self.accumulation),
            ("early-stopping", self.early_stopping.unwrap_or(1)),
        ];
        for (name, value) in at_least_one {
            range(name, value as f64, value >= 1, "a whole number from 1")?;
        }
        let rates = [
            ("learning-rate", self.learning_rate),
            ("classifier-learning-rate", self.classifier_learning_rate.unwrap_or(1.0)),
        ];
        for (name, rate) in rates {
            range(name, rate, rate > 0.0 && rate.is_finite(), "a number above 0")?;
        }
        for (name, value) in [("weight-decay", self.weight_decay), ("clip-norm", self.clip_norm)] {
            range(name, value, value >= 0.0 && value.is_finite(), "a number from 0")?;
        }
        for (name, part) in [("warmup", self.warmup), ("dropout", self.dropout)] {
            range(name, part, (0.0..1.0).contains(&part), "a part, from 0 to below 1")?;
        }
        Ok(())
    }

    /// The learning rate of `step` (from 0) of `total`, before any multiplier: rises over the
    /// warm-up, reaches its greatest value at the end of it, and falls to 0 one step after the last.
    pub fn learning_rate(&self, step: u64, total: u64) -> f64 {
        let warmup = (self.warmup * total as f64).ceil();
        let step = step as f64;
        if step < warmup {
            return self.learning_rate * (step + 1.0) / warmup;
        }
        let progress = (step - warmup) / (total as f64 - warmup).max(1.0);
        let factor = match self.schedule {
            Schedule::Linear => 1.0 - progress,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Schedule::Constant => 1.0,
        };
        self.learning_rate * factor.max(0.0)
    }

    /// [`Self::bucket`] as batching wants it.
    pub(crate) fn bucket(&self) -> Bucket {
        if self.bucket { Bucket::ByLength } else { Bucket::Random }
    }
}

fn range(name: &'static str, found: f64, fits: bool, expected: &'static str) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::Setting { name, found: found.to_string(), expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls() {
        let recipe =
            |schedule| Recipe { learning_rate: 1.0, warmup: 0.2, schedule, ..Recipe::default() };
        let check = |schedule, expected: [f64; 5]| {
            let found = [0, 1, 2, 6, 9].map(|step| recipe(schedule).learning_rate(step, 10));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{schedule:?} {found} {expected}");
            }
        };
        check(Schedule::Linear, [0.5, 1.0, 1.0, 0.5, 0.125]);
        check(Schedule::Cosine, [0.5, 1.0, 1.0, 0.5, 0.0381]);
        check(Schedule::Constant, [0.5, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn ranges_are_checked_by_name() {
        let error = Recipe { dropout: 1.0, ..Recipe::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "`dropout` = 1: expected a part, from 0 to below 1");
        let error = Recipe { epochs: 0, ..Recipe::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "`epochs` = 0: expected a whole number from 1");
        Recipe::default().check().unwrap();
    }
}
