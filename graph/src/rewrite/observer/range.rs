//! Ranges that need not lie around 0, for integers with a zero point.

use super::{CANDIDATES, Histogram, RewriteError, check_finite, check_seen};

/// Steps of 8 bits over a range.
const STEPS: f64 = 255.0;

/// Rounds in which each end of the range is moved to where the error is least.
const ROUNDS: usize = 2;

/// Watches one activation for the range whose 255 steps give the least mean squared error between its
/// numbers and their quantized values. What it holds does not grow with what it sees.
#[derive(Clone, Debug, Default)]
pub struct RangeObserver {
    /// Numbers below 0, and the others, by magnitude.
    sides: [Histogram; 2],
    /// The greatest magnitude of each side.
    greatest: [f32; 2],
    seen: u64,
}

impl RangeObserver {
    /// Takes one batch of the activation's numbers. An empty slice is nothing.
    ///
    /// # Errors
    ///
    /// When a number is not finite; nothing of the slice counts then.
    pub fn observe(&mut self, numbers: &[f32]) -> Result<(), RewriteError> {
        check_finite(numbers)?;
        let ends = numbers.iter().fold([0f32; 2], |[low, high], x| [low.max(-x), high.max(*x)]);
        for ((side, greatest), end) in self.sides.iter_mut().zip(&mut self.greatest).zip(ends) {
            side.reach(f64::from(end));
            *greatest = greatest.max(end);
        }
        for number in numbers {
            self.sides[usize::from(*number >= 0.0)].count(*number);
        }
        self.seen += numbers.len() as u64;
        Ok(())
    }

    /// The range `[least, greatest]`; 0 lies in it.
    ///
    /// # Errors
    ///
    /// When nothing was seen.
    pub fn range(&self) -> Result<[f32; 2], RewriteError> {
        check_seen(self.seen)?;
        let whole = self.greatest.map(f64::from);
        let shrunk = |part: usize| part as f64 / CANDIDATES as f64;
        let mut best = self.least(whole, |part| whole.map(|end| end * shrunk(part)));
        // A side without numbers has no end to move.
        for end in (0..2).cycle().take(2 * ROUNDS).filter(|&end| whole[end] > 0.0) {
            best = self.least(best, |part| {
                let mut ends = best;
                ends[end] = whole[end] * shrunk(part);
                ends
            });
        }
        Ok([-best[0] as f32, best[1] as f32])
    }

    /// The candidate with the least error, if that is less than at `start`.
    fn least(&self, start: [f64; 2], candidate: impl Fn(usize) -> [f64; 2]) -> [f64; 2] {
        let candidates = std::iter::once(start).chain((1..=CANDIDATES).map(candidate));
        let errors = candidates.map(|ends| (self.squared_error(ends), ends));
        errors.reduce(|best, next| if next.0 < best.0 { next } else { best }).map_or(start, |x| x.1)
    }

    /// Sum of squared errors of all numbers within `255` steps from `-ends[0]` to `ends[1]`.
    fn squared_error(&self, ends: [f64; 2]) -> f64 {
        let scale = (ends[0] + ends[1]) / STEPS;
        if scale == 0.0 {
            return 0.0;
        }
        let below = (ends[0] / scale).round_ties_even();
        let levels = [below, STEPS - below];
        self.sides.iter().zip(levels).map(|(side, levels)| side.squared_error(scale, levels)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bert::normal;

    fn range(batches: &[&[f32]]) -> [f32; 2] {
        let mut observer = RangeObserver::default();
        batches.iter().for_each(|batch| observer.observe(batch).unwrap());
        observer.range().unwrap()
    }

    /// Even numbers lose most at an end that is cut off.
    #[test]
    fn even_numbers_keep_their_ends() {
        let numbers: Vec<f32> = (0..=1000).map(|i| i as f32 * 0.003 - 1.0).collect();
        let [least, greatest] = range(&[&numbers[..300], &numbers[300..]]);
        assert!((least + 1.0).abs() < 0.02 && (greatest - 2.0).abs() < 0.04, "{least} {greatest}");
        let [least, greatest] = range(&[&[0.0, 3.0], &[1.0, 2.0]]);
        assert!(least == 0.0 && (greatest - 3.0).abs() < 0.1, "{least} {greatest}");
        assert_eq!(range(&[&[0.0, 0.0]]), [0.0, 0.0]);
    }

    #[test]
    fn the_error_is_near_the_least_of_all_ranges() {
        let mut numbers = normal(2, "calibration", &[4_000], 1.0).elements().unwrap().to_vec();
        numbers.iter_mut().filter(|x| **x < 0.0).for_each(|x: &mut f32| *x *= 0.1);
        numbers.extend([14.0, -1.5]);
        let error = |[low, high]: [f64; 2]| -> f64 {
            let scale = (high - low) / 255.0;
            let zero = (-low / scale).round_ties_even();
            let quantized =
                |x: f64| ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0) - zero;
            numbers.iter().map(|&x| (f64::from(x) - scale * quantized(f64::from(x))).powi(2)).sum()
        };
        let ends = (1..=40).flat_map(|low| (1..=140).map(move |high| (low, high)));
        let ranges = ends.map(|(low, high)| [-f64::from(low) / 25.0, f64::from(high) / 10.0]);
        let best = ranges.map(error).fold(f64::INFINITY, f64::min);
        let found = error(range(&[&numbers]).map(f64::from));
        assert!(found < 1.05 * best, "{found} {best}");
    }

    #[test]
    fn what_is_not_finite_or_was_not_seen_is_refused() {
        let mut observer = RangeObserver::default();
        assert!(observer.range().is_err());
        assert!(observer.observe(&[0.5, f32::INFINITY]).is_err());
        assert!(observer.range().is_err());
    }
}
