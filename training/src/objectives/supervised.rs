//! Training on labels.

use crate::examples::Batch;
use crate::loss::{CrossEntropy, balanced_class_weights};
use crate::network::Network;
use crate::objective::{Loss, Objective, Step};

/// Cross-entropy against the labels.
#[derive(Clone, Debug, Default)]
pub struct Supervised {
    loss: CrossEntropy,
}

impl Supervised {
    /// Cross-entropy with `label_smoothing` in [0, 1). With `balanced`, the labels of all training
    /// rows, each of `n_classes` classes weighs the inverse of its frequency.
    pub fn new(n_classes: usize, label_smoothing: f64, balanced: Option<&[usize]>) -> Self {
        let class_weights = balanced.map(|labels| {
            let mut rows = vec![0; n_classes];
            for &label in labels {
                rows[label] += 1;
            }
            balanced_class_weights(&rows)
        });
        Self { loss: CrossEntropy { class_weights, label_smoothing: label_smoothing as f32 } }
    }
}

impl Objective for Supervised {
    fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> anyhow::Result<Loss> {
        let name = super::logits_name(network);
        let logits = network.forward(&batch.inputs(), &[name], step.mode())?.get::<2>(name)?;
        Ok(Loss::new(self.loss.loss(logits, super::labels(batch, network.device()))?))
    }
}
