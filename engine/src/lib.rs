//! Runs manifests as cached DAGs of stages.
//!
//! A manifest names data, pretrained models and stages; the engine checks it, works out which
//! stages have to run, runs each in a worker process of its own, keeps what they made under the
//! digest of its content and records everything in a database. It knows no tensors, no model
//! architectures and no stage kinds: the table of stages is handed in. It never prints.
//!
//! # Layout
//!
//! - [`stage`]: what a stage kind declares, and what its code sees while it runs.
//! - [`manifest`]: reading and checking manifests.
//! - [`source`]: pretrained checkpoints from mirrors.
//! - [`store`]: content-addressed blobs and trees, and the records of actions.
//! - `key`, `plan`, `gate`: cache keys, what a run would do, bounds on metrics.
//! - `executor`: parallel stages, worker processes, stopping.
//! - [`sweep`]: many runs of a manifest with other parameters.
//! - [`protocol`], [`worker_main`]: what a worker and its parent say to each other.
//! - [`schedule`]: when manifests run by themselves.
//! - [`history`]: what happened in earlier runs, as plain structs.
//!
//! Start at [`Project`] to run something, at [`Stage`] to write a stage, at
//! [`history::History`] to read results.

mod error;
mod executor;
mod gate;
pub mod history;
mod key;
pub mod manifest;
mod plan;
mod project;
pub mod protocol;
pub mod schedule;
pub mod source;
pub mod stage;
pub mod store;
pub mod sweep;
mod worker;

pub use error::Error;
pub use executor::{Host, Pause, RunEvent, RunReport, StageReport};
pub use key::Change;
pub use manifest::schema;
pub use plan::{Explanation, Forecast, Plan, PlannedStage, Selection};
pub use project::{
    KindDescription, Project, RunOptions, SweepOptions, kinds, project_folder, state_folder,
};
pub use protocol::{Metric, Progress};
pub use stage::{
    AnyStage, BadInput, DatasetInput, Interrupted, Paused, Port, Stage, StageContext, StageTable,
};
pub use sweep::{SweepEvent, SweepPlan, SweepReport};
pub use worker::worker_main;
