//! One trial: its seeds, one run each, and what the sweep wants to know of them.

use super::space::Params;
use crate::error::Error;
use crate::executor::{Pause, RunEvent, RunReport, StageReport};
use crate::gate::judge;
use crate::history::{RunState, StageState, Trigger};
use crate::manifest::{Objective, SweepSpec};
use crate::plan::Selection;
use crate::project::{Project, RunOptions};

/// A trial with where it is headed.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) params: Params,
    /// Epochs of the rung it is headed for.
    pub(super) epochs: Option<u64>,
    /// Seeds that are still to be measured.
    pub(super) seeds: Vec<u64>,
}

/// What measuring a trial takes.
#[derive(Debug, Clone)]
pub(super) struct Work<'w> {
    pub(super) project: &'w Project,
    /// Overrides of the whole sweep.
    pub(super) set: &'w [String],
    pub(super) spec: &'w SweepSpec,
    /// Number of the sweep.
    pub(super) sweep: i64,
    pub(super) slots: std::sync::Arc<crate::executor::Slots>,
    /// When the sweep's time is up.
    pub(super) deadline: Option<std::time::Instant>,
}

/// What came of one seed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// It went to its end.
    Done {
        /// In their own directions.
        objectives: Vec<f64>,
        /// Measured values.
        constraints: Vec<f64>,
    },
    /// It is held at a rung, or was through before it.
    Reached {
        /// Epochs done.
        epochs: u64,
        /// Watched series, in their own directions.
        values: Vec<f64>,
    },
    /// A stage failed.
    Failed(String),
    /// It was stopped from outside.
    Interrupted,
}

/// Overrides that make the manifest the trial's.
pub(crate) fn overrides(params: &Params, seed: u64) -> Vec<String> {
    let mut set: Vec<String> =
        params.iter().map(|(path, value)| format!("{path}={}", toml(value))).collect();
    set.push(format!("seed={seed}"));
    set
}

/// A JSON value as TOML on one line.
fn toml(value: &serde_json::Value) -> String {
    toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}

/// Stages that have to be there before the sweep knows what it wants to know.
pub(super) fn targets(spec: &SweepSpec) -> Vec<String> {
    let objectives = spec.objectives.iter().filter_map(|objective| objective.target());
    let mut stages: Vec<String> = objectives
        .map(|(stage, _)| stage.to_owned())
        .chain(spec.gates().map(|(stage, _)| stage.to_owned()))
        .collect();
    stages.sort_unstable();
    stages.dedup();
    stages
}

/// How a run of one seed is asked for.
fn options(work: &Work<'_>, item: &Item, seed: u64) -> RunOptions {
    let Work { set, spec, sweep, .. } = *work;
    let stopping = spec.early_stopping.as_ref().zip(item.epochs);
    let until = match stopping {
        Some((stopping, _)) => vec![stopping.stage.clone()],
        None => targets(spec),
    };
    RunOptions {
        selection: Selection { until, ..Selection::default() },
        set: [set, &overrides(&item.params, seed)].concat(),
        trigger: Trigger::Sweep {
            sweep,
            trial: i64::try_from(item.number).unwrap_or(i64::MAX),
            seed,
        },
        pause: stopping.map(|(stopping, epochs)| Pause { stage: stopping.stage.clone(), epochs }),
        deadline: work.deadline,
        ..RunOptions::default()
    }
}

/// Runs one seed of a trial.
pub(super) fn measure(
    work: &Work<'_>,
    item: &Item,
    seed: u64,
    observer: &mut dyn FnMut(&RunEvent),
) -> Result<(i64, Found), Error> {
    let options = options(work, item, seed);
    let within = std::sync::Arc::clone(&work.slots);
    let report = work.project.run_within(&options, Some(within), observer)?;
    Ok((report.run, found(work.spec, item, &report)?))
}

fn found(spec: &SweepSpec, item: &Item, report: &RunReport) -> Result<Found, Error> {
    match report.state {
        RunState::Interrupted | RunState::Running => return Ok(Found::Interrupted),
        RunState::Failed => {
            let failed = report.stages.iter().find(|stage| stage.state == StageState::Failed);
            let error = failed.map_or_else(
                || "a stage failed".to_owned(),
                |stage| format!("{}: {}", stage.name, stage.error.as_deref().unwrap_or("failed")),
            );
            return Ok(Found::Failed(error));
        }
        RunState::Done | RunState::Paused => {}
    }
    if let Some((stopping, epochs)) = spec.early_stopping.as_ref().zip(item.epochs) {
        let stage = stage(report, &stopping.stage)?;
        let below = |milestone: &&crate::protocol::Milestone| milestone.epochs <= epochs;
        let milestone = stage.milestones.iter().rfind(below).ok_or_else(|| {
            let message = format!(
                "stage `{}` did not say what it had reached after {epochs} epochs",
                stopping.stage
            );
            Error::command(
                message,
                Some("its result is of an older version; run it with `--force`".to_owned()),
            )
        })?;
        let values = stopping.watch.iter().map(|watch| {
            milestone.values.get(watch.series()).copied().ok_or_else(|| {
                let names: Vec<_> = milestone.values.keys().map(String::as_str).collect();
                Error::command(
                    format!(
                        "early stopping watches `{}`, which stage `{}` does not report; it reports {}",
                        watch.series(),
                        stopping.stage,
                        names.join(", ")
                    ),
                    crate::manifest::did_you_mean(watch.series(), names.iter().copied()),
                )
            })
        });
        let values = values.collect::<Result<_, _>>()?;
        return Ok(Found::Reached { epochs: milestone.epochs, values });
    }
    let objectives = spec.objectives.iter().map(|objective| objective_of(report, objective));
    let objectives = objectives.collect::<Result<_, _>>()?;
    let constraints = spec.gates().map(|(name, gate)| {
        let stage = stage(report, name)?;
        let judgement = judge(std::slice::from_ref(&gate), &stage.metrics, &stage.unavailable);
        let record = &judgement[0].record;
        match (record.value, &record.metric) {
            (Some(value), Some(metric)) => {
                refuse_test_split(stage, metric)?;
                Ok(value)
            }
            _ => {
                let complaint = judgement[0].complaint.as_deref().unwrap_or_default();
                Err(Error::command(format!("constraint on stage `{name}`: {complaint}"), None))
            }
        }
    });
    let constraints = constraints.collect::<Result<_, _>>()?;
    Ok(Found::Done { objectives, constraints })
}

fn stage<'r>(report: &'r RunReport, name: &str) -> Result<&'r StageReport, Error> {
    let found = report.stages.iter().find(|stage| stage.name == name);
    found.ok_or_else(|| Error::command(format!("the run has no stage `{name}`"), None))
}

fn objective_of(report: &RunReport, objective: &Objective) -> Result<f64, Error> {
    let (name, metric) = objective.target().expect("a checked manifest names a stage and a metric");
    let stage = stage(report, name)?;
    refuse_test_split(stage, metric)?;
    metric_of(&stage.metrics, &stage.unavailable, name, metric)
}

/// The value of a metric of a stage.
pub(super) fn metric_of(
    metrics: &[crate::protocol::Metric],
    unavailable: &[crate::protocol::Unavailable],
    stage: &str,
    name: &str,
) -> Result<f64, Error> {
    if let Some(metric) = metrics.iter().rev().find(|metric| metric.name == name) {
        return Ok(metric.value);
    }
    if let Some(missing) = unavailable.iter().find(|missing| missing.name == name) {
        let message =
            format!("objective `{stage}.{name}` could not be measured: {}", missing.reason);
        return Err(Error::command(message, None));
    }
    let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    let message = format!(
        "objective `{stage}.{name}`: stage `{stage}` reports no such metric; it reports {}",
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    );
    Err(Error::command(message, crate::manifest::did_you_mean(name, names.iter().copied())))
}

/// What is chosen by a number must not be chosen by the test rows.
fn refuse_test_split(stage: &StageReport, name: &str) -> Result<(), Error> {
    let metric = stage.metrics.iter().rev().find(|metric| metric.name == name);
    if metric.and_then(|metric| metric.split.as_deref()) != Some("test") {
        return Ok(());
    }
    Err(Error::command(
        format!(
            "`{}.{name}` is measured on the test rows, which are for reporting only: trials must not be chosen by it",
            stage.name
        ),
        Some("choose by a metric of the validation rows".to_owned()),
    ))
}
