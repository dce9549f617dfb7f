//! From a trained teacher to the manifest of a smaller model that keeps to a goal.
//!
//! What is searched is a plain manifest with a `[sweep]`, written beside the teacher's: the order
//! of distillation, architecture search, pruning and quantization varies through the stages'
//! `inputs`, their strengths through `params`. Trials are chosen by validation rows only.
//!
//! - `goal`: what is wanted, as people write it.
//! - `search`: the manifest that is searched.
//! - `winner`: the manifest of the best trial.

mod goal;
mod search;
mod winner;

use anyhow::{Context as _, Result, anyhow, bail};
use engine::manifest::{Manifest, Reference, StageSpec};
use engine::{Port, RunReport};
use graph::ModelFolder;
use graph::bert::BertConfig;

pub use goal::Goal;
pub use search::{search, table, text};
pub use toml::Table;
pub use winner::winner;

/// What is known of the teacher once it is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Teacher {
    stage: String,
    dataset: String,
    /// On the validation rows, as a fraction.
    accuracy: f64,
    /// Bytes of its weights.
    size: f64,
    weights: f64,
    /// Weights of the word and position tables.
    embeddings: f64,
    layers: usize,
    heads: usize,
    intermediate: usize,
    hidden: usize,
}

/// The stage that trains the teacher: the one that is asked for, or the only one that writes a
/// model and its logits.
///
/// # Errors
/// When there is none, or several and none is asked for.
pub fn teacher_stage<'m>(manifest: &'m Manifest, asked: Option<&str>) -> Result<&'m StageSpec> {
    let writes = |stage: &StageSpec, kind| {
        let writes_kind = |port: &Port| port.kind == kind && port.name == kind;
        stage.stage.outputs().iter().any(writes_kind)
    };
    let able: Vec<&StageSpec> = manifest
        .stages
        .iter()
        .filter(|stage| writes(stage, "model") && writes(stage, "logits"))
        .collect();
    let names = || {
        let names: Vec<_> = able.iter().map(|stage| stage.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    match (asked, &able[..]) {
        (Some(name), _) => able.iter().copied().find(|stage| stage.name == name).ok_or_else(|| {
            anyhow!(
                "`{name}` is no stage that writes a model and its logits; those are: {}",
                names()
            )
        }),
        (None, [stage]) => Ok(stage),
        (None, []) => bail!(
            "the manifest has no stage that writes a model and its logits, as `train-teacher` does"
        ),
        (None, _) => {
            bail!("several stages could be the teacher: {}; name one with --teacher", names())
        }
    }
}

impl Teacher {
    /// Reads what the run of the teacher's stage measured, and the model it wrote.
    ///
    /// # Errors
    /// When a metric is missing or the model cannot be read.
    pub fn of(stage: &StageSpec, report: &RunReport, model: &std::path::Path) -> Result<Self> {
        let dataset = stage.inputs.values().find_map(|from| match from {
            Reference::Data(name) => Some(name.clone()),
            Reference::Model(_) | Reference::Stage { .. } => None,
        });
        let name = &stage.name;
        let dataset = dataset.with_context(|| format!("stage `{name}` reads no dataset"))?;
        let ran = report.stages.iter().find(|stage| stage.name == *name);
        let metric = |wanted: &str| {
            ran.and_then(|stage| stage.metrics.iter().find(|metric| metric.name == wanted))
                .map(|metric| metric.value)
                .with_context(|| format!("stage `{name}` reports no `{wanted}`"))
        };
        let folder = ModelFolder::read(model)?;
        let config = BertConfig::of(&folder.graph)?;
        let most = |of: fn(&graph::bert::BertLayer) -> usize| {
            config.layers.iter().map(of).max().unwrap_or(1)
        };
        Ok(Self {
            stage: name.clone(),
            dataset,
            accuracy: metric("validation/accuracy")?,
            size: metric("model/size")?,
            weights: metric("model/weights")?,
            embeddings: ((config.vocabulary_size + config.positions) * config.hidden) as f64,
            layers: config.layers.len(),
            heads: most(|layer| layer.heads),
            intermediate: most(|layer| layer.intermediate),
            hidden: config.hidden,
        })
    }

    /// Accuracy on the validation rows, as a fraction.
    pub fn accuracy(&self) -> f64 {
        self.accuracy
    }

    /// Bytes of the weights.
    pub fn size(&self) -> f64 {
        self.size
    }
}
