//! BERT-shaped encoders and image networks on a GPU: answers beside those of the CPU, times beside
//! PyTorch's on the same GPU.
//!
//! `cargo bench -p runtime --features cuda --bench gpu`; with `PYTHON` set to an interpreter that
//! has `torch` for this GPU, PyTorch is timed in the same run. A row a model, size and way to run:
//! median milliseconds from tokens in memory to logits in memory, for ours and for PyTorch.
//!
//! | variable | what | without it |
//! |---|---|---|
//! | `GPU_DEVICE` | the device, as `--device` of the command takes it | `gpu` |
//! | `GPU_CELLS` | batch×sequence: `1x32,8x128` | `1x32,1x128,8x128,32x128` |
//! | `GPU_MODELS` | `minilm,base` or one of them | both |
//! | `GPU_WAYS` | `f32,bf16,int8` or some of them; int8 has the rest in bf16 | all |
//! | `GPU_RUNS` | timed runs of each, after 5 that do not count | 50 |
//! | `GPU_IMAGES` | networks of torchvision instead of encoders: `resnet50,mobilenet_v2`; `PYTHON` writes them | none |
//! | `GPU_BATCHES` | images at a time | `1,8,32` |

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measures")]

mod images;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use graph::bert::{BertConfig, BertLayer, Pooling, build, initial_weights};
use graph::rewrite::quantize::{PointKind, QuantizeOptions, insert, points, set_activation_scale};
use graph::{Graph, Tensor};
use runtime::{CompileOptions, CompiledModel, Device, Precision, compile};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gpu/peers.py");
const VOCABULARY: usize = 30_522;
const SEED: u64 = 1;
const WARM_UP: usize = 5;

/// Layers, hidden size and inner size of an encoder with 12 heads.
const MODELS: [(&str, [usize; 3]); 2] = [("minilm", [6, 384, 1536]), ("base", [12, 768, 3072])];

/// Batch and sequence.
type Cell = [usize; 2];

/// One way to run a model.
struct Way {
    name: &'static str,
    on_gpu: CompiledModel,
    on_cpu: CompiledModel,
}

fn main() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    let device: Device = variable("GPU_DEVICE")
        .as_deref()
        .unwrap_or("gpu")
        .parse()
        .map_err(anyhow::Error::msg)
        .context("GPU_DEVICE")?;
    let runs: usize = variable("GPU_RUNS").map_or(Ok(50), |runs| runs.parse())?;
    if let Some(models) = variable("GPU_IMAGES") {
        let python = variable("PYTHON").context("GPU_IMAGES: expected PYTHON, to write them")?;
        let batches = variable("GPU_BATCHES").unwrap_or("1,8,32".to_owned());
        let batches = batches.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
        return images::run(&python, &models, &batches.context("GPU_BATCHES")?, device, runs);
    }
    let cells = cells(&variable("GPU_CELLS").unwrap_or("1x32,1x128,8x128,32x128".to_owned()))?;
    let named = |name: &str, all: &str| variable(name).unwrap_or_else(|| all.to_owned());
    let (models, wanted) = (named("GPU_MODELS", "minilm,base"), named("GPU_WAYS", "f32,bf16,int8"));
    println!("| model | batch×sequence | way | ours ms | PyTorch ms | greatest difference |");
    println!("|---|---|---|---|---|---|");
    for (model, [layers, hidden, intermediate]) in MODELS {
        if !models.split(',').any(|name| name == model) {
            continue;
        }
        let layer = BertLayer { heads: 12, intermediate };
        let config = BertConfig::uniform(VOCABULARY, hidden, layers, layer);
        let config = BertConfig { pooling: Pooling::Cls, ..config };
        let float = build(&config, &mut initial_weights(SEED))?;
        let ways = ways(&float, device, &wanted)?;
        let name = ways.first().context("GPU_WAYS")?.on_gpu.explain().device.clone();
        let peers = peers(&name, [layers, hidden, intermediate], &cells, runs)?;
        for &cell in &cells {
            for way in &ways {
                let (milliseconds, difference) = measure_cell(way, cell, runs)?;
                let [batch, sequence] = cell;
                let key = format!("{} {batch}x{sequence}", way.name);
                let peer = peers.get(&key).map_or("–".to_owned(), |ms| format!("{ms:.3}"));
                println!(
                    "| {model} | {batch}×{sequence} | {} | {milliseconds:.3} | {peer} | {difference:.1e} |",
                    way.name
                );
            }
        }
    }
    Ok(())
}

fn cells(text: &str) -> anyhow::Result<Vec<Cell>> {
    let cell = |text: &str| {
        let (batch, sequence) = text.split_once('x').context("expected BATCHxSEQUENCE")?;
        anyhow::Ok([batch.parse()?, sequence.parse()?])
    };
    text.split(',').map(cell).collect::<anyhow::Result<_>>().context("GPU_CELLS")
}

fn ways(float: &Graph, device: Device, wanted: &str) -> anyhow::Result<Vec<Way>> {
    let integer = quantized(float)?;
    let all = [
        ("f32", float, Precision::F32),
        ("bf16", float, Precision::Bf16),
        ("int8", &integer, Precision::Bf16),
    ];
    let way = |(name, graph, precision)| {
        let compile = |device| {
            compile(graph, &CompileOptions { device, precision, ..CompileOptions::default() })
        };
        let way = Way { name, on_gpu: compile(device)?, on_cpu: compile(Device::Cpu)? };
        for (node, reason) in way.on_gpu.explain().fallbacks() {
            println!("{name}: `{}` runs on the CPU: {reason}", node.name);
        }
        anyhow::Ok(way)
    };
    let chosen = all.into_iter().filter(|(name, ..)| wanted.split(',').any(|way| way == *name));
    chosen.map(way).collect()
}

/// The graph in 8-bit integers; scales as if every activation reached 8.
fn quantized(float: &Graph) -> anyhow::Result<Graph> {
    let mut graph = float.clone();
    insert(&mut graph, &QuantizeOptions { float: Vec::new(), embeddings: true })?;
    let points = points(&graph);
    let activations = points.iter().filter(|point| point.kind == PointKind::Activation);
    let names: Vec<String> =
        activations.map(|point| graph.value_name(point.scale).to_owned()).collect();
    for name in names {
        set_activation_scale(&mut graph, &name, 8.0 / 127.0)?;
    }
    Ok(graph)
}

fn measure_cell(way: &Way, [batch, sequence]: Cell, runs: usize) -> anyhow::Result<(f64, f32)> {
    let shape = [batch, sequence];
    let ids = Tensor::from_fn(&shape, |index| (1000 + index * 7919 % (VOCABULARY - 1000)) as i64);
    let mask = Tensor::from_fn(&shape, |_| 1i64);
    let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
    measure(way.name, [&way.on_gpu, &way.on_cpu], &inputs, runs)
}

/// Median milliseconds, and the greatest difference from the CPU's logits.
fn measure(
    way: &str,
    [on_gpu, on_cpu]: [&CompiledModel; 2],
    inputs: &[(&str, &Tensor)],
    runs: usize,
) -> anyhow::Result<(f64, f32)> {
    let mut session = on_gpu.session();
    let mut times = Vec::new();
    for run in 0..WARM_UP + runs {
        let start = Instant::now();
        session.run_borrowed(inputs)?;
        if run >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    ensure!(!times.is_empty(), "GPU_RUNS: expected at least 1");
    if let Some(reason) = session.recording_refused() {
        println!("{way}: launched one by one: {reason}");
    }
    times.sort_by(f64::total_cmp);
    let [found, expected] =
        [session.run(inputs)?, on_cpu.session().run(inputs)?].map(|mut all| all.remove(0));
    let pairs = found.elements::<f32>()?.iter().zip(expected.elements::<f32>()?);
    let differences = pairs.map(|(a, b)| (a - b).abs());
    let difference =
        differences.map(|x| if x.is_nan() { f32::INFINITY } else { x }).fold(0.0, f32::max);
    Ok((times[times.len() / 2], difference))
}

/// PyTorch's median milliseconds by way and cell; nothing where there is no PyTorch.
fn peers(
    device: &str,
    sizes: [usize; 3],
    cells: &[Cell],
    runs: usize,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let Ok(python) = std::env::var("PYTHON") else { return Ok(BTreeMap::new()) };
    let cells = cells.iter().map(|[batch, sequence]| format!("{batch}x{sequence}"));
    let sizes = sizes.map(|size| size.to_string());
    let output = Command::new(python)
        .arg(SCRIPT)
        .arg(device)
        .args(sizes)
        .arg(runs.to_string())
        .args(cells)
        .output()
        .context("starting PYTHON")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "peers.py failed: {said}");
    serde_json::from_slice(&output.stdout).context("reading the answer of peers.py")
}
