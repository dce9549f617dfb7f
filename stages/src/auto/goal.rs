//! What somebody wants of a smaller model: `accuracy-drop<=0.01, latency-p99-ms<=5, size<=1/10`.

use std::fmt;
use std::str::FromStr;

/// Bounds that the model has to keep to.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    bounds: Vec<Bound>,
}

/// One bound of a [`Goal`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    pub(super) quantity: Quantity,
    pub(super) limit: Limit,
}

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    /// Validation accuracy lost against the teacher, as a fraction; from above.
    AccuracyDrop,
    /// Validation accuracy, as a fraction; from below.
    Accuracy,
    /// Bytes of the weights; from above.
    Size,
    /// Number of weights; from above.
    Weights,
    /// Percentile of the latency of one text, in milliseconds; from above.
    Latency(&'static str),
}

/// How far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    /// In the quantity's own unit.
    Absolute(f64),
    /// As a share of the teacher's.
    OfTeacher(f64),
}

const QUANTITIES: &[(&str, Quantity)] = &[
    ("accuracy-drop", Quantity::AccuracyDrop),
    ("accuracy", Quantity::Accuracy),
    ("size", Quantity::Size),
    ("weights", Quantity::Weights),
    ("latency-p50-ms", Quantity::Latency("latency-p50")),
    ("latency-p90-ms", Quantity::Latency("latency-p90")),
    ("latency-p99-ms", Quantity::Latency("latency-p99")),
];

impl Goal {
    pub(super) fn bounds(&self) -> impl Iterator<Item = Bound> + '_ {
        self.bounds.iter().copied()
    }

    /// Whether latency has to be measured.
    pub(super) fn times(&self) -> bool {
        self.bounds.iter().any(|bound| matches!(bound.quantity, Quantity::Latency(_)))
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bounds: Vec<Bound> = text.split(',').map(bound).collect::<Result<_, _>>()?;
        for (index, one) in bounds.iter().enumerate() {
            if bounds[..index].iter().any(|other| other.quantity == one.quantity) {
                return Err(format!("`{}` appears twice", one.quantity));
            }
        }
        Ok(Self { bounds })
    }
}

fn bound(text: &str) -> Result<Bound, String> {
    let text = text.trim();
    let (name, at_least, limit) = match (text.split_once("<="), text.split_once(">=")) {
        (Some((name, limit)), _) => (name.trim(), false, limit.trim()),
        (_, Some((name, limit))) => (name.trim(), true, limit.trim()),
        _ => return Err(format!("`{text}` is no bound, expected for instance `size<=1/10`")),
    };
    let known = QUANTITIES.iter().find(|(known, _)| *known == name);
    let Some(&(_, quantity)) = known else {
        let names: Vec<_> = QUANTITIES.iter().map(|(name, _)| *name).collect();
        return Err(format!("`{name}` cannot be a goal, expected one of {}", names.join(", ")));
    };
    if at_least != (quantity == Quantity::Accuracy) {
        let (wrong, right) = if at_least { (">=", "<=") } else { ("<=", ">=") };
        return Err(format!("`{name}{wrong}…` is no goal, write `{name}{right}…`"));
    }
    let limit = read_limit(quantity, limit).ok_or_else(|| {
        format!("`{text}`: `{limit}` is no limit, expected {}", quantity.limits())
    })?;
    Ok(Bound { quantity, limit })
}

fn read_limit(quantity: Quantity, text: &str) -> Option<Limit> {
    let positive = |value: f64| (value.is_finite() && value > 0.0).then_some(value);
    if let Some((one, many)) = text.split_once('/') {
        let share = positive(one.trim().parse().ok()?)? / positive(many.trim().parse().ok()?)?;
        return quantity.is_relative().then_some(Limit::OfTeacher(share));
    }
    if let Some(percent) = text.strip_suffix('%') {
        let share = positive(percent.trim().parse().ok()?)? / 100.0;
        return Some(match quantity.is_relative() {
            true => Limit::OfTeacher(share),
            false if matches!(quantity, Quantity::Latency(_)) => return None,
            false => Limit::Absolute(share),
        });
    }
    let units = [("kB", 1e3), ("MB", 1e6), ("GB", 1e9)];
    let unit = units.iter().find(|(unit, _)| text.ends_with(unit));
    if let (Quantity::Size, Some((unit, factor))) = (quantity, unit) {
        let number = text.strip_suffix(unit)?.trim().parse::<f64>().ok()?;
        return Some(Limit::Absolute(positive(number)? * factor));
    }
    let number: f64 = text.parse().ok()?;
    let fits = match quantity {
        // A student may be asked to beat its teacher.
        Quantity::AccuracyDrop => (-1.0..=1.0).contains(&number),
        Quantity::Accuracy => (0.0..=1.0).contains(&number),
        _ => positive(number).is_some(),
    };
    fits.then_some(Limit::Absolute(number))
}

impl Quantity {
    fn is_relative(self) -> bool {
        matches!(self, Self::Size | Self::Weights)
    }

    fn limits(self) -> &'static str {
        match self {
            Self::AccuracyDrop | Self::Accuracy => "a fraction such as `0.01` or `1%`",
            Self::Size => "bytes such as `9MB`, or a share of the teacher's such as `1/10`",
            Self::Weights => "a number, or a share of the teacher's such as `1/10`",
            Self::Latency(_) => "milliseconds such as `5`",
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = QUANTITIES.iter().find(|(_, quantity)| quantity == self);
        formatter.write_str(known.map_or("goal", |(name, _)| name))
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Bound { quantity, limit }) in self.bounds.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let sign = if *quantity == Quantity::Accuracy { ">=" } else { "<=" };
            match limit {
                Limit::Absolute(value) => write!(formatter, "{comma}{quantity}{sign}{value}")?,
                Limit::OfTeacher(share) => {
                    write!(formatter, "{comma}{quantity}{sign}{}%", 100.0 * share)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_read() {
        let cases = [
            ("accuracy-drop<=0.015, size<=1/10", "accuracy-drop<=0.015, size<=10%"),
            ("accuracy-drop <= 1%,latency-p99-ms<=5", "accuracy-drop<=0.01, latency-p99-ms<=5"),
            ("accuracy>=0.8,weights<=5e6", "accuracy>=0.8, weights<=5000000"),
            ("size<=9MB", "size<=9000000"),
            ("accuracy-drop<=-0.01", "accuracy-drop<=-0.01"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Goal>().map(|goal| goal.to_string()).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn wrong_goals_say_what_is_expected() {
        let cases = [
            ("", "is no bound"),
            ("size", "is no bound"),
            ("beauty<=1", "cannot be a goal"),
            ("size>=1/10", "write `size<=…`"),
            ("accuracy<=0.9", "write `accuracy>=…`"),
            ("size<=1/0", "is no limit"),
            ("latency-p99-ms<=1/2", "milliseconds"),
            ("accuracy>=1.5", "a fraction"),
            ("size<=-3MB", "is no limit"),
            ("size<=1/10,size<=9MB", "appears twice"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Goal>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
