//! Columns of the summary: which measurements they show and how a change is told.

use engine::Metric;

use crate::chain::Model;
use crate::quantity::{points, ratio};
use crate::table::{Change, Verdict};

/// A column of the summary and how its changes are told.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Names of the measurement; the first that any model has is used for all of them, because
    /// numbers of two splits cannot be compared.
    names: &'static [&'static str],
    pub(crate) change: ChangeStyle,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ChangeStyle {
    /// A ratio: the word for less and the word for more, and whether less is better.
    Ratio { less: &'static str, more: &'static str, less_is_better: bool },
    /// A difference in percentage points; more is better.
    Points,
}

/// Columns of the summary, in reading order.
pub(crate) const COLUMNS: [Column; 6] = [
    Column {
        title: "weights",
        names: &["weights"],
        change: ChangeStyle::Ratio { less: "fewer", more: "more", less_is_better: true },
    },
    Column {
        title: "file size",
        names: &["size"],
        change: ChangeStyle::Ratio { less: "smaller", more: "larger", less_is_better: true },
    },
    Column {
        title: "accuracy",
        names: &["test/accuracy", "validation/accuracy"],
        change: ChangeStyle::Points,
    },
    Column {
        title: "macro-F1",
        names: &["test/macro-f1", "validation/macro-f1"],
        change: ChangeStyle::Points,
    },
    Column {
        title: "latency p50",
        names: &["latency-p50"],
        change: ChangeStyle::Ratio { less: "faster", more: "slower", less_is_better: true },
    },
    Column {
        title: "throughput",
        names: &["throughput"],
        change: ChangeStyle::Ratio { less: "lower", more: "higher", less_is_better: false },
    },
];

impl Column {
    /// Name of the measurement that this column shows for `models`.
    pub(crate) fn measurement(&self, models: &[Model]) -> &'static str {
        let known = |name: &&&str| models.iter().any(|model| model.measurement(name).is_ok());
        self.names.iter().find(known).unwrap_or(&self.names[0])
    }
}

impl Column {
    /// How `metric` changed against `base`; `None` when the two cannot be compared. `drop` is
    /// what a stage measured as lost, sample by sample.
    pub(crate) fn change(
        &self,
        base: &Metric,
        metric: &Metric,
        drop: Option<&Metric>,
    ) -> Option<Change> {
        if base.unit != metric.unit {
            return None;
        }
        let told = self.told(base.value, metric.value)?;
        let is_noise = match self.change {
            ChangeStyle::Points => {
                // A drop against another model than `base` says nothing here.
                let difference = metric.value - base.value;
                let paired = drop.filter(|drop| (drop.value + difference).abs() < 1e-6);
                match paired.and_then(|drop| drop.low.zip(drop.high)) {
                    Some((low, high)) => (low..=high).contains(&0.0),
                    None => base
                        .low
                        .zip(base.high)
                        .is_some_and(|(low, high)| (low..=high).contains(&metric.value)),
                }
            }
            ChangeStyle::Ratio { .. } => overlap(ends(base), ends(metric)).unwrap_or(false),
        };
        let verdict = if is_noise { Verdict::Same } else { told.verdict };
        Some(Change { verdict, ..told })
    }

    /// What lies between two values, and which of them is better, whatever chance may do.
    pub(crate) fn told(&self, base: f64, value: f64) -> Option<Change> {
        let (text, is_better) = match self.change {
            ChangeStyle::Points => {
                let text = points(value - base);
                let is_better = match text.chars().next() {
                    Some('+') => Some(true),
                    Some('−') => Some(false),
                    _ => None,
                };
                (text, is_better)
            }
            ChangeStyle::Ratio { less, more, less_is_better } => {
                if base <= 0.0 || value <= 0.0 {
                    return None;
                }
                let factor = base / value;
                if (factor - 1.0).abs() < 0.005 {
                    ("same".to_owned(), None)
                } else {
                    let is_less = factor > 1.0;
                    let (factor, word) =
                        if is_less { (factor, less) } else { (1.0 / factor, more) };
                    (format!("{} {word}", ratio(factor)), Some(is_less == less_is_better))
                }
            }
        };
        let verdict = match is_better {
            Some(true) => Verdict::Better,
            Some(false) => Verdict::Worse,
            None => Verdict::Same,
        };
        Some(Change { text, verdict })
    }
}

/// Both ends of a metric's interval.
pub(crate) fn ends(metric: &Metric) -> Option<(f64, f64)> {
    metric.low.zip(metric.high)
}

/// Whether two intervals have a value in common; `None` where one is not there.
pub(crate) fn overlap(one: Option<(f64, f64)>, other: Option<(f64, f64)>) -> Option<bool> {
    let ((low, high), (other_low, other_high)) = one.zip(other)?;
    Some(low <= other_high && other_low <= high)
}
