//! Latency against rate, where a stage put load on a model, and energy, where it was measured.

use std::collections::BTreeMap;

use engine::Metric;
use engine::history::{RunRecord, StageRecord};

use crate::chain::Model;
use crate::plot::{Bar, Bars, Plot, Rated, rates};

/// Part of a metric's name before the rate: `load/200/p99`, requests per second.
const LOAD: &str = "load/";

/// A plot for each stage and model that load was put on.
pub(super) fn curves(run: &RunRecord) -> Vec<Plot> {
    run.stages.iter().flat_map(curves_of).collect()
}

fn curves_of(stage: &StageRecord) -> Vec<Plot> {
    // What is loaded → percentile → points.
    let mut panels: BTreeMap<String, BTreeMap<String, Vec<(f64, f64)>>> = BTreeMap::new();
    for metric in &stage.metrics {
        if let Some((target, rate, name)) = point(metric) {
            let lines = panels.entry(target).or_default();
            lines.entry(name).or_default().push((rate, metric.value));
        }
    }
    let panel = |(target, lines): (String, BTreeMap<String, Vec<(f64, f64)>>)| {
        let title = format!("{}{target}: latency against rate", stage.name);
        let line = |(name, mut points): (String, Vec<(f64, f64)>)| {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Rated { name, points }
        };
        rates(&title, &lines.into_iter().map(line).collect::<Vec<_>>())
    };
    panels.into_iter().filter_map(panel).collect()
}

/// What was loaded, at which rate, and the percentile: `bench/int8/load/200/p99` in milliseconds.
fn point(metric: &Metric) -> Option<(String, f64, String)> {
    let at = metric.name.find(LOAD)?;
    let (before, rest) = (&metric.name[..at], &metric.name[at + LOAD.len()..]);
    let (rate, name) = rest.split_once('/')?;
    let rate: f64 = rate.parse().ok()?;
    let is_latency = metric.unit == "ms" && metric.value.is_finite() && rate.is_finite();
    let target = before.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let target = if target.is_empty() { String::new() } else { format!(" {target}") };
    is_latency.then(|| (target, rate, name.trim_end_matches("-ms").to_owned()))
}

/// Joules an inference of each model that they were measured for.
pub(super) fn energy(models: &[Model]) -> Option<Bars> {
    let measured: Vec<(&Model, &Metric)> = models
        .iter()
        .filter_map(|model| Some((model, model.measurement("energy").ok()?)))
        .collect();
    let unit = &measured.first()?.1.unit;
    let comparable = measured.iter().filter(|(_, metric)| metric.unit == *unit);
    let bars =
        comparable.map(|(model, metric)| Bar { name: model.name.clone(), value: metric.value });
    Bars::new("Energy", "energy", unit, bars.collect())
}
