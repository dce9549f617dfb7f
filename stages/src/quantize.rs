//! `quantize`: int8 without training, from ranges seen on training rows.

use std::num::NonZeroUsize;

use anyhow::Result;
use engine::{Port, Stage, StageContext};
use graph::ModelFolder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::integer::{self, MixedPrecision, Observer, Work};
use crate::texts;

/// The stage kind.
pub(crate) struct Quantize;

/// Parameters of `quantize`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Params {
    /// How ranges of activations are found.
    observer: Observer,
    /// Training rows they are found on.
    rows: NonZeroUsize,
    /// Linear layers that stay float, by name.
    float: Vec<String>,
    /// Whether to measure how much each layer costs.
    sensitivity: bool,
    /// Give layers back to float until the accuracy holds.
    mixed_precision: Option<MixedPrecision>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            observer: Observer::Mse,
            rows: NonZeroUsize::new(320).unwrap_or(NonZeroUsize::MIN),
            float: Vec::new(),
            sensitivity: true,
            mixed_precision: None,
        }
    }
}

impl Stage for Quantize {
    type Params = Params;
    const KIND: &'static str = "quantize";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "makes a model int8 without training it";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "data",
            kind: "dataset",
            required: true,
            about: "training rows for ranges, validation rows for scores",
        },
        Port { name: "model", kind: "model", required: true, about: "a float model" },
    ];
    const OUTPUTS: &'static [Port] =
        &[Port { name: "model", kind: "model", required: true, about: "the int8 model" }];
    const METRICS: &'static [&'static str] = &integer::METRICS;

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let dataset = texts::load(context)?;
        let model = ModelFolder::read(context.input("model")?)?;
        integer::check_float(&model.graph, &params.float)?;
        let work = Work::new(&model, &dataset, context)?;
        let quantized =
            work.insert(&model.graph, &params.float, params.observer, params.rows.get())?;
        let graph =
            work.complete(quantized, &model, params.sensitivity, params.mixed_precision.as_ref())?;
        Ok(ModelFolder { graph, ..model }.write(&context.output("model"))?)
    }
}
