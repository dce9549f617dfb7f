//! Training and inference throughput of a BERT-shaped encoder, in the sizes that PyTorch is
//! measured with: batch 32, sequence 64, AdamW, dropout 0.1.
//!
//! `cargo bench -p training -- [6|4|2] [STEPS]`: 6 layers of width 384 (the default), 4 of 256 or
//! 2 of 128; prints the median over the steps after two to warm up.
//!
//! Runs as workers do, with an allocator that keeps its memory: giving each step's tensors back to
//! the system and faulting them in again costs about a tenth of a step.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measures")]

use std::process::Command;
use std::time::Instant;

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

fn main() -> anyhow::Result<()> {
    let (name, value) = KEEP_MEMORY;
    if std::env::var_os(name).is_none() {
        // The allocator reads it before `main`, so it takes a process of its own.
        let mut again = Command::new(std::env::current_exe()?);
        let status = again.args(std::env::args_os().skip(1)).env(name, value).status()?;
        anyhow::ensure!(status.success(), "the measuring process ended with {status}");
        return Ok(());
    }
    measure()
}

fn measure() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let layers = numbers.first().copied().unwrap_or(6);
    let steps = numbers.get(1).copied().unwrap_or(9) + WARM_UP;
    let (hidden, heads, intermediate) = match layers {
        6 => (384, 12, 1536),
        4 => (256, 8, 1024),
        2 => (128, 4, 512),
        other => anyhow::bail!("expected 6, 4 or 2 layers, found {other}"),
    };
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
    let name = format!("L{layers} H{hidden}, {} weights", graph.weight_count());
    let steps = objective.starts.windows(2).skip(WARM_UP);
    let seconds = steps.map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    report(&format!("training  {name}"), median(seconds));
    let batch =
        Examples { ids: examples.ids[..BATCH].to_vec(), labels: examples.labels[..BATCH].to_vec() };
    let mut seconds = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        evaluate(&network, &batch, BATCH)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    report(&format!("inference {name}"), median(seconds));
    Ok(())
}
