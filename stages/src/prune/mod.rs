//! `prune`: removes what matters least and lets the rest recover with the teacher's help.

mod choose;
mod gradual;
mod shrunk;
mod structured;
mod vocabulary;

use std::num::NonZeroUsize;

use anyhow::{Result, bail, ensure};
use engine::{Metric, Port, Stage, StageContext};
use graph::rewrite::{masks, prune};
use graph::{Graph, ModelFolder, structure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::Device;
use training::data::Dataset;
use training::objectives::Distill;
use training::temperature::Temperature;
use training::tokenizer::Tokenizer;
use training::{Examples, Network, NetworkOptions};

use self::choose::Scope;
use self::gradual::{Gradual, choose};
use self::shrunk::Shrunk;
use self::vocabulary::{Vocabulary, prune_vocabulary};
use crate::importance::{Importance, Probe, layer_influence};
use crate::range::Fraction;
use crate::recipe::{Recover, Training};
use crate::score::{self, Split};
use crate::sparsity::nonzero;
use crate::watch::{Rows, fit};
use crate::{predict, teacher_logits, texts};

/// The stage kind.
pub(crate) struct Prune;

/// Parameters of `prune`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Params {
    /// Passes over the training rows after everything is removed.
    epochs: NonZeroUsize,
    /// Word pieces to drop, with their rows of the embedding table.
    #[serde(default)]
    vocabulary: Option<Vocabulary>,
    /// Whole encoder layers to drop.
    #[serde(default)]
    layers: Option<Layers>,
    /// Attention heads to drop.
    #[serde(default)]
    heads: Option<Structured>,
    /// Feed-forward units to drop.
    #[serde(default)]
    units: Option<Structured>,
    /// Heads and units go step by step while the model trains; at once when absent.
    #[serde(default)]
    gradual: Option<GradualPhase>,
    /// Zeros among the weights that stay; `qat` keeps them. A format only: no kernel here is faster
    /// for it.
    #[serde(default)]
    zeros: Option<Zeros>,
    /// Weight of the teacher against the labels.
    #[serde(default = "teacher_logits::default_alpha")]
    alpha: Fraction,
    /// Temperature that softens teacher and student.
    #[serde(default = "teacher_logits::default_temperature")]
    temperature: Temperature,
    /// Optimizer and batches.
    #[serde(default)]
    training: Training<Recover>,
}

/// Which layers go.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Layers {
    /// How many.
    drop: NonZeroUsize,
    /// Which first.
    #[serde(default)]
    order: LayerOrder,
}

/// Which layers go first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LayerOrder {
    /// Those that turn their input least (ShortGPT, arXiv:2403.03853).
    #[default]
    Influence,
    /// Those next to the output (Poor Man's BERT, arXiv:2004.03844).
    Top,
}

/// How heads or units are dropped.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Structured {
    /// Share that stays. Units stay in multiples of 8, unless layers compete.
    keep: Fraction,
    /// How importance is scored.
    #[serde(default)]
    importance: Importance,
    /// Whether layers compete.
    #[serde(default)]
    scope: Scope,
}

/// Pruning while training, along the cubic schedule s·(1 − (1 − t)³).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct GradualPhase {
    /// Passes over the training rows while parts go, before the recovery.
    epochs: NonZeroUsize,
    /// Times at which parts go.
    #[serde(default = "default_events")]
    events: NonZeroUsize,
}

/// Where zeros are put.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum Zeros {
    /// The smallest weights of all linear layers together (Han et al. 2015, arXiv:1506.02626).
    Unstructured {
        /// Share that becomes zero.
        sparsity: Fraction,
    },
    /// Two of every four along the input (Mishra et al. 2021, arXiv:2104.08378).
    #[serde(rename = "2:4")]
    TwoOfFour,
}

fn default_events() -> NonZeroUsize {
    NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN)
}

impl Stage for Prune {
    type Params = Params;
    const KIND: &'static str = "prune";
    const VERSION: u32 = 2;
    const ABOUT: &'static str =
        "removes word pieces, layers, heads and units, then recovers with the teacher's help";
    const INPUTS: &'static [Port] = &[
        Port { name: "data", kind: "dataset", required: true, about: "labelled texts" },
        Port { name: "model", kind: "model", required: true, about: "what is pruned" },
        Port {
            name: "logits",
            kind: "logits",
            required: true,
            about: "the teacher's logits for the training rows",
        },
    ];
    const OUTPUTS: &'static [Port] =
        &[Port { name: "model", kind: "model", required: true, about: "the smaller model" }];
    const METRICS: &'static [&'static str] = &[
        "validation/accuracy",
        "validation/macro-f1",
        "validation/cross-entropy",
        "model/weights",
        "model/size",
        "prune/vocabulary",
        "prune/sparsity",
        "prune/influence-layer-*",
        "prune/size-before",
        "prune/size-after",
        "prune/latency-before",
        "prune/latency-after",
    ];

    fn check(params: &Params) -> Result<(), String> {
        let nothing = params.vocabulary.is_none()
            && params.layers.is_none()
            && params.heads.is_none()
            && params.units.is_none()
            && params.zeros.is_none();
        if nothing {
            return Err(
                "nothing to prune: give `vocabulary`, `layers`, `heads`, `units` or `zeros`"
                    .to_owned(),
            );
        }
        if params.gradual.is_some() && params.heads.is_none() && params.units.is_none() {
            return Err(
                "`gradual` is about `heads` and `units`; give one of them or remove it".to_owned()
            );
        }
        for (name, part) in [("heads", &params.heads), ("units", &params.units)] {
            if part.as_ref().is_some_and(|part| part.keep.get() == 0.0) {
                return Err(format!(
                    "`{name}.keep` = 0 leaves nothing; use `layers` to drop whole layers"
                ));
            }
        }
        Ok(())
    }

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let dataset = texts::load(context)?;
        let mut model = ModelFolder::read(context.input("model")?)?;
        let logits = teacher_logits::read(context.input("logits")?, &dataset.train)?;
        let before = Footprint::of(&model.graph, &model, context)?;
        if let Some(settings) = &params.vocabulary {
            let train = encode(&model, &dataset.train)?;
            let (from, to) = prune_vocabulary(&mut model, &train, settings)?;
            context.log(format!("vocabulary: {from} word pieces to {to}"));
            metric(context, "prune/vocabulary", to as f64, "count");
        }
        let work = Work {
            device: Device::from_name(context.device())?,
            train: encode(&model, &dataset.train)?,
            validation: encode(&model, &dataset.validation)?,
            params: &params,
            logits,
            context,
        };
        let mut model = work.shrink(model)?;
        work.recover(&mut model)?;

        let after = Footprint::of(&model.graph, &model, context)?;
        after.report(&before, context);
        if params.zeros.is_some() {
            let sparsity = masks::sparsity(&nonzero(&model.graph)?);
            metric(context, "prune/sparsity", sparsity, "fraction");
            context.unavailable(
                "prune/sparse-speedup",
                "zeros are stored and multiplied like other weights: no sparse kernel is built in",
            );
        }
        work.score(&model, &dataset)?;
        score::report_size(context, &model.graph);
        Ok(model.write(&context.output("model"))?)
    }
}

fn metric(context: &StageContext, name: &str, value: f64, unit: &str) {
    context.metric(Metric {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
        ..Metric::default()
    });
}

fn encode(model: &ModelFolder, rows: &[training::data::Row]) -> Result<Examples> {
    texts::encode(&Tokenizer::from_bytes(&model.tokenizer_json, model.info.max_length)?, rows)
}

/// What every step of the stage works with.
struct Work<'a> {
    device: Device,
    train: Examples,
    validation: Examples,
    params: &'a Params,
    logits: Vec<Vec<f32>>,
    context: &'a StageContext,
}

impl Work<'_> {
    fn objective(&self, graph: &Graph) -> Result<Distill> {
        let (alpha, temperature) = (self.params.alpha, self.params.temperature.clone());
        teacher_logits::objective(alpha, temperature, self.logits.clone(), graph)
    }

    fn network(&self, graph: &Graph) -> Result<Network> {
        Ok(Network::new(graph, &self.device, &NetworkOptions::default())?)
    }

    fn probe(&self) -> Probe<'_> {
        Probe::new(&self.train, self.params.training.batch_size.get(), self.context.seed())
    }

    /// Removes layers, heads and units. What was removed is kept beside the checkpoints, so that an
    /// interrupted recovery does not start over.
    fn shrink(&self, model: ModelFolder) -> Result<ModelFolder> {
        let checkpoints = self.context.checkpoint_dir();
        let shrunk = match Shrunk::read(checkpoints)? {
            Some(shrunk) => shrunk,
            None => {
                let mut shrunk = Shrunk { model, influence: Vec::new() };
                let graph = &mut shrunk.model.graph;
                if let Some(layers) = &self.params.layers {
                    shrunk.influence = self.drop_layers(graph, layers)?;
                }
                if self.params.heads.is_some() || self.params.units.is_some() {
                    self.drop_parts(graph)?;
                }
                shrunk.write(checkpoints)?;
                shrunk
            }
        };
        for (layer, &influence) in shrunk.influence.iter().enumerate() {
            let name = format!("prune/influence-layer-{layer}");
            metric(self.context, &name, influence, "1 - cosine");
        }
        Ok(shrunk.model)
    }

    /// Gives the influence of each layer, where the order follows it.
    fn drop_layers(&self, graph: &mut Graph, layers: &Layers) -> Result<Vec<f64>> {
        let n_layers = structure::encoder_layers(graph)?.len();
        let drop = layers.drop.get();
        ensure!(
            drop < n_layers,
            "`layers.drop` = {drop}: the model has {n_layers} layers and needs one"
        );
        let (influence, dropped) = match layers.order {
            LayerOrder::Top => (Vec::new(), (n_layers - drop..n_layers).collect()),
            LayerOrder::Influence => {
                let influence = layer_influence(graph, &self.network(graph)?, &self.probe())?;
                let mut order: Vec<usize> = (0..n_layers).collect();
                order.sort_by(|&a, &b| influence[a].total_cmp(&influence[b]));
                order.truncate(drop);
                order.sort_unstable();
                (influence, order)
            }
        };
        self.context.log(format!("layers dropped: {dropped:?}"));
        prune::drop_layers(graph, &dropped)?;
        Ok(influence)
    }

    /// Removes heads and units, at once or while training.
    fn drop_parts(&self, graph: &mut Graph) -> Result<()> {
        let probe = self.probe();
        let mut network = self.network(graph)?;
        let (heads, units) = (self.params.heads.as_ref(), self.params.units.as_ref());
        let report = |step, share| self.context.series("prune/sparsity", step, share);
        let kept = match &self.params.gradual {
            None => {
                let kept = choose(heads, units, 1.0, &network, &probe)?;
                report(0, structured::share_gone(graph, &kept)?);
                kept
            }
            Some(phase) => {
                let recipe = self.params.training.recipe(phase.epochs.get(), self.context.seed());
                let events = phase.events.get() as u64;
                let objective = self.objective(graph)?;
                let mut gradual = Gradual::new(objective, self.params, events, probe, report);
                let rows = Rows { train: &self.train, validation: None };
                fit(self.context, "prune", &mut network, rows, &mut gradual, &recipe)?;
                *graph = network.graph();
                let Some(kept) = gradual.into_kept() else {
                    bail!("training ended before anything was pruned; use fewer `gradual.events`")
                };
                kept
            }
        };
        structured::slice(graph, &kept)
    }

    /// Trains what is left, with the zeros that are asked for.
    fn recover(&self, model: &mut ModelFolder) -> Result<()> {
        let mut network = self.network(&model.graph)?;
        if let Some(zeros) = self.params.zeros {
            let linears = structure::linears(&model.graph);
            let names: Vec<&str> =
                linears.iter().map(|linear| model.graph.value_name(linear.weight)).collect();
            let masks = match zeros {
                Zeros::Unstructured { sparsity } => {
                    masks::magnitude(&model.graph, &names, sparsity.get())?
                }
                Zeros::TwoOfFour => masks::two_of_four(&model.graph, &names)?,
            };
            for (name, mask) in &masks {
                network.set_mask(name, mask)?;
            }
        }
        let mut objective = self.objective(&model.graph)?;
        let recipe = self.params.training.recipe(self.params.epochs.get(), self.context.seed());
        let rows = Rows { train: &self.train, validation: Some(&self.validation) };
        fit(self.context, "recover", &mut network, rows, &mut objective, &recipe)?;
        model.graph = network.graph();
        Ok(())
    }

    fn score(&self, model: &ModelFolder, dataset: &Dataset) -> Result<()> {
        let compiled = predict::compile(&model.graph, self.context.threads())?;
        let validation = encode(model, &dataset.validation)?;
        let logits = predict::logits(&compiled, &validation)?;
        score::report(self.context, "", Split::Validation, &logits, &validation)?;
        Ok(())
    }
}

/// What a model takes on disk and in time.
struct Footprint {
    size_bytes: usize,
    latency_ms: f64,
}

impl Footprint {
    fn of(graph: &Graph, model: &ModelFolder, context: &StageContext) -> Result<Self> {
        let latency_ms =
            predict::median_latency_ms(graph, model.info.max_length.min(64), context.threads())?;
        Ok(Self { size_bytes: graph.weight_bytes(), latency_ms })
    }

    /// A model is only called pruned with a smaller size and a measured latency beside it.
    fn report(&self, before: &Self, context: &StageContext) {
        metric(context, "prune/size-before", before.size_bytes as f64, "bytes");
        metric(context, "prune/size-after", self.size_bytes as f64, "bytes");
        metric(context, "prune/latency-before", before.latency_ms, "ms");
        metric(context, "prune/latency-after", self.latency_ms, "ms");
    }
}
