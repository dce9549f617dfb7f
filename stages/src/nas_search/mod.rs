//! `nas-search`: trains one network that contains all candidates, then searches among them.

mod evolution;
mod judge;
mod latency;
mod scaling;
mod space;
mod supernet;

use std::fs;
use std::num::NonZeroUsize;

use anyhow::{Context as _, Result, bail};
use engine::{Metric, Port, Stage, StageContext};
use graph::ModelFolder;
use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::random::{Stream, derive};
use training::tokenizer::Tokenizer;
use training::{Device, Examples, Network, NetworkOptions};

use self::evolution::Evolution;
use self::judge::{Constraints, Evaluated, SubnetworkJudge};
use self::latency::{Arithmetic, LatencyTable};
use self::scaling::Scaling;
use self::space::{Candidate, Space};
use self::supernet::SupernetTraining;
use crate::architecture::ChosenArchitecture;
use crate::importance::{self, Importance, Probe};
use crate::range::Fraction;
use crate::recipe::{Recover, Training};
use crate::{teacher_logits, texts};

/// Best candidates whose latency is also measured end to end.
const MEASURED: usize = 5;

/// Purpose of the random numbers that choose the validation rows.
const JUDGED: u64 = 2;

/// The stage kind.
pub(crate) struct NasSearch;

/// Parameters of `nas-search`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Params {
    /// Passes over the training rows in which the supernet is trained.
    epochs: NonZeroUsize,
    /// What may be chosen from.
    space: Space,
    /// What a candidate must keep to.
    #[serde(default)]
    constraints: Constraints,
    /// How candidates are found.
    #[serde(default)]
    strategy: Strategy,
    /// How heads and units are ranked: candidates are made of the first ones.
    #[serde(default)]
    importance: Importance,
    /// Random subnetworks trained in each step, besides the largest and the smallest.
    #[serde(default = "one")]
    random_subnetworks: usize,
    /// Validation rows that a candidate is judged on, chosen by the seed.
    #[serde(default = "default_rows")]
    rows: NonZeroUsize,
    /// Word pieces of the text that latency and FLOPs are about.
    #[serde(default = "default_sequence")]
    sequence: NonZeroUsize,
    /// Arithmetic that latency is measured with.
    #[serde(default)]
    arithmetic: Arithmetic,
    /// Weight of the teacher against the labels.
    #[serde(default = "teacher_logits::default_alpha")]
    alpha: Fraction,
    /// Optimizer and batches.
    #[serde(default)]
    training: Training<Recover>,
}

/// How candidates are found.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum Strategy {
    /// Mutation and crossover of the fittest (Once-for-all, arXiv:1908.09791).
    Evolution(Evolution),
    /// Depth, width and length grow together (EfficientNet, arXiv:1905.11946).
    CompoundScaling(Scaling),
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Evolution(Evolution::default())
    }
}

fn one() -> usize {
    1
}

fn default_rows() -> NonZeroUsize {
    NonZeroUsize::new(300).unwrap_or(NonZeroUsize::MIN)
}

fn default_sequence() -> NonZeroUsize {
    NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN)
}

impl Stage for NasSearch {
    type Params = Params;
    const KIND: &'static str = "nas-search";
    const VERSION: u32 = 3;
    const ABOUT: &'static str =
        "searches the architecture of a student in a supernet made of the teacher";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "data",
            kind: "dataset",
            required: true,
            about: "training rows for the supernet, validation rows for the choice",
        },
        Port {
            name: "teacher",
            kind: "model",
            required: true,
            about: "what the supernet starts from",
        },
        Port {
            name: "logits",
            kind: "logits",
            required: true,
            about: "the teacher's logits for the training rows",
        },
    ];
    const OUTPUTS: &'static [Port] = &[
        Port {
            name: "architecture",
            kind: "architecture",
            required: true,
            about: "the chosen architecture",
        },
        Port {
            name: "supernet",
            kind: "model",
            required: true,
            about: "the trained supernet, which holds its weights",
        },
        Port {
            name: "candidates",
            kind: "search-report",
            required: true,
            about: "every candidate evaluated, as JSON, the Pareto front marked",
        },
    ];
    const METRICS: &'static [&'static str] =
        &["nas/candidates", "nas/latency-error", "nas/layer-shapes", "nas/phi"];
    /// Latency decides, so nothing else may run beside it.
    const EXCLUSIVE: bool = true;

    fn check(params: &Params) -> Result<(), String> {
        params.space.check()
    }

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let dataset = texts::load(context)?;
        let teacher = ModelFolder::read(context.input("teacher")?)?;
        let tokenizer = Tokenizer::from_bytes(&teacher.tokenizer_json, teacher.info.max_length)?;
        let train = texts::encode(&tokenizer, &dataset.train)?;
        let validation = texts::encode(&tokenizer, &dataset.validation)?;
        let validation = sample(&validation, params.rows.get(), context.seed());

        let device = Device::from_name(context.device())?;
        let scores = match params.importance {
            Importance::L1 => importance::l1(&teacher.graph)?,
            Importance::Taylor => {
                let network = Network::new(&teacher.graph, &device, &NetworkOptions::default())?;
                let size = params.training.batch_size.get();
                let probe = Probe::new(&train, size, context.seed());
                importance::taylor(&network, &probe)?
            }
        };
        let max_length = teacher.info.max_length;
        let mut supernet = supernet::start(&teacher.graph, max_length, &params.space, &scores)?;
        let sequence = params.sequence.get().min(teacher.info.max_length);
        let mut table =
            LatencyTable::new(&supernet.config, sequence, context.threads(), params.arithmetic);
        params.constraints.check(&params.space.smallest(), &supernet, &mut table, sequence)?;
        let training = SupernetTraining {
            space: &params.space,
            random_subnetworks: params.random_subnetworks,
            alpha: params.alpha.get(),
            logits: teacher_logits::read(context.input("logits")?, &dataset.train)?,
            recipe: params.training.recipe(params.epochs.get(), context.seed()),
        };
        training.run(&mut supernet, &train, &device, context)?;

        let mut judge = SubnetworkJudge::new(
            &supernet,
            &params.constraints,
            table,
            sequence,
            &validation,
            context,
        );
        let (chosen, max_length) = search(&params, &mut judge, context, teacher.info.max_length)?;
        let chosen = ChosenArchitecture {
            config: supernet.config_of(&chosen),
            layers: supernet.layers_of(&chosen)?,
            max_length,
            reordered: supernet.reordered,
        };
        judge.report(MEASURED)?;
        write_json(&context.output("candidates"), judge.evaluated())?;
        chosen.write(&context.output("architecture"))?;
        let model = ModelFolder { graph: supernet.graph, ..teacher };
        Ok(model.write(&context.output("supernet"))?)
    }
}

/// Up to `rows` of the examples, in their order. A seed chooses them: the first ones would be of one
/// class where a file is sorted by label.
fn sample(examples: &Examples, rows: usize, seed: u64) -> Examples {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    Stream::new(derive(seed, JUDGED)).shuffle(&mut order);
    order.truncate(rows);
    order.sort_unstable();
    Examples {
        ids: order.iter().map(|&row| examples.ids[row].clone()).collect(),
        labels: order.iter().map(|&row| examples.labels[row]).collect(),
    }
}

/// The best candidate and its longest text.
fn search(
    params: &Params,
    judge: &mut SubnetworkJudge<'_>,
    context: &StageContext,
    max_length: usize,
) -> Result<(Candidate, usize)> {
    use evolution::Judge as _;
    let nothing = "no candidate keeps to the constraints; loosen `constraints` or add smaller choices to `space`";
    match &params.strategy {
        Strategy::Evolution(settings) => {
            let mut rng = ChaCha8Rng::seed_from_u64(context.seed());
            let ranked = evolution::search(&params.space, settings, judge, &mut rng)?;
            match ranked.into_iter().next() {
                Some((best, _)) => Ok((best, max_length)),
                None => bail!(nothing),
            }
        }
        Strategy::CompoundScaling(scaling) => {
            let walked = scaling.walk(&params.space, judge)?;
            for scaled in &walked {
                judge.fitness(&scaled.candidate)?;
            }
            match walked.into_iter().next_back() {
                Some(largest) => {
                    context.metric(Metric {
                        name: "nas/phi".to_owned(),
                        value: largest.phi,
                        unit: "exponent".to_owned(),
                        ..Metric::default()
                    });
                    Ok((largest.candidate, largest.length.min(max_length)))
                }
                None => bail!(nothing),
            }
        }
    }
}

fn write_json(path: &std::path::Path, evaluated: &[Evaluated]) -> Result<()> {
    let text = serde_json::to_vec_pretty(evaluated)?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judged_rows_are_of_every_class_also_where_the_file_is_sorted() {
        let labels: Vec<usize> = (0..200).map(|row| row / 100).collect();
        let rows = Examples { ids: (0..200).map(|row| vec![row]).collect(), labels };
        let judged = sample(&rows, 60, 7);
        assert_eq!((judged.ids.len(), judged.labels.len()), (60, 60));
        let second = judged.labels.iter().sum::<usize>();
        assert!((15..=45).contains(&second), "{second} of 60 are of the second class");
        let class = |ids: &Vec<u32>| usize::from(ids[0] >= 100);
        assert!(judged.ids.iter().map(class).eq(judged.labels.iter().copied()));
        assert_eq!(sample(&rows, 60, 7), judged);
        assert_eq!(sample(&rows, 1_000, 7), rows);
    }
}
