//! How good predictions are, and how sure one can be of it.
//!
//! Everything is computed on the host in `f64` from class ids and logits in row order.

mod interval;
#[cfg(test)]
mod tests;

pub use interval::{Interval, Intervals, RESAMPLES, bootstrap, mcnemar, paired_difference};

use serde::{Deserialize, Serialize};

/// Rows by true and predicted class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Confusion {
    /// `counts[truth][prediction]` rows.
    pub counts: Vec<Vec<u64>>,
}

/// How one class fares, unitless in [0, 1] except for the support.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClassMetrics {
    /// Share of the predictions of this class that are right; 0 when it is never predicted.
    pub precision: f64,
    /// Share of the rows of this class that are found; 0 when it has none.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 0 when both are.
    pub f1: f64,
    /// Rows of this class.
    pub support: u64,
}

/// What a classifier's logits amount to on labelled rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Classification {
    /// Share of rows whose largest logit is the label's, in [0, 1].
    pub accuracy: f64,
    /// Unweighted mean of the classes' F1, in [0, 1].
    pub macro_f1: f64,
    /// Mean negative log-likelihood of the label, nats a row.
    pub cross_entropy: f64,
    /// Rows behind the numbers.
    pub n_rows: usize,
    /// By class id.
    pub classes: Vec<ClassMetrics>,
    /// Rows by true and predicted class.
    pub confusion: Confusion,
}

impl Classification {
    /// Measures logits of `n_classes` values a row against class ids.
    ///
    /// # Errors
    ///
    /// [`MetricError`] when there are no rows, their numbers differ, a row has another number of
    /// logits, a label is out of range or a logit is not finite.
    pub fn from_logits(
        logits: &[Vec<f32>],
        labels: &[usize],
        n_classes: usize,
    ) -> Result<Self, MetricError> {
        check_lengths(logits.len(), labels.len())?;
        for (row, logits) in logits.iter().enumerate() {
            if logits.len() != n_classes {
                return Err(MetricError::Width { row, expected: n_classes, found: logits.len() });
            }
            if let Some(&value) = logits.iter().find(|value| !value.is_finite()) {
                return Err(MetricError::NotFinite { row, value });
            }
        }
        let predictions: Vec<usize> = logits.iter().map(|logits| argmax(logits)).collect();
        let confusion = Confusion::new(labels, &predictions, n_classes)?;
        Ok(Self {
            accuracy: confusion.accuracy(),
            macro_f1: confusion.macro_f1(),
            cross_entropy: cross_entropy(logits, labels),
            n_rows: labels.len(),
            classes: confusion.classes(),
            confusion,
        })
    }
}

impl Confusion {
    /// Counts pairs of true and predicted class ids.
    ///
    /// # Errors
    ///
    /// [`MetricError`] when there are no rows, their numbers differ or an id is out of range.
    pub fn new(
        labels: &[usize],
        predictions: &[usize],
        n_classes: usize,
    ) -> Result<Self, MetricError> {
        check_lengths(predictions.len(), labels.len())?;
        let mut counts = vec![vec![0; n_classes]; n_classes];
        for (row, (&label, &prediction)) in labels.iter().zip(predictions).enumerate() {
            let class = label.max(prediction);
            if class >= n_classes {
                return Err(MetricError::Class { row, n_classes, found: class });
            }
            counts[label][prediction] += 1;
        }
        Ok(Self { counts })
    }

    /// Share of rows on the diagonal.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.counts.len()).map(|class| self.counts[class][class]).sum();
        let total: u64 = self.counts.iter().flatten().sum();
        ratio(right, total)
    }

    /// Unweighted mean of the classes' F1, over all classes, with or without rows.
    pub fn macro_f1(&self) -> f64 {
        let classes = self.classes();
        classes.iter().map(|class| class.f1).sum::<f64>() / classes.len() as f64
    }

    /// Precision, recall and F1 by class id.
    pub fn classes(&self) -> Vec<ClassMetrics> {
        let class = |class: usize| {
            let right = self.counts[class][class];
            let support = self.counts[class].iter().sum();
            let predicted: u64 = self.counts.iter().map(|row| row[class]).sum();
            ClassMetrics {
                precision: ratio(right, predicted),
                recall: ratio(right, support),
                f1: ratio(2 * right, support + predicted),
                support,
            }
        };
        (0..self.counts.len()).map(class).collect()
    }
}

/// Class of the largest logit, the first of equals.
///
/// # Panics
///
/// When there are no logits.
pub fn argmax(logits: &[f32]) -> usize {
    assert!(!logits.is_empty(), "a row has at least one logit");
    let mut best = 0;
    for (class, &value) in logits.iter().enumerate() {
        if value > logits[best] {
            best = class;
        }
    }
    best
}

/// Mean −log softmax(logits)[label] of the rows, in nats; infinite for a label without a logit.
pub(crate) fn cross_entropy(logits: &[Vec<f32>], labels: &[usize]) -> f64 {
    let row = |(logits, &label): (&Vec<f32>, &usize)| {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&value| (f64::from(value) - largest).exp()).sum();
        let logit = logits.get(label).map_or(f64::NEG_INFINITY, |&logit| f64::from(logit));
        largest + sum.ln() - logit
    };
    logits.iter().zip(labels).map(row).sum::<f64>() / labels.len() as f64
}

fn check_lengths(predictions: usize, labels: usize) -> Result<(), MetricError> {
    match (predictions, labels) {
        (_, 0) => Err(MetricError::Empty),
        _ if predictions != labels => Err(MetricError::Length { predictions, labels }),
        _ => Ok(()),
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Why something cannot be measured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// Nothing to measure.
    #[error("expected at least one row to measure, found none")]
    Empty,
    /// Predictions and labels are not about the same rows.
    #[error("expected one prediction a label, found {predictions} predictions for {labels} labels")]
    Length {
        /// Rows predicted.
        predictions: usize,
        /// Rows labelled.
        labels: usize,
    },
    /// A row has too many or too few logits.
    #[error("expected {expected} logits a row, found {found} in row {row}")]
    Width {
        /// Row from 0.
        row: usize,
        /// Number of classes.
        expected: usize,
        /// Logits in the row.
        found: usize,
    },
    /// A class id is out of range.
    #[error("expected class ids below {n_classes}, found {found} in row {row}")]
    Class {
        /// Row from 0.
        row: usize,
        /// Number of classes.
        n_classes: usize,
        /// The id.
        found: usize,
    },
    /// The model answered NaN or infinity.
    #[error(
        "expected finite logits, found {value} in row {row}; the model has diverged or its weights are damaged"
    )]
    NotFinite {
        /// Row from 0.
        row: usize,
        /// The logit.
        value: f32,
    },
}
