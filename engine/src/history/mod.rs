//! What happened in earlier runs, as plain structs; nobody else writes SQL.
//!
//! [`History`] reads; the executor's recorder writes. SQLite in WAL mode lets readers see
//! whole transactions while a run goes on.

mod database;
mod environment;
mod read;
mod read_sweeps;
mod record;
mod recorder;
mod records;
mod sweep;
mod sweep_recorder;
mod trigger;

pub use database::HistoryError;
pub use read::{History, LastStage, RunChoice, RunFilter};
pub(crate) use read_sweeps::means;
pub use record::*;
pub use sweep::*;
pub use trigger::Trigger;

pub(crate) use environment::environment;
pub(crate) use recorder::{Recorder, RunStart, StageEnd, StageStart};
pub(crate) use sweep_recorder::{Measured, NewTrial, Reached, Standing, SweepRecorder, SweepStart};
