//! `distill`: trains a smaller model to answer like the teacher.

use std::num::NonZeroUsize;

use anyhow::{Context as _, Result, bail, ensure};
use engine::{Port, Stage, StageContext};
use graph::bert::{self, BertConfig};
use graph::model_folder::ModelInfo;
use graph::structure::{self, EncoderLayer};
use graph::{Graph, ModelFolder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::Device;
use training::evaluate;
use training::loss::{CrossEntropy, Distillation};
use training::objectives::{self, Masking, Match, Teacher};
use training::temperature::Temperature;
use training::tokenizer::Tokenizer;
use training::{Network, NetworkOptions};

use crate::architecture::{Architecture, ChosenArchitecture};
use crate::range::{Fraction, Positive, Share};
use crate::recipe::{Learn, Training};
use crate::score::{self, Split};
use crate::watch::{Rows, fit};
use crate::{teacher_logits, texts};

/// The stage kind.
pub(crate) struct Distill;

/// Parameters of `distill`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Params {
    /// Passes over the training rows.
    epochs: NonZeroUsize,
    /// What the student is made of.
    student: Student,
    /// Weight of the teacher against the labels.
    #[serde(default = "teacher_logits::default_alpha")]
    alpha: Fraction,
    /// Temperature that softens teacher and student.
    #[serde(default = "teacher_logits::default_temperature")]
    temperature: Temperature,
    /// Share of each label that is spread over all classes.
    #[serde(default = "nothing")]
    label_smoothing: Share,
    /// Share of each text's word pieces that student and teacher see as `[MASK]`, others in each
    /// epoch: more texts to ask the teacher about (arXiv:1903.12136, §3.2).
    #[serde(default = "nothing")]
    masking: Share,
    /// Layers of the student that are to compute what the teacher's do.
    #[serde(default)]
    matching: Matching,
    /// Optimizer and batches.
    #[serde(default)]
    training: Training<Learn>,
}

/// What a student is made of.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum Student {
    /// The architecture that `nas-search` chose, with its weights from the supernet.
    Search,
    /// These layers of the teacher (from 0, ascending), with their weights.
    Layers(Vec<usize>),
    /// An architecture with new weights.
    Architecture(Architecture),
}

/// What is matched besides the logits; each needs the `teacher` input.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Matching {
    /// The teacher's layer that each student layer is matched with, ascending; evenly spaced when
    /// absent.
    layers: Option<Vec<usize>>,
    /// Hidden states, embeddings included, by mean squared error (TinyBERT, arXiv:1909.10351);
    /// through a learned projection where the student's dimensions are not the teacher's.
    hidden: Option<Weight>,
    /// Attention scores by mean squared error; student and teacher need the same heads.
    attention: Option<Weight>,
    /// Relations among queries, keys and values of the last layer (MiniLMv2, arXiv:2012.15828).
    relations: Option<Relations>,
}

/// How much a kind of matching counts.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Weight {
    /// Factor in the loss, for all layers together.
    weight: Positive,
}

/// How relations are matched.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Relations {
    /// Factor in the loss.
    weight: Positive,
    /// Relation heads that queries, keys and values are cut into.
    #[serde(default = "default_relation_heads")]
    heads: NonZeroUsize,
}

fn nothing() -> Share {
    Share::new(0.0)
}

fn default_relation_heads() -> NonZeroUsize {
    NonZeroUsize::new(12).unwrap_or(NonZeroUsize::MIN)
}

impl Matching {
    fn is_off(&self) -> bool {
        self.hidden.is_none() && self.attention.is_none() && self.relations.is_none()
    }
}

impl Stage for Distill {
    type Params = Params;
    const KIND: &'static str = "distill";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "trains a smaller model to answer like the teacher";
    const EPOCHS: Option<&'static str> = Some("epochs");
    const INPUTS: &'static [Port] = &[
        Port { name: "data", kind: "dataset", required: true, about: "labelled texts" },
        Port { name: "teacher", kind: "model", required: true, about: "whom the student imitates" },
        Port {
            name: "logits",
            kind: "logits",
            required: true,
            about: "the teacher's logits for the training rows",
        },
        Port {
            name: "architecture",
            kind: "architecture",
            required: false,
            about: "for `student = \"search\"`",
        },
        Port {
            name: "supernet",
            kind: "model",
            required: false,
            about: "where the searched architecture has its weights from",
        },
    ];
    const OUTPUTS: &'static [Port] =
        &[Port { name: "model", kind: "model", required: true, about: "the student" }];
    const METRICS: &'static [&'static str] = &score::METRICS;

    fn check(params: &Params) -> Result<(), String> {
        let ascending = |layers: &[usize]| layers.windows(2).all(|pair| pair[0] < pair[1]);
        match &params.student {
            Student::Layers(layers) if layers.is_empty() || !ascending(layers) => {
                return Err("`student.layers`: expected at least one layer, ascending".to_owned());
            }
            Student::Architecture(architecture) => architecture.check()?,
            _ => {}
        }
        match &params.matching.layers {
            Some(layers) if !ascending(layers) => {
                Err("`matching.layers`: expected the teacher's layers in ascending order"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let dataset = texts::load(context)?;
        let teacher = ModelFolder::read(context.input("teacher")?)?;
        let Start { model: start, order } = initial_student(&params.student, &teacher, context)?;
        let tokenizer = Tokenizer::from_bytes(&start.tokenizer_json, start.info.max_length)?;
        let train = texts::encode(&tokenizer, &dataset.train)?;
        let validation = texts::encode(&tokenizer, &dataset.validation)?;
        let device = Device::from_name(context.device())?;

        let matches = matches(&params.matching, &start.graph, order, &teacher.graph)?;
        let masks = params.masking.get() > 0.0;
        let needs_teacher = masks || !params.matching.is_off();
        let frozen =
            needs_teacher.then(|| Network::new(&teacher.graph, &device, &NetworkOptions::frozen()));
        let logits = teacher_logits::read(context.input("logits")?, &dataset.train)?;
        let hard = CrossEntropy {
            class_weights: None,
            label_smoothing: params.label_smoothing.get() as f32,
        };
        let distillation = Distillation { alpha: params.alpha.get() as f32, hard };
        let mut objective = objectives::Distill::new(
            distillation,
            params.temperature,
            Teacher { logits, network: frozen.transpose()? },
            &start.graph,
            matches,
            context.seed(),
        )?;
        if masks {
            let id = tokenizer.mask_id().context(
                "`masking` needs a tokenizer with a [MASK] piece; this teacher's has none",
            )?;
            objective = objective.with_masking(Masking { share: params.masking.get(), id })?;
        }
        let mut network = Network::new(&start.graph, &device, &NetworkOptions::default())?;
        let recipe = params.training.recipe(params.epochs.get(), context.seed());
        let rows = Rows { train: &train, validation: Some(&validation) };
        fit(context, "distill", &mut network, rows, &mut objective, &recipe)?;

        let answers = evaluate(&network, &validation, recipe.batch_size)?;
        score::report(context, "", Split::Validation, &answers.logits, &validation)?;
        let model = ModelFolder { graph: network.graph(), ..start };
        score::report_size(context, &model.graph);
        Ok(model.write(&context.output("model"))?)
    }
}

/// A student before training.
struct Start {
    model: ModelFolder,
    order: Order,
}

/// What a student has in another order than the teacher.
#[derive(Debug, Clone, Copy, Default)]
struct Order {
    /// Heads and units of its layers.
    layers: bool,
    /// Dimensions of the residual stream.
    hidden: bool,
}

/// The student before training, with the teacher's tokenizer and labels, and with no more positions
/// than its texts can reach.
fn initial_student(
    student: &Student,
    teacher: &ModelFolder,
    context: &StageContext,
) -> Result<Start> {
    let with = |graph: Graph, max_length: usize, order: Order| {
        let info = ModelInfo { labels: teacher.info.labels.clone(), max_length };
        let tokenizer_json = teacher.tokenizer_json.clone();
        Start { model: ModelFolder { graph, tokenizer_json, info }, order }
    };
    let max_length = teacher.info.max_length;
    let like = BertConfig::of(&teacher.graph)?;
    let positions = like.positions.min(max_length);
    match student {
        Student::Search => {
            let need = "`student = \"search\"` needs the inputs `architecture` and `supernet` of a nas-search stage";
            let chosen = ChosenArchitecture::read(context.input("architecture").context(need)?)?;
            let supernet = ModelFolder::read(context.input("supernet").context(need)?)?;
            let config = BertConfig::of(&supernet.graph)?;
            let graph = bert::subnetwork(&supernet.graph, &config, &chosen.config, &chosen.layers)?;
            let order = Order { layers: true, hidden: chosen.reordered };
            Ok(with(graph, chosen.max_length, order))
        }
        Student::Layers(layers) => {
            let n_layers = like.layers.len();
            if let Some(layer) = layers.iter().find(|&&layer| layer >= n_layers) {
                bail!(
                    "`student.layers` names layer {layer}; the teacher has layers 0 to {}",
                    n_layers - 1
                );
            }
            let kept = layers.iter().map(|&layer| like.layers[layer]).collect();
            let config = BertConfig { layers: kept, positions, ..like.clone() };
            let graph = bert::subnetwork(&teacher.graph, &like, &config, layers)?;
            Ok(with(graph, max_length, Order::default()))
        }
        Student::Architecture(architecture) => {
            let config =
                architecture.config(like.vocabulary_size, positions, like.labels, like.pooling);
            let graph = bert::build(&config, &mut bert::initial_weights(context.seed()))?;
            Ok(with(graph, max_length, Order::default()))
        }
    }
}

/// The pairs of values that are matched, found in both graphs.
fn matches(
    matching: &Matching,
    student: &Graph,
    order: Order,
    teacher: &Graph,
) -> Result<Vec<Match>> {
    if matching.is_off() {
        return Ok(Vec::new());
    }
    let (students, teachers) =
        (structure::encoder_layers(student)?, structure::encoder_layers(teacher)?);
    let map = match &matching.layers {
        Some(map) => map.clone(),
        None => bert::choose_layers(teachers.len(), students.len())?,
    };
    ensure!(
        map.len() == students.len() && map.iter().all(|&layer| layer < teachers.len()),
        "`matching.layers` = {map:?}: expected {} layers of the teacher, each below {}",
        students.len(),
        teachers.len()
    );
    let pairs: Vec<(&EncoderLayer, &EncoderLayer)> =
        students.iter().zip(map.iter().map(|&layer| &teachers[layer])).collect();
    let (s, t) = (|id| student.value_name(id).to_owned(), |id| teacher.value_name(id).to_owned());
    let mut found = Vec::new();
    if let Some(Weight { weight }) = matching.hidden {
        let weight = weight.get() / (pairs.len() + 1) as f64;
        let embeddings = (
            structure::word_embedding(student)?.output,
            structure::word_embedding(teacher)?.output,
        );
        let outputs = pairs.iter().map(|(a, b)| (a.output, b.output));
        let all = std::iter::once(embeddings).chain(outputs);
        let projected = order.hidden;
        found.extend(all.map(|(a, b)| Match::Hidden {
            student: s(a),
            teacher: t(b),
            weight,
            projected,
        }));
    }
    if let Some(Weight { weight }) = matching.attention {
        ensure!(
            !order.layers,
            "`matching.attention`: a searched student has the teacher's heads in order of importance, so its heads are not the teacher's; use `relations` instead"
        );
        let weight = weight.get() / pairs.len() as f64;
        for (index, (a, b)) in pairs.iter().enumerate() {
            let (have, want) = (a.attention.heads, b.attention.heads);
            ensure!(
                have == want,
                "`matching.attention`: layer {index} of the student has {have} heads, its teacher layer {want}; use `relations` instead"
            );
            let (student, teacher) = (s(a.attention.scores), t(b.attention.scores));
            found.push(Match::Attention { student, teacher, weight });
        }
    }
    if let Some(relations) = &matching.relations
        && let Some((a, b)) = pairs.last()
    {
        let (a, b, heads) = (&a.attention, &b.attention, relations.heads.get());
        for (a, b) in [(&a.query, &b.query), (&a.key, &b.key), (&a.value, &b.value)] {
            for (who, width) in [("student", a.outputs), ("teacher", b.outputs)] {
                ensure!(
                    width.is_multiple_of(heads),
                    "`matching.relations.heads` = {heads} does not divide the {who}'s width {width}"
                );
            }
            let (student, teacher) = (s(a.output), t(b.output));
            let weight = relations.weight.get() / 3.0;
            found.push(Match::Relations { student, teacher, heads, weight });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use graph::bert::BertLayer;

    #[test]
    fn reordered_parts_are_not_matched_one_by_one() {
        let layer = BertLayer { heads: 2, intermediate: 8 };
        let config = BertConfig { positions: 8, ..BertConfig::uniform(20, 8, 1, layer) };
        let graph = bert::build(&config, &mut bert::initial_weights(1)).unwrap();
        let weight = || Some(Weight { weight: Positive::new(1.0) });
        let found = |matching: Matching, order| matches(&matching, &graph, order, &graph);

        let heads = Matching { attention: weight(), ..Matching::default() };
        let searched = Order { layers: true, hidden: false };
        let error = found(heads, searched).unwrap_err().to_string();
        assert!(error.contains("in order of importance"), "{error}");

        for hidden in [false, true] {
            let states = Matching { hidden: weight(), ..Matching::default() };
            let all = found(states, Order { layers: true, hidden }).unwrap();
            assert_eq!(all.len(), 2, "the embedding and one layer");
            assert!(all.iter().all(
                |pair| matches!(pair, Match::Hidden { projected, .. } if *projected == hidden)
            ));
        }
    }
}
