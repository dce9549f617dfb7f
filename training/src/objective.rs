//! What a training run minimizes, and who watches it.

use std::path::Path;
use std::time::Duration;

use burn::tensor::Tensor;

use crate::examples::Batch;
use crate::network::{Mode, Network};
use crate::random::derive;

/// Where in a training run a batch stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Optimizer steps done before this one.
    pub index: u64,
    /// Optimizer steps of the whole run, ≥ 1.
    pub total: u64,
    /// Which of the batches whose gradients this step averages, from 0.
    pub part: usize,
    /// Epoch, from 0.
    pub epoch: usize,
    /// Epochs of the whole run, ≥ 1.
    pub epochs: usize,
    /// Part of the hidden values that the recipe drops.
    pub dropout: f64,
    /// The recipe's seed.
    pub seed: u64,
}

impl Step {
    /// How far the run is, from 0 to below 1.
    pub fn progress(&self) -> f64 {
        self.index as f64 / self.total.max(1) as f64
    }

    /// Where a schedule stands, from 0 at the first step to 1 at the last; 1 where there is only one.
    pub fn schedule_progress(&self) -> f64 {
        match self.total.saturating_sub(1) {
            0 => 1.0,
            last => self.index as f64 / last as f64,
        }
    }

    /// A seed for randomness of this very batch; `purpose` tells several uses apart.
    pub fn random_seed(&self, purpose: u64) -> u64 {
        let step = derive(self.seed, self.index);
        derive(derive(step, self.part as u64), purpose)
    }

    /// The mode of a forward pass that is trained through, with this step's dropout.
    pub fn mode(&self) -> Mode {
        Mode::Train { dropout: self.dropout, seed: self.random_seed(0) }
    }
}

/// A loss with the parts it is made of. All stay on the device until they are shown.
#[derive(Debug)]
pub struct Loss {
    /// What is minimized, of one element.
    pub total: Tensor<1>,
    /// Named parts of one element each, for curves.
    pub parts: Vec<(String, Tensor<1>)>,
}

impl Loss {
    /// A loss without parts.
    pub fn new(total: Tensor<1>) -> Self {
        Self { total, parts: Vec::new() }
    }

    /// Adds a named part for the curves.
    #[must_use]
    pub fn with(mut self, name: &str, part: Tensor<1>) -> Self {
        self.parts.push((name.to_owned(), part));
        self
    }
}

/// What a training run minimizes.
pub trait Objective {
    /// Tensors that are trained besides the network's weights: projections, a temperature. They are
    /// added to the network under these names before the first step; [`Network::parameter`] gives
    /// their current values.
    fn extra(&self) -> Vec<(String, graph::Tensor)> {
        Vec::new()
    }

    /// The loss of a batch.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being computed; it ends the run.
    fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> anyhow::Result<Loss>;

    /// Called before each optimizer step, also the first after a resume: what is a function of the
    /// step, such as whether observers watch.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong; it ends the run.
    fn before_step(&mut self, network: &mut Network, step: &Step) -> anyhow::Result<()> {
        let _ = (network, step);
        Ok(())
    }

    /// Called after each optimizer step: sparsity masks, schedules.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong; it ends the run.
    fn after_step(&mut self, network: &mut Network, step: &Step) -> anyhow::Result<()> {
        let _ = (network, step);
        Ok(())
    }

    /// Rate at which an extra tensor follows its plain gradient, outside the recipe's optimizer and
    /// its clipping; negative makes it an adversary (CTKD, arXiv:2211.16231). `None` leaves it to the
    /// optimizer, which takes constant factors out of a gradient.
    fn descent_rate(&self, extra: &str, step: &Step) -> Option<f64> {
        let _ = (extra, step);
        None
    }

    /// What a checkpoint has to keep of the objective itself. What is a function of the step needs
    /// no keeping.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes back what [`Self::state`] gave.
    ///
    /// # Errors
    ///
    /// When the state is not this objective's.
    fn restore(&mut self, state: &serde_json::Value) -> anyhow::Result<()> {
        let _ = state;
        Ok(())
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Optimizer steps done.
    pub done: u64,
    /// Optimizer steps of the whole run.
    pub total: u64,
    /// Mean loss since the last report.
    pub loss: f64,
    /// Examples a second since the last report.
    pub examples_per_second: f64,
}

/// Watches a run, may stop it, and says where checkpoints go.
pub trait Monitor {
    /// A sign of life, several times a minute.
    fn progress(&mut self, progress: &Progress);

    /// A point of a curve named `phase/name`.
    fn series(&mut self, name: &str, step: u64, value: f64);

    /// A line worth reading later.
    fn log(&mut self, line: &str);

    /// Whether to write a checkpoint and stop.
    fn interrupted(&self) -> bool {
        false
    }

    /// Epochs that are done, once each has been scored.
    fn epoch_done(&mut self, _epochs: usize) {}

    /// Epochs after which to write a checkpoint and stop, although more are to come.
    fn pause_after(&self) -> Option<usize> {
        None
    }

    /// Time between two checkpoints.
    fn checkpoint_every(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// The folder for checkpoints, which exists; without one there are none. Each [`crate::fit`]
    /// of a stage needs a folder of its own.
    fn checkpoint_dir(&self) -> Option<&Path> {
        None
    }
}

/// A monitor that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn progress(&mut self, _: &Progress) {}
    fn series(&mut self, _: &str, _: u64, _: f64) {}
    fn log(&mut self, _: &str) {}
}
