//! The structs that [`super::History`] hands out; field names are stable, `--json` prints them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Trigger;
use super::notes::NoteRecord;
use crate::protocol::{Metric, Unavailable};

/// How a run ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Its process is at work.
    Running,
    /// Every stage asked for is there.
    Done,
    /// A stage or a gate failed.
    Failed,
    /// Someone stopped or killed it.
    Interrupted,
    /// Early stopping of a sweep holds a stage of it at a checkpoint.
    Paused,
}

/// How a stage of a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageState {
    /// At work, or killed with its run.
    Running,
    /// Taken from the cache.
    Hit,
    /// Ran and finished.
    Ran,
    /// Failed, or missed a gate.
    Failed,
    /// Never started: something it needs failed, or the run was stopped.
    Skipped,
    /// Stopped by a request to stop.
    Interrupted,
    /// Held at a checkpoint by early stopping of a sweep.
    Paused,
}

/// One line of `pipeline runs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunSummary {
    /// Number of the run, from 1, never reused.
    pub id: i64,
    /// `name` of the manifest.
    pub manifest: String,
    /// Manifest file, relative to the project root where it lies inside.
    pub manifest_path: PathBuf,
    /// What started it.
    pub trigger: Trigger,
    /// How it ended.
    pub state: RunState,
    /// When it started, in UTC.
    pub started_at: jiff::Timestamp,
    /// Seconds from start to end; `None` while running or killed.
    pub duration_s: Option<f64>,
    /// Stages that ran.
    pub ran: u32,
    /// Stages taken from the cache.
    pub hits: u32,
    /// Stages that failed.
    pub failed: u32,
}

/// Everything about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunRecord {
    /// The line of `pipeline runs`.
    pub summary: RunSummary,
    /// Seed of the manifest.
    pub seed: u64,
    /// Device the run used, after `auto` was resolved.
    pub device: String,
    /// Manifest text as read.
    pub manifest_text: String,
    /// `--set` overrides as given.
    pub overrides: Vec<String>,
    /// The machine and program it ran on.
    pub environment: Environment,
    /// Datasets it read.
    pub datasets: Vec<SourceRecord>,
    /// Pretrained models it read.
    pub models: Vec<SourceRecord>,
    /// Its stages, upstream first.
    pub stages: Vec<StageRecord>,
    /// What people said about it, oldest first.
    #[serde(default)]
    pub notes: Vec<NoteRecord>,
}

/// A dataset or pretrained model that a run read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceRecord {
    /// `data.NAME` or `models.NAME`.
    pub name: String,
    /// File or mirror it came from.
    pub origin: String,
    /// Digest of its content, hexadecimal blake3.
    pub digest: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// One stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageRecord {
    /// Name in the manifest.
    pub name: String,
    /// Stage kind.
    pub kind: String,
    /// How it ended.
    pub state: StageState,
    /// Why it ran, was a hit, failed or was skipped.
    pub reason: String,
    /// Cache key, hexadecimal; `None` when the stage never got that far.
    pub key: Option<String>,
    /// The document the key was made of; `Null` without a key.
    pub key_document: Value,
    /// Parameters with defaults and overrides applied.
    pub params: Value,
    /// Where its inputs came from.
    pub inputs: Vec<EdgeRecord>,
    /// What it wrote.
    pub artifacts: Vec<ArtifactRecord>,
    /// When it started or was found in the cache; `None` when skipped.
    pub started_at: Option<jiff::Timestamp>,
    /// Seconds spent in this run, retries included.
    pub duration_s: Option<f64>,
    /// Seconds the work took when it was really done; equals `duration_s` unless a hit.
    pub work_s: Option<f64>,
    /// Run that really did the work, for hits.
    pub origin_run: Option<i64>,
    /// CPU threads it was given.
    pub threads: Option<u32>,
    /// Every try, the last one last.
    pub attempts: Vec<AttemptRecord>,
    /// Summary metrics; for hits those of the run that did the work.
    pub metrics: Vec<Metric>,
    /// Metrics that could not be measured.
    pub unavailable: Vec<Unavailable>,
    /// Series; for hits those of the run that did the work.
    pub series: Vec<Series>,
    /// Gates and how they came out.
    pub gates: Vec<GateRecord>,
    /// Log file, absent for hits and skipped stages.
    pub log_path: Option<PathBuf>,
    /// What went wrong, with causes.
    pub error: Option<String>,
}

/// Where an input of a stage came from: one edge of the DAG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EdgeRecord {
    /// Input port of this stage.
    pub port: String,
    /// `stage.port`, `data.name` or `models.name`.
    pub from: String,
    /// Digest of the content that came in; `None` when it never came to that.
    pub digest: Option<String>,
}

/// Something a stage wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArtifactRecord {
    /// Output port.
    pub port: String,
    /// Kind of the port.
    pub kind: String,
    /// Digest of its content, hexadecimal blake3.
    pub digest: String,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Where it lies in the store; `None` when it was collected.
    pub path: Option<PathBuf>,
}

/// One try of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AttemptRecord {
    /// From 1.
    pub number: u32,
    /// When it started, in UTC.
    pub started_at: jiff::Timestamp,
    /// Seconds it took; `None` when it was killed with its run.
    pub duration_s: Option<f64>,
    /// `done`, `failed`, `timeout`, `interrupted`, `crashed`, or `running` when killed with its run.
    pub outcome: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// A series of a stage, such as `train/loss`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Series {
    /// `phase/name`.
    pub name: String,
    /// `(step, value)` in the order recorded; a value that was not finite is `None`.
    pub points: Vec<(u64, Option<f64>)>,
}

/// A gate of a stage and how it came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GateRecord {
    /// As written, for instance `accuracy-drop-max`.
    pub gate: String,
    /// Metric it looked at; `None` when no metric of that name was reported.
    pub metric: Option<String>,
    /// Bound of the manifest.
    pub bound: f64,
    /// Measured value.
    pub value: Option<f64>,
    /// Whether it held.
    pub passed: bool,
}

/// The machine and program of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Environment {
    /// Processor, as the kernel names it.
    pub cpu_model: String,
    /// Logical cores this process may use.
    pub cores: u32,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Operating system and kernel.
    pub os: String,
    /// Compiler the program was built with.
    pub rustc: String,
    /// Version of the program.
    pub version: String,
    /// Commit of the project, with `+` when files were changed; `None` outside git.
    pub commit: Option<String>,
    /// GPUs, as the driver names them.
    pub gpus: Vec<String>,
}
