//! How a stage trains: the optimizer's settings as a manifest gives them.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::{Recipe, Schedule};

use crate::range::{NonNegative, Positive, Share};

/// Settings of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and of the batches.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Training {
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
}

impl Default for Training {
    fn default() -> Self {
        let one = NonZeroUsize::MIN;
        Self {
            batch_size: NonZeroUsize::new(32).unwrap_or(one),
            accumulation: one,
            learning_rate: Positive::new(1e-4),
            classifier_learning_rate: Some(Positive::new(1e-3)),
            weight_decay: NonNegative::new(0.01),
            warmup: Share::new(0.1),
            schedule: Schedule::Linear,
            clip_norm: NonNegative::new(1.0),
            dropout: Share::new(0.1),
            early_stopping: None,
        }
    }
}

impl Training {
    /// Settings that suit a network that has been trained already: a lower rate, no dropout.
    pub(crate) fn recovery() -> Self {
        Self {
            learning_rate: Positive::new(5e-5),
            classifier_learning_rate: None,
            dropout: Share::new(0.0),
            ..Self::default()
        }
    }

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
            bucket: true,
            seed,
        }
    }
}
