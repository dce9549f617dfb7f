//! How fast a stage moves, and when it will be done.

use std::time::{Duration, Instant};

use engine::Progress;

use crate::cli::quantity::seconds;

/// Where a stage stood when its phase began.
#[derive(Debug)]
pub(super) struct Pace {
    phase: String,
    step: u64,
    begun: Instant,
}

impl Pace {
    /// Starts to measure at a first report.
    pub(super) fn new(progress: &Progress, now: Instant) -> Self {
        Self { phase: progress.phase.clone(), step: progress.step, begun: now }
    }

    /// Time left in the phase, once it has moved.
    pub(super) fn left(&mut self, progress: &Progress, now: Instant) -> Option<Duration> {
        if progress.phase != self.phase || progress.step < self.step {
            *self = Self::new(progress, now);
        }
        let done = progress.step - self.step;
        let to_do = progress.total.checked_sub(progress.step)?;
        if done == 0 {
            return None;
        }
        let per_step = now.duration_since(self.begun).as_secs_f64() / done as f64;
        Duration::try_from_secs_f64(per_step * to_do as f64).ok()
    }
}

/// Phase, step, loss, speed and time left in one line.
pub(super) fn describe(progress: &Progress, left: Option<Duration>) -> String {
    let mut parts = Vec::new();
    if !progress.phase.is_empty() {
        parts.push(progress.phase.clone());
    }
    parts.push(match progress.total {
        0 => format!("step {}", progress.step),
        total => format!("{}/{total}", progress.step),
    });
    parts.extend(progress.loss.map(|loss| format!("loss {loss:.3}")));
    parts.extend(progress.rate.map(|rate| format!("{rate:.0} {}/s", progress.rate_unit)));
    parts.extend(left.map(|left| format!("{} left", seconds(left.as_secs_f64()))));
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64, phase: &str) -> Progress {
        let (loss, rate) = (Some(0.25), Some(840.4));
        let (phase, rate_unit) = (phase.to_owned(), "examples".to_owned());
        Progress { step, total: 100, loss, rate, rate_unit, phase }
    }

    #[test]
    fn time_left_follows_the_phase() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(&at(10, "epoch 1"), start);
        assert_eq!(pace.left(&at(10, "epoch 1"), start), None);
        let left = pace.left(&at(30, "epoch 1"), later(10));
        assert_eq!(left, Some(Duration::from_secs(35)));
        assert_eq!(pace.left(&at(5, "epoch 2"), later(20)), None);
        let left = pace.left(&at(95, "epoch 2"), later(29));
        assert_eq!(left, Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_line_says_it_all() {
        let line = describe(&at(30, "epoch 1"), Some(Duration::from_secs(63)));
        assert_eq!(line, "epoch 1 · 30/100 · loss 0.250 · 840 examples/s · 1 min 03 s left");
    }
}
