//! Training and inference throughput of a BERT-shaped encoder, in the sizes that PyTorch is
//! measured with: batch 32, sequence 64, AdamW, dropout 0.1.
//!
//! `cargo bench -p training -- [6|4|2] [STEPS]`: 6 layers of width 384 (the default), 4 of 256 or
//! 2 of 128; prints medians after two steps to warm up. With `PYTHON` set to an interpreter that has
//! `torch`, PyTorch is timed in turn with ours, three rounds each, and the ratio is printed.
//!
//! Runs as workers do, with an allocator that keeps its memory: giving each step's tensors back to
//! the system and faulting them in again costs about a tenth of a step.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measures")]

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context as _;
use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use training::objectives::Supervised;
use training::random::Stream;
use training::{
    Batch, Device, Examples, Loss, Network, NetworkOptions, Objective, Recipe, Silent, Step,
    evaluate, fit,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 32;
const SEQUENCE: usize = 64;
const VOCABULARY: usize = 30_522;
const WARM_UP: usize = 2;

/// Notes when each step starts.
struct Timed {
    inner: Supervised,
    starts: Vec<Instant>,
}

impl Objective for Timed {
    fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> anyhow::Result<Loss> {
        self.starts.push(Instant::now());
        self.inner.loss(network, batch, step)
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn report(what: &str, seconds: f64) {
    println!(
        "{what}: {:.1} ms a batch, {:.1} examples/s, {:.0} tokens/s",
        seconds * 1e3,
        BATCH as f64 / seconds,
        (BATCH * SEQUENCE) as f64 / seconds
    );
}

/// Name and value of the variable that makes the allocator keep freed memory.
const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// Turns that each side takes.
const ROUNDS: usize = 3;

/// An encoder's sizes.
#[derive(Clone, Copy)]
struct Shape {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
}

fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let layers = numbers.first().copied().unwrap_or(6);
    let steps = numbers.get(1).copied().unwrap_or(9);
    let (hidden, heads, intermediate) = match layers {
        6 => (384, 12, 1536),
        4 => (256, 8, 1024),
        2 => (128, 4, 512),
        other => anyhow::bail!("expected 6, 4 or 2 layers, found {other}"),
    };
    let shape = Shape { hidden, layers, heads, intermediate };
    let (name, value) = KEEP_MEMORY;
    if std::env::var_os(name).is_some() {
        let [training, inference] = measure(shape, steps)?;
        println!("{training} {inference}");
        return Ok(());
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // The allocator reads the variable before `main`, so it takes a process of its own.
        let mut again = Command::new(std::env::current_exe()?);
        ours.push(times(again.args([layers, steps].map(|n| n.to_string())).env(name, value))?);
        if let Some(python) = std::env::var_os("PYTHON") {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/pytorch.py");
            let sizes = [hidden, layers, heads, intermediate, steps].map(|n| n.to_string());
            theirs.push(times(Command::new(python).arg(script).args(sizes))?);
        }
    }
    for (index, what) in ["training ", "inference"].iter().enumerate() {
        let of = |rounds: &[[f64; 2]]| median(rounds.iter().map(|times| times[index]).collect());
        report(&format!("{what} L{layers} H{hidden}"), of(&ours));
        if !theirs.is_empty() {
            report(&format!("{what} L{layers} H{hidden}, PyTorch"), of(&theirs));
            println!("{what} PyTorch's time / ours: {:.2}", of(&theirs) / of(&ours));
        }
    }
    Ok(())
}

/// What a measuring process prints: seconds of a training step and of an inference.
fn times(command: &mut Command) -> anyhow::Result<[f64; 2]> {
    let output = command.stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| text.clone())?;
    <[f64; 2]>::try_from(numbers).map_err(|_| anyhow::anyhow!("expected two numbers, found {text}"))
}

fn measure(shape: Shape, steps: usize) -> anyhow::Result<[f64; 2]> {
    let Shape { hidden, layers, heads, intermediate } = shape;
    let steps = steps + WARM_UP;
    let config = BertConfig::uniform(VOCABULARY, hidden, layers, BertLayer { heads, intermediate });
    let graph = build(&config, &mut initial_weights(42))?;
    let mut network = Network::new(&graph, &Device::cpu(), &NetworkOptions::default())?;
    let mut stream = Stream::new(42);
    let ids: Vec<Vec<u32>> = (0..steps * BATCH)
        .map(|_| (0..SEQUENCE).map(|_| stream.below(VOCABULARY) as u32).collect())
        .collect();
    let labels = ids.iter().map(|ids| usize::from(ids[0] > 15_000)).collect();
    let examples = Examples { ids, labels };
    let recipe = Recipe { epochs: 1, batch_size: BATCH, ..Recipe::default() };
    let mut objective = Timed { inner: Supervised::new(2, 0.0, None), starts: Vec::new() };
    fit(&mut network, &examples, None, &mut objective, &recipe, &mut Silent)?;
    let steps = objective.starts.windows(2).skip(WARM_UP);
    let training = median(steps.map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect());
    let batch =
        Examples { ids: examples.ids[..BATCH].to_vec(), labels: examples.labels[..BATCH].to_vec() };
    let mut seconds = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        evaluate(&network, &batch, BATCH)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok([training, median(seconds.split_off(WARM_UP))])
}
