//! `pipeline bench MODEL`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use graph::{Tensor, counts, samples};
use runtime::{Explanation, FailedTier, SlicedUse};
use serde::Serialize;

use super::answer::{Answer, Facts};
use super::failure::{Failure, WRONG};
use super::model::{Compilation, Source, failed_tiers, place, sizes};
use super::quantity::bytes;

/// Runs before the clock starts: the first plans memory and fills caches.
const WARM_UP: usize = 3;
/// Fewest timed runs; a 99th percentile needs more than this, see [`Report::p99_ms`].
const FEWEST: usize = 10;
/// Runs below which a 99th percentile says nothing.
const FEWEST_FOR_P99: usize = 300;

/// Times a model on inputs that are made up.
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    #[command(flatten)]
    source: Source,
    /// How long to run
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    #[command(flatten)]
    compilation: Compilation,
    #[command(flatten)]
    facts: Facts,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    /// Why no GPU runs it although one was welcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_reason: Option<String>,
    /// Nodes that run on the CPU although the model runs on a GPU.
    fallbacks: usize,
    tier: String,
    /// Faster tiers whose kernels failed the package's self-test on this machine, and why.
    failed_tiers: Vec<FailedTier>,
    threads: usize,
    sizes: String,
    runs: usize,
    p50_ms: f64,
    p90_ms: f64,
    /// Absent where there were too few runs.
    p99_ms: Option<f64>,
    least_ms: f64,
    /// Multiply and add count as two; absent where sizes depend on values.
    flops: Option<u64>,
    gflops_per_s: Option<f64>,
    weight_bytes: u64,
    /// Bytes of the planned arena; absent where sizes depend on values.
    arena_bytes: Option<u64>,
    /// Least bytes that any plan of these steps needs.
    arena_bound_bytes: Option<u64>,
    /// Slices of the batch that the run is cut into, and the bytes that they take instead.
    sliced: Option<SlicedUse>,
    first_run_ms: f64,
    compile_ms: f64,
}

impl Bench {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        if !(self.seconds > 0.0 && self.seconds.is_finite()) {
            return Err(Failure::wrong("expected --seconds above 0"));
        }
        let opened = self.source.open()?;
        let graph = &opened.model.graph;
        let (bindings, sizes) = sizes(graph, &self.source.bindings(), opened.usual_length());
        let inputs = samples::inputs(graph, &bindings, 0).map_err(Failure::wrong)?;
        let start = Instant::now();
        let (compiled, failed_tiers) = self.compilation.compile(&opened)?;
        let compile_time = start.elapsed();
        let inputs: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut session = compiled.session();
        let mut run = || -> anyhow::Result<Duration> {
            let start = Instant::now();
            session.run_borrowed(&inputs).with_context(|| {
                let at = if sizes.is_empty() { String::new() } else { format!(" with {sizes}") };
                format!("the model does not run on made-up inputs{at}; --bind gives other sizes")
            })?;
            Ok(start.elapsed())
        };
        let wrong = |error| Failure::Other(error, WRONG);
        let first_run = run().map_err(wrong)?;
        let times = timed(self.seconds, run).map_err(wrong)?;
        let flops = counts::count(graph, &bindings).ok().map(|counts| counts.flops);
        let dynamic = compiled.explain().dynamic;
        let memory = if dynamic { None } else { compiled.memory(&bindings).ok() };
        let p50_ms = percentile(&times, 50);
        let report = Report {
            device: compiled.explain().device.clone(),
            device_reason: compiled.explain().device_reason.clone(),
            fallbacks: compiled.explain().fallbacks().count(),
            tier: compiled.explain().tier.clone(),
            failed_tiers,
            threads: compiled.explain().threads,
            sizes,
            runs: times.len(),
            p50_ms,
            p90_ms: percentile(&times, 90),
            p99_ms: (times.len() >= FEWEST_FOR_P99).then(|| percentile(&times, 99)),
            least_ms: percentile(&times, 0),
            flops,
            gflops_per_s: flops.map(|flops| flops as f64 / p50_ms / 1e6),
            weight_bytes: graph.weight_bytes() as u64,
            arena_bytes: memory.as_ref().map(|memory| memory.planned_bytes as u64),
            arena_bound_bytes: memory.as_ref().map(|memory| memory.lower_bound_bytes as u64),
            sliced: memory.as_ref().and_then(|memory| memory.sliced),
            first_run_ms: milliseconds(first_run),
            compile_ms: milliseconds(compile_time),
        };
        Ok(self.facts.answer(&report, || text(&report, compiled.explain())))
    }
}

fn timed(
    seconds: f64,
    mut run: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<Vec<Duration>> {
    for _ in 0..WARM_UP {
        run()?;
    }
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < FEWEST || start.elapsed().as_secs_f64() < seconds {
        times.push(run()?);
    }
    times.sort_unstable();
    Ok(times)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Nearest-rank percentile of sorted times, in milliseconds.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
    milliseconds(times[rank])
}

fn text(report: &Report, explanation: &Explanation) -> String {
    let Report { tier, threads, sizes, runs, p50_ms, p90_ms, least_ms, .. } = report;
    let at = if sizes.is_empty() { String::new() } else { format!(" at {sizes}") };
    let p99 = report.p99_ms.map_or_else(
        || format!("p99 unavailable: fewer than {FEWEST_FOR_P99} runs"),
        |p99| format!("p99 {p99:.3}"),
    );
    let speed = report
        .gflops_per_s
        .map_or_else(String::new, |speed| format!(", {speed:.1} GFLOP/s at the median"));
    let arena = report.arena_bytes.map_or_else(
        || "memory unplanned: sizes depend on values".to_owned(),
        |arena| {
            let bound = report.arena_bound_bytes.unwrap_or(arena);
            format!("arena {} (least possible {})", bytes(arena), bytes(bound))
        },
    );
    let sliced = report.sliced.map_or_else(String::new, |sliced| {
        let SlicedUse { count, bytes: taken } = sliced;
        format!(", cut into {count} slices of the batch: {}", bytes(taken as u64))
    });
    let device = place(explanation);
    let failed = failed_tiers(&report.failed_tiers, tier);
    format!(
        "{device}{failed}{runs} runs{at}, {threads} threads, kernels for {tier}\n\
         latency ms: p50 {p50_ms:.3}, p90 {p90_ms:.3}, {p99}, least {least_ms:.3}{speed}\n\
         weights {}, {arena}{sliced}\n\
         compiled in {:.1} ms, first run {:.2} ms\n",
        bytes(report.weight_bytes),
        report.compile_ms,
        report.first_run_ms,
    )
}
