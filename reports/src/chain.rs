//! The models of a run, in the order they were made, with what was measured on each.

use std::collections::BTreeMap;

use engine::Metric;
use engine::history::{RunRecord, StageRecord, StageState};
use serde::Serialize;

/// Prefix of metrics that a stage measured on the model of one of its input ports.
const BENCH: &str = "bench/";
/// Prefix of metrics that a stage reports about the model it wrote.
const MODEL: &str = "model/";
/// Prefix of metrics on the split that choices are made with.
const VALIDATION: &str = "validation/";

/// A model of the chain and what is known about it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Model {
    /// Stage that wrote it; names the model everywhere.
    pub(crate) name: String,
    /// Kind of that stage.
    pub(crate) stage_kind: String,
    /// Measurements by name without the `bench/PORT/` or `model/` in front, for instance
    /// `weights`, `size`, `test/accuracy`, `latency-p50`.
    pub(crate) measurements: BTreeMap<String, Metric>,
    /// Why a measurement is not there, by the same names.
    pub(crate) unavailable: BTreeMap<String, String>,
    /// Why anything else is not there.
    #[serde(skip)]
    absent: String,
}

impl Model {
    /// A measurement, or why there is none.
    pub(crate) fn measurement(&self, name: &str) -> Result<&Metric, &str> {
        match self.measurements.get(name) {
            Some(metric) => Ok(metric),
            None => Err(self.unavailable.get(name).unwrap_or(&self.absent)),
        }
    }

    fn add(&mut self, name: &str, metric: &Metric) {
        if metric.value.is_finite() {
            self.measurements.entry(name.to_owned()).or_insert_with(|| metric.clone());
        }
    }
}

/// The models of a run, upstream first.
///
/// A model of the chain is what a stage wrote to its port `model`, or what another stage wants
/// from there: so a run that failed half-way still shows the whole chain. Models on other ports,
/// such as the supernet of a search, are means to an end.
pub(crate) fn models(run: &RunRecord) -> Vec<Model> {
    run.stages
        .iter()
        .filter(|stage| is_model(stage, run))
        .map(|stage| read_model(stage, run))
        .collect()
}

fn is_model(stage: &StageRecord, run: &RunRecord) -> bool {
    let wanted = model_port(stage);
    stage.artifacts.iter().any(|artifact| artifact.port == "model" && artifact.kind == "model")
        || run.stages.iter().flat_map(|other| &other.inputs).any(|edge| edge.from == wanted)
}

fn read_model(stage: &StageRecord, run: &RunRecord) -> Model {
    let mut model = Model {
        name: stage.name.clone(),
        stage_kind: stage.kind.clone(),
        measurements: BTreeMap::new(),
        unavailable: BTreeMap::new(),
        absent: absent_reason(stage, run),
    };
    for (bench, port) in readers(stage, run) {
        let prefix = format!("{BENCH}{port}/");
        for metric in &bench.metrics {
            if let Some(name) = metric.name.strip_prefix(&prefix) {
                model.add(name, metric);
            }
        }
        for missing in &bench.unavailable {
            if let Some(name) = missing.name.strip_prefix(&prefix) {
                model.unavailable.entry(name.to_owned()).or_insert_with(|| missing.reason.clone());
            }
        }
    }
    for metric in &stage.metrics {
        if let Some(name) = metric.name.strip_prefix(MODEL) {
            model.add(name, metric);
        } else if metric.name.starts_with(VALIDATION) {
            model.add(&metric.name, metric);
        }
    }
    model
}

fn model_port(stage: &StageRecord) -> String {
    format!("{}.model", stage.name)
}

/// Stages that take the model of `stage`, and the port they take it by.
fn readers<'run>(
    stage: &StageRecord,
    run: &'run RunRecord,
) -> impl Iterator<Item = (&'run StageRecord, &'run str)> {
    let wanted = model_port(stage);
    run.stages.iter().flat_map(move |other| {
        let edge = other.inputs.iter().find(|edge| edge.from == wanted);
        edge.map(|edge| (other, edge.port.as_str()))
    })
}

fn absent_reason(stage: &StageRecord, run: &RunRecord) -> String {
    let unfinished = |stage: &StageRecord| {
        let how = match stage.state {
            StageState::Hit | StageState::Ran => return None,
            StageState::Running => "has not finished",
            StageState::Failed => "failed",
            StageState::Skipped => "did not run",
            StageState::Interrupted => "was interrupted",
            StageState::Paused => "is held by early stopping",
        };
        Some(format!("stage `{}` {how}", stage.name))
    };
    let after = readers(stage, run).map(|(other, _)| other);
    // The last stage that reads a model is the one that measures it.
    std::iter::once(stage)
        .chain(after.last())
        .find_map(unfinished)
        .unwrap_or_else(|| "no stage of the run measured it".to_owned())
}
