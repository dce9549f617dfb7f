//! What a sweep says while it goes on, and at its end.

use serde::Serialize;

use super::space::Params;
use crate::executor::RunEvent;
use crate::history::{SweepRecord, SweepState, TrialState};
use crate::store::Holder;

/// Something that happened in a sweep; field names are stable, `--json` prints them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum SweepEvent {
    /// Another run or sweep of the manifest is at work; this one waits.
    WaitingForRun {
        /// Whom for, as far as is known.
        holder: Option<Holder>,
    },
    /// The sweep has a number and starts, or goes on.
    SweepStarted {
        /// Its number.
        sweep: i64,
        /// `name` of the manifest.
        manifest: String,
        /// Trials it was asked for.
        asked: u64,
        /// Trials that are there from before.
        known: u64,
        /// Seeds of every trial.
        seeds: Vec<u64>,
    },
    /// A trial starts, or goes on.
    TrialStarted {
        /// Its number.
        trial: u64,
        /// Its parameters.
        params: Params,
        /// Epochs after which it is held; `None` when it goes to its end.
        epochs: Option<u64>,
    },
    /// Something happened in a run of a trial.
    TrialRun {
        /// Its trial.
        trial: u64,
        /// Its seed.
        seed: u64,
        /// What happened.
        run: RunEvent,
    },
    /// A trial is held at a rung, through, or has failed.
    TrialStands {
        /// Its number.
        trial: u64,
        /// Where it stands.
        state: TrialState,
        /// Rung it is held at.
        rung: Option<usize>,
        /// Means over the seeds: of the objectives when it is done, of what is watched when held.
        values: Vec<f64>,
        /// How far it breaks the constraints, 0 when it keeps them.
        violation: Option<f64>,
        /// What went wrong.
        error: Option<String>,
    },
    /// The sweep is over for now.
    SweepFinished {
        /// Its number.
        sweep: i64,
        /// How it stands.
        state: SweepState,
        /// Seconds of this session.
        duration_s: f64,
    },
}

/// What came of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SweepReport {
    /// Everything about it.
    pub sweep: SweepRecord,
    /// Seconds of this session.
    pub duration_s: f64,
}

impl SweepReport {
    /// Exit code of the command: 0 done, 1 when a trial's failure ended the sweep or no trial was
    /// measured, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self.sweep.summary.state {
            SweepState::Interrupted => 130,
            SweepState::Done if self.sweep.summary.done > 0 => 0,
            SweepState::Done | SweepState::Failed | SweepState::Running => 1,
        }
    }
}
