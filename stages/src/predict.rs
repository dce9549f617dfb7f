//! Answers of a compiled model, and the self-test that every load of a package makes.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use graph::package::Package;
use graph::{Graph, Tensor};
use runtime::{CompileOptions, CompiledModel, Session};
use training::{Batch, Examples};
use training::metrics::argmax;

/// Rows that go through the runtime together.
const BATCH: usize = 16;

/// Compiles `graph` for `threads` threads.
pub(crate) fn compile(graph: &Graph, threads: usize) -> Result<CompiledModel> {
    let threads = NonZeroUsize::new(threads);
    Ok(runtime::compile(graph, &CompileOptions { threads, ..CompileOptions::default() })?)
}

/// The logits of each example, in order.
pub(crate) fn logits(model: &CompiledModel, examples: &Examples) -> Result<Vec<Vec<f32>>> {
    let mut session = model.session();
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&row| examples.ids[row].len());
    let mut answers = vec![Vec::new(); examples.len()];
    for rows in order.chunks(BATCH) {
        let output = answer(&mut session, &examples.batch(rows))?;
        let classes = output.shape()[1];
        for (&row, logits) in rows.iter().zip(output.elements::<f32>()?.chunks(classes.max(1))) {
            answers[row] = logits.to_vec();
        }
    }
    Ok(answers)
}

/// The inputs of a text classifier for one batch, by name.
pub(crate) fn inputs(batch: &Batch) -> Result<[(&'static str, Tensor); 2]> {
    let shape = [batch.rows.len(), batch.length];
    let ids = Tensor::new(&shape, batch.ids.clone())?;
    let mask = Tensor::new(&shape, batch.mask.clone())?;
    Ok([("input_ids", ids), ("attention_mask", mask)])
}

fn answer(session: &mut Session, batch: &Batch) -> Result<Tensor> {
    let inputs = inputs(batch)?;
    let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut outputs = session.run(&borrowed)?;
    ensure!(!outputs.is_empty(), "the model has no output");
    Ok(outputs.swap_remove(0))
}

/// Greatest difference from an expected logit that kernels of another machine may make, as a
/// share of the greatest expected magnitude.
const TOLERANCE: f32 = 1e-2;

/// Runs the golden examples of a package and compares the answers with those it was packed with.
///
/// # Errors
///
/// Says which example differs, by how much, and that the model must not be served.
pub(crate) fn self_test(package: &Package, model: &CompiledModel) -> Result<()> {
    let mut session = model.session();
    for (index, example) in package.golden.examples.iter().enumerate() {
        let borrowed: Vec<(&str, &Tensor)> =
            example.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let outputs = session.run(&borrowed)?;
        ensure!(outputs.len() == example.outputs.len(), "golden example {index}: another number of outputs");
        for (found, (name, expected)) in outputs.iter().zip(&example.outputs) {
            compare(found, expected).map_err(|reason| {
                anyhow::anyhow!("golden example {index}, output `{name}`: {reason}; the package must not be served on this machine")
            })?;
        }
    }
    Ok(())
}

fn compare(found: &Tensor, expected: &Tensor) -> Result<(), String> {
    if found.shape() != expected.shape() {
        return Err(format!("expected shape {:?}, found {:?}", expected.shape(), found.shape()));
    }
    let elements = |tensor: &Tensor| tensor.elements::<f32>().map(<[f32]>::to_vec).map_err(|error| error.to_string());
    let (found, wanted) = (elements(found)?, elements(expected)?);
    let limit = TOLERANCE * wanted.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
    let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // `!(a <= b)` also refuses NaN.
    if !(worst <= limit) {
        return Err(format!("expected answers within {limit:.2e}, found a difference of {worst:.2e}"));
    }
    let columns = expected.shape().last().copied().unwrap_or(1).max(1);
    let rows = found.chunks(columns).zip(wanted.chunks(columns));
    match rows.enumerate().find(|(_, (found, wanted))| argmax(found) != argmax(wanted)) {
        Some((row, _)) => Err(format!("row {row} is answered with another class")),
        None => Ok(()),
    }
}

/// Median time of one text of `sequence` word pieces, in milliseconds.
pub(crate) fn median_latency_ms(graph: &Graph, sequence: usize, threads: usize) -> Result<f64> {
    let compiled = compile(graph, threads)?;
    let mut session = compiled.session();
    let ids = Tensor::from_fn(&[1, sequence], |_| 0i64);
    let mask = Tensor::from_fn(&[1, sequence], |_| 1i64);
    let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
    for _ in 0..5 {
        session.run(&inputs)?;
    }
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() < 15 || (start.elapsed() < Duration::from_millis(120) && times.len() < 200) {
        let start = Instant::now();
        session.run(&inputs)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
