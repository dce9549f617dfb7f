//! What happened in earlier runs, as plain structs; nobody else writes SQL.
//!
//! [`History`] reads; the executor's recorder writes. SQLite in WAL mode lets readers see
//! whole transactions while a run goes on.

mod database;
mod environment;
mod list;
mod live;
mod look;
mod notes;
mod read;
mod read_sweeps;
mod record;
mod recorder;
mod records;
#[cfg(test)]
mod scale_tests;
mod schedules;
mod slot_runs;
mod sweep;
mod sweep_recorder;
mod ticks;
mod trigger;

pub use database::HistoryError;
pub use list::{ListedRun, RunOrder, RunPage, RunQuery};
pub use live::{LiveRun, LiveStage, ProgressRecord, StageLog};
pub use notes::{NewNote, NoteError, NoteRecord, Verdict};
pub use read::{History, LastStage, RunChoice, RunFilter};
pub(crate) use read_sweeps::means;
pub use record::*;
pub use schedules::TickRecord;
pub use sweep::*;
pub use ticks::TickState;
pub use trigger::Trigger;

pub(crate) use environment::environment;
pub(crate) use live::{log_path, logs_folder, progress_path};
pub(crate) use recorder::{Recorder, RunStart, StageEnd, StageStart};
pub(crate) use sweep_recorder::{Measured, NewTrial, Reached, Standing, SweepRecorder, SweepStart};
pub(crate) use ticks::{Conclusion, Scheduled, Ticks};
