//! Where the time of a run goes: what each node has to do, how long that should take on this
//! machine, and how long it takes.

use std::time::Instant;

use graph::Tensor;
use kernels::Tier;
use kernels::peaks::{Effort, Peaks};
use serde::Serialize;

use crate::compile::Shared;
use crate::cost::Work;
use crate::session::bind;
use crate::{CompiledModel, RuntimeError, SlicedUse};

/// Runs before the clock starts: the first plans memory and fills caches.
const WARM_UP: usize = 2;
/// Fewest timed runs.
const FEWEST: usize = 5;
/// Forks and joins of which the median counts.
const FORKS: usize = 101;

/// What the machine can do at most, measured in this process.
#[derive(Clone, Debug)]
pub struct MachinePeaks {
    /// One thread alone.
    one: Option<Peaks>,
    /// As many threads as the model has.
    all: Option<Peaks>,
    threads: usize,
}

impl MachinePeaks {
    /// Measures with loops of single instructions; takes a few tenths of a second.
    pub fn measure(threads: usize) -> Self {
        let of = |threads| Peaks::measure(threads, Effort::QUICK);
        let one = of(1);
        let all = if threads > 1 { of(threads) } else { one.clone() };
        Self { one, all, threads }
    }

    fn of(&self, parallel: bool) -> Option<&Peaks> {
        if parallel { self.all.as_ref() } else { self.one.as_ref() }
    }

    /// The rates, for those who read them.
    fn facts(&self) -> Vec<PeakFact> {
        let mut facts = Vec::new();
        for peaks in [&self.one, &self.all].into_iter().flatten() {
            if facts.iter().any(|fact: &PeakFact| fact.threads == peaks.threads) {
                continue;
            }
            let fact = |name: String, unit: &'static str, rate: f64| PeakFact {
                name,
                threads: peaks.threads,
                rate,
                unit,
            };
            let operations = peaks.operations.iter();
            facts.extend(operations.map(|peak| fact(peak.name.to_owned(), "Gop/s", peak.rate)));
            facts.extend(peaks.reads.iter().map(|(bytes, rate)| {
                fact(format!("read {} KiB a thread", bytes >> 10), "GB/s", *rate)
            }));
        }
        facts
    }
}

/// One measured rate of the machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeakFact {
    /// The instruction, or the buffer that is read.
    pub name: String,
    /// Threads that worked together.
    pub threads: usize,
    /// What they did together, in `unit`.
    pub rate: f64,
    /// `Gop/s`, a multiply-add being two, or `GB/s`.
    pub unit: &'static str,
}

/// The times of a model's nodes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Timed runs; times are medians over them.
    pub runs: usize,
    /// One run, with the clock read after every node, and a GPU waited for.
    pub run_ms: f64,
    /// Sum of the nodes' predictions; absent where one has none.
    pub predicted_ms: Option<f64>,
    /// Operations of one run, a multiply-add being two; absent where sizes depend on values.
    pub flops: Option<u64>,
    /// Starting all threads of the model on nothing and waiting for them, in microseconds.
    pub fork_join_us: f64,
    /// How a run is cut when no clock is read: the nodes are timed on the whole batch.
    pub sliced: Option<SlicedUse>,
    /// What the machine can do; empty where no instruction's rate is known.
    pub peaks: Vec<PeakFact>,
    /// One for each node of [`crate::Explanation::nodes`], in the same order.
    pub nodes: Vec<NodeProfile>,
}

/// One node's work and time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeProfile {
    /// Sizes of the output; absent where they depend on values.
    pub shape: Option<Vec<usize>>,
    /// Median of the measured times; 0 for a view.
    pub measured_ms: f64,
    /// What the node has to do; absent where sizes depend on values, and for views.
    pub cost: Option<NodeCost>,
}

/// What a node has to do, and how long that should take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeCost {
    /// Operations, a multiply-add being two.
    pub flops: u64,
    /// Bytes that are read and written at least once.
    pub bytes: u64,
    /// Threads of the CPU that the kernel uses for work of this size.
    pub threads: usize,
    /// By the roofline: the longer of the time for the operations, at the share of the peak that
    /// the kernel declares, and of the time for the bytes; and a fork and join where there is one.
    pub predicted_ms: Option<f64>,
    /// What the prediction says is the limit: `f32`, `bf16` or `int8` operations, or `memory`.
    pub bound: Option<&'static str>,
    /// The measured rate of operations as a share of the machine's fastest instruction for these
    /// numbers, on as many threads; absent where there are none.
    pub peak_share: Option<f64>,
    /// The measured rate of bytes as a share of reading a buffer of that size.
    pub memory_share: Option<f64>,
}

impl NodeCost {
    /// On a GPU, whose peaks nothing measures.
    fn unpredicted(work: &Work) -> Self {
        let Work { flops, bytes, .. } = *work;
        let (predicted_ms, bound, peak_share, memory_share) = (None, None, None, None);
        Self { flops, bytes, threads: 0, predicted_ms, bound, peak_share, memory_share }
    }
}

/// Runs a model again and again for `seconds`, and says where the time went.
///
/// # Errors
/// When the inputs do not fit, or a node fails on them.
pub fn profile(
    model: &CompiledModel,
    inputs: &[(&str, &Tensor)],
    seconds: f64,
    peaks: &MachinePeaks,
) -> Result<Profile, RuntimeError> {
    let shared = model.shared();
    let (runs, times, run_ms) = node_times(model, inputs, seconds)?;
    let fork_join_us = fork_join_us(shared);
    let tier = model.explain().tier.parse().unwrap_or(Tier::Portable);
    let plan = match shared.program.dynamic {
        true => None,
        false => Some(shared.unlimited_plan(bind(&shared.program.module, inputs)?.1)?),
    };
    let sliced = plan.as_ref().and_then(|plan| shared.sliced_use(plan));
    let shapes = plan.map(|plan| plan.shapes);
    let node = |(index, &measured_ms): (usize, &f64)| {
        let measuring = Measuring { shared, peaks, tier, fork_join_us };
        let cost = shapes.as_deref().and_then(|shapes| measuring.cost(index, shapes, measured_ms));
        let output = shared.program.module.nodes[index].output;
        let shape = shapes.as_ref().map(|shapes| shapes[output.0].clone());
        NodeProfile { shape, measured_ms, cost }
    };
    let nodes: Vec<NodeProfile> = times.iter().enumerate().map(node).collect();
    let costs = || nodes.iter().filter_map(|node| node.cost.as_ref());
    let predicted = costs().map(|cost| cost.predicted_ms).sum::<Option<f64>>();
    Ok(Profile {
        runs,
        run_ms,
        predicted_ms: predicted.filter(|_| shapes.is_some()),
        flops: shapes.as_ref().map(|_| costs().map(|cost| cost.flops).sum()),
        fork_join_us,
        sliced,
        peaks: peaks.facts(),
        nodes,
    })
}

/// Number of runs, the median time of each node and of a run, in milliseconds.
fn node_times(
    model: &CompiledModel,
    inputs: &[(&str, &Tensor)],
    seconds: f64,
) -> Result<(usize, Vec<f64>, f64), RuntimeError> {
    let mut session = model.session();
    let count = model.shared().program.module.nodes.len();
    let mut nodes: Vec<Vec<f64>> = vec![Vec::new(); count];
    let mut totals = Vec::new();
    let start = Instant::now();
    let mut warm_up = WARM_UP;
    while totals.len() < FEWEST || start.elapsed().as_secs_f64() < seconds {
        let began = Instant::now();
        let mut last = began;
        let times = &mut nodes;
        let mut ran = |index: usize| {
            let now = Instant::now();
            times[index].push((now - last).as_secs_f64() * 1e3);
            last = now;
        };
        session.run_watched(inputs, Some(&mut ran))?;
        totals.push(began.elapsed().as_secs_f64() * 1e3);
        if warm_up > 0 {
            warm_up -= 1;
            nodes.iter_mut().for_each(Vec::clear);
            totals.clear();
        }
    }
    let runs = totals.len();
    Ok((runs, nodes.into_iter().map(median).collect(), median(totals)))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Starting all threads on nothing and waiting for them.
fn fork_join_us(shared: &Shared) -> f64 {
    let pieces = 4 * shared.team.threads();
    let once = |_| {
        let start = Instant::now();
        shared.team.for_each(pieces, |piece| {
            std::hint::black_box(piece);
        });
        start.elapsed().as_secs_f64() * 1e6
    };
    median((0..FORKS).map(once).collect())
}

/// What predictions of one model need.
struct Measuring<'a> {
    shared: &'a Shared,
    peaks: &'a MachinePeaks,
    tier: Tier,
    fork_join_us: f64,
}

impl Measuring<'_> {
    fn cost(&self, index: usize, shapes: &[Vec<usize>], measured_ms: f64) -> Option<NodeCost> {
        let (module, step) = (&self.shared.program.module, &self.shared.program.steps[index]);
        if step.is_view() {
            return None;
        }
        let work = Work::of(module, &module.nodes[index], shapes, step.packed_bytes());
        let Some(kernel) = step.kernel() else { return Some(NodeCost::unpredicted(&work)) };
        let rate = kernel.rate();
        let parallel = self.peaks.threads > 1 && work.is_parallel(rate);
        let peaks = self.peaks.of(parallel);
        let times = peaks.and_then(|peaks| work.milliseconds(rate, self.tier, peaks));
        let fork_join_ms = if parallel { self.fork_join_us / 1e3 } else { 0.0 };
        let by_operations = |[operations, bytes]: [f64; 2]| operations >= bytes;
        // 10⁹ a second are 10⁶ a millisecond.
        let share = |amount: u64, rate: f64| amount as f64 / measured_ms / 1e6 / rate;
        let best = peaks.and_then(|peaks| peaks.fastest(rate.numbers, Tier::Amx));
        let measured = measured_ms > 0.0;
        Some(NodeCost {
            flops: work.flops,
            bytes: work.bytes,
            threads: if parallel { self.peaks.threads } else { 1 },
            predicted_ms: times.map(|[a, b]| a.max(b) + fork_join_ms),
            bound: times.map(|t| if by_operations(t) { rate.numbers.name() } else { "memory" }),
            peak_share: best
                .filter(|_| measured && work.flops > 0)
                .map(|best| share(work.flops, best.rate)),
            memory_share: peaks
                .filter(|_| measured)
                .map(|peaks| share(work.bytes, peaks.byte_rate(work.bytes))),
        })
    }
}
