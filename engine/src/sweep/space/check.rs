//! What can be wrong with a space.

use serde_json::Value;

use super::{Condition, Dimension, Domain, Space};

/// Whole numbers up to here are exact as floating point.
const LARGEST_INTEGER: i64 = 1 << 53;

/// Why a space cannot be sampled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SpaceError {
    #[error("expected at least one dimension")]
    Empty,
    #[error("`{name}`: there are two dimensions of this name")]
    RepeatedName { name: String },
    #[error("`{name}`: expected at least one choice")]
    NoChoices { name: String },
    #[error("`{name}`: {value} is there twice")]
    RepeatedChoice { name: String, value: Value },
    #[error("`{name}`: expected low < high, found {low} and {high}")]
    Range { name: String, low: f64, high: f64 },
    #[error("`{name}`: expected low > 0 on a logarithmic scale, found {low}")]
    LogOfNothing { name: String, low: f64 },
    #[error("`{name}`: expected bounds within ±2^53")]
    TooLarge { name: String },
    #[error("`{name}`: expected a step > 0 and ≤ high − low, found {step}")]
    Step { name: String, step: f64 },
    #[error("`{name}`: a logarithmic scale has no step")]
    LogStep { name: String },
    #[error("`{name}`: counts only with `{on}`, which is no dimension")]
    UnknownCondition { name: String, on: String },
    #[error("`{name}`: counts only with `{on}`, which is no `choice`")]
    ConditionOnNumber { name: String, on: String },
    #[error("`{name}`: counts only where `{on}` is {value}, which is not among its choices")]
    ConditionValue { name: String, on: String, value: Value },
    #[error("`{name}`: expected at least one value in `any-of`")]
    EmptyCondition { name: String },
    #[error("`{name}`: whether it counts depends on itself")]
    Cycle { name: String },
    #[error("`{name}`: `{sampler}` needs values it can count: a `choice`, an `int` or a `step`")]
    Continuum { name: String, sampler: &'static str },
    #[error("expected a grid of at most 2^64 points")]
    GridTooLarge,
    #[error(
        "`{name}`: `zip` needs lists of one length: found {found} values, `{first}` has {expected}"
    )]
    Uneven { name: String, found: u64, first: String, expected: u64 },
    #[error("`{name}`: `zip` takes no conditions")]
    ZipCondition { name: String },
    #[error("`{option}`: expected {expected}, found {found}")]
    SamplerOption { option: &'static str, expected: &'static str, found: f64 },
}

impl Space {
    /// Whether it can be sampled.
    ///
    /// # Errors
    /// The first of [`Self::problems`].
    pub fn check(&self) -> Result<(), SpaceError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that is wrong with it.
    #[must_use]
    pub fn problems(&self) -> Vec<SpaceError> {
        let mut problems = Vec::new();
        if self.dimensions.is_empty() {
            problems.push(SpaceError::Empty);
        }
        for (index, dimension) in self.dimensions.iter().enumerate() {
            let name = &dimension.name;
            if self.dimensions[..index].iter().any(|earlier| earlier.name == *name) {
                problems.push(SpaceError::RepeatedName { name: name.clone() });
            }
            problems.extend(range_problem(dimension));
            if let Some(condition) = &dimension.condition {
                problems.extend(self.condition_problem(dimension, condition));
            }
        }
        problems
    }

    /// A choice that is there twice. Only a zip can mean that.
    pub(crate) fn check_distinct(&self) -> Result<(), SpaceError> {
        for Dimension { name, domain, .. } in &self.dimensions {
            let Domain::Choice(choices) = domain else { continue };
            for (index, value) in choices.iter().enumerate() {
                if choices[..index].contains(value) {
                    let (name, value) = (name.clone(), value.clone());
                    return Err(SpaceError::RepeatedChoice { name, value });
                }
            }
        }
        Ok(())
    }

    fn condition_problem(
        &self,
        dimension: &Dimension,
        condition: &Condition,
    ) -> Option<SpaceError> {
        let (name, on) = (dimension.name.clone(), condition.dimension.clone());
        let Some(decider) = self.dimension(&on) else {
            return Some(SpaceError::UnknownCondition { name, on });
        };
        if self.ancestors(dimension).any(|ancestor| ancestor.name == name) {
            return Some(SpaceError::Cycle { name });
        }
        let Domain::Choice(choices) = &decider.domain else {
            return Some(SpaceError::ConditionOnNumber { name, on });
        };
        if condition.any_of.is_empty() {
            return Some(SpaceError::EmptyCondition { name });
        }
        let value = condition.any_of.iter().find(|value| !choices.contains(value))?.clone();
        Some(SpaceError::ConditionValue { name, on, value })
    }
}

fn range_problem(dimension: &Dimension) -> Option<SpaceError> {
    let name = dimension.name.clone();
    let (low, high, step, log) = match dimension.domain {
        Domain::Choice(ref choices) => {
            return choices.is_empty().then_some(SpaceError::NoChoices { name });
        }
        Domain::Uniform { low, high, step } => (low, high, step, false),
        Domain::LogUniform { low, high } => (low, high, None, true),
        Domain::Int { low, high, log, step } => {
            let fits = -LARGEST_INTEGER..=LARGEST_INTEGER;
            if !fits.contains(&low) || !fits.contains(&high) {
                return Some(SpaceError::TooLarge { name });
            }
            (low as f64, high as f64, step.map(|step| step as f64), log)
        }
    };
    if !(low < high && (high - low).is_finite()) {
        return Some(SpaceError::Range { name, low, high });
    }
    if log && low <= 0.0 {
        return Some(SpaceError::LogOfNothing { name, low });
    }
    let step = step?;
    if log {
        return Some(SpaceError::LogStep { name });
    }
    (!(step > 0.0 && step <= high - low)).then_some(SpaceError::Step { name, step })
}
