//! Answers of a compiled model, and how long they take.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use engine::{Metric, StageContext};
use graph::package::Package;
use graph::{Graph, Tensor};
use runtime::{CompileOptions, CompiledModel, Device, FailedTier, Session};
use training::{Batch, Examples};

/// Rows that go through the runtime together.
const BATCH: usize = 16;

/// Compiles `graph` for `threads` threads of the CPU.
pub(crate) fn compile(graph: &Graph, threads: usize) -> Result<CompiledModel> {
    compile_for(graph, threads, Device::Cpu)
}

/// Compiles `graph` for a device and `threads` threads of the CPU.
pub(crate) fn compile_for(graph: &Graph, threads: usize, device: Device) -> Result<CompiledModel> {
    let threads = NonZeroUsize::new(threads);
    Ok(runtime::compile(graph, &CompileOptions { threads, device, ..CompileOptions::default() })?)
}

/// Compiles a package's model with the fastest kernels that pass its self-test on a device, and
/// says which failed it: a line in the log for each, and their number as the metric
/// `<phase>/failed-kernel-tiers`.
///
/// # Errors
/// When no kernels of this machine reproduce the package's golden answers.
pub(crate) fn load(
    package: &Package,
    phase: &str,
    device: Device,
    context: &StageContext,
) -> Result<CompiledModel> {
    let threads = NonZeroUsize::new(context.threads());
    let options = CompileOptions { threads, device, ..CompileOptions::default() };
    let verified = runtime::load(package, &options)?;
    let runs = verified.model.explain().tier.clone();
    for FailedTier { tier, reason } in &verified.failed {
        context.log(format!("kernels for {tier} failed the self-test, {runs} runs: {reason}"));
    }
    context.metric(Metric {
        name: format!("{phase}/failed-kernel-tiers"),
        value: verified.failed.len() as f64,
        unit: "count".to_owned(),
        ..Metric::default()
    });
    Ok(verified.model)
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
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut outputs = session.run(&borrowed)?;
    ensure!(!outputs.is_empty(), "the model has no output");
    Ok(outputs.swap_remove(0))
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
