//! Stages behind one object-safe face, so that a table can hold them.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;
use toml::de::DeValue;

use super::{Port, Stage, StageContext};

/// Every stage kind a program offers, in the order `pipeline stages` lists them.
pub type StageTable = &'static [&'static dyn AnyStage];

/// Why a `params` table was not accepted.
#[derive(Debug)]
pub enum ParamsError {
    /// The table does not fit the type; the error knows its place in the text.
    Shape(toml::de::Error),
    /// Each field is fine, but together they make no sense; the text is the stage's own.
    Check(String),
}

/// A [`Stage`] whose parameter type is erased; implemented for every stage.
pub trait AnyStage: Send + Sync {
    /// [`Stage::KIND`].
    fn kind(&self) -> &'static str;
    /// [`Stage::VERSION`].
    fn version(&self) -> u32;
    /// [`Stage::ABOUT`].
    fn about(&self) -> &'static str;
    /// [`Stage::INPUTS`].
    fn inputs(&self) -> &'static [Port];
    /// [`Stage::OUTPUTS`].
    fn outputs(&self) -> &'static [Port];
    /// [`Stage::METRICS`].
    fn metrics(&self) -> &'static [&'static str];
    /// [`Stage::EXTERNAL`].
    fn external(&self) -> bool;
    /// [`Stage::EXCLUSIVE`].
    fn exclusive(&self) -> bool;
    /// [`Stage::EPOCHS`].
    fn epochs(&self) -> Option<&'static str>;
    /// JSON Schema of the `params` table; shared types land in the generator's definitions.
    fn params_schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// Reads a `params` table and fills in the defaults.
    ///
    /// # Errors
    /// [`ParamsError`] when the table does not fit the type or the stage's own check.
    fn read_params(&self, params: Spanned<DeValue<'_>>) -> Result<Value, ParamsError>;
    /// Runs the stage with parameters that [`AnyStage::read_params`] made.
    ///
    /// # Errors
    /// What [`Stage::run`] gives back, or that the parameters do not fit this version.
    fn run(&self, params: Value, context: &StageContext) -> anyhow::Result<()>;
    /// [`Stage::is_current`]; `false` for parameters that do not fit this version.
    fn is_current(&self, params: &Value, previous_output: &Path, root: &Path) -> bool;
}

impl<S: Stage> AnyStage for S {
    fn kind(&self) -> &'static str {
        S::KIND
    }

    fn version(&self) -> u32 {
        S::VERSION
    }

    fn about(&self) -> &'static str {
        S::ABOUT
    }

    fn inputs(&self) -> &'static [Port] {
        S::INPUTS
    }

    fn outputs(&self) -> &'static [Port] {
        S::OUTPUTS
    }

    fn metrics(&self) -> &'static [&'static str] {
        S::METRICS
    }

    fn external(&self) -> bool {
        S::EXTERNAL
    }

    fn exclusive(&self) -> bool {
        S::EXCLUSIVE
    }

    fn epochs(&self) -> Option<&'static str> {
        S::EPOCHS
    }

    fn params_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        S::Params::json_schema(generator)
    }

    fn read_params(&self, params: Spanned<DeValue<'_>>) -> Result<Value, ParamsError> {
        let deserializer = toml::de::ValueDeserializer::from(params);
        let typed = S::Params::deserialize(deserializer).map_err(ParamsError::Shape)?;
        S::check(&typed).map_err(ParamsError::Check)?;
        serde_json::to_value(&typed).map_err(|error| {
            ParamsError::Check(format!("parameters cannot be written as JSON: {error}"))
        })
    }

    fn run(&self, params: Value, context: &StageContext) -> anyhow::Result<()> {
        let typed = serde_json::from_value(params).with_context(|| {
            format!("parameters of the task do not fit stage kind `{}`", S::KIND)
        })?;
        Stage::run(self, typed, context)
    }

    fn is_current(&self, params: &Value, previous_output: &Path, root: &Path) -> bool {
        serde_json::from_value(params.clone())
            .is_ok_and(|typed| Stage::is_current(self, &typed, previous_output, root))
    }
}

impl fmt::Debug for dyn AnyStage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stage").field("kind", &self.kind()).finish_non_exhaustive()
    }
}
