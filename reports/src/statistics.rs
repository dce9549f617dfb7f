//! What several seeds say about a mean, and about the difference of two.
//!
//! Student's t throughout (Student 1908, "The probable error of a mean"): with a handful of seeds
//! a normal interval would be far too short.

use serde::Serialize;

/// Share of intervals that hold the true mean.
const CONFIDENCE: f64 = 0.95;

/// A mean and its 95 % t-interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Estimate {
    /// Mean of the values.
    pub(crate) mean: f64,
    /// Half the width of the interval; `None` of a single value, which says nothing about others.
    pub(crate) half: Option<f64>,
    /// How many values.
    pub(crate) n: usize,
}

impl Estimate {
    /// Of `values`, which are finite; `None` without any.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let half = (n > 1).then(|| {
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let error = (squares / (n - 1) as f64).sqrt() / (n as f64).sqrt();
            quantile(f64::midpoint(1.0, CONFIDENCE), (n - 1) as f64) * error
        });
        Some(Self { mean, half, n })
    }

    /// Both ends of the interval.
    pub(crate) fn interval(&self) -> Option<(f64, f64)> {
        self.half.map(|half| (self.mean - half, self.mean + half))
    }
}

/// The mean difference of pairs, and how likely one as large is where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Paired {
    /// Of the differences.
    pub(crate) difference: Estimate,
    /// Two-sided p of the paired t-test.
    pub(crate) p: f64,
}

impl Paired {
    /// Of `(value, baseline)` pairs; `None` with fewer than two.
    pub(crate) fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let differences: Vec<f64> = pairs.iter().map(|(value, base)| value - base).collect();
        let difference = Estimate::of(&differences)?;
        let half = difference.half?;
        let freedom = (difference.n - 1) as f64;
        let error = half / quantile(f64::midpoint(1.0, CONFIDENCE), freedom);
        let p = if error > 0.0 {
            2.0 * upper_tail(difference.mean.abs() / error, freedom)
        } else if difference.mean == 0.0 {
            1.0
        } else {
            0.0
        };
        Some(Self { difference, p })
    }

    /// Whether zero lies outside the interval.
    pub(crate) fn is_shown(&self) -> bool {
        self.difference.interval().is_some_and(|(low, high)| low > 0.0 || high < 0.0)
    }
}

/// The value that Student's t with `freedom` degrees stays below with `probability`, at least 0.5.
fn quantile(probability: f64, freedom: f64) -> f64 {
    let tail = 1.0 - probability;
    let (mut low, mut high) = (0.0, 1.0);
    while upper_tail(high, freedom) > tail {
        high *= 2.0;
    }
    // Halving a range of doubles ends after at most as many steps as they have bits.
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if upper_tail(middle, freedom) > tail { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// Probability that Student's t with `freedom` degrees exceeds `t` ≥ 0 (Abramowitz and Stegun
/// 1964, 26.7.1: half the regularized incomplete beta function).
fn upper_tail(t: f64, freedom: f64) -> f64 {
    0.5 * incomplete_beta(freedom / (freedom + t * t), freedom / 2.0, 0.5)
}

/// The regularized incomplete beta function I_x(a, b) (Press et al. 2007, "Numerical Recipes",
/// section 6.4: a continued fraction, by Lentz's method).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let logarithm = log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    let front = logarithm.exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    // Lentz's method must not divide by zero.
    let away = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..=300 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut step = 1.0;
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            step = c * d;
            fraction *= step;
        }
        if (step - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// The logarithm of the gamma function for x > 0 (Lanczos 1964, with g = 7 and nine terms).
fn log_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - log_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum = TERMS
        .iter()
        .enumerate()
        .fold(0.999_999_999_999_809_9, |sum, (index, term)| sum + term / (x + index as f64 + 1.0));
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected}");
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // Abramowitz and Stegun 1964, table 26.10; the tables have three decimals.
        let table = [
            (0.975, 1.0, 12.706),
            (0.975, 2.0, 4.303),
            (0.975, 3.0, 3.182),
            (0.975, 4.0, 2.776),
            (0.975, 9.0, 2.262),
            (0.975, 30.0, 2.042),
            (0.975, 120.0, 1.980),
            (0.975, 1e6, 1.960),
            (0.95, 5.0, 2.015),
            (0.995, 10.0, 3.169),
        ];
        for (probability, freedom, expected) in table {
            close(quantile(probability, freedom), expected, 6e-4);
        }
    }

    #[test]
    fn tails_are_those_of_closed_forms() {
        // One degree is Cauchy's distribution, two have a root in closed form.
        for t in [0.0, 0.3, 1.0, 4.0, 50.0f64] {
            close(upper_tail(t, 1.0), 0.5 - t.atan() / std::f64::consts::PI, 1e-12);
            close(upper_tail(t, 2.0), 0.5 * (1.0 - t / (2.0 + t * t).sqrt()), 1e-12);
        }
        close(log_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-13);
        close(log_gamma(11.0), 3_628_800f64.ln(), 1e-12);
    }

    #[test]
    fn a_mean_has_an_interval_from_two_values_on() {
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[3.0]), Some(Estimate { mean: 3.0, half: None, n: 1 }));
        let four = Estimate::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        close(four.mean, 2.5, 1e-12);
        // 3.182 × 1.290994 / 2.
        close(four.half.unwrap(), 2.0543, 1e-3);
    }

    #[test]
    fn pairs_show_what_means_hide() {
        // The sleep data of Student 1908: difference −1.58, t = −4.0621, p = 0.002833 (R's
        // `t.test(extra ~ group, sleep, paired = TRUE)`), interval −2.4599 to −0.7001.
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let pairs: Vec<(f64, f64)> = first.into_iter().zip(second).collect();
        let paired = Paired::of(&pairs).unwrap();
        close(paired.difference.mean, -1.58, 1e-9);
        close(paired.p, 0.002_833, 1e-6);
        let (low, high) = paired.difference.interval().unwrap();
        close(low, -2.459_886, 1e-5);
        close(high, -0.700_114, 1e-5);
        assert!(paired.is_shown());
        assert!(!Paired::of(&[(1.0, 2.0), (2.0, 1.0)]).unwrap().is_shown());
        assert_eq!(Paired::of(&[(1.0, 2.0)]), None);
        close(Paired::of(&[(1.0, 1.0), (2.0, 2.0)]).unwrap().p, 1.0, 0.0);
    }
}
