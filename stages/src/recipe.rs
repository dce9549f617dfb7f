//! How a stage trains: the optimizer's settings as a manifest gives them.

use std::marker::PhantomData;
use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Keep, Recipe, Schedule};

use crate::range::{NonNegative, Positive, Share};

/// What [`Training`] has where a manifest says nothing: it differs from stage to stage.
pub(crate) trait Defaults {
    /// Highest learning rate.
    const LEARNING_RATE: f64;
    /// The classifier's, where it differs.
    const CLASSIFIER_LEARNING_RATE: Option<f64> = None;
    /// Probability of dropping a hidden value.
    const DROPOUT: f64 = 0.0;
}

/// For a network that learns its task.
#[derive(Debug, Clone)]
pub(crate) enum Learn {}

impl Defaults for Learn {
    const LEARNING_RATE: f64 = 1e-4;
    const CLASSIFIER_LEARNING_RATE: Option<f64> = Some(1e-3);
    const DROPOUT: f64 = 0.1;
}

/// For one that knows its task and recovers from being cut.
#[derive(Debug, Clone)]
pub(crate) enum Recover {}

impl Defaults for Recover {
    const LEARNING_RATE: f64 = 5e-5;
}

/// For one that gets used to integers.
#[derive(Debug, Clone)]
pub(crate) enum Requantize {}

impl Defaults for Requantize {
    const LEARNING_RATE: f64 = 2e-5;
}

/// Settings of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and of the batches.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default, bound = "D: Defaults")]
#[schemars(bound = "D: Defaults", inline)]
pub(crate) struct Training<D> {
    /// Rows in a batch.
    pub(crate) batch_size: NonZeroUsize,
    /// Batches whose gradients are averaged before each step.
    pub(crate) accumulation: NonZeroUsize,
    /// Highest learning rate.
    pub(crate) learning_rate: Positive,
    /// Highest learning rate of the classifier, where it differs.
    pub(crate) classifier_learning_rate: Option<Positive>,
    /// Decoupled weight decay of matrices.
    pub(crate) weight_decay: NonNegative,
    /// Share of the steps in which the learning rate rises from 0.
    pub(crate) warmup: Share,
    /// What the learning rate does afterwards.
    pub(crate) schedule: Schedule,
    /// Longest gradient (Euclidean norm over all weights), 0 for no limit; a longer one is scaled down.
    pub(crate) clip_norm: NonNegative,
    /// Probability with which a hidden value is dropped.
    pub(crate) dropout: Share,
    /// Evaluations without a better validation accuracy after which training ends.
    pub(crate) early_stopping: Option<NonZeroUsize>,
    /// Which epoch's weights are kept.
    pub(crate) keep: Keep,
    #[serde(skip)]
    defaults: PhantomData<D>,
}

impl<D: Defaults> Default for Training<D> {
    fn default() -> Self {
        let one = NonZeroUsize::MIN;
        Self {
            batch_size: NonZeroUsize::new(32).unwrap_or(one),
            accumulation: one,
            learning_rate: Positive::new(D::LEARNING_RATE),
            classifier_learning_rate: D::CLASSIFIER_LEARNING_RATE.map(Positive::new),
            weight_decay: NonNegative::new(0.01),
            warmup: Share::new(0.1),
            schedule: Schedule::Linear,
            clip_norm: NonNegative::new(1.0),
            dropout: Share::new(D::DROPOUT),
            early_stopping: None,
            keep: Keep::Best,
            defaults: PhantomData,
        }
    }
}

impl<D> Training<D> {
    /// The recipe for `epochs` passes.
    pub(crate) fn recipe(&self, epochs: usize, seed: u64) -> Recipe {
        Recipe {
            epochs,
            batch_size: self.batch_size.get(),
            accumulation: self.accumulation.get(),
            learning_rate: self.learning_rate.get(),
            classifier_learning_rate: self.classifier_learning_rate.map(Positive::get),
            weight_decay: self.weight_decay.get(),
            warmup: self.warmup.get(),
            schedule: self.schedule,
            clip_norm: self.clip_norm.get(),
            dropout: self.dropout.get(),
            early_stopping: self.early_stopping.map(NonZeroUsize::get),
            keep: self.keep,
            bucket: true,
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_leaves_the_other_defaults_of_the_stage() {
        let given = serde_json::json!({ "keep": "last" });
        let recover: Training<Recover> = serde_json::from_value(given.clone()).unwrap();
        assert_eq!((recover.learning_rate.get(), recover.dropout.get()), (5e-5, 0.0));
        let learn: Training<Learn> = serde_json::from_value(given).unwrap();
        assert_eq!((learn.learning_rate.get(), learn.dropout.get()), (1e-4, 0.1));
        assert_eq!(learn.recipe(2, 1).keep, Keep::Last);
    }
}
