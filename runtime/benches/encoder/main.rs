//! Times of BERT-shaped encoders on two threads, ours in turn with OpenVINO and onnxruntime:
//! medians over rounds in one run, so that what else the machine does touches all alike. Peers
//! quantize and fuse for themselves, and also run the integers that we quantized (`qdq`).
//!
//! `cargo bench -p runtime`; with `PYTHON` set to an interpreter that has `openvino`, `nncf`,
//! `onnxruntime`, `onnx` and `sympy`, these are timed too. `PIPELINE_KERNELS` forces a tier of ours.
//!
//! | variable | what | without it |
//! |---|---|---|
//! | `ENCODER_MODELS` | `minilm,base,tiny` or some of them | all |
//! | `ENCODER_CELLS` | batch×sequence: `1x32,8x128` | the cells of each model |
//! | `ENCODER_PEERS` | peers whose name holds one of these: `openvino,int8` | all |
//! | `ENCODER_ROUNDS` | turns that each takes in a cell | 5 |
//! | `ENCODER_SECONDS` | least seconds of a turn | 0.3 |
//! | `ENCODER_FILES` | folder that keeps the files that peers made; empty it when the graph changes | a temporary one |

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measures")]

mod models;
mod peaks;
mod peers;
mod settings;
mod table;

use std::time::Instant;

use kernels::Cpu;
use runtime::Session;

use crate::models::Variants;
use crate::peaks::Peaks;
use crate::peers::Peers;
use crate::settings::Settings;
use crate::table::{Differences, HEAD, Measured};

const THREADS: usize = 2;

/// Least runs of a turn, after one that does not count.
const LEAST_RUNS: usize = 3;

/// Batch and sequence.
type Cell = (usize, usize);

/// What a turn gives.
struct Turn {
    /// Of each run.
    seconds: Vec<f64>,
    logits: Vec<f32>,
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::from_environment()?;
    let temporary = tempfile::tempdir()?;
    let folder = settings.files.as_deref().unwrap_or(temporary.path());
    let mut peers = Peers::start(&settings, folder, THREADS)?;
    let peaks = Peaks::measure(THREADS);
    let known = peaks.as_ref().map_or_else(|error| format!("no peaks: {error:#}"), Peaks::describe);
    let peaks = peaks.unwrap_or_default();
    let tier = Cpu::from_environment()?.tier();
    println!("tier {tier}, {THREADS} threads; {}; {known}\n", peers.describe());
    println!("{HEAD}");
    let mut differences = Differences::default();
    for model in &settings.models {
        let variants = Variants::new(model, THREADS)?;
        if !peers.is_empty() {
            variants.write(folder)?;
        }
        for &cell in settings.cells.as_deref().unwrap_or(model.cells) {
            let measured = measure(&variants, cell, &settings, &mut peers)?;
            measured.rows(&peaks).iter().for_each(|row| println!("{row}"));
            differences.add(&measured);
        }
    }
    println!("\n{differences}");
    peers.stop()
}

/// One cell: every contender in turn, in every round.
fn measure(
    variants: &Variants,
    cell: Cell,
    settings: &Settings,
    peers: &mut Peers,
) -> anyhow::Result<Measured> {
    let mut ours = variants.contenders();
    let mut theirs = peers.contenders();
    for _ in 0..settings.rounds {
        for (contender, session) in &mut ours {
            contender.add(turn(session, cell, settings.seconds)?);
        }
        for contender in theirs.iter_mut().filter(|contender| contender.failure.is_none()) {
            match peers.run(variants.model.name, &contender.name, cell, settings.seconds)? {
                Ok(turn) => contender.add(turn),
                Err(failure) => contender.failure = Some(failure),
            }
        }
    }
    let ours = ours.map(|(contender, _)| contender);
    let flops = variants.flops(cell)?;
    Ok(Measured { model: variants.model.name, cell, flops, ours, peers: theirs })
}

/// Runs ours for at least these seconds.
fn turn(session: &mut Session, cell: Cell, seconds: f64) -> anyhow::Result<Turn> {
    let (ids, mask) = models::inputs(cell);
    let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
    let outputs = session.run_borrowed(&inputs)?;
    let logits = outputs.get("logits").expect("the builder names it").elements()?.to_vec();
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() < LEAST_RUNS || start.elapsed().as_secs_f64() < seconds {
        let begin = Instant::now();
        session.run_borrowed(&inputs)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    Ok(Turn { seconds: times, logits })
}
