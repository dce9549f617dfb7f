use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use graph::{Bindings, Graph};
use kernels::{Cpu, Team, Tier};
use serde::{Deserialize, Serialize};

use crate::kernel::{Choice, Prepared};
use crate::module::Module;
use crate::pass::{self, PassReport};
use crate::plan::{self, ArenaBlock, MemoryUse, PeakFormula, Plan};
use crate::program::Program;
use crate::slices::Slices;
use crate::{CompileTimes, Device, ExplainedNode, Explanation, RuntimeError, Session, SlicedUse};

/// How much the compiler rewrites.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Level {
    /// Nothing: every node of the graph runs as it is, quantized weights as floats.
    O0,
    /// Cleans up, folds constants, and finds the operators that exporters write out.
    O1,
    /// Also fuses, and runs quantized layers in integers.
    O2,
    /// Also merges the projections of an attention, and lets threads run slices of batches.
    #[default]
    O3,
}

/// The numbers that linear layers and convolutions with constant float weights and fused attention
/// multiply. Sums are `f32` either way; quantized layers run in integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16, 8 bits of precision in half the bytes, where the CPU multiplies them faster:
    /// each node's kernel says. What only such products read is kept in bf16, and so are images that
    /// convolutions read, where they are added to others or pooled as well.
    Bf16,
}

/// How to compile a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// How much to rewrite.
    pub level: Level,
    /// Passes of the level that do not run, see [`crate::pass_names`].
    pub disabled_passes: Vec<String>,
    /// Threads of a run; `None` for as many as the process may use.
    pub threads: Option<NonZeroUsize>,
    /// The kernel tier; `None` for `PIPELINE_KERNELS`, or else the best of this CPU.
    pub tier: Option<Tier>,
    /// Most bytes that the weights and the arena of one session may take together, see
    /// [`MemoryUse::total_bytes`]; a run that needs more is refused before its arena is allocated, or
    /// at the node that writes too much where sizes depend on values. Not counted are the inputs,
    /// what threads keep to lay out operands, copies that the kernel `reference` makes, and what loops
    /// write in a round whose sizes depend on values where those of the rest do not. `None` for no
    /// limit of ours. [`crate::memory_fraction`] gives a part of the machine's.
    pub memory_budget: Option<usize>,
    /// What float layers multiply.
    pub precision: Precision,
    /// Where it runs.
    pub device: Device,
}

impl CompileOptions {
    /// The tier that kernels are chosen for.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn cpu(&self) -> Result<Cpu, RuntimeError> {
        Ok(match self.tier {
            Some(tier) => Cpu::with_tier(tier)?,
            None => Cpu::from_environment()?,
        })
    }
}

/// A model ready to run. Cloning shares everything.
#[derive(Clone)]
pub struct CompiledModel {
    shared: Arc<Shared>,
}

/// What the sessions of a model share.
pub(crate) struct Shared {
    pub(crate) program: Program,
    /// The GPU that steps run on, with the constants they read.
    #[cfg(feature = "gpu")]
    pub(crate) gpu: Option<crate::gpu::GpuModel>,
    pub(crate) team: Team,
    formula: PeakFormula,
    memory_budget: Option<usize>,
    explanation: Explanation,
}

impl Shared {
    /// Where everything lies for these sizes; nothing is allocated for it yet.
    ///
    /// # Errors
    /// When a size is not bound, the model cannot run with it, or it needs more memory than the
    /// budget.
    pub(crate) fn plan(&self, bindings: Bindings) -> Result<Plan, RuntimeError> {
        let plan = self.unlimited_plan(bindings)?;
        if let Some(budget) = self.memory_budget {
            plan::admit(self, &plan, budget)?;
        }
        Ok(plan)
    }

    pub(crate) fn unlimited_plan(&self, bindings: Bindings) -> Result<Plan, RuntimeError> {
        self.program.plan(bindings)
    }

    /// How a run is cut into slices of the batch, where it is.
    pub(crate) fn slices(&self, plan: &Plan) -> Option<Slices> {
        let slices = Slices::new(self, plan)?;
        let fits = |budget| plan::fits(self, slices.bytes(), budget);
        self.memory_budget.is_none_or(fits).then_some(slices)
    }

    /// What such a run takes.
    pub(crate) fn sliced_use(&self, plan: &Plan) -> Option<SlicedUse> {
        let slices = self.slices(plan)?;
        Some(SlicedUse { count: slices.count(), bytes: slices.bytes() })
    }

    pub(crate) fn formula(&self) -> &PeakFormula {
        &self.formula
    }

    pub(crate) fn memory_budget(&self) -> Option<usize> {
        self.memory_budget
    }

    /// Bytes of constants and packed weights.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.explanation.constant_bytes + self.explanation.packed_bytes
    }
}

impl fmt::Debug for CompiledModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explanation = &self.shared.explanation;
        formatter
            .debug_struct("CompiledModel")
            .field("nodes", &explanation.nodes.len())
            .field("device", &explanation.device)
            .field("tier", &explanation.tier)
            .field("threads", &explanation.threads)
            .finish_non_exhaustive()
    }
}

/// Compiles a graph for inference on this machine.
///
/// # Errors
/// When a disabled pass does not exist, the tier or the device cannot be had, the threads do not
/// start, or the weights alone need more than the memory budget.
pub fn compile(graph: &Graph, options: &CompileOptions) -> Result<CompiledModel, RuntimeError> {
    let mut clock = Clock::start();
    let mut module = Module::new(graph, options, options.cpu()?);
    let before = module.operations();
    let level = options.level;
    let passes = pass::run(&mut module, level, &options.disabled_passes)?;
    compile_module(module, options, Rewriting { level, before, passes, passes_ms: clock.lap() })
}

/// How a module came to be as it is.
pub(crate) struct Rewriting {
    pub(crate) level: Level,
    /// What there was before, see [`Module::operations`].
    pub(crate) before: BTreeMap<String, usize>,
    pub(crate) passes: Vec<PassReport>,
    pub(crate) passes_ms: f64,
}

impl Rewriting {
    /// Nothing to report.
    pub(crate) fn none(level: Level) -> Self {
        Self { level, before: BTreeMap::new(), passes: Vec::new(), passes_ms: 0.0 }
    }
}

/// Chooses kernels for a module as it is.
pub(crate) fn compile_module(
    module: Module,
    options: &CompileOptions,
    Rewriting { level, before, passes, passes_ms }: Rewriting,
) -> Result<CompiledModel, RuntimeError> {
    let cpu = module.cpu;
    let mut clock = Clock::start();
    let dynamic = module.is_dynamic();
    let device = options.device.open(dynamic)?;
    let choices: Vec<Choice> =
        module.nodes.iter().map(|node| device.choose(&module, node, cpu)).collect();
    let nodes = explain_nodes(&module, &choices);
    let steps: Vec<Prepared> = choices.into_iter().map(|choice| choice.prepared).collect();
    let packing_ms = clock.lap();
    let mut program = Program::new(module, steps);
    program.plan_memory()?;
    #[cfg(feature = "gpu")]
    let gpu = device.gpu.map(|gpu| crate::gpu::GpuModel::new(gpu, &program.module, &program.steps));
    let formula = program.buffers.formula();
    let memory_ms = clock.lap();
    let team = team(options.threads)?;
    let threads_ms = clock.lap();
    let explanation = Explanation {
        device: device.name,
        device_reason: device.reason,
        tier: cpu.tier().name().to_owned(),
        threads: team.threads(),
        level,
        dynamic,
        precision: options.precision,
        passes,
        operations_before: before,
        operations_after: program.module.operations(),
        nodes,
        constant_bytes: program.constant_bytes(),
        packed_bytes: program.packed_bytes(),
        times: CompileTimes { passes_ms, packing_ms, memory_ms, threads_ms },
    };
    let memory_budget = options.memory_budget;
    let shared = Shared {
        program,
        #[cfg(feature = "gpu")]
        gpu,
        team,
        formula,
        memory_budget,
        explanation,
    };
    plan::admit_weights(&shared)?;
    Ok(CompiledModel { shared: Arc::new(shared) })
}

/// Measures one part of the work after another.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let last = std::mem::replace(&mut self.0, now);
        (now - last).as_secs_f64() * 1e3
    }
}

impl CompiledModel {
    /// A session, with memory of its own. Sessions of one model may run at the same time; they
    /// take turns with its threads.
    pub fn session(&self) -> Session {
        Session::new(self.shared.clone())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The same model, new and not shared yet, which says why no GPU runs it.
    pub(crate) fn on_cpu_because(mut self, reason: &str) -> Self {
        let shared = Arc::get_mut(&mut self.shared).expect("nothing shares a new model");
        shared.explanation.device_reason = Some(reason.to_owned());
        self
    }

    /// What was done with the model.
    pub fn explain(&self) -> &Explanation {
        &self.shared.explanation
    }

    /// Every pass and how often it fired.
    pub fn passes(&self) -> &[PassReport] {
        &self.shared.explanation.passes
    }

    /// Bytes of the arena that a run with these sizes needs; nothing is allocated to find out.
    ///
    /// # Errors
    /// When a size is not bound or the model cannot run with it.
    pub fn peak_bytes(&self, bindings: &Bindings) -> Result<usize, RuntimeError> {
        self.shared.unlimited_plan(bindings.clone()).map(|plan| plan.bytes)
    }

    /// The memory of a run with these sizes, beside the least that any plan needs; nothing is
    /// allocated to find out, and the budget is not applied.
    ///
    /// # Errors
    /// As [`CompiledModel::peak_bytes`].
    pub fn memory(&self, bindings: &Bindings) -> Result<MemoryUse, RuntimeError> {
        MemoryUse::new(&self.shared, bindings)
    }

    /// What lies where in the arena of a run with these sizes, and when; empty for a model whose
    /// sizes depend on values, which plans none.
    ///
    /// # Errors
    /// As [`CompiledModel::peak_bytes`].
    pub fn arena(&self, bindings: &Bindings) -> Result<Vec<ArenaBlock>, RuntimeError> {
        plan::blocks(&self.shared, bindings)
    }

    /// The lower bound of the arena as a formula in the symbols of the model.
    pub fn peak_formula(&self) -> &PeakFormula {
        &self.shared.formula
    }

    /// The largest size of `symbol` with which a run fits into `budget_bytes`, weights included,
    /// the other sizes being `fixed`; `None` when not even 1 fits.
    ///
    /// What is found fits. It is the largest that can fit at all where its plan meets the lower
    /// bound, and otherwise the largest that the planner finds room for.
    ///
    /// # Errors
    /// When another size is not bound, or the model cannot run with size 1.
    pub fn largest(
        &self,
        symbol: &str,
        fixed: &Bindings,
        budget_bytes: usize,
    ) -> Result<Option<usize>, RuntimeError> {
        plan::largest(&self.shared, symbol, fixed, budget_bytes)
    }

    /// [`CompiledModel::largest`] of `batch` for a `sequence`.
    ///
    /// # Errors
    /// As [`CompiledModel::largest`]; when the model has other symbols.
    pub fn largest_batch(
        &self,
        budget_bytes: usize,
        sequence: usize,
    ) -> Result<Option<usize>, RuntimeError> {
        self.largest("batch", &Bindings::new([("sequence", sequence)]), budget_bytes)
    }
}

fn team(threads: Option<NonZeroUsize>) -> Result<Team, RuntimeError> {
    let threads = threads.unwrap_or_else(Team::usual_threads);
    let fail = |error: std::io::Error| RuntimeError::Threads {
        threads: threads.get(),
        reason: error.to_string(),
    };
    Team::new(threads).map_err(fail)
}

fn explain_nodes(module: &Module, choices: &[Choice]) -> Vec<ExplainedNode> {
    let explain = |(node, choice): (&crate::module::Node, &Choice)| {
        let value = module.value(node.output);
        ExplainedNode {
            name: node.name.clone(),
            operation: node.operation.kind().to_owned(),
            output: value.kind(),
            kernel: choice.name.to_owned(),
            reason: choice.reason.clone(),
            fallback: choice.fallback.clone(),
            fused_from: node.fused_from.clone(),
            rejected: choice.rejected.clone(),
        }
    };
    module.nodes.iter().zip(choices).map(explain).collect()
}
