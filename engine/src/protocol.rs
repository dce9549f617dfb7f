//! What a worker process and its parent say to each other: the task file going in, one JSON
//! event a line coming out, `result.json` at the end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::manifest::DatasetSpec;

/// Version of [`Task`] and [`WorkerEvent`]; a worker refuses a task of another version.
pub const PROTOCOL: u32 = 2;

/// Everything a worker needs to run one stage once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Task {
    /// [`PROTOCOL`] of the writer.
    pub protocol: u32,
    /// Stage kind, looked up in the worker's table.
    pub kind: String,
    /// Implementation version that the cache key was made with.
    pub version: u32,
    /// Name of the stage in the manifest.
    pub stage: String,
    /// Parameters with defaults filled in.
    pub params: Value,
    /// Connected input ports.
    pub inputs: BTreeMap<String, TaskInput>,
    /// Folder in which the stage creates one file or folder a port.
    pub outputs: PathBuf,
    /// Folder that outlives kills and retries of the same cache key.
    pub checkpoint: PathBuf,
    /// Project root, for stages with effects outside the store.
    pub root: PathBuf,
    /// Where the worker writes its [`TaskResult`].
    pub result: PathBuf,
    /// Seed of everything random.
    pub seed: u64,
    /// CPU threads the stage may use, ≥ 1.
    pub threads: usize,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Epochs after which the stage leaves a checkpoint and ends as [`Outcome::Paused`].
    pub pause_after: Option<u64>,
}

/// One connected input port of a [`Task`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TaskInput {
    /// File or folder to read; never to be changed.
    pub path: PathBuf,
    /// How to read the file, for ports of kind `dataset`.
    pub dataset: Option<DatasetSpec>,
}

/// How a worker's attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TaskResult {
    /// Success, failure, or an interruption after a checkpoint.
    pub outcome: Outcome,
    /// Chain of causes, outermost first; empty on success.
    pub causes: Vec<String>,
    /// Summary metrics in the order they were reported.
    pub metrics: Vec<Metric>,
    /// Metrics that could not be measured: name and reason.
    pub unavailable: Vec<Unavailable>,
    /// What had been reached after each epoch, earlier attempts of the same cache key included.
    pub milestones: Vec<Milestone>,
}

/// How an attempt ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every output is written.
    Done,
    /// The stage gave an error back.
    Failed,
    /// The stage found something wrong with what it was given.
    BadInput,
    /// The stage was asked to stop, left a checkpoint and stopped.
    Interrupted,
    /// The stage came to [`Task::pause_after`], left a checkpoint and stopped.
    Paused,
}

/// What a stage had reached after an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Milestone {
    /// Epochs done.
    pub epochs: u64,
    /// Newest value of every series of the stage by name; those that were not finite are absent.
    pub values: BTreeMap<String, f64>,
}

/// One line on a worker's standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerEvent {
    /// A summary metric.
    Metric(Metric),
    /// Points of a series, in the order they were recorded.
    Series(Vec<SeriesPoint>),
    /// A metric that could not be measured.
    Unavailable(Unavailable),
    /// Where a long stage stands.
    Progress(Progress),
    /// A line for the log.
    Log(String),
}

/// A measured number that sums up a stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Metric {
    /// `phase/name`, for instance `test/accuracy`.
    pub name: String,
    /// The number, in `unit`.
    pub value: f64,
    /// Unit, for instance `fraction`, `ms`, `bytes`, `count`.
    pub unit: String,
    /// Split of the data it was measured on.
    pub split: Option<String>,
    /// How many samples it rests on.
    pub samples: Option<u64>,
    /// Lower end of its 95 % interval.
    pub low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub high: Option<f64>,
}

/// One point of a series such as `train/loss`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SeriesPoint {
    /// `phase/name`.
    pub name: String,
    /// Step, counted by the stage.
    pub step: u64,
    /// Value at that step; `null` on the wire when it is not finite.
    pub value: Option<f64>,
}

/// A metric that could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Unavailable {
    /// `phase/name`.
    pub name: String,
    /// Why there is no number.
    pub reason: String,
}

/// Where a long stage stands.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps there will be, 0 when unknown.
    pub total: u64,
    /// Current loss.
    pub loss: Option<f64>,
    /// Current speed in `rate_unit` per second.
    pub rate: Option<f64>,
    /// What the rate counts, for instance `examples`.
    pub rate_unit: String,
    /// What is being done, for instance `epoch 2`.
    pub phase: String,
}
