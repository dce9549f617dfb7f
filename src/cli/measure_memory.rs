//! `pipeline measure-memory MODEL SEQUENCE THREADS`: what the benchmark stage starts to learn how much
//! memory serving one model takes.

use std::path::PathBuf;

use super::answer::Answer;
use super::failure::Failure;

/// Serves a model a few times and prints the peak resident bytes of this process.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(super) struct MeasureMemory {
    /// Model folder
    model: PathBuf,
    /// Word pieces of the text
    sequence: usize,
    /// Threads of the runtime
    threads: usize,
}

impl MeasureMemory {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let peak = stages::serve_once(&self.model, self.sequence, self.threads)?;
        Ok(Answer::text(peak.to_string()))
    }
}
