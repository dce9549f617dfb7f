//! How good a model's answers are, reported as metrics.

use anyhow::Result;
use engine::{Metric, StageContext};
use graph::Graph;
use training::Examples;
use training::metrics::{Classification, Interval, Intervals, argmax};

/// What a stage reports that calls [`report`] on the validation rows, and [`report_size`].
pub(crate) const METRICS: [&str; 5] = [
    "validation/accuracy",
    "validation/macro-f1",
    "validation/cross-entropy",
    "model/weights",
    "model/size",
];

/// A split of the data, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// Rows for choices: early stopping, search, mixed precision.
    Validation,
    /// Rows for reporting only.
    Test,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Whether each row's greatest logit is that of its label.
pub(crate) fn correct(logits: &[Vec<f32>], labels: &[usize]) -> Vec<bool> {
    logits.iter().zip(labels).map(|(logits, &label)| argmax(logits) == label).collect()
}

/// Reports accuracy and macro-F1 (with bootstrap intervals) and cross-entropy under
/// `<prefix><split>/…` and gives them back.
pub(crate) fn report(
    context: &StageContext,
    prefix: &str,
    split: Split,
    logits: &[Vec<f32>],
    examples: &Examples,
) -> Result<Classification> {
    let n_classes = logits.first().map_or(0, Vec::len);
    let scores = Classification::from_logits(logits, &examples.labels, n_classes)?;
    let predictions: Vec<usize> = logits.iter().map(|logits| argmax(logits)).collect();
    let intervals =
        Intervals::of_predictions(&examples.labels, &predictions, n_classes, context.seed())?;
    let metric = |name: &str, value: f64, unit: &str| Metric {
        name: format!("{prefix}{}/{name}", split.name()),
        value,
        unit: unit.to_owned(),
        split: Some(split.name().to_owned()),
        samples: Some(scores.n_rows as u64),
        low: None,
        high: None,
    };
    let ranges = [
        ("accuracy", scores.accuracy, &intervals.accuracy),
        ("macro-f1", scores.macro_f1, &intervals.macro_f1),
    ];
    for (name, value, Interval { low, high, .. }) in ranges {
        let (low, high) = (Some(*low), Some(*high));
        context.metric(Metric { low, high, ..metric(name, value, "fraction") });
    }
    context.metric(metric("cross-entropy", scores.cross_entropy, "nats"));
    Ok(scores)
}

/// Reports how many weights a model has and how many bytes they take.
pub(crate) fn report_size(context: &StageContext, graph: &Graph) {
    let metric = |name: &str, value: usize, unit: &str| Metric {
        name: name.to_owned(),
        value: value as f64,
        unit: unit.to_owned(),
        ..Metric::default()
    };
    context.metric(metric("model/weights", graph.weight_count(), "count"));
    context.metric(metric("model/size", graph.weight_bytes(), "bytes"));
}
