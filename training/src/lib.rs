//! Trains graphs: walks them on Burn tensors, with autodiff, on the CPU or a GPU.
//!
//! It knows data, losses, optimizers, metrics and quantization in training. It does not know
//! manifests, runs or databases, nor any architecture: what is trained is whatever graph it is
//! given.
//!
//! # Layout
//!
//! - [`Network`]: a graph on a [`Device`], with its trained weights. Start here.
//! - [`fit`]: the training loop; [`Recipe`] its settings, [`Objective`] what it minimizes,
//!   [`Monitor`] who watches. [`evaluate`] runs a network over [`Examples`].
//! - `walk` (private): how every operator is executed, one file a family.
//! - [`data`], [`tokenizer`], [`wordpiece`]: from files to token ids.
//! - [`loss`], [`temperature`]: what distillation is made of; [`objectives`]: what stages train with;
//!   [`metrics`]: what is reported; [`calibrate()`]: ranges of activations.

mod calibrate;
mod checkpoint;
mod device;
mod error;
mod evaluate;
mod examples;
mod fit;
mod network;
mod objective;
mod optimizer;
pub mod random;
mod recipe;
mod scales;
mod walk;

pub mod data;
pub mod loss;
pub mod metrics;
pub mod objectives;
pub mod temperature;
pub mod tokenizer;
pub mod wordpiece;

pub use calibrate::calibrate;
pub use device::Device;
pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate};
pub use examples::{Batch, Bucket, Examples, Inputs};
pub use fit::{EpochRecord, FitReport, Score, fit};
pub use network::{Mode, Network, NetworkOptions, Predicate, Values};
pub use objective::{Loss, Monitor, Objective, Progress, Silent, Step};
pub use recipe::{Keep, Recipe, Schedule};
pub use scales::Quantization;
