//! Times of many runs, and what may be said about them.

use std::time::{Duration, Instant};

/// Samples that must lie beyond a percentile before it is quoted.
const TAIL: usize = 10;

/// Times of runs of one thing, in milliseconds, ascending.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Times(Vec<f64>);

/// How long to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Runs that are not counted, first.
    pub(super) warmup: usize,
    /// Most runs that are counted.
    pub(super) runs: usize,
    /// Counting ends after this time, with at least `least` runs.
    pub(super) time: Duration,
    /// Fewest runs that are counted.
    pub(super) least: usize,
}

impl Times {
    /// Runs `once` again and again and takes the time of each.
    pub(super) fn measure<E>(
        budget: Budget,
        mut once: impl FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        for _ in 0..budget.warmup {
            once()?;
        }
        let start = Instant::now();
        let mut times = Vec::with_capacity(budget.runs);
        while times.len() < budget.runs
            && (start.elapsed() < budget.time || times.len() < budget.least)
        {
            let start = Instant::now();
            once()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(Self::new(times))
    }

    fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// Counts the runs of `others` as well.
    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
        self.0.sort_by(f64::total_cmp);
    }

    /// How many runs were counted.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that `percent` of the runs do not exceed (nearest rank), in milliseconds.
    ///
    /// # Errors
    ///
    /// When fewer than [`TAIL`] runs lie beyond it (half as many runs for the median).
    pub(super) fn percentile(&self, percent: f64) -> Result<f64, String> {
        let beyond = self.len() as f64 * (1.0 - percent / 100.0);
        if beyond < TAIL as f64 - 1e-9 {
            let needed = (TAIL as f64 / (1.0 - percent / 100.0)).ceil();
            return Err(format!(
                "{} runs are too few for p{percent}; {needed} are needed",
                self.len()
            ));
        }
        let rank = (self.len() as f64 * percent / 100.0).ceil() as usize;
        Ok(self.0[rank.clamp(1, self.len()) - 1])
    }

    /// A 95 % interval of that percentile over runs like these, in milliseconds: two order
    /// statistics, whatever the distribution (Hahn and Meeker 1991, "Statistical Intervals",
    /// section 5.2, with the normal approximation of the binomial). It says nothing of other
    /// processes or days. `None` where an end would lie beyond the fastest or the slowest run.
    pub(super) fn interval(&self, percent: f64) -> Option<(f64, f64)> {
        let (n, share) = (self.len() as f64, percent / 100.0);
        let spread = 1.96 * (n * share * (1.0 - share)).sqrt();
        let rank = |rank: f64| (1.0..=n).contains(&rank).then(|| self.0[rank as usize - 1]);
        rank((n * share - spread).floor()).zip(rank((n * share + spread).ceil() + 1.0))
    }

    /// The middle time, in milliseconds; `NaN` without runs.
    pub(super) fn median(&self) -> f64 {
        self.0.get(self.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_need_samples_beyond_them() {
        let times = |n: usize| Times::new((1..=n).rev().map(|ms| ms as f64).collect());
        assert_eq!(times(1000).percentile(99.0), Ok(990.0));
        assert_eq!(times(100).percentile(90.0), Ok(90.0));
        assert_eq!(times(20).percentile(50.0), Ok(10.0));
        let error = times(20).percentile(99.0).unwrap_err();
        assert_eq!(error, "20 runs are too few for p99; 1000 are needed");
    }

    #[test]
    fn intervals_are_order_statistics() {
        let times = |n: usize| Times::new((1..=n).map(|ms| ms as f64).collect());
        // 50 ± 1.96 × 5.
        assert_eq!(times(100).interval(50.0), Some((40.0, 61.0)));
        assert_eq!(times(1000).interval(99.0), Some((983.0, 998.0)));
        assert_eq!(times(100).interval(99.0), None);
    }

    #[test]
    fn measuring_warms_up_and_stops() {
        let mut calls = 0;
        let budget = Budget { warmup: 3, runs: 50, time: Duration::ZERO, least: 5 };
        let times = Times::measure(budget, || {
            calls += 1;
            Ok::<(), ()>(())
        });
        assert_eq!((times.unwrap().len(), calls), (5, 8));
    }
}
