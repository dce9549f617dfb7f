//! Runs of batches: slices of the batch, each through the whole model on one thread.
//!
//! A thread then finds what it reads in its own caches, where the results of a whole batch are as large
//! as all of them together, and waits for the others once a run instead of once a node. The pass
//! `slice-batch` says which models let themselves be cut.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use graph::Dim;
use kernels::Tier;

use crate::RuntimeError;
use crate::compile::Shared;
use crate::cost::Work;
use crate::kernel::Prepared;
use crate::plan::{ALIGNMENT, Plan};
use crate::program::Program;
use crate::session::{Run, poison};

/// Arena of a slice of more than one element. What a layer reads and writes of it fits a core's second
/// cache; smaller slices read the weights more often (docs/performance.md, *Inference*).
const SLICE_BYTES: usize = 4 << 20;

/// On CPUs that multiply in tiles, the arena below which a slice has too little work, as one has that is
/// smaller than half the weights of some node: there they take longer to read than to multiply.
const LEAST_TILED_BYTES: usize = 256 << 10;

/// Multiplications and additions below which a slice is not worth starting.
const LEAST_WORK: u64 = 1 << 19;

/// How often a slice multiplies each weight at least, since every thread reads them all where the threads of
/// a whole run share them; and where they are more than [`NEAR_WEIGHTS`] and come from memory.
const LEAST_USES: u64 = 8;
const LEAST_FAR_USES: u64 = 24;

/// Bytes of weights that the caches of a CPU keep a good part of.
const NEAR_WEIGHTS: usize = 64 << 20;

/// One part in so many of the work may be lost to weights that a slice uses less.
const MOST_LOST: u64 = 8;

/// Elements of a batch from `first` on, as many as its plan is for.
#[derive(Clone, Copy, Debug)]
struct Slice {
    first: usize,
    /// Index of its plan.
    plan: usize,
}

/// How a run is cut.
#[derive(Debug)]
pub(crate) struct Slices {
    /// Elements of the batch.
    batch: usize,
    threads: usize,
    plans: Vec<Plan>,
    list: Vec<Slice>,
    /// What all threads run together in the end: fewer elements than threads.
    rest: Option<Slice>,
    /// Bytes of the arena of a thread.
    arena_bytes: usize,
    /// Where each output of the model starts among all, and its bytes for one element.
    outputs: Vec<(usize, usize)>,
    output_bytes: usize,
}

impl Slices {
    /// Cuts a run, where the model allows and it is worth it.
    pub(crate) fn new(model: &Shared, whole: &Plan) -> Option<Self> {
        let symbol = model.program.module.batch.as_ref()?;
        let batch = whole.bindings.size(&Dim::Symbol(symbol.clone())).filter(|&batch| batch > 0)?;
        let threads = model.team.threads();
        let of_thread = batch / threads;
        let bytes_of_one = (whole.bytes / batch).max(1);
        let count = of_thread.div_ceil((SLICE_BYTES / bytes_of_one).max(1));
        if count * threads < 2 {
            return None;
        }
        let mut sizes = Vec::new();
        let mut plans = Vec::new();
        let mut slice = |elements: Range<usize>| {
            let known = sizes.iter().position(|&size| size == elements.len());
            if known.is_none() {
                let bindings = whole.bindings.clone().with(symbol, elements.len());
                let plan = model.unlimited_plan(bindings).ok()?;
                // The first is asked for all: others differ from it by one element.
                if sizes.is_empty() && !is_worth_it(&model.program, &plan) {
                    return None;
                }
                plans.push(plan);
                sizes.push(elements.len());
            }
            Some(Slice { first: elements.start, plan: known.unwrap_or(sizes.len() - 1) })
        };
        let total = count * threads;
        let cut = |index: usize| index * of_thread / count;
        let list =
            (0..total).map(|index| slice(cut(index)..cut(index + 1))).collect::<Option<_>>()?;
        let rest = of_thread * threads..batch;
        let rest = if rest.is_empty() { None } else { Some(slice(rest)?) };
        let arena_bytes = plans.iter().map(|plan| plan.bytes).max()?;
        let mut output_bytes = 0;
        let mut output = |id: &crate::module::Id| {
            let elements = whole.shapes[id.0].iter().product::<usize>() / batch;
            let bytes = elements * model.program.module.value(*id).dtype.size_bytes();
            let start = output_bytes;
            output_bytes += (bytes * batch).next_multiple_of(ALIGNMENT);
            (start, bytes)
        };
        let outputs = model.program.module.outputs.iter().map(&mut output).collect();
        let arena_bytes = arena_bytes.next_multiple_of(ALIGNMENT).max(ALIGNMENT);
        Some(Self { batch, threads, plans, list, rest, arena_bytes, outputs, output_bytes })
    }

    /// Bytes that a run takes: an arena for each thread, and the outputs behind them.
    pub(crate) fn bytes(&self) -> usize {
        self.threads * self.arena_bytes + self.output_bytes
    }

    /// Number of slices.
    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// Runs all slices of a run of the whole batch.
    ///
    /// # Errors
    /// When a node fails on the values of a slice.
    pub(crate) fn run(
        &self,
        whole: &Run<'_>,
        model: &Shared,
        memory: &mut [u8],
    ) -> Result<(), RuntimeError> {
        let (arenas, outputs) = memory.split_at_mut(self.threads * self.arena_bytes);
        let outputs = Mutex::new(outputs);
        let failed = Mutex::new(None);
        let next = AtomicUsize::new(0);
        let one = |slice: &Slice, arena: &mut [u8]| {
            let plan = &self.plans[slice.plan];
            let run = whole.of_slice(plan, slice.first, self.batch);
            let arena = &mut arena[..plan.bytes];
            poison(arena);
            match run.steps(arena, |_| ()) {
                Ok(()) => self.gather(&run, slice.first, arena, &mut lock(&outputs)),
                Err(error) => {
                    // Those that have not begun all lie behind.
                    next.store(self.list.len(), Ordering::Relaxed);
                    first_failure(&mut lock(&failed), slice.first, error);
                }
            }
        };
        {
            let arenas = Mutex::new(arenas.chunks_exact_mut(self.arena_bytes));
            // One call a thread, which takes slices until there are none.
            model.team.for_each(self.threads, |_| {
                let Some(arena) = lock(&arenas).next() else { return };
                while let Some(slice) = self.list.get(next.fetch_add(1, Ordering::Relaxed)) {
                    one(slice, arena);
                }
            });
        }
        if let Some(rest) = self.rest.as_ref().filter(|_| lock(&failed).is_none()) {
            model.team.run(|| one(rest, arenas));
        }
        lock(&failed).take().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Copies the outputs of a slice to their places among those of the batch.
    fn gather(&self, run: &Run<'_>, first: usize, arena: &[u8], outputs: &mut [u8]) {
        for (&id, &(start, bytes_of_one)) in run.module.outputs.iter().zip(&self.outputs) {
            let bytes = run.bytes(id, |range| &arena[range]);
            outputs[start + first * bytes_of_one..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The bytes of an output of the last run.
    pub(crate) fn output<'a>(&self, memory: &'a [u8], index: usize) -> &'a [u8] {
        let (start, bytes_of_one) = self.outputs[index];
        &memory[self.threads * self.arena_bytes + start..][..bytes_of_one * self.batch]
    }
}

/// Whether slices of this size take less time than a run whose nodes all threads share.
fn is_worth_it(program: &Program, slice: &Plan) -> bool {
    let Program { module, steps, .. } = program;
    if module.cpu.tier() == Tier::Amx {
        let weights = steps.iter().map(Prepared::packed_bytes).max().unwrap_or(0);
        return slice.bytes >= (weights / 2).max(LEAST_TILED_BYTES);
    }
    let least = if program.packed_bytes() > NEAR_WEIGHTS { LEAST_FAR_USES } else { LEAST_USES };
    // In multiplications and additions.
    let (mut all, mut lost) = (0, 0);
    for (node, step) in module.nodes.iter().zip(steps) {
        let work = Work::of(module, node, &slice.shapes, step.packed_bytes()).flops / 2;
        let packed = node.inputs.iter().enumerate().filter(|(input, _)| step.has_packed(*input));
        let weights = packed.map(|(_, id)| slice.shapes[id.0].iter().product::<usize>() as u64);
        lost += weights.sum::<u64>().saturating_mul(least).saturating_sub(work);
        all += work;
    }
    all >= LEAST_WORK && lost <= all / MOST_LOST
}

/// Keeps the failure of the first element of the batch, whichever slice was the first to fail.
fn first_failure(known: &mut Option<(usize, RuntimeError)>, first: usize, error: RuntimeError) {
    if known.as_ref().is_some_and(|(known, _)| *known < first) {
        return;
    }
    let error = match error {
        RuntimeError::Node { node, operation, reason } if first > 0 => {
            let reason = format!("{reason} (counted from element {first} of the batch on)");
            RuntimeError::Node { node, operation, reason }
        }
        other => other,
    };
    *known = Some((first, error));
}

/// Whoever panicked does not change what is inside.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
