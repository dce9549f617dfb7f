//! Samplers as a manifest names them.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::sweep::space::SpaceError;

/// A way through a space. In a manifest its name, or a table with its name and options.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Every point.
    Grid,
    /// The first values of all dimensions, then the second ones, and so on.
    Zip,
    /// Points drawn independently of each other.
    Random,
    /// Tree-structured Parzen estimator (Bergstra et al. 2011, §4).
    Tpe(TpeOptions),
    /// Non-dominated sorting genetic algorithm (Deb et al. 2002).
    Nsga2(Nsga2Options),
}

/// Options of `tpe`, with the defaults of Optuna 5.0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TpeOptions {
    /// Trials that are drawn at random before the first estimate.
    pub n_startup_trials: usize,
    /// Points that are compared for one trial, ≥ 1.
    pub n_ei_candidates: usize,
    /// Whether dimensions that count together are drawn together.
    pub multivariate: bool,
    /// Whether trials that still run are taken for bad ones, so that no two workers go to one place.
    pub constant_liar: bool,
}

impl Default for TpeOptions {
    fn default() -> Self {
        Self { n_startup_trials: 10, n_ei_candidates: 24, multivariate: true, constant_liar: true }
    }
}

/// Options of `nsga2`, with the defaults of Optuna 5.0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Nsga2Options {
    /// Trials in a generation, ≥ 2.
    pub population_size: usize,
    /// How numbers of two parents become one of a child.
    pub crossover: Crossover,
    /// Probability that a child has two parents and not one, 0 to 1.
    pub crossover_probability: f64,
    /// Probability of a value to come from the second parent, 0 to 1.
    pub swapping_probability: f64,
    /// Probability of a value to be drawn anew, 0 to 1; one value a child where it is absent.
    pub mutation_probability: Option<f64>,
}

impl Default for Nsga2Options {
    fn default() -> Self {
        Self {
            population_size: 50,
            crossover: Crossover::Uniform,
            crossover_probability: 0.9,
            swapping_probability: 0.5,
            mutation_probability: None,
        }
    }
}

/// How numbers of two parents become one of a child. Choices always come from one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Crossover {
    /// One of the two (Syswerda 1989, §1).
    Uniform,
    /// Near one of the two: simulated binary crossover (Deb and Agrawal 1995, §3).
    Sbx,
}

/// [`Sampler`] with its options written out.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Table {
    Tpe(TpeOptions),
    Nsga2(Nsga2Options),
}

const NAMES: &[&str] = &["grid", "zip", "random", "tpe", "nsga2"];

impl Sampler {
    /// Its name in a manifest.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Zip => "zip",
            Self::Random => "random",
            Self::Tpe(_) => "tpe",
            Self::Nsga2(_) => "nsga2",
        }
    }

    /// The sampler of that name, with its default options.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "grid" => Self::Grid,
            "zip" => Self::Zip,
            "random" => Self::Random,
            "tpe" => Self::Tpe(TpeOptions::default()),
            "nsga2" => Self::Nsga2(Nsga2Options::default()),
            _ => return None,
        })
    }

    pub(super) fn check_options(&self) -> Result<(), SpaceError> {
        let at_least = |option, least: usize, expected, found: usize| {
            if found >= least {
                return Ok(());
            }
            Err(SpaceError::SamplerOption { option, expected, found: found as f64 })
        };
        match self {
            Self::Grid | Self::Zip | Self::Random => Ok(()),
            Self::Tpe(options) => {
                at_least("n-ei-candidates", 1, "at least 1", options.n_ei_candidates)
            }
            Self::Nsga2(options) => {
                at_least("population-size", 2, "at least 2", options.population_size)?;
                let probabilities = [
                    ("crossover-probability", Some(options.crossover_probability)),
                    ("swapping-probability", Some(options.swapping_probability)),
                    ("mutation-probability", options.mutation_probability),
                ];
                for (option, found) in probabilities {
                    if let Some(found) = found.filter(|found| !(0.0..=1.0).contains(found)) {
                        let expected = "a number from 0 to 1";
                        return Err(SpaceError::SamplerOption { option, expected, found });
                    }
                }
                Ok(())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Sampler {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = Sampler;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the name of a sampler, or a table with its options")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Sampler, E> {
                Sampler::named(name).ok_or_else(|| E::unknown_variant(name, NAMES))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sampler, A::Error> {
                Ok(match Table::deserialize(MapAccessDeserializer::new(map))? {
                    Table::Tpe(options) => Sampler::Tpe(options),
                    Table::Nsga2(options) => Sampler::Nsga2(options),
                })
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

impl JsonSchema for Sampler {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sampler".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = Table::json_schema(generator);
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": NAMES }, table] })
    }
}
