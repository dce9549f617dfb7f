//! What is known about sweeps, as plain structs; field names are stable, `--json` prints them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::manifest::parse_duration;

/// Whether a sweep has anything left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SweepState {
    /// Its process is at work.
    Running,
    /// Every trial that it was asked for has ended, or its budget is used up.
    Done,
    /// It ended because a trial failed.
    Failed,
    /// Someone stopped or killed it; `pipeline sweep` goes on with it.
    Interrupted,
}

/// Where a trial stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialState {
    /// At work.
    Running,
    /// Its sweep ended before it did; the next session goes on with it.
    Interrupted,
    /// Every seed has been measured.
    Done,
    /// A seed failed.
    Failed,
    /// Early stopping holds it at a rung; it may be promoted.
    Paused,
}

/// One line of `pipeline sweeps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SweepSummary {
    /// Number of the sweep, from 1, never reused.
    pub id: i64,
    /// `name` of the manifest.
    pub manifest: String,
    /// Manifest file, relative to the project root where it lies inside.
    pub manifest_path: PathBuf,
    /// Whether it is over.
    pub state: SweepState,
    /// When it first started, in UTC.
    pub started_at: jiff::Timestamp,
    /// Seconds it was at work, all its sessions together.
    pub duration_s: f64,
    /// How parameters are drawn: `grid`, `zip`, `random`, `tpe` or `nsga2`.
    pub sampler: String,
    /// Trials it was asked for.
    pub asked: u64,
    /// Trials at work.
    pub running: u64,
    /// Trials that were at work when the sweep was stopped, killed or out of time.
    #[serde(default)]
    pub interrupted: u64,
    /// Trials measured with every seed.
    pub done: u64,
    /// Trials of which a seed failed.
    pub failed: u64,
    /// Trials held at a rung.
    pub paused: u64,
}

/// Everything about one sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SweepRecord {
    /// The line of `pipeline sweeps`.
    pub summary: SweepSummary,
    /// The `[sweep]` table as it was read, defaults filled in.
    pub spec: Value,
    /// What varies, in the order of the manifest.
    pub space: Vec<DimensionRecord>,
    /// What is looked for, most important first.
    pub objectives: Vec<ObjectiveRecord>,
    /// What a trial has to keep to.
    pub constraints: Vec<ConstraintRecord>,
    /// Seeds of every trial.
    pub seeds: Vec<u64>,
    /// Its trials, by number.
    pub trials: Vec<TrialRecord>,
    /// What sharing saved.
    pub stage_runs: StageRunCounts,
}

/// One parameter that varies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DimensionRecord {
    /// Path in the manifest, for instance `stages.student.params.alpha`.
    pub name: String,
    /// The domain as written, for instance `{ "uniform": [0.1, 0.9] }`.
    pub domain: Value,
    /// Whether it is laid out on a logarithmic axis.
    pub log: bool,
}

impl DimensionRecord {
    /// Whether it leaves more than one value to choose from.
    pub fn varies(&self) -> bool {
        self.domain["choice"].as_array().is_none_or(|choices| choices.len() > 1)
    }
}

impl SweepRecord {
    /// The dimensions that leave something to choose.
    pub fn varied(&self) -> impl Iterator<Item = &DimensionRecord> + Clone {
        self.space.iter().filter(|dimension| dimension.varies())
    }

    /// The budget, as written, that ended it before all its trials had ended.
    pub fn used_budget(&self) -> Option<&str> {
        let summary = &self.summary;
        let budget = self.spec["budget"].as_str()?;
        let is_used = summary.duration_s >= parse_duration(budget)?.as_secs_f64();
        let ended = summary.done + summary.failed + summary.paused;
        let is_short = ended < summary.asked || summary.interrupted > 0;
        (summary.state == SweepState::Done && is_used && is_short).then_some(budget)
    }
}

/// What a sweep looks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectiveRecord {
    /// Stage that reports the metric.
    pub stage: String,
    /// `phase/name` of the metric.
    pub metric: String,
    /// Whether more is better.
    pub maximize: bool,
}

/// A bound that trials have to keep to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConstraintRecord {
    /// Stage that reports the metric.
    pub stage: String,
    /// As in `require`, for instance `accuracy-drop-max`.
    pub gate: String,
    /// Its bound.
    pub bound: f64,
}

/// One trial: a choice of parameters, measured with every seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrialRecord {
    /// From 0, in the order they were drawn.
    pub number: u64,
    /// Digest of its parameters.
    pub identity: String,
    /// Where it stands.
    pub state: TrialState,
    /// Rung it is at work for or held at; `None` for its end.
    pub rung: Option<usize>,
    /// Chosen values by path in the manifest; dimensions that do not apply are absent.
    pub params: BTreeMap<String, Value>,
    /// Mean over the seeds, in the objectives' own units and directions; `None` until all are there.
    pub objectives: Vec<Option<f64>>,
    /// Sum of the constraints' relative violations, 0 when all hold; `None` until measured.
    pub violation: Option<f64>,
    /// Whether no other trial that keeps the constraints is better in every objective.
    pub best: bool,
    /// One run a seed.
    pub runs: Vec<TrialRunRecord>,
    /// What early stopping saw, lowest rung first.
    pub rungs: Vec<RungRecord>,
    /// What went wrong, with the seed it happened to.
    pub error: Option<String>,
}

/// One seed of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrialRunRecord {
    /// The seed.
    pub seed: u64,
    /// The newest run of it.
    pub run: i64,
    /// Whether it was measured.
    pub done: bool,
    /// Objectives of this seed, in the objectives' own units and directions.
    pub objectives: Vec<f64>,
    /// Measured value of each constraint.
    pub constraints: Vec<f64>,
}

/// What a trial had reached at a rung of early stopping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RungRecord {
    /// Rung, from 0.
    pub rung: usize,
    /// Epochs trained up to it.
    pub epochs: u64,
    /// Mean over the seeds of each watched metric, in its own unit and direction.
    pub values: Vec<f64>,
    /// Whether the trial went on from here.
    pub promoted: bool,
}

/// How many stage runs the trials of a sweep needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageRunCounts {
    /// Stages of all trials and seeds.
    pub total: u64,
    /// Those that really ran.
    pub ran: u64,
    /// Those taken from the cache.
    pub saved: u64,
}
