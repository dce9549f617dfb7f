//! What a run says while it goes on, and at its end.

use std::path::PathBuf;

use serde::Serialize;

use crate::history::{GateRecord, RunState, StageState};
use crate::protocol::{Metric, Milestone, Progress, Unavailable};
use crate::source::FetchProgress;
use crate::store::Holder;

/// Something that happened in a run; field names are stable, `--json` prints them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum RunEvent {
    /// Another run of the manifest is at work; this one waits.
    WaitingForRun {
        /// Whom for, as far as is known.
        holder: Option<Holder>,
    },
    /// What nobody needs is being removed from the store; this run waits.
    WaitingForCollection {
        /// Who removes it, as far as is known.
        holder: Option<Holder>,
    },
    /// The run has a number and starts.
    RunStarted {
        /// Its number.
        run: i64,
        /// `name` of the manifest.
        manifest: String,
        /// Device, after `auto` was resolved.
        device: String,
        /// Why `auto` did not give a GPU, where it did not.
        fallback: Option<String>,
        /// Its stages, upstream first.
        stages: Vec<String>,
    },
    /// A checkpoint is being fetched.
    Fetching {
        /// `NAME` of `[models.NAME]`.
        model: String,
        /// How far it is.
        progress: FetchProgress,
    },
    /// A dataset or checkpoint is there.
    SourceReady {
        /// `data.NAME` or `models.NAME`.
        name: String,
        /// File or mirror.
        origin: String,
        /// Digest of its content.
        digest: String,
    },
    /// Another process is at work on the very same result; this stage waits for it.
    WaitingForStage {
        /// Name in the manifest.
        stage: String,
        /// Whom for, as far as is known.
        holder: Option<Holder>,
    },
    /// A worker that an earlier attempt left is still ending; this stage waits for it.
    WaitingForWorker {
        /// Name in the manifest.
        stage: String,
    },
    /// A stage is taken from the cache.
    StageHit {
        /// Name in the manifest.
        stage: String,
        /// Cache key.
        key: String,
        /// Seconds its work took when it was done.
        work_s: f64,
        /// Run that did it.
        origin_run: i64,
    },
    /// A stage starts to run.
    StageStarted {
        /// Name in the manifest.
        stage: String,
        /// Stage kind.
        kind: String,
        /// Cache key.
        key: String,
        /// Why it is not a hit.
        reason: String,
        /// CPU threads it may use.
        threads: usize,
        /// Seconds it will take, from history.
        expected_s: Option<f64>,
    },
    /// Where a running stage stands.
    StageProgress {
        /// Name in the manifest.
        stage: String,
        /// How far it is.
        progress: Progress,
    },
    /// A stage reports a summary metric.
    StageMetric {
        /// Name in the manifest.
        stage: String,
        /// The metric.
        metric: Metric,
    },
    /// A stage could not measure a metric.
    StageUnavailable {
        /// Name in the manifest.
        stage: String,
        /// Metric.
        name: String,
        /// Why there is no number.
        reason: String,
    },
    /// A stage writes a line to its log.
    StageLog {
        /// Name in the manifest.
        stage: String,
        /// The line.
        line: String,
    },
    /// An attempt failed; another follows.
    StageRetrying {
        /// Name in the manifest.
        stage: String,
        /// Attempt that failed, from 1.
        attempt: u32,
        /// Seconds until the next.
        delay_s: f64,
        /// What went wrong.
        error: String,
    },
    /// A stage ran and finished, its gates included.
    StageFinished {
        /// Name in the manifest.
        stage: String,
        /// Seconds, retries included.
        duration_s: f64,
        /// Gates and how they came out.
        gates: Vec<GateRecord>,
    },
    /// A stage failed or missed a gate.
    StageFailed {
        /// Name in the manifest.
        stage: String,
        /// What went wrong.
        error: String,
        /// Its log, when it ran.
        log_path: Option<PathBuf>,
    },
    /// A stage never started.
    StageSkipped {
        /// Name in the manifest.
        stage: String,
        /// Why.
        reason: String,
    },
    /// A stage left a checkpoint and stopped, or was killed on request.
    StageInterrupted {
        /// Name in the manifest.
        stage: String,
    },
    /// A stage left a checkpoint where it was to be paused.
    StagePaused {
        /// Name in the manifest.
        stage: String,
        /// Epochs done.
        epochs: u64,
    },
    /// A request to stop came.
    Stopping {
        /// Whether workers are killed; otherwise they leave a checkpoint first.
        kill: bool,
    },
    /// The run is over.
    RunFinished {
        /// What came of it.
        report: RunReport,
    },
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunReport {
    /// Number of the run.
    pub run: i64,
    /// How it ended.
    pub state: RunState,
    /// Seconds it took.
    pub duration_s: f64,
    /// Its stages, upstream first.
    pub stages: Vec<StageReport>,
}

impl RunReport {
    /// Exit code of the command: 0 done, 1 a stage or gate failed, 2 nothing failed but on what
    /// it was given, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        let mut failed = self.stages.iter().filter(|stage| stage.state == StageState::Failed);
        match self.state {
            RunState::Done | RunState::Paused => 0,
            RunState::Failed if failed.all(|stage| stage.bad_input) => 2,
            RunState::Failed | RunState::Running => 1,
            RunState::Interrupted => 130,
        }
    }
}

/// What came of one stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageReport {
    /// Name in the manifest.
    pub name: String,
    /// How it ended.
    pub state: StageState,
    /// Why it ran, was a hit or was skipped.
    pub reason: String,
    /// Seconds, retries included.
    pub duration_s: f64,
    /// What went wrong.
    pub error: Option<String>,
    /// Whether what it was given is to blame: data, checkpoint or package.
    pub bad_input: bool,
    /// Its summary metrics; for hits those of the run that did the work.
    pub metrics: Vec<Metric>,
    /// Metrics that could not be measured.
    pub unavailable: Vec<Unavailable>,
    /// What had been reached after each epoch, for stages that have epochs.
    pub milestones: Vec<Milestone>,
}
