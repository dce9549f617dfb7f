//! `qat`: int8 with training that knows about it (Jacob et al. 2018, arXiv:1712.05877).

use std::num::NonZeroUsize;

use anyhow::Result;
use engine::{Port, Stage, StageContext};
use graph::{Graph, ModelFolder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::objectives::Distill;
use training::temperature::Temperature;
use training::{
    Batch, Bucket, Device, Loss, Network, NetworkOptions, Objective, Quantization, Step,
};

use crate::integer::{self, MixedPrecision, Observer, Work};
use crate::range::Fraction;
use crate::recipe::{Requantize, Training};
use crate::sparsity::keep_zeros;
use crate::watch::{Rows, fit};
use crate::{teacher_logits, texts};

/// Batches that learned scales start from.
const START_BATCHES: usize = 4;

/// The stage kind.
pub(crate) struct Qat;

/// Parameters of `qat`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Params {
    /// Passes over the training rows.
    epochs: NonZeroUsize,
    /// How the first ranges of activations are found; learned scales start from mean magnitudes.
    #[serde(default = "default_observer")]
    observer: Observer,
    /// Training rows they are found on; learned scales start from the first batches.
    #[serde(default = "default_rows")]
    rows: NonZeroUsize,
    /// How scales change while training.
    #[serde(default)]
    scales: Scales,
    /// Linear layers that stay float, by name.
    #[serde(default)]
    float: Vec<String>,
    /// Whether to measure how much each layer costs.
    #[serde(default = "on")]
    sensitivity: bool,
    /// Give layers back to float until the accuracy holds.
    #[serde(default)]
    mixed_precision: Option<MixedPrecision>,
    /// Weight of the teacher against the labels.
    #[serde(default = "teacher_logits::default_alpha")]
    alpha: Fraction,
    /// Temperature that softens teacher and student.
    #[serde(default = "teacher_logits::default_temperature")]
    temperature: Temperature,
    /// Optimizer and batches.
    #[serde(default)]
    training: Training<Requantize>,
}

/// How scales change while training.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(crate) enum Scales {
    /// Scales of weights follow the weights; those of activations follow a moving average of what is
    /// seen, and freeze on the way.
    Observed {
        /// Share of the past in the moving average.
        momentum: Fraction,
        /// Share of the steps after which scales of activations are frozen.
        freeze_after: Fraction,
    },
    /// Scales are trained (LSQ, Esser et al. 2020, arXiv:1902.08153).
    Learned,
}

impl Default for Scales {
    fn default() -> Self {
        Self::Observed { momentum: Fraction::new(0.99), freeze_after: Fraction::new(0.5) }
    }
}

fn default_observer() -> Observer {
    Observer::Mse
}

fn default_rows() -> NonZeroUsize {
    NonZeroUsize::new(320).unwrap_or(NonZeroUsize::MIN)
}

fn on() -> bool {
    true
}

impl Stage for Qat {
    type Params = Params;
    const KIND: &'static str = "qat";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "makes a model int8 and trains it to live with that";
    const EPOCHS: Option<&'static str> = Some("epochs");
    const INPUTS: &'static [Port] = &[
        Port { name: "data", kind: "dataset", required: true, about: "labelled texts" },
        Port { name: "model", kind: "model", required: true, about: "a trained float model" },
        Port {
            name: "logits",
            kind: "logits",
            required: true,
            about: "the teacher's logits for the training rows",
        },
    ];
    const OUTPUTS: &'static [Port] =
        &[Port { name: "model", kind: "model", required: true, about: "the int8 model" }];
    const METRICS: &'static [&'static str] = &integer::METRICS;

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let dataset = texts::load(context)?;
        let model = ModelFolder::read(context.input("model")?)?;
        integer::check_float(&model.graph, &params.float)?;
        let logits = teacher_logits::read(context.input("logits")?, &dataset.train)?;
        let work = Work::new(&model, &dataset, context)?;
        let start = work.insert(&model.graph, &params.float, params.observer, params.rows.get())?;

        let learned = matches!(params.scales, Scales::Learned);
        let (momentum, freeze_after) = match params.scales {
            Scales::Observed { momentum, freeze_after } => (momentum.get(), freeze_after.get()),
            Scales::Learned => (0.0, 0.0),
        };
        let quantization = Quantization { learned, momentum: momentum as f32, calibrated: true };
        let options = NetworkOptions { quantization, ..NetworkOptions::default() };
        let mut network = network(&start, &model.graph, &work.device, &options)?;
        if learned {
            let batches = work.train.epoch(
                params.training.batch_size.get(),
                Bucket::ByLength,
                context.seed(),
                0,
            );
            let inputs: Vec<_> = batches
                .iter()
                .take(START_BATCHES)
                .map(|rows| work.train.batch(rows).inputs())
                .collect();
            network.initialize_scales(&inputs)?;
        }
        let inner = teacher_logits::objective(params.alpha, params.temperature, logits, &start)?;
        let mut objective = QuantizationAware { inner, freeze_after };
        let recipe = params.training.recipe(params.epochs.get(), context.seed());
        let rows = Rows { train: &work.train, validation: Some(&work.validation) };
        fit(context, "qat", &mut network, rows, &mut objective, &recipe)?;

        let quantized = network.graph();
        let graph =
            work.complete(quantized, &model, params.sensitivity, params.mixed_precision.as_ref())?;
        Ok(ModelFolder { graph, ..model }.write(&context.output("model"))?)
    }
}

/// The network that is trained: `quantized`, with the zeros of the float graph it was made of.
fn network(
    quantized: &Graph,
    float: &Graph,
    device: &Device,
    options: &NetworkOptions,
) -> Result<Network> {
    let mut network = Network::new(quantized, device, options)?;
    keep_zeros(&mut network, float)?;
    Ok(network)
}

/// Distillation during which observers watch activations until they are frozen.
struct QuantizationAware {
    inner: Distill,
    freeze_after: f64,
}

impl Objective for QuantizationAware {
    fn extra(&self) -> Vec<(String, graph::Tensor)> {
        self.inner.extra()
    }

    fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> Result<Loss> {
        self.inner.loss(network, batch, step)
    }

    fn before_step(&mut self, network: &mut Network, step: &Step) -> Result<()> {
        network.set_observing(step.progress() < self.freeze_after);
        self.inner.before_step(network, step)
    }

    fn after_step(&mut self, network: &mut Network, step: &Step) -> Result<()> {
        // Validation between epochs must not move the scales.
        network.set_observing(false);
        self.inner.after_step(network, step)
    }

    fn descent_rate(&self, extra: &str, step: &Step) -> Option<f64> {
        self.inner.descent_rate(extra, step)
    }
}

#[cfg(test)]
mod tests {
    use graph::bert::{self, BertConfig, BertLayer};
    use graph::rewrite::masks;
    use graph::rewrite::quantize::{self, QuantizeOptions};
    use training::objectives::Supervised;
    use training::{Examples, Recipe, Silent};

    use super::*;
    use crate::sparsity::nonzero;

    #[test]
    fn zeros_of_the_float_model_are_zeros_of_the_int8_model() {
        let layer = BertLayer { heads: 2, intermediate: 16 };
        let config = BertConfig { positions: 8, ..BertConfig::uniform(20, 8, 1, layer) };
        let mut float = bert::build(&config, &mut bert::initial_weights(1)).unwrap();
        let dense = "encoder.layer.0.attention.self.query.weight";
        let names = nonzero(&float).unwrap();
        let names: Vec<&str> = names.keys().map(String::as_str).filter(|x| *x != dense).collect();
        let two_of_four = masks::two_of_four(&float, &names).unwrap();
        masks::apply(&mut float, &two_of_four).unwrap();

        let mut quantized = float.clone();
        quantize::insert(&mut quantized, &QuantizeOptions::default()).unwrap();
        let device = Device::cpu();
        let mut network = network(&quantized, &float, &device, &NetworkOptions::default()).unwrap();
        let ids = (0..16).map(|row| vec![1, row, 19 - row, 2]).collect();
        let rows = Examples { ids, labels: (0..16).map(|row| row % 2).collect() };
        let recipe = Recipe { epochs: 2, batch_size: 4, learning_rate: 1e-2, ..Recipe::default() };
        let mut objective = Supervised::new(2, 0.0, None);
        training::fit(&mut network, &rows, None, &mut objective, &recipe, &mut Silent).unwrap();

        let trained = network.graph();
        let (before, after) = (nonzero(&float).unwrap(), nonzero(&trained).unwrap());
        assert_eq!(after, before);
        assert!((masks::sparsity(&two_of_four) - 0.5).abs() < 1e-6);
        for name in names {
            let weight = |graph: &Graph| graph.weight(graph.find(name).unwrap()).unwrap().clone();
            assert_ne!(weight(&trained), weight(&float), "{name} was trained");
        }
    }
}
