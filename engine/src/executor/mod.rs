//! The local executor: one worker process a stage, in parallel as far as the slots allow.
//!
//! Stages that are ready are driven by a task each; the tasks send what happens to one loop,
//! which alone writes the database, judges gates and decides what starts next.

mod attempt;
mod drive;
mod event;
mod inputs;
mod progress_file;
mod run;
mod run_loop;
mod slots;
mod work;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use event::{RunEvent, RunReport, StageReport};
pub(crate) use inputs::dataset;
pub(crate) use run::{Prepared, Signals, execute, lock_name};
pub(crate) use slots::Slots;

/// How and where workers are started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Program that runs workers.
    pub program: PathBuf,
    /// Its arguments before the path of the task file.
    pub arguments: Vec<OsString>,
    /// Environment variables that workers get besides this process's own.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether this build can use CUDA.
    pub cuda: bool,
    /// Time between asking a worker to stop and killing it, after a timeout.
    pub grace: Duration,
    /// Pause before the first retry; it doubles with every further one, up to a minute.
    pub backoff: Duration,
}

impl Host {
    /// This program with its hidden verb `worker`.
    ///
    /// # Errors
    /// When the system does not say where this program lies.
    pub fn this_program(cuda: bool) -> std::io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            arguments: vec!["worker".into()],
            environment: Vec::new(),
            cuda,
            grace: Duration::from_secs(10),
            backoff: Duration::from_secs(1),
        })
    }
}

/// Where a run is to hold a stage at a checkpoint although it has more to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Name of the stage; its kind has epochs.
    pub stage: String,
    /// Epochs after which it is held, ≥ 1.
    pub epochs: u64,
}

/// How far a run has been told to stop; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    /// Go on.
    Go,
    /// Start nothing new: something failed.
    Halt,
    /// Start nothing new, and let workers leave a checkpoint and end.
    Checkpoint,
    /// Kill the workers.
    Kill,
}
