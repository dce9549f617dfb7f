//! Whether a run is worse than the last good one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Better, OnRegression};
use crate::protocol::Metric;

/// How a run compares with the last good run of its schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Comparison {
    /// The run that is judged.
    pub run: i64,
    /// The last good run; `None` when this is the first.
    pub last_good: Option<i64>,
    /// Metrics that got worse, or went missing.
    pub worse: Vec<Finding>,
    /// Metrics that could not be judged, and why.
    pub unjudged: Vec<Finding>,
}

/// What is said about one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// `STAGE/METRIC`.
    pub metric: String,
    /// In words, numbers included.
    pub detail: String,
    /// Its value in this run.
    pub value: Option<f64>,
    /// The 95 % interval of the last good run.
    pub interval: Option<(f64, f64)>,
}

/// The metrics of a run by `STAGE/METRIC`.
pub(crate) type Measured = BTreeMap<String, Metric>;

impl Comparison {
    /// Whether anything got worse.
    pub fn is_regression(&self) -> bool {
        !self.worse.is_empty()
    }

    /// Compares the watched metrics of a run with those of the last good one.
    pub(crate) fn of(
        watch: &OnRegression,
        (run, now): (i64, &Measured),
        last_good: Option<(i64, &Measured)>,
    ) -> Self {
        let mut comparison = Self {
            run,
            last_good: last_good.map(|(run, _)| run),
            worse: Vec::new(),
            unjudged: Vec::new(),
        };
        for (name, better) in &watch.metrics {
            let finding = |detail: String, interval| Finding {
                metric: name.clone(),
                detail,
                value: now.get(name).map(|metric| metric.value),
                interval,
            };
            let Some(metric) = now.get(name) else {
                let known: Vec<&str> = now.keys().map(String::as_str).collect();
                let close = crate::manifest::did_you_mean(name, known.iter().copied());
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let hint = close.map_or_else(String::new, |close| format!("; {close}"));
                let detail = format!("was not reported{hint}; there are: {known}");
                comparison.worse.push(finding(detail, None));
                continue;
            };
            let Some((last, earlier)) =
                last_good.and_then(|(last, earlier)| Some((last, earlier.get(name)?)))
            else {
                let detail = "no good run of this schedule reported it before".to_owned();
                comparison.unjudged.push(finding(detail, None));
                continue;
            };
            let Some((low, high)) = earlier.low.zip(earlier.high) else {
                let detail = format!("run {last} reported it without a 95 % interval to judge by");
                comparison.unjudged.push(finding(detail, None));
                continue;
            };
            let bad = match better {
                Better::Higher => metric.value < low,
                Better::Lower => metric.value > high,
            };
            // A number that is none is no good number.
            if bad || metric.value.is_nan() {
                let side = match better {
                    Better::Higher => "below",
                    Better::Lower => "above",
                };
                let detail = format!(
                    "is {} {}, {side} {} of run {last} with its 95 % interval {low} to {high}",
                    metric.value, metric.unit, earlier.value
                );
                comparison.worse.push(finding(detail, Some((low, high))));
            }
        }
        comparison
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(value: f64, interval: Option<(f64, f64)>) -> Measured {
        let metric = Metric {
            name: "test/score".to_owned(),
            value,
            unit: "fraction".to_owned(),
            low: interval.map(|(low, _)| low),
            high: interval.map(|(_, high)| high),
            ..Metric::default()
        };
        BTreeMap::from([("bench/test/score".to_owned(), metric)])
    }

    #[test]
    fn only_the_bad_side_of_the_interval_is_a_regression() {
        let check = |better, value, interval, worse: usize, unjudged: usize| {
            let metrics = BTreeMap::from([("bench/test/score".to_owned(), better)]);
            let watch = OnRegression { metrics, command: Vec::new(), webhook: None, exit: false };
            let (now, before) = (measured(value, None), measured(0.8, interval));
            let comparison = Comparison::of(&watch, (2, &now), Some((1, &before)));
            assert_eq!(
                (comparison.worse.len(), comparison.unjudged.len()),
                (worse, unjudged),
                "{better:?} {value} {interval:?}"
            );
            let first = Comparison::of(&watch, (2, &now), None);
            assert_eq!((first.worse.len(), first.unjudged.len()), (0, 1));
        };
        let interval = Some((0.7, 0.9));
        check(Better::Higher, 0.7, interval, 0, 0);
        check(Better::Higher, 0.69, interval, 1, 0);
        check(Better::Higher, 0.95, interval, 0, 0);
        check(Better::Lower, 0.9, interval, 0, 0);
        check(Better::Lower, 0.95, interval, 1, 0);
        check(Better::Lower, 0.1, interval, 0, 0);
        check(Better::Higher, 0.1, None, 0, 1);
    }

    #[test]
    fn a_metric_that_went_missing_is_told_with_what_was_meant() {
        let metrics = BTreeMap::from([("bench/test/scroe".to_owned(), Better::Higher)]);
        let watch = OnRegression { metrics, command: Vec::new(), webhook: None, exit: false };
        let comparison = Comparison::of(&watch, (1, &measured(1.0, None)), None);
        assert!(comparison.is_regression());
        assert!(comparison.worse[0].detail.contains("did you mean `bench/test/score`?"));
    }
}
