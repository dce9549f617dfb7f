//! Runs manifests as cached DAGs of stages.
//!
//! A manifest names data, pretrained models and stages; the engine checks it, works out which
//! stages have to run, runs each in a worker process of its own, keeps what they made under the
//! digest of its content and records everything in a database. It knows no tensors, no model
//! architectures and no stage kinds: the table of stages is handed in. It never prints.
//!
//! # Layout
//!
//! - [`stage`]: what a stage kind declares, and what its code sees while it runs ([`StageContext`]).
//! - [`history`]: what happened in earlier runs, as plain structs.
//! - [`protocol`]: what a worker process and its parent say to each other.
//!
//! Start at [`Stage`] to write a stage, at [`history::History`] to read results.

pub mod history;
pub mod manifest;
pub mod protocol;
pub mod source;
pub mod stage;
pub mod store;

pub use protocol::{Metric, Progress};
pub use stage::{AnyStage, DatasetInput, Interrupted, Port, Stage, StageContext, StageTable};
