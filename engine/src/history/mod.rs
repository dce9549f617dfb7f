//! What happened in earlier runs, as plain structs; nobody else writes SQL.
//!
//! [`History`] reads; the executor's recorder writes. SQLite in WAL mode lets readers see
//! whole transactions while a run goes on.

mod database;
mod environment;
mod list;
mod live;
mod notes;
mod read;
mod record;
mod recorder;

pub use database::HistoryError;
pub use list::{ListedRun, RunOrder, RunPage, RunQuery};
pub use live::{LiveRun, LiveStage, ProgressRecord};
pub use notes::{NewNote, NoteError, NoteRecord, Verdict};
pub use read::{History, LastStage, RunChoice};
pub use record::*;

pub(crate) use environment::environment;
pub(crate) use live::progress_path;
pub(crate) use recorder::{Recorder, RunStart, StageEnd, StageStart};
