//! `benchmark`: measures every model of a chain in the same way, on the test rows and on the clock.

mod energy;
mod inspection;
mod memory;
mod params;
mod timing;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use engine::{Metric, Port, Stage, StageContext};
use graph::model_folder::WEIGHTS_FILE;
use graph::package::Package;
use graph::{Bindings, ModelFolder, Tensor, counts, structure};
use runtime::{CompiledModel, Device};
use serde::Serialize;
use serde_json::json;
use training::data::Dataset;
use training::metrics::{mcnemar, paired_difference};
use training::tokenizer::Tokenizer;

use self::energy::EnergyCounters;
use self::inspection::Inspection;
pub use self::memory::serve_once;
use self::params::Params;
use self::timing::{Budget, Times};
use crate::score::{self, Split};
use crate::{predict, texts};

/// Ports of the chain, in its order.
const CHAIN: [&str; 4] = ["teacher", "student", "pruned", "int8"];

/// The stage kind.
pub(crate) struct Benchmark;

impl Stage for Benchmark {
    type Params = Params;
    const KIND: &'static str = "benchmark";
    const VERSION: u32 = 5;
    const ABOUT: &'static str =
        "measures accuracy, latency, throughput, memory, size and energy of a chain of models";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "data",
            kind: "dataset",
            required: true,
            about: "its test rows are used here, for reporting",
        },
        Port {
            name: "teacher",
            kind: "model",
            required: true,
            about: "what the others are compared with",
        },
        Port { name: "student", kind: "model", required: false, about: "distilled model" },
        Port { name: "pruned", kind: "model", required: false, about: "pruned model" },
        Port { name: "int8", kind: "model", required: false, about: "integer model" },
        Port {
            name: "package",
            kind: "package",
            required: false,
            about: "self-tested on this machine before anything is measured",
        },
    ];
    const OUTPUTS: &'static [Port] = &[
        Port {
            name: "answers",
            kind: "answers",
            required: true,
            about: "each model's logits for the test rows, as JSON",
        },
        Port {
            name: "inspection",
            kind: "inspection",
            required: true,
            about: "each model's kernels and memory map, as JSON; reports draw it",
        },
    ];
    const METRICS: &'static [&'static str] = &[
        "bench/*/weights",
        "bench/*/size",
        "bench/*/flops",
        "bench/*/planned-memory",
        "bench/*/peak-memory",
        "bench/*/test/accuracy",
        "bench/*/test/macro-f1",
        "bench/*/test/cross-entropy",
        "bench/*/test/accuracy-drop",
        "bench/*/test/mcnemar-p",
        "bench/*/latency-p50",
        "bench/*/latency-p90",
        "bench/*/latency-p99",
        "bench/*/energy",
        "bench/*/throughput",
        "bench/*/throughput-b*-s*",
        "package/failed-kernel-tiers",
    ];
    const EXCLUSIVE: bool = true;

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let device = params.device.device(context)?;
        if let Some(folder) = context.optional_input("package") {
            predict::load(&Package::read(folder)?, "package", device, context)?;
        }
        let dataset = texts::load(context)?;
        let mut answers = serde_json::Map::new();
        let mut inspections = serde_json::Map::new();
        let mut baseline: Option<Vec<bool>> = None;
        let mut models = Vec::new();
        for port in CHAIN {
            let Some(folder) = context.optional_input(port) else { continue };
            models.push(Model::read(port, folder, device, context)?);
        }
        let benches: Vec<_> =
            models.iter().map(|model| Bench { params: &params, context, model }).collect();
        for bench in &benches {
            context.log(format!("measuring {}", bench.model.port));
            bench.size()?;
            if params.accuracy {
                let (logits, correct) = bench.accuracy(&dataset)?;
                match &baseline {
                    Some(teacher) => bench.drop(teacher, &correct)?,
                    None => baseline = Some(correct),
                }
                answers.insert(bench.model.port.to_owned(), serde_json::to_value(logits)?);
            }
            ensure!(!context.interrupted(), engine::Interrupted);
        }
        latencies(&benches)?;
        throughputs(&benches)?;
        for bench in &benches {
            let inspection = Inspection::of(&bench.model.compiled, bench.sequence())?;
            inspections.insert(bench.model.port.to_owned(), serde_json::to_value(inspection)?);
        }
        write(context, "answers", &answers)?;
        let inspection = json!({ "schema": inspection::SCHEMA, "models": inspections });
        write(context, "inspection", &inspection)
    }
}

/// Writes an output as JSON.
fn write(context: &StageContext, port: &str, value: &impl Serialize) -> Result<()> {
    let path = context.output(port);
    std::fs::write(&path, serde_json::to_vec(value)?)
        .with_context(|| format!("writing {}", path.display()))
}

/// One model of the chain, ready to run.
struct Model<'a> {
    port: &'static str,
    folder: &'a Path,
    read: ModelFolder,
    compiled: CompiledModel,
}

impl<'a> Model<'a> {
    fn read(
        port: &'static str,
        folder: &'a Path,
        device: Device,
        context: &StageContext,
    ) -> Result<Self> {
        let read = ModelFolder::read(folder).with_context(|| format!("reading `{port}`"))?;
        let compiled = predict::compile_for(&read.graph, context.threads(), device)?;
        if let Some(reason) = &compiled.explain().device_reason {
            context.log(format!("{port} runs on the CPU: {reason}"));
        }
        for (node, reason) in compiled.explain().fallbacks() {
            context.log(format!("{port}: `{}` runs on the CPU: {reason}", node.name));
        }
        Ok(Self { port, folder, read, compiled })
    }
}

/// Turns in which models are timed: a machine that slows down for a while slows down all of them.
const TURNS: usize = 8;

/// One text alone, again and again, the models in turn; energy is taken over the same runs.
fn latencies(benches: &[Bench<'_>]) -> Result<()> {
    let mut found: Vec<_> = benches.iter().map(|_| Latency::new()).collect();
    for turn in 0..TURNS {
        for (bench, latency) in benches.iter().zip(&mut found) {
            latency.take_turn(bench, turn)?;
            ensure!(!bench.context.interrupted(), engine::Interrupted);
        }
    }
    benches.iter().zip(&found).for_each(|(bench, latency)| bench.latency(latency));
    Ok(())
}

/// Texts a second of each batch size and length, the models in turn.
fn throughputs(benches: &[Bench<'_>]) -> Result<()> {
    let budget = Budget { warmup: 1, runs: 12, time: Duration::from_millis(60), least: 2 };
    let mut best: Vec<Option<(f64, usize)>> = vec![None; benches.len()];
    let Some(first) = benches.first() else { return Ok(()) };
    for batch in first.params.batches.iter().map(|batch| batch.get()) {
        for sequence in first.params.sequences.iter().map(|sequence| sequence.get()) {
            let mut found = vec![Times::default(); benches.len()];
            for _ in 0..TURNS {
                for (bench, times) in benches.iter().zip(&mut found) {
                    if sequence <= bench.model.read.info.max_length {
                        times.extend(bench.times(batch, sequence, budget)?);
                    }
                    ensure!(!bench.context.interrupted(), engine::Interrupted);
                }
            }
            for ((bench, times), best) in benches.iter().zip(&found).zip(&mut best) {
                if times.len() == 0 {
                    continue;
                }
                let rate = batch as f64 * 1e3 / times.median();
                let name = format!("throughput-b{batch}-s{sequence}");
                bench.report(&name, rate, "examples/s", Some(times.len() as u64));
                if best.is_none_or(|(fastest, _)| rate > fastest) {
                    *best = Some((rate, times.len()));
                }
            }
        }
    }
    for (bench, best) in benches.iter().zip(best) {
        match best {
            Some((rate, runs)) => {
                bench.report("throughput", rate, "examples/s", Some(runs as u64));
            }
            None => bench.context.unavailable(
                &bench.name("throughput"),
                &format!(
                    "`batches` and `sequences` name nothing that this model takes, which is texts of up to {} word pieces",
                    bench.model.read.info.max_length
                ),
            ),
        }
    }
    Ok(())
}

/// Times of one model, and what the machine used for them.
struct Latency {
    times: Times,
    /// Joules and runs, or why they cannot be told.
    energy: Result<(f64, usize), String>,
}

impl Latency {
    fn new() -> Self {
        Self { times: Times::default(), energy: Ok((0.0, 0)) }
    }

    fn take_turn(&mut self, bench: &Bench<'_>, turn: usize) -> Result<()> {
        let params = bench.params;
        let budget = Budget {
            // Later on only what other models put into the caches has to leave them.
            warmup: if turn == 0 { 20 } else { 3 },
            runs: params.runs.get().div_ceil(TURNS),
            time: Duration::from_secs(params.seconds.get() as u64) / TURNS as u32,
            least: 3,
        };
        let counters = EnergyCounters::open();
        let read = || counters.as_ref().map_err(Clone::clone).and_then(EnergyCounters::read);
        let before = read();
        let times = bench.times(1, bench.sequence(), budget)?;
        let used = read().and_then(|after| Ok(counters.as_ref()?.joules(&before?, &after)));
        let runs = times.len() + budget.warmup;
        self.energy = match (std::mem::replace(&mut self.energy, Ok((0.0, 0))), used) {
            (Ok((joules, all)), Ok(used)) => Ok((joules + used, all + runs)),
            (Err(reason), _) | (_, Err(reason)) => Err(reason),
        };
        self.times.extend(times);
        Ok(())
    }
}

/// One model under measurement.
struct Bench<'a> {
    params: &'a Params,
    context: &'a StageContext,
    model: &'a Model<'a>,
}

impl Bench<'_> {
    fn name(&self, metric: &str) -> String {
        format!("bench/{}/{metric}", self.model.port)
    }

    /// Word pieces of the text that is measured alone.
    fn sequence(&self) -> usize {
        self.params.sequence.get().min(self.model.read.info.max_length)
    }

    fn report(&self, metric: &str, value: f64, unit: &str, samples: Option<u64>) {
        let name = self.name(metric);
        self.context.metric(Metric {
            name,
            value,
            unit: unit.to_owned(),
            samples,
            ..Metric::default()
        });
    }

    /// What the model takes; planned memory is its weights and the arena for one text.
    fn size(&self) -> Result<()> {
        let (read, compiled) = (&self.model.read, &self.model.compiled);
        let file = self.model.folder.join(WEIGHTS_FILE);
        let size = file
            .metadata()
            .with_context(|| format!("reading the size of {}", file.display()))?
            .len();
        self.report("weights", read.graph.weight_count() as f64, "count", None);
        self.report("size", size as f64, "bytes", None);
        let sequence = self.sequence();
        let bindings = Bindings::new([("batch", 1), ("sequence", sequence)]);
        let counts = counts::count(&read.graph, &bindings)?;
        self.report("flops", counts.flops as f64, "FLOP", None);
        let arena = compiled.peak_bytes(&bindings)?;
        let planned = arena + read.graph.weight_bytes();
        self.report("planned-memory", planned as f64, "bytes", None);
        match memory::measure(self.model.folder, sequence, self.context.threads()) {
            Ok(peak) => self.report("peak-memory", peak as f64, "bytes", None),
            Err(reason) => self.context.unavailable(&self.name("peak-memory"), &reason),
        }
        Ok(())
    }

    /// Scores on the test rows; gives the logits and which rows are right.
    fn accuracy(&self, dataset: &Dataset) -> Result<(Vec<Vec<f32>>, Vec<bool>)> {
        let tokenizer = Tokenizer::from_bytes(
            &self.model.read.tokenizer_json,
            self.model.read.info.max_length,
        )?;
        let test = texts::encode(&tokenizer, &dataset.test)?;
        let logits = predict::logits(&self.model.compiled, &test)?;
        let prefix = format!("bench/{}/", self.model.port);
        score::report(self.context, &prefix, Split::Test, &logits, &test)?;
        let correct = score::correct(&logits, &test.labels);
        Ok((logits, correct))
    }

    /// What is lost against the teacher on the same rows: a paired interval, and McNemar's exact test.
    fn drop(&self, teacher: &[bool], correct: &[bool]) -> Result<()> {
        let lost = paired_difference(teacher, correct, self.context.seed())?;
        let metric = |name: &str, value: f64, unit: &str| Metric {
            name: self.name(name),
            value,
            unit: unit.to_owned(),
            split: Some("test".to_owned()),
            samples: Some(correct.len() as u64),
            ..Metric::default()
        };
        let (low, high) = (Some(lost.low), Some(lost.high));
        let drop = metric("test/accuracy-drop", lost.value, "fraction");
        self.context.metric(Metric { low, high, ..drop });
        let p = mcnemar(teacher, correct)?;
        self.context.metric(metric("test/mcnemar-p", p, "probability"));
        Ok(())
    }

    fn latency(&self, Latency { times, energy }: &Latency) {
        for (name, percent) in [("latency-p50", 50.0), ("latency-p90", 90.0), ("latency-p99", 99.0)]
        {
            match times.percentile(percent) {
                Ok(value) => {
                    let (low, high) = times.interval(percent).unzip();
                    self.context.metric(Metric {
                        name: self.name(name),
                        value,
                        unit: "ms".to_owned(),
                        samples: Some(times.len() as u64),
                        low,
                        high,
                        ..Metric::default()
                    });
                }
                Err(reason) => self.context.unavailable(&self.name(name), &reason),
            }
        }
        match energy {
            Ok((joules, runs)) => {
                let each = joules / *runs as f64;
                self.report("energy", each, "J/inference", Some(*runs as u64));
            }
            Err(reason) => self.context.unavailable(&self.name("energy"), reason),
        }
    }

    fn times(&self, batch: usize, sequence: usize, budget: Budget) -> Result<Times> {
        let [ids, mask] = texts_of(&self.model.read, batch, sequence)?;
        let mut session = self.model.compiled.session();
        Times::measure(budget, || {
            session.run(&[("input_ids", &ids), ("attention_mask", &mask)]).map(drop)
        })
        .map_err(Into::into)
    }
}

/// Ids and mask of `batch` texts of `sequence` word pieces, no more than the model takes.
fn texts_of(model: &ModelFolder, batch: usize, sequence: usize) -> Result<[Tensor; 2]> {
    let table = structure::word_embedding(&model.graph)?.table;
    let rows = model.graph.weight(table).map_or(1, |table| table.shape()[0]);
    let shape = [batch, sequence];
    // Spread over the table, as words are, so that rows come from memory and not from cache.
    let ids = Tensor::from_fn(&shape, |index| (index * 7_919 % rows) as i64);
    Ok([ids, Tensor::from_fn(&shape, |_| 1i64)])
}
