//! Which plots a run gets: found by the names of its metrics and series.

use std::collections::BTreeMap;

use engine::history::{RunRecord, Series, StageRecord};
use serde::Serialize;

use super::run_name;
use crate::chain::Model;
use crate::column::COLUMNS;
use crate::plot::{self, Bar, Bars, Candidate, Curve, Measured, Plot, Unit};

/// Series of a search that describe its candidates, one point a candidate.
const CANDIDATE_ACCURACY: &str = "nas/candidate-accuracy";
const CANDIDATE_LATENCY: &str = "nas/candidate-latency";
const CANDIDATE_ON_FRONT: &str = "nas/pareto";

/// The plots of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Drawings {
    /// Accuracy against latency of the chain.
    pub(crate) pareto: Option<Plot>,
    /// Accuracy against file size of the chain.
    pub(crate) sizes: Option<Plot>,
    /// Candidates of searches.
    pub(crate) searches: Vec<Plot>,
    /// Losses, learning rates, validation.
    pub(crate) training: Vec<Plot>,
    /// Temperature and sparsity.
    pub(crate) schedules: Vec<Plot>,
    /// What each layer gains when it is reverted.
    pub(crate) sensitivity: Vec<Bars>,
}

/// Draws the plots of `run`, whose chain is `models`.
pub(crate) fn draw(run: &RunRecord, models: &[Model]) -> Drawings {
    let is_schedule = |name: &str| name.contains("temperature") || name.contains("sparsity");
    Drawings {
        pareto: pareto(&[(run_name(run), models.to_vec())], "latency p50"),
        sizes: pareto(&[(run_name(run), models.to_vec())], "file size"),
        searches: run.stages.iter().filter_map(search).collect(),
        training: panels(run, |name| !is_schedule(name)),
        schedules: panels(run, is_schedule),
        sensitivity: run.stages.iter().flat_map(sensitivity).collect(),
    }
}

/// Accuracy against what it costs (the title of a column of the summary) on the chains of one or
/// several runs.
pub(crate) fn pareto(chains: &[(String, Vec<Model>)], cost: &str) -> Option<Plot> {
    let all: Vec<Model> = chains.iter().flat_map(|(_, models)| models.iter().cloned()).collect();
    let measurement = |title: &str| {
        COLUMNS.iter().find(|column| column.title == title).map(|column| column.measurement(&all))
    };
    let (accuracy, measured_cost) = (measurement("accuracy")?, measurement(cost)?);
    let measured = |model| -> Option<Measured<'_>> {
        let model: &Model = model;
        Some(Measured {
            name: &model.name,
            accuracy: model.measurement(accuracy).ok()?,
            cost: model.measurement(measured_cost).ok()?,
        })
    };
    let chains: Vec<(String, Vec<Measured<'_>>)> = chains
        .iter()
        .map(|(name, models)| (name.clone(), models.iter().filter_map(measured).collect()))
        .collect();
    let cost = if cost == "latency p50" { "latency" } else { cost };
    plot::chains(&accuracy.replace('/', " "), cost, &chains)
}

/// The series of several runs that have one name in one stage, a line a run.
pub(crate) fn curves_of_runs(runs: &[RunRecord]) -> Vec<Plot> {
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut lines: BTreeMap<(&str, &str), Vec<Curve<'_>>> = BTreeMap::new();
    for run in runs {
        for (stage, series) in all_series(run) {
            let panel = (stage.name.as_str(), series.name.as_str());
            if !lines.contains_key(&panel) {
                order.push(panel);
            }
            let known = lines.entry(panel).or_default();
            match known.iter_mut().find(|line| *line.points == *series.points) {
                // A stage that was taken from the cache shows the same curve again.
                Some(line) => line.name.push_str(&format!(", #{}", run.summary.id)),
                None => known.push(Curve { name: run_name(run), points: &series.points }),
            }
        }
    }
    order
        .into_iter()
        .filter(|panel| lines[panel].len() > 1)
        .filter_map(|panel| {
            let (stage, series) = panel;
            let title = format!("{stage}: {}", last_part(series));
            plot::curves(&title, last_part(series), Unit::of_series(series), &lines[&panel])
        })
        .collect()
}

/// Panels of the series whose name `is_wanted`, validation first.
///
/// Validation curves of all stages share a panel a metric, because they can be compared; losses of
/// a stage share one, because they are parts of one sum; everything else stands alone.
fn panels(run: &RunRecord, is_wanted: impl Fn(&str) -> bool) -> Vec<Plot> {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    for (stage, series) in all_series(run).filter(|(_, series)| is_wanted(&series.name)) {
        let last = last_part(&series.name);
        let is_validation = series.name.starts_with("validation/");
        let quantity =
            if last.ends_with("loss") { "loss".to_owned() } else { last.replace('-', " ") };
        let title = if is_validation {
            format!("validation {quantity}")
        } else {
            format!("{}: {quantity}", stage.name)
        };
        let name = if is_validation { &stage.name } else { last };
        let line = Curve { name: name.to_owned(), points: &series.points };
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.lines.push(line),
            None => panels.push(Panel {
                title,
                quantity,
                unit: Unit::of_series(&series.name),
                is_validation,
                lines: vec![line],
            }),
        }
    }
    panels.sort_by_key(|panel| !panel.is_validation);
    panels
        .iter()
        .filter_map(|panel| plot::curves(&panel.title, &panel.quantity, panel.unit, &panel.lines))
        .collect()
}

/// A plot to be, while its lines are collected.
struct Panel<'run> {
    title: String,
    quantity: String,
    unit: Unit,
    is_validation: bool,
    lines: Vec<Curve<'run>>,
}

/// Series over steps; those of candidates are no steps.
fn all_series(run: &RunRecord) -> impl Iterator<Item = (&StageRecord, &Series)> {
    let candidates = [CANDIDATE_ACCURACY, CANDIDATE_LATENCY, CANDIDATE_ON_FRONT];
    run.stages
        .iter()
        .flat_map(|stage| stage.series.iter().map(move |series| (stage, series)))
        .filter(move |(_, series)| !candidates.contains(&series.name.as_str()))
}

fn last_part(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, rest)| rest)
}

fn search(stage: &StageRecord) -> Option<Plot> {
    let values = |name: &str| -> BTreeMap<u64, f64> {
        let series = stage.series.iter().find(|series| series.name == name);
        let points = series.into_iter().flat_map(|series| &series.points);
        points.filter_map(|(index, value)| Some((*index, (*value)?))).collect()
    };
    let latencies = values(CANDIDATE_LATENCY);
    let on_front = values(CANDIDATE_ON_FRONT);
    let candidate = |(index, accuracy): (u64, f64)| {
        Some(Candidate {
            index,
            accuracy,
            latency_ms: *latencies.get(&index)?,
            on_front: on_front.get(&index).is_some_and(|flag| *flag > 0.5),
        })
    };
    let candidates: Vec<Candidate> =
        values(CANDIDATE_ACCURACY).into_iter().filter_map(candidate).collect();
    plot::candidates(&format!("{}: candidates", stage.name), &candidates)
}

fn sensitivity(stage: &StageRecord) -> Vec<Bars> {
    let mut by_unit: BTreeMap<&str, Vec<Bar>> = BTreeMap::new();
    for metric in &stage.metrics {
        if let Some(layer) = metric.name.strip_prefix("sensitivity/") {
            let bar = Bar { name: layer.to_owned(), value: metric.value };
            by_unit.entry(&metric.unit).or_default().push(bar);
        }
    }
    by_unit
        .into_iter()
        .filter_map(|(unit, bars)| Bars::new(&stage.name, "gain when reverted", unit, bars))
        .collect()
}
