//! Domains as numbers: what samplers compute with.

use serde_json::Value;

use super::Domain;

/// A numeric domain on one scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Numeric {
    pub(crate) low: f64,
    /// Largest value that the steps reach.
    pub(crate) high: f64,
    /// Distance of neighbouring values; 1 for whole numbers.
    pub(crate) step: Option<f64>,
    pub(crate) log: bool,
}

impl Domain {
    /// The numeric scale; `None` for choices.
    pub(crate) fn numeric(&self) -> Option<Numeric> {
        let whole_steps = |low: f64, high: f64, step: f64| {
            // A step of 0.1 is to reach 1.0, whatever its last bit.
            tidy(low + ((high - low) / step + 1e-9).floor() * step)
        };
        Some(match *self {
            Self::Choice(_) => return None,
            Self::Uniform { low, high, step } => {
                let high = step.map_or(high, |step| whole_steps(low, high, step));
                Numeric { low, high, step, log: false }
            }
            Self::LogUniform { low, high } => Numeric { low, high, step: None, log: true },
            Self::Int { low, high, log, step } => {
                let step = step.unwrap_or(1) as f64;
                let (low, high) = (low as f64, high as f64);
                Numeric { low, high: whole_steps(low, high, step), step: Some(step), log }
            }
        })
    }

    /// What stands for a value: itself, or its place among the choices. `None` where it is not
    /// one of this domain.
    pub(crate) fn number(&self, value: &Value) -> Option<f64> {
        match self {
            Self::Choice(choices) => {
                choices.iter().position(|choice| choice == value).map(|index| index as f64)
            }
            numeric => {
                let Numeric { low, high, .. } = numeric.numeric()?;
                value.as_f64().filter(|number| (low..=high).contains(number))
            }
        }
    }

    /// The value that a number of [`Self::number`] stands for; the nearest one, where it lies
    /// between two or outside.
    pub(crate) fn value(&self, number: f64) -> Value {
        match self {
            Self::Choice(choices) => {
                choices[(number.max(0.0) as usize).min(choices.len() - 1)].clone()
            }
            numeric => {
                let scale = numeric.numeric().expect("all but choices are numeric");
                let number = scale.nearest(number);
                match self {
                    Self::Int { .. } => Value::from(number as i64),
                    _ => Value::from(number),
                }
            }
        }
    }

    /// How many values there are; `None` for a continuum.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Choice(choices) => Some(choices.len() as u64),
            numeric => {
                let Numeric { low, high, step, .. } = numeric.numeric()?;
                Some((((high - low) / step?).round() as u64).saturating_add(1))
            }
        }
    }

    /// Value number `index` of [`Self::size`].
    pub(crate) fn nth(&self, index: u64) -> Value {
        match self.numeric() {
            None => self.value(index as f64),
            Some(scale) => self.value(scale.low + index as f64 * scale.step.unwrap_or(1.0)),
        }
    }
}

impl Numeric {
    /// The value of the domain that is nearest to `number`.
    pub(crate) fn nearest(self, number: f64) -> f64 {
        let number = match self.step {
            Some(step) => tidy(self.low + ((number - self.low) / step).round_ties_even() * step),
            None => number,
        };
        number.clamp(self.low, self.high)
    }

    /// Ends of the scale that values are drawn from: half a step wider, so that the first and the
    /// last value get their share, and the logarithm of that.
    pub(crate) fn ends(self) -> (f64, f64) {
        let half = self.step.unwrap_or(0.0) / 2.0;
        (self.place_of(self.low - half), self.place_of(self.high + half))
    }

    /// A value on the scale that it is drawn from.
    pub(crate) fn place_of(self, number: f64) -> f64 {
        if self.log { libm::log(number) } else { number }
    }

    /// Inverse of [`Self::place_of`], at a value of the domain.
    pub(crate) fn value_at(self, place: f64) -> f64 {
        self.nearest(if self.log { libm::exp(place) } else { place })
    }
}

/// Without the last digit, so that three steps of 0.1 are 0.3.
fn tidy(number: f64) -> f64 {
    format!("{number:.14e}").parse().unwrap_or(number)
}
