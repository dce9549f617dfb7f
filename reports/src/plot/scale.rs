//! Axes: where a value lies on the drawing, and which values get a tick.

use serde::Serialize;

use crate::quantity::{exact, significant};

/// What an axis measures, and so how its ticks are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Fractions, written as percentages.
    Percent,
    /// Milliseconds.
    Milliseconds,
    /// Bytes, written as megabytes (10⁶).
    Bytes,
    /// A number without a unit.
    Plain,
}

impl Unit {
    /// Unit of a metric, as the stage wrote it.
    pub(crate) fn of_metric(unit: &str) -> Self {
        match unit {
            "fraction" => Self::Percent,
            "ms" => Self::Milliseconds,
            "bytes" => Self::Bytes,
            _ => Self::Plain,
        }
    }

    /// Unit of a series, which has only its name to tell.
    pub(crate) fn of_series(name: &str) -> Self {
        let last = name.rsplit('/').next().unwrap_or(name);
        let fractions = ["accuracy", "f1", "sparsity", "precision", "recall"];
        if fractions.iter().any(|word| last.ends_with(word)) {
            Self::Percent
        } else if last.ends_with("latency") {
            Self::Milliseconds
        } else {
            Self::Plain
        }
    }

    /// ` (%)`, ` (ms)` or nothing, to put behind an axis title.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Percent => " (%)",
            Self::Milliseconds => " (ms)",
            Self::Bytes => " (MB)",
            Self::Plain => "",
        }
    }

    /// A value with its unit.
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            Self::Percent => format!("{} %", significant(value * 100.0)),
            Self::Milliseconds => format!("{} ms", significant(value)),
            Self::Bytes => format!("{} MB", significant(value / 1e6)),
            Self::Plain => significant(value),
        }
    }

    /// What a value is multiplied by before it is written.
    pub(super) fn factor(self) -> f64 {
        match self {
            Self::Percent => 100.0,
            Self::Bytes => 1e-6,
            Self::Milliseconds | Self::Plain => 1.0,
        }
    }
}

/// A tick of an axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Tick {
    /// Coordinate on the drawing.
    pub(crate) at: f64,
    /// What is written beside it.
    pub(crate) text: String,
}

/// Maps values to coordinates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
    unit: Unit,
}

/// Ratio of the largest to the smallest value above which a logarithmic axis reads better.
const LOGARITHMIC_FROM: f64 = 5.0;
/// Share of the range that is left free at both ends.
const MARGIN: f64 = 0.06;

impl Scale {
    /// A linear scale from `start` to `end` over `values`, with a margin at both ends.
    ///
    /// Values that are not finite do not count; without any, the scale shows 0 to 1.
    pub(crate) fn linear(
        values: impl IntoIterator<Item = f64>,
        start: f64,
        end: f64,
        unit: Unit,
    ) -> Self {
        let (low, high) = extent(values).unwrap_or((0.0, 1.0));
        // A constant needs some height to lie in.
        let spread = if high > low { (high - low) * MARGIN } else { low.abs().max(1e-9) * 0.1 };
        Self { low: low - spread, high: high + spread, start, end, logarithmic: false, unit }
    }

    /// As [`Scale::linear`] without a margin: for steps, which begin and end at the frame.
    pub(crate) fn steps(values: impl IntoIterator<Item = f64>, start: f64, end: f64) -> Self {
        let (low, high) = extent(values).unwrap_or((0.0, 1.0));
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, start, end, logarithmic: false, unit: Unit::Plain }
    }

    /// Logarithmic where all values are positive and far apart, linear otherwise.
    pub(crate) fn spread_out(values: &[f64], start: f64, end: f64, unit: Unit) -> Self {
        match extent(values.iter().copied()) {
            Some((low, high)) if low > 0.0 && high / low >= LOGARITHMIC_FROM => {
                Self::logarithmic(values, start, end, unit)
            }
            _ => Self::linear(values.iter().copied(), start, end, unit),
        }
    }

    /// Logarithmic where all values are positive, linear otherwise.
    pub(crate) fn logarithmic(values: &[f64], start: f64, end: f64, unit: Unit) -> Self {
        match extent(values.iter().copied()) {
            Some((low, high)) if low > 0.0 && high > low => {
                let margin = (high / low).powf(MARGIN);
                let (low, high) = (low / margin, high * margin);
                Self { low, high, start, end, logarithmic: true, unit }
            }
            _ => Self::linear(values.iter().copied(), start, end, unit),
        }
    }

    /// Whether equal distances are equal ratios.
    pub(crate) fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }

    /// Coordinate of a value, kept inside the frame, to a tenth of a pixel.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        round(self.start + (self.end - self.start) * share.clamp(0.0, 1.0))
    }

    /// About `count` ticks at round values.
    pub(crate) fn ticks(&self, count: usize) -> Vec<Tick> {
        let factor = self.unit.factor();
        let (low, high) = (self.low * factor, self.high * factor);
        let values = if self.logarithmic {
            logarithmic_values(low, high)
        } else {
            linear_values(low, high, count)
        };
        values
            .into_iter()
            .map(|value| Tick { at: self.at(value / factor), text: tick_text(value) })
            .collect()
    }
}

/// A coordinate to a tenth of a pixel: shorter files, the same picture.
pub(crate) fn round(coordinate: f64) -> f64 {
    (coordinate * 10.0).round() / 10.0
}

fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|value| value.is_finite()).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

fn linear_values(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    // Multiples of a step such as 0.1 are not exact; twelve digits are what a person would write.
    (first..=last).map(|index| tidy(index as f64 * step)).collect()
}

fn logarithmic_values(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let inside = |digits: &[f64]| -> Vec<f64> {
        powers
            .clone()
            .flat_map(|power| digits.iter().map(move |digit| tidy(digit * 10f64.powi(power))))
            .filter(|value| (low..=high).contains(value))
            .collect()
    };
    let sparse = inside(&[1.0, 2.0, 5.0]);
    match sparse.len() {
        0..=2 => inside(&[1.0, 1.5, 2.0, 3.0, 5.0, 7.0]),
        3..=7 => sparse,
        _ => inside(&[1.0]),
    }
}

fn tidy(value: f64) -> f64 {
    format!("{value:.12e}").parse().unwrap_or(value)
}

fn tick_text(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{} M", exact(tidy(value / 1e6))),
        size if size >= 1e4 => format!("{} k", exact(tidy(value / 1e3))),
        size if size > 0.0 && size < 1e-3 => exact_exponent(value),
        _ => exact(value),
    }
}

fn exact_exponent(value: f64) -> String {
    format!("{value:e}").replacen('-', if value < 0.0 { "−" } else { "-" }, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: &Scale) -> Vec<String> {
        scale.ticks(5).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn ticks_are_round_values() {
        let check = |scale: Scale, expected: &[&str]| assert_eq!(texts(&scale), expected);
        let plain = Unit::Plain;
        check(Scale::linear([0.0, 1.0], 0.0, 100.0, plain), &["0", "0.25", "0.5", "0.75", "1"]);
        check(
            Scale::linear([0.82, 0.86], 0.0, 1.0, Unit::Percent),
            &["82", "83", "84", "85", "86"],
        );
        check(Scale::linear([0.0, 5e-5], 0.0, 1.0, plain), &["0", "2e-5", "4e-5"]);
        check(
            Scale::steps([0.0, 50_000.0], 0.0, 1.0),
            &["0", "10 k", "20 k", "30 k", "40 k", "50 k"],
        );
        check(Scale::spread_out(&[1.2, 40.0], 0.0, 1.0, plain), &["1", "2", "5", "10", "20"]);
    }

    #[test]
    fn odd_ranges_are_drawn() {
        assert!(!texts(&Scale::linear([3.0], 0.0, 1.0, Unit::Plain)).is_empty());
        assert!(!texts(&Scale::linear([0.0, 0.0], 0.0, 1.0, Unit::Plain)).is_empty());
        assert!(!texts(&Scale::linear([f64::NAN], 0.0, 1.0, Unit::Plain)).is_empty());
        assert!(Scale::linear([-1.0, 1.0], 0.0, 100.0, Unit::Plain).at(0.0) == 50.0);
        assert!(!Scale::spread_out(&[0.0, 10.0], 0.0, 1.0, Unit::Plain).is_logarithmic());
    }
}
