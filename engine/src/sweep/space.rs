//! Search spaces: named dimensions, what values they take and when they count.

mod check;
mod domain;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::SpaceError;
pub(crate) use domain::Numeric;

/// One point of a space. Inactive dimensions are absent.
pub type Params = BTreeMap<String, Value>;

/// What a sweep varies.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Space {
    /// In the order of the manifest.
    pub dimensions: Vec<Dimension>,
}

/// One parameter that varies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dimension {
    /// Path in the manifest, for instance `stages.student.params.alpha`.
    pub name: String,
    /// What it can be.
    pub domain: Domain,
    /// When it counts; always, where there is none.
    pub condition: Option<Condition>,
}

/// Values of a dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Domain {
    /// One of these, without an order.
    Choice(Vec<Value>),
    /// A number, all equally likely.
    Uniform {
        /// Smallest.
        low: f64,
        /// Largest.
        high: f64,
        /// Only `low`, `low + step` and so on, up to `high`.
        #[serde(default)]
        step: Option<f64>,
    },
    /// A number whose logarithm is equally likely.
    LogUniform {
        /// Smallest, > 0.
        low: f64,
        /// Largest.
        high: f64,
    },
    /// A whole number.
    Int {
        /// Smallest.
        low: i64,
        /// Largest.
        high: i64,
        /// Whether its logarithm is equally likely.
        #[serde(default)]
        log: bool,
        /// Only `low`, `low + step` and so on, up to `high`; not together with `log`.
        #[serde(default)]
        step: Option<i64>,
    },
}

/// A dimension counts only where `dimension` counts and is one of `any-of`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Condition {
    /// Name of a `choice`.
    pub dimension: String,
    /// Choices of it.
    pub any_of: Vec<Value>,
}

impl Space {
    /// The dimension of that name.
    #[must_use]
    pub fn dimension(&self, name: &str) -> Option<&Dimension> {
        self.dimensions.iter().find(|dimension| dimension.name == name)
    }

    /// Indices of the dimensions, each after the one that decides whether it counts, otherwise in
    /// the order of the manifest.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dimensions.len()).collect();
        order.sort_by_key(|index| self.ancestors(&self.dimensions[*index]).count());
        order
    }

    /// The dimensions that decide whether `dimension` counts, nearest first. A cycle goes round
    /// once.
    pub(crate) fn ancestors<'a>(
        &'a self,
        dimension: &'a Dimension,
    ) -> impl Iterator<Item = &'a Dimension> {
        std::iter::successors(Some(dimension), |dimension| {
            self.dimension(&dimension.condition.as_ref()?.dimension)
        })
        .skip(1)
        .take(self.dimensions.len())
    }

    /// Makes a point: asks for the value of every dimension that counts, given the values of
    /// those before it.
    pub(crate) fn assemble(&self, mut value: impl FnMut(usize, &Dimension) -> Value) -> Params {
        let mut params = Params::new();
        for index in self.order() {
            let dimension = &self.dimensions[index];
            if dimension.counts(&params) {
                let value = value(index, dimension);
                params.insert(dimension.name.clone(), value);
            }
        }
        params
    }
}

impl Dimension {
    /// Whether it counts, given the values of those before it.
    pub(crate) fn counts(&self, params: &Params) -> bool {
        self.condition.as_ref().is_none_or(|condition| {
            params.get(&condition.dimension).is_some_and(|value| condition.any_of.contains(value))
        })
    }

    /// What stands for its value in `params`; `None` where it does not count, or where the value
    /// is not one of this space.
    pub(crate) fn number_in(&self, params: &Params) -> Option<f64> {
        self.domain.number(params.get(&self.name)?)
    }
}

#[cfg(test)]
mod tests;
