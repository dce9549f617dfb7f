//! What can go wrong while a graph is trained.

use std::path::PathBuf;

/// An error of this crate's core: devices, networks, training, checkpoints.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot be used.
    #[error("device `{name}`: {reason}")]
    Device {
        /// The name that was asked for.
        name: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The graph itself is wrong, or its inputs do not fit.
    #[error(transparent)]
    Graph(#[from] graph::GraphError),
    /// A node cannot be executed for training.
    #[error("node `{node}` ({op}): {reason}")]
    Node {
        /// Name of the node.
        node: String,
        /// ONNX type of its operator.
        op: &'static str,
        /// What was expected and found.
        reason: String,
    },
    /// A value was asked for that the graph, or the call, does not have.
    #[error("no value is named `{name}`: {hint}")]
    Missing {
        /// The name.
        name: String,
        /// What to do about it.
        hint: String,
    },
    /// A tensor has another rank or shape than asked for.
    #[error("`{name}`: expected {expected}, found shape {found:?}")]
    Shape {
        /// Name of the value or weight.
        name: String,
        /// What was expected.
        expected: String,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A setting is out of its range.
    #[error("`{name}` = {found}: expected {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// The value given.
        found: String,
        /// The range.
        expected: &'static str,
    },
    /// The loss is not a number any more.
    #[error(
        "the loss is {loss} at step {step} (epoch {epoch}); lower the learning rate (now \
         {learning_rate:e}) or lengthen the warm-up, and look for extreme inputs"
    )]
    NotFinite {
        /// What was found.
        loss: f64,
        /// Optimizer step, from 0.
        step: u64,
        /// Epoch, from 0.
        epoch: usize,
        /// Learning rate of that step.
        learning_rate: f64,
    },
    /// The monitor asked to stop; a checkpoint was written where there is a folder for it.
    #[error("interrupted after step {step}; run again to continue from there")]
    Interrupted {
        /// Optimizer steps done.
        step: u64,
    },
    /// The monitor asked for a pause here; a checkpoint was written where there is a folder for it.
    #[error("paused after {epochs} epochs; run again without the pause to continue from there")]
    Paused {
        /// Epochs done.
        epochs: usize,
    },
    /// The objective failed.
    #[error("loss of step {step}: {source:#}")]
    Objective {
        /// Optimizer step, from 0.
        step: u64,
        /// Its reason.
        source: anyhow::Error,
    },
    /// A checkpoint cannot be written or read.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What was expected and found, or the system's reason.
        reason: String,
    },
}

/// The result of this crate's core.
pub type Result<T> = std::result::Result<T, Error>;
