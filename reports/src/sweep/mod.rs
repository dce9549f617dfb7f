//! Everything a page on sweeps says, as one struct that the templates print.

mod export;
mod forest;
mod importance;
mod plots;
mod trials;

use std::collections::BTreeMap;

use engine::history::{ObjectiveRecord, SweepRecord, SweepState};
use serde::Serialize;
use serde_json::Value;

use crate::plot::{Bars, Parallel, Plot, Unit};
use crate::quantity::{quantity, seconds, significant};

pub(crate) use export::{csv, json};
use importance::Importance;
use trials::{Best, Table};

/// A report on sweeps.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    pub(crate) title: String,
    pub(crate) sweeps: Vec<SweepView>,
    /// With several sweeps only: a line a sweep.
    pub(crate) comparison: Vec<SweepLine>,
}

/// A sweep among others.
#[derive(Debug, Serialize)]
pub(crate) struct SweepLine {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) state: SweepState,
    pub(crate) sampler: String,
    pub(crate) trials: String,
    pub(crate) best: Vec<Best>,
}

/// One sweep.
#[derive(Debug, Serialize)]
pub(crate) struct SweepView {
    pub(crate) id: i64,
    pub(crate) manifest: String,
    pub(crate) manifest_path: String,
    pub(crate) state: SweepState,
    pub(crate) state_note: String,
    pub(crate) started: String,
    pub(crate) duration: String,
    pub(crate) sampler: String,
    pub(crate) counts: String,
    pub(crate) seeds: String,
    pub(crate) objectives: Vec<String>,
    pub(crate) constraints: Vec<String>,
    /// Parameter, what it may be, and its axis.
    pub(crate) space: Vec<[String; 3]>,
    pub(crate) best: Vec<Best>,
    /// How sure the choice is.
    pub(crate) best_note: String,
    pub(crate) table: Table,
    pub(crate) history: Vec<Plot>,
    pub(crate) fronts: Vec<Plot>,
    pub(crate) parallel: Option<Parallel>,
    /// Importances for each objective, and their drawing.
    pub(crate) importances: Vec<(Importance, Option<Bars>)>,
    pub(crate) rungs: Vec<Plot>,
    /// What sharing saved, in a sentence.
    pub(crate) saved: String,
    /// Trial and what went wrong in it.
    pub(crate) failures: Vec<(String, String)>,
    pub(crate) spec: String,
}

/// Reads what a report says out of the records of `sweeps`, of which there is at least one.
pub(crate) fn read(sweeps: &[SweepRecord]) -> Page {
    let numbers: Vec<String> = sweeps.iter().map(|sweep| sweep.summary.id.to_string()).collect();
    let mut manifests: Vec<&str> =
        sweeps.iter().map(|sweep| sweep.summary.manifest.as_str()).collect();
    manifests.dedup();
    let word = if sweeps.len() == 1 { "sweep" } else { "sweeps" };
    let several: &[SweepRecord] = if sweeps.len() > 1 { sweeps } else { &[] };
    Page {
        title: format!("{}, {word} {}", manifests.join(" and "), numbers.join(", ")),
        sweeps: sweeps.iter().map(read_sweep).collect(),
        comparison: several.iter().map(line).collect(),
    }
}

fn line(sweep: &SweepRecord) -> SweepLine {
    let summary = &sweep.summary;
    SweepLine {
        id: summary.id,
        name: format!("{} sweep {}", summary.manifest, summary.id),
        state: summary.state,
        sampler: summary.sampler.clone(),
        trials: format!("{} of {}", summary.done, summary.asked),
        best: trials::best(sweep, &ParameterNames::of(sweep)),
    }
}

fn read_sweep(sweep: &SweepRecord) -> SweepView {
    let names = ParameterNames::of(sweep);
    let summary = &sweep.summary;
    let (best, best_note) = (trials::best(sweep, &names), trials::best_note(sweep));
    let failure = |trial: &engine::history::TrialRecord| {
        Some((format!("trial {}", trial.number), trial.error.clone()?))
    };
    SweepView {
        id: summary.id,
        manifest: summary.manifest.clone(),
        manifest_path: summary.manifest_path.display().to_string(),
        state: summary.state,
        state_note: state_note(sweep),
        started: summary.started_at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        duration: seconds(summary.duration_s),
        sampler: summary.sampler.clone(),
        counts: counts(sweep),
        seeds: sweep.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        objectives: (0..sweep.objectives.len()).map(|i| objective_text(sweep, i)).collect(),
        constraints: sweep
            .constraints
            .iter()
            .map(|one| {
                format!("{}: {} = {}", one.stage, one.gate, crate::quantity::exact(one.bound))
            })
            .collect(),
        space: space(sweep),
        best,
        best_note,
        table: trials::table(sweep, &names),
        history: plots::history(sweep, &names),
        fronts: plots::fronts(sweep, &names),
        parallel: plots::parallel(sweep, &names),
        importances: importance::importances(sweep, &names)
            .into_iter()
            .map(|one| (one.clone(), one.bars()))
            .collect(),
        rungs: plots::rungs(sweep, &names),
        saved: saved(sweep),
        failures: sweep.trials.iter().filter_map(failure).collect(),
        spec: serde_json::to_string_pretty(&sweep.spec).unwrap_or_default(),
    }
}

fn state_note(sweep: &SweepRecord) -> String {
    if let Some(budget) = sweep.used_budget() {
        return format!(
            "The budget of this sweep, {budget}, is used up. Run `pipeline sweep` with a larger one \
             to continue it."
        );
    }
    let note = match sweep.summary.state {
        SweepState::Done => "",
        SweepState::Running => {
            "This sweep is still going, or was killed before it could say how it ended. The \
             report shows what is recorded so far."
        }
        SweepState::Failed => "This sweep ended because a trial failed.",
        SweepState::Interrupted => {
            "Someone stopped this sweep. Run `pipeline sweep` again to continue it."
        }
    };
    note.to_owned()
}

fn counts(sweep: &SweepRecord) -> String {
    let summary = &sweep.summary;
    let mut text = format!("{} of {} measured", summary.done, summary.asked);
    for (count, word) in [
        (summary.running, "running"),
        (summary.interrupted, "interrupted"),
        (summary.paused, "stopped early"),
        (summary.failed, "failed"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text
}

fn saved(sweep: &SweepRecord) -> String {
    let counts = sweep.stage_runs;
    if counts.total == 0 {
        return "No stage of this sweep has run yet.".to_owned();
    }
    format!(
        "All trials and seeds have {} stages; {} of them ran and {} ({}) were taken from the \
         cache, because another trial, seed or run had done the same work.",
        counts.total,
        counts.ran,
        counts.saved,
        percent(counts.saved as f64 / counts.total as f64)
    )
}

fn space(sweep: &SweepRecord) -> Vec<[String; 3]> {
    let axis = |log: bool| if log { "logarithmic" } else { "linear" }.to_owned();
    let row = |dimension: &engine::history::DimensionRecord| {
        [dimension.name.clone(), dimension.domain.to_string(), axis(dimension.log)]
    };
    sweep.space.iter().map(row).collect()
}

/// Short names of parameters: the last part of their paths where that tells them apart.
#[derive(Debug, Clone)]
pub(crate) struct ParameterNames(BTreeMap<String, String>);

impl ParameterNames {
    fn of(sweep: &SweepRecord) -> Self {
        let paths: Vec<&str> = sweep.space.iter().map(|one| one.name.as_str()).collect();
        let tail = |path: &str, n_parts: usize| {
            let parts: Vec<&str> = path.split('.').filter(|part| *part != "params").collect();
            parts[parts.len().saturating_sub(n_parts)..].join(".")
        };
        let short = |path: &str| {
            let alone = |n: &usize| {
                let own = tail(path, *n);
                paths.iter().filter(|other| tail(other, *n) == own).count() == 1
            };
            (1..6).find(alone).map_or_else(|| path.to_owned(), |n| tail(path, n))
        };
        Self(paths.iter().map(|path| ((*path).to_owned(), short(path))).collect())
    }

    /// The short name of a path.
    pub(crate) fn short<'a>(&'a self, path: &'a str) -> &'a str {
        self.0.get(path).map_or(path, String::as_str)
    }
}

/// Unit of an objective, which has only its metric's name to tell.
pub(crate) fn unit(objective: &ObjectiveRecord) -> &'static str {
    let last = objective.metric.rsplit('/').next().unwrap_or_default();
    match last {
        "size" | "planned-memory" | "peak-memory" => "bytes",
        "weights" => "count",
        "flops" => "FLOP",
        _ if last.starts_with("latency") => "ms",
        _ if last.ends_with("drop") => "fraction",
        _ if Unit::of_series(last) == Unit::Percent => "fraction",
        _ => "",
    }
}

/// What an objective is called in tables: its metric, and its stage where two have one of it.
pub(crate) fn objective_name(sweep: &SweepRecord, index: usize) -> String {
    let objective = &sweep.objectives[index];
    let same = sweep.objectives.iter().filter(|other| other.metric == objective.metric).count();
    let short = objective.metric.strip_prefix("bench/").unwrap_or(&objective.metric);
    if same > 1 { format!("{}: {short}", objective.stage) } else { short.to_owned() }
}

fn objective_text(sweep: &SweepRecord, index: usize) -> String {
    let objective = &sweep.objectives[index];
    let word = if objective.maximize { "most" } else { "least" };
    format!("{word} {} of {}", objective.metric, objective.stage)
}

/// A value of an objective with its unit.
pub(crate) fn objective_value(sweep: &SweepRecord, index: usize, value: f64) -> String {
    quantity(value, unit(&sweep.objectives[index]))
}

/// A parameter as a table shows it, three digits of what was drawn at random.
pub(crate) fn parameter(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.fract() != 0.0 => {
                let exact = crate::quantity::exact(number);
                if exact.chars().count() > 6 { significant(number) } else { exact }
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// A share as a percentage without decimals.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
