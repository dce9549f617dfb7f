//! Scales for activations, from numbers seen in calibration: slices in, one scale or range out.

mod range;

pub use range::RangeObserver;

use super::RewriteError;
use super::quantize::{LEVELS, scale_for};

/// Bins of the histogram of magnitudes.
const BINS: usize = 8192;

/// Clipping points tried for the least error.
const CANDIDATES: usize = 128;

/// How the clipping point of an activation is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// The greatest magnitude seen.
    MinMax,
    /// Exponential moving average of each slice's greatest magnitude: `m·average + (1 − m)·greatest`
    /// (Jacob et al. 2017, arXiv:1712.05877), starting at the first slice's.
    MovingAverage {
        /// Weight of the past, 0 to 1.
        momentum: f64,
    },
    /// The magnitude that this share of all numbers does not exceed.
    Percentile {
        /// Above 0, at most 100.
        percentile: f64,
    },
    /// The magnitude that gives the least mean squared error between the numbers and their
    /// quantized values.
    Mse,
}

/// Watches one activation. What it holds does not grow with what it sees.
#[derive(Clone, Debug)]
pub struct Observer {
    method: Method,
    greatest: f32,
    average: f64,
    seen: u64,
    histogram: Histogram,
}

impl Observer {
    /// An observer that has seen nothing.
    ///
    /// # Errors
    ///
    /// When the method's parameter is out of its range.
    pub fn new(method: Method) -> Result<Self, RewriteError> {
        let (what, number, valid, expected) = match method {
            Method::MovingAverage { momentum } => {
                ("momentum", momentum, (0.0..=1.0).contains(&momentum), "0 to 1")
            }
            Method::Percentile { percentile } => {
                let valid = percentile > 0.0 && percentile <= 100.0;
                ("percentile", percentile, valid, "above 0, at most 100")
            }
            Method::MinMax | Method::Mse => ("", 0.0, true, ""),
        };
        if !valid {
            let (expected, found) = (expected.to_owned(), number.to_string());
            return Err(RewriteError::Range { what, expected, found });
        }
        let histogram = Histogram::default();
        Ok(Self { method, greatest: 0.0, average: 0.0, seen: 0, histogram })
    }

    /// Takes one batch of the activation's numbers; leave padding out. An empty slice is nothing.
    ///
    /// # Errors
    ///
    /// When a number is not finite; nothing of the slice counts then.
    pub fn observe(&mut self, numbers: &[f32]) -> Result<(), RewriteError> {
        check_finite(numbers)?;
        if numbers.is_empty() {
            return Ok(());
        }
        let greatest = numbers.iter().fold(0f32, |greatest, x| greatest.max(x.abs()));
        if let Method::MovingAverage { momentum } = self.method {
            let momentum = if self.seen == 0 { 0.0 } else { momentum };
            self.average = momentum * self.average + (1.0 - momentum) * f64::from(greatest);
        }
        self.greatest = self.greatest.max(greatest);
        self.seen += numbers.len() as u64;
        if matches!(self.method, Method::Percentile { .. } | Method::Mse) {
            self.histogram.add(numbers, greatest);
        }
        Ok(())
    }

    /// The scale: the clipping point by 127. 1/127 where all numbers were zero.
    ///
    /// # Errors
    ///
    /// When nothing was seen.
    pub fn scale(&self) -> Result<f32, RewriteError> {
        check_seen(self.seen)?;
        let clip = match self.method {
            Method::MinMax => self.greatest,
            Method::MovingAverage { .. } => self.average as f32,
            Method::Percentile { percentile } => {
                let rank = (percentile / 100.0 * self.seen as f64).ceil() as u64;
                (self.histogram.magnitude_at(rank) as f32).min(self.greatest)
            }
            Method::Mse => self.least_error(),
        };
        Ok(scale_for(clip))
    }

    fn least_error(&self) -> f32 {
        let candidates = (1..=CANDIDATES).rev().map(|part| {
            let clip = f64::from(self.greatest) * part as f64 / CANDIDATES as f64;
            let levels = f64::from(LEVELS);
            (self.histogram.squared_error(clip / levels, levels), clip)
        });
        let best = candidates.reduce(|best, next| if next.0 < best.0 { next } else { best });
        best.map_or(0.0, |(_, clip)| clip as f32)
    }
}

fn check_finite(numbers: &[f32]) -> Result<(), RewriteError> {
    match numbers.iter().enumerate().find(|(_, number)| !number.is_finite()) {
        None => Ok(()),
        Some((at, number)) => {
            let (expected, found) = ("finite numbers".to_owned(), format!("{number} at {at}"));
            Err(RewriteError::Range { what: "activation", expected, found })
        }
    }
}

fn check_seen(numbers: u64) -> Result<(), RewriteError> {
    if numbers > 0 {
        return Ok(());
    }
    let (expected, found) = ("at least one number".to_owned(), "none".to_owned());
    Err(RewriteError::Range { what: "calibration", expected, found })
}

/// Counts of magnitudes in equal bins from 0. The bins widen as greater numbers come.
#[derive(Clone, Debug, Default)]
struct Histogram {
    width: f64,
    counts: Vec<u64>,
    zeros: u64,
}

impl Histogram {
    fn add(&mut self, numbers: &[f32], greatest: f32) {
        self.reach(f64::from(greatest));
        numbers.iter().for_each(|&number| self.count(number));
    }

    /// Counts a number that the bins reach.
    fn count(&mut self, number: f32) {
        if number == 0.0 {
            self.zeros += 1;
        } else {
            let bin = (f64::from(number.abs()) / self.width) as usize;
            self.counts[bin.min(BINS - 1)] += 1;
        }
    }

    /// Doubles the width of the bins until they hold `greatest`.
    fn reach(&mut self, greatest: f64) {
        if greatest > 0.0 && self.counts.is_empty() {
            self.width = greatest / BINS as f64;
            self.counts = vec![0; BINS];
        }
        while greatest > self.width * BINS as f64 {
            for bin in 0..BINS / 2 {
                self.counts[bin] = self.counts[2 * bin] + self.counts[2 * bin + 1];
            }
            self.counts[BINS / 2..].fill(0);
            self.width *= 2.0;
        }
    }

    /// The upper edge of the bin that holds the `rank`th smallest magnitude, from 1.
    fn magnitude_at(&self, rank: u64) -> f64 {
        let mut below = self.zeros;
        if below >= rank {
            return 0.0;
        }
        let bin = self.counts.iter().position(|count| {
            below += count;
            below >= rank
        });
        (bin.unwrap_or(BINS - 1) + 1) as f64 * self.width
    }

    /// Sum of squared errors of the bins' centres as so many steps of `scale` at most.
    fn squared_error(&self, scale: f64, levels: f64) -> f64 {
        let error = |(bin, &count): (usize, &u64)| {
            let centre = (bin as f64 + 0.5) * self.width;
            let quantized = (centre / scale).round_ties_even().min(levels) * scale;
            count as f64 * (centre - quantized).powi(2)
        };
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(error).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bert::normal;

    fn scale(method: Method, batches: &[&[f32]]) -> f32 {
        let mut observer = Observer::new(method).unwrap();
        for batch in batches {
            observer.observe(batch).unwrap();
        }
        observer.scale().unwrap()
    }

    fn close(found: f32, expected: f64, tolerance: f64) {
        assert!((f64::from(found) / expected - 1.0).abs() < tolerance, "{found} {expected}");
    }

    #[test]
    fn extremes_and_averages() {
        let batches: [&[f32]; 2] = [&[1.0, -2.0], &[0.5, 4.0]];
        close(scale(Method::MinMax, &batches), 4.0 / 127.0, 1e-6);
        let average = Method::MovingAverage { momentum: 0.75 };
        close(scale(average, &batches), (0.75 * 2.0 + 0.25 * 4.0) / 127.0, 1e-6);
        close(scale(Method::MinMax, &[&[0.0]]), 1.0 / 127.0, 1e-6);
        close(scale(Method::Mse, &[&[0.0]]), 1.0 / 127.0, 1e-6);
    }

    #[test]
    fn percentile_matches_sorting_across_growing_ranges() {
        let mut numbers = normal(1, "calibration", &[20_000], 1.0).elements().unwrap().to_vec();
        numbers.push(900.0);
        let batches: Vec<&[f32]> = numbers.chunks(1000).collect();
        let mut magnitudes: Vec<f32> = numbers.iter().map(|x: &f32| x.abs()).collect();
        magnitudes.sort_by(f32::total_cmp);
        let expected = magnitudes[(0.999 * magnitudes.len() as f64).ceil() as usize - 1];
        let found = scale(Method::Percentile { percentile: 99.9 }, &batches);
        // One bin after widening to 900 is at most 2 · 900 / 8192.
        assert!((f64::from(found) * 127.0 - f64::from(expected)).abs() < 0.22);
        close(scale(Method::Percentile { percentile: 100.0 }, &batches), 900.0 / 127.0, 1e-6);
    }

    #[test]
    fn least_error_matches_trying_all_clips_on_the_numbers() {
        let mut numbers = normal(2, "calibration", &[5_000], 1.0).elements().unwrap().to_vec();
        numbers.extend([12.0, -11.0]);
        let error = |scale: f64| -> f64 {
            let quantize = |x: f64| (x / scale).round_ties_even().clamp(-127.0, 127.0) * scale;
            numbers.iter().map(|&x| (f64::from(x) - quantize(f64::from(x))).powi(2)).sum()
        };
        let clips = (1..=1200).map(|part| f64::from(part) / 100.0 / 127.0);
        let best = clips.map(error).fold(f64::INFINITY, f64::min);
        let found = f64::from(scale(Method::Mse, &[&numbers]));
        assert!(found < 12.0 / 127.0 && error(found) < 1.03 * best, "{} {best}", error(found));
    }

    #[test]
    fn bad_numbers_and_parameters_are_refused() {
        let mut observer = Observer::new(Method::MinMax).unwrap();
        let error = observer.observe(&[1.0, f32::NAN]).unwrap_err();
        assert_eq!(error.to_string(), "activation: expected finite numbers, found NaN at 1");
        assert!(observer.scale().is_err());
        assert!(Observer::new(Method::Percentile { percentile: 0.0 }).is_err());
        assert!(Observer::new(Method::MovingAverage { momentum: 1.5 }).is_err());
    }
}
