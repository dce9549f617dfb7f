//! Times of image networks in f32 and int8 on two threads, ours in turn with onnxruntime and OpenVINO: medians
//! over rounds in one run, so that what else the machine does touches all alike. Those in f32 are timed in bf16
//! too, where the CPU multiplies that faster; onnxruntime, which does not, stays at f32 then.
//!
//! `PYTHON=… cargo bench -p runtime --bench images`; the interpreter needs `onnx`, which has the
//! networks, `onnxruntime` and `openvino`. `PIPELINE_KERNELS` forces a tier of ours.
//!
//! | variable | what | without it |
//! |---|---|---|
//! | `IMAGES_MODELS` | `resnet50,vgg19` or others of them | all |
//! | `IMAGES_ROUNDS` | turns that each takes | 3 |
//! | `IMAGES_SECONDS` | least seconds of a turn | 1 |

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measures")]

use std::env;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use graph::onnx::{ImportOptions, import};
use graph::{Bindings, Tensor, counts};
use kernels::Cpu;
use kernels::peaks::{Effort, Numbers, Peaks};
use runtime::{CompileOptions, Level, Precision, Session, compile};
use serde::Deserialize;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/images/peers.py");
const THREADS: usize = 2;
const PEERS: [&str; 2] = ["onnxruntime", "openvino"];
const PEERS_IN_BF16: [&str; 2] = ["onnxruntime", "openvino-bf16"];

/// Least runs of a turn, after one that does not count.
const LEAST_RUNS: usize = 3;

/// What a turn gives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    /// Of each run.
    seconds: Vec<f64>,
    output: Vec<f32>,
}

struct Settings {
    models: Vec<String>,
    rounds: usize,
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let Some(python) = env::var_os("PYTHON") else {
        println!("nothing to time: the networks come from the package onnx of PYTHON, not set");
        return Ok(());
    };
    let variable = |name: &str| env::var(name).ok();
    let settings = Settings {
        models: variable("IMAGES_MODELS")
            .map(|names| names.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
        rounds: variable("IMAGES_ROUNDS").map_or(Ok(3), |number| number.parse())?,
        seconds: variable("IMAGES_SECONDS").map_or(Ok(1.0), |number| number.parse())?,
    };
    let folder = tempfile::tempdir()?;
    let status = Command::new(&python).arg(SCRIPT).arg("write").arg(folder.path()).status()?;
    ensure!(status.success(), "{SCRIPT} ended with {status}");
    let peaks = Peaks::measure(THREADS, Effort::THOROUGH);
    let cpu = Cpu::from_environment()?;
    let tier = cpu.tier();
    let peak = |numbers| Some(peaks.as_ref()?.fastest(numbers, tier)?.rate);
    let shown = |numbers| peak(numbers).map_or("unknown".to_owned(), |peak| format!("{peak:.0}"));
    let [f32_peak, bf16_peak] = [Numbers::F32, Numbers::Bf16].map(shown);
    println!("tier {tier}, {THREADS} threads, peaks, Gop/s: f32 {f32_peak}, bf16 {bf16_peak}\n");
    println!("Medians, ms; Gop/s of all operations.\n");
    println!(
        "| model | Gop | ours | {} | {} | best peer ÷ ours | O0 ÷ ours | Gop/s | of peak | difference |",
        PEERS[0], PEERS[1]
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut files = std::fs::read_dir(folder.path())?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    files.sort();
    for file in files {
        let name = file.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        if !settings.models.is_empty() && !settings.models.iter().any(|model| model == name) {
            continue;
        }
        let f32_peak = peak(Numbers::F32);
        println!("{}", measure(&python, &file, (name, Precision::F32), &settings, f32_peak)?);
        if cpu.multiplies_bf16() && !name.ends_with("int8") {
            let peak = peak(Numbers::Bf16);
            println!("{}", measure(&python, &file, (name, Precision::Bf16), &settings, peak)?);
        }
    }
    Ok(())
}

/// The row of a model: every contender in turn, in every round.
fn measure(
    python: &OsStr,
    file: &Path,
    (name, precision): (&str, Precision),
    settings: &Settings,
    peak: Option<f64>,
) -> anyhow::Result<String> {
    let graph = import(file, &ImportOptions::default())?;
    let flops = counts::count(&graph, &Bindings::default())?.flops as f64;
    let options = |level| CompileOptions {
        threads: NonZeroUsize::new(THREADS),
        level,
        precision,
        ..CompileOptions::default()
    };
    let mut ours = compile(&graph, &options(Level::O3))?.session();
    let mut unfused = compile(&graph, &options(Level::O0))?.session();
    let (peers, suffix) = match precision {
        Precision::F32 => (PEERS, ""),
        Precision::Bf16 => (PEERS_IN_BF16, ", bf16"),
    };
    let &[input] = graph.inputs() else { anyhow::bail!("{name}: expected one input") };
    let shape = graph.value_type(input).shape.iter().map(graph::Dim::fixed);
    let shape = shape.collect::<Option<Vec<_>>>().context("expected sizes that are numbers")?;
    let x = Tensor::from_fn(&shape, |index| (index * 7919 % 1009) as f32 / 1009.0 - 0.5);
    let inputs = [(graph.value_name(input), &x)];
    let (mut times, mut outputs) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
    for _ in 0..settings.rounds {
        let mut turns = vec![
            turn(&mut ours, &inputs, settings.seconds)?,
            turn(&mut unfused, &inputs, settings.seconds)?,
        ];
        for peer in peers {
            turns.push(peer_turn(python, file, peer, settings.seconds)?);
        }
        for (index, turn) in turns.into_iter().enumerate() {
            times[index].extend(turn.seconds);
            outputs[index] = turn.output;
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times) * 1e3).collect();
    let [own, plain, theirs @ ..] = medians.as_slice() else { unreachable!("there are four") };
    let best = theirs.iter().copied().fold(f64::INFINITY, f64::min);
    let rate = flops / own / 1e6;
    let share = peak.map_or_else(|| "–".to_owned(), |peak| format!("{:.0} %", 100.0 * rate / peak));
    let range = outputs[0].iter().fold(0f32, |range, x| range.max(x.abs()));
    let difference = outputs[1..].iter().map(|other| distance(&outputs[0], other));
    let difference = difference.fold(0.0, f32::max) / range;
    let theirs: Vec<String> = theirs.iter().map(|time| format!("{time:.2}")).collect();
    Ok(format!(
        "| {name}{suffix} | {:.2} | {own:.2} | {} | {:.2} | {:.2} | {rate:.0} | {share} | {difference:.0e} |",
        flops / 1e9,
        theirs.join(" | "),
        best / own,
        plain / own
    ))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Largest difference; infinite where an answer is no number or not there.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.map(|x| if x.is_nan() { f32::INFINITY } else { x }).fold(0.0, f32::max)
}

/// Runs ours for at least these seconds.
fn turn(session: &mut Session, inputs: &[(&str, &Tensor)], seconds: f64) -> anyhow::Result<Turn> {
    let outputs = session.run_borrowed(inputs)?;
    let output = outputs.iter().next().context("expected an output")?.elements()?.to_vec();
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() < LEAST_RUNS || start.elapsed().as_secs_f64() < seconds {
        let begin = Instant::now();
        session.run_borrowed(inputs)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    Ok(Turn { seconds: times, output })
}

/// A turn of a peer, in a process of its own.
fn peer_turn(python: &OsStr, file: &Path, peer: &str, seconds: f64) -> anyhow::Result<Turn> {
    let mut command = Command::new(python);
    command.arg(SCRIPT).arg("run").arg(file).arg(peer);
    command.arg(THREADS.to_string()).arg(seconds.to_string());
    let answer = command.output()?;
    let said = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.success(), "{peer} ended with {}: {said}", answer.status);
    serde_json::from_slice(&answer.stdout).with_context(|| format!("{peer}: {said}"))
}
