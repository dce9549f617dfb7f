//! `pipeline worker TASK`: one stage in a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;

/// Runs one stage as its task file says; the executor starts it.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(super) struct Worker {
    /// Task file
    task: PathBuf,
}

impl Worker {
    /// Does the work; events go to standard output, the outcome into the task's result file.
    pub(super) fn work(&self) -> ExitCode {
        engine::worker_main(stages::STAGES, &self.task)
    }
}
