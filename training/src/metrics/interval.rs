//! Uncertainty of a metric from the rows it was measured on.

use serde::{Deserialize, Serialize};

use super::{Confusion, MetricError};
use crate::random::Stream;

/// Resamples behind an interval: percentiles of 2.5 % rest on 50 of them.
pub const RESAMPLES: usize = 2_000;

/// A value with a 95 % percentile bootstrap interval (Efron & Tibshirani 1993, § 13.3).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// On the rows as they are.
    pub value: f64,
    /// 2.5 % of the resamples are below.
    pub low: f64,
    /// 2.5 % of the resamples are above.
    pub high: f64,
}

/// Bootstraps any statistic of rows.
///
/// `statistic` receives row indices, with repetitions, `n_rows` of them; the same seed draws the
/// same resamples.
///
/// # Errors
///
/// [`MetricError::Empty`] without rows.
pub fn bootstrap(
    n_rows: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> f64,
) -> Result<Interval, MetricError> {
    if n_rows == 0 {
        return Err(MetricError::Empty);
    }
    let mut rows: Vec<usize> = (0..n_rows).collect();
    let value = statistic(&rows);
    let mut random = Stream::new(seed);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            rows.iter_mut().for_each(|row| *row = random.below(n_rows));
            statistic(&rows)
        })
        .collect();
    resampled.sort_unstable_by(f64::total_cmp);
    Ok(Interval { value, low: percentile(&resampled, 0.025), high: percentile(&resampled, 0.975) })
}

/// How sure the headline metrics of a classifier are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Intervals {
    /// Of the accuracy.
    pub accuracy: Interval,
    /// Of the macro-F1.
    pub macro_f1: Interval,
}

impl Intervals {
    /// Bootstraps accuracy and macro-F1 of class ids against class ids.
    ///
    /// # Errors
    ///
    /// [`MetricError`] as of [`Confusion::new`].
    pub fn of_predictions(
        labels: &[usize],
        predictions: &[usize],
        n_classes: usize,
        seed: u64,
    ) -> Result<Self, MetricError> {
        Confusion::new(labels, predictions, n_classes)?;
        let statistic = |measure: fn(&Confusion) -> f64| {
            bootstrap(labels.len(), seed, |rows| {
                let mut confusion = Confusion { counts: vec![vec![0; n_classes]; n_classes] };
                rows.iter().for_each(|&row| confusion.counts[labels[row]][predictions[row]] += 1);
                measure(&confusion)
            })
        };
        Ok(Self {
            accuracy: statistic(Confusion::accuracy)?,
            macro_f1: statistic(Confusion::macro_f1)?,
        })
    }
}

/// Difference in accuracy, `a` − `b`, of two models on the same rows.
///
/// Both are resampled with the same rows, so that rows hard for both do not widen the interval.
///
/// # Errors
///
/// [`MetricError`] when there are no rows or the slices differ in length.
pub fn paired_difference(
    a_right: &[bool],
    b_right: &[bool],
    seed: u64,
) -> Result<Interval, MetricError> {
    super::check_lengths(a_right.len(), b_right.len())?;
    bootstrap(a_right.len(), seed, |rows| {
        let difference = |&row: &usize| f64::from(i8::from(a_right[row]) - i8::from(b_right[row]));
        rows.iter().map(difference).sum::<f64>() / rows.len() as f64
    })
}

/// Two-sided p-value of McNemar's exact test: are two models equally often right on these rows?
///
/// Under that hypothesis the rows that only one gets right are a fair coin's tosses.
///
/// # Errors
///
/// [`MetricError`] when there are no rows or the slices differ in length.
pub fn mcnemar(a_right: &[bool], b_right: &[bool]) -> Result<f64, MetricError> {
    super::check_lengths(a_right.len(), b_right.len())?;
    let only = |wanted: (bool, bool)| {
        a_right.iter().copied().zip(b_right.iter().copied()).filter(|&pair| pair == wanted).count()
    };
    let (a_only, b_only) = (only((true, false)), only((false, true)));
    let n_tosses = a_only + b_only;
    // In logarithms: 2^-n underflows from about a thousand tosses on.
    let mut ln_probability = -(n_tosses as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for successes in 0..=a_only.min(b_only) {
        tail += ln_probability.exp();
        ln_probability += ((n_tosses - successes) as f64 / (successes + 1) as f64).ln();
    }
    Ok((2.0 * tail).min(1.0))
}

/// Linear interpolation between the two nearest ranks.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let rank = fraction * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
    below + (above - below) * rank.fract()
}
