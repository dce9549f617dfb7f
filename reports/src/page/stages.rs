//! The stages of a run: what they did, what went wrong, which gates they missed.

use engine::Metric;
use engine::history::{AttemptRecord, StageRecord};
use serde::Serialize;

use crate::compare;
use crate::dag;
use crate::quantity::{ABSENT, exact, interval, quantity, seconds};

/// A stage in the list of stages.
#[derive(Debug, Serialize)]
pub(crate) struct StageView {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) state: &'static str,
    pub(crate) duration: String,
    pub(crate) reason: String,
    pub(crate) attempts: Vec<String>,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) metrics: Vec<MetricView>,
}

/// A metric with all that was recorded about it.
#[derive(Debug, Serialize)]
pub(crate) struct MetricView {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) interval: Option<String>,
    pub(crate) split: Option<String>,
    pub(crate) samples: Option<u64>,
}

/// What went wrong in a stage.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) stage: String,
    pub(crate) state: &'static str,
    pub(crate) error: String,
}

/// A gate and how it came out.
#[derive(Debug, Serialize)]
pub(crate) struct GateView {
    pub(crate) stage: String,
    pub(crate) gate: String,
    pub(crate) metric: String,
    pub(crate) bound: String,
    pub(crate) value: String,
    pub(crate) passed: bool,
}

/// Metrics that a stage could not measure for one reason.
#[derive(Debug, Serialize)]
pub(crate) struct Missing {
    pub(crate) stage: String,
    pub(crate) names: Vec<String>,
    pub(crate) reason: String,
}

pub(super) fn read_stage(stage: &StageRecord) -> StageView {
    // These have drawings and tables of their own.
    let is_shown_elsewhere = |metric: &&Metric| {
        metric.name.starts_with("bench/") || metric.name.starts_with("sensitivity/")
    };
    let duration = dag::status(stage);
    let (_, duration) = duration.split_once(" · ").unwrap_or(("", ABSENT));
    let attempt = |attempt: &AttemptRecord| {
        let mut text = format!("attempt {}: {}", attempt.number, attempt.outcome);
        if let Some(duration) = attempt.duration_s {
            text.push_str(&format!(" after {}", seconds(duration)));
        }
        if let Some(error) = &attempt.error {
            text.push_str(&format!(": {error}"));
        }
        text
    };
    StageView {
        name: stage.name.clone(),
        kind: stage.kind.clone(),
        state: dag::state_word(stage.state),
        duration: duration.to_owned(),
        reason: stage.reason.clone(),
        // A single attempt says no more than the stage does.
        attempts: stage.attempts.iter().filter(|_| stage.attempts.len() > 1).map(attempt).collect(),
        parameters: compare::flatten(&stage.params),
        metrics: stage
            .metrics
            .iter()
            .filter(|metric| !is_shown_elsewhere(metric))
            .map(metric_view)
            .collect(),
    }
}

fn metric_view(metric: &Metric) -> MetricView {
    let ends = metric.low.zip(metric.high);
    MetricView {
        name: metric.name.clone(),
        value: quantity(metric.value, &metric.unit),
        interval: ends.map(|(low, high)| interval(low, high, &metric.unit)),
        split: metric.split.clone(),
        samples: metric.samples,
    }
}

pub(super) fn failure(stage: &StageRecord) -> Option<Failure> {
    let error = stage.error.clone()?;
    Some(Failure { stage: stage.name.clone(), state: dag::state_word(stage.state), error })
}

pub(super) fn gates(stage: &StageRecord) -> impl Iterator<Item = GateView> {
    stage.gates.iter().map(|gate| {
        let unit = stage
            .metrics
            .iter()
            .find(|metric| Some(&metric.name) == gate.metric.as_ref())
            .map(|metric| metric.unit.as_str());
        let text = |value: f64| match unit {
            // Percentages are rounded; beside a bound every digit counts.
            None | Some("fraction" | "count" | "") => exact(rounded(value)),
            Some(unit) => format!("{} {unit}", exact(rounded(value))),
        };
        GateView {
            stage: stage.name.clone(),
            gate: gate.gate.clone(),
            metric: gate.metric.clone().unwrap_or_else(|| "not reported".to_owned()),
            bound: text(gate.bound),
            value: gate.value.map_or_else(|| ABSENT.to_owned(), text),
            passed: gate.passed,
        }
    })
}

/// Six significant digits: no measurement here has more.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

pub(super) fn missing(stage: &StageRecord) -> Vec<Missing> {
    let mut groups: Vec<Missing> = Vec::new();
    for missing in &stage.unavailable {
        match groups.iter_mut().find(|group| group.reason == missing.reason) {
            Some(group) => group.names.push(missing.name.clone()),
            None => groups.push(Missing {
                stage: stage.name.clone(),
                names: vec![missing.name.clone()],
                reason: missing.reason.clone(),
            }),
        }
    }
    groups
}
