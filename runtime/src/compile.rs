use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use graph::{Bindings, Graph};
use kernels::{Cpu, Tier};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};

use crate::kernel::{Choice, Prepared, choose};
use crate::module::Module;
use crate::pass::{self, PassReport};
use crate::plan::Plan;
use crate::{ExplainedNode, Explanation, RuntimeError, Session};

/// How much the compiler rewrites.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Level {
    /// Nothing: every node of the graph runs as it is, quantized weights as floats.
    O0,
    /// Cleans up and folds constants.
    O1,
    /// Also fuses, and runs quantized layers in integers.
    O2,
    /// Also merges the projections of an attention.
    #[default]
    O3,
}

/// The numbers that linear layers with constant float weights multiply. Sums, and everything
/// else, are `f32` either way; quantized layers run in integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16: 8 bits of precision in half the bytes.
    Bf16,
}

/// How to compile a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// How much to rewrite.
    pub level: Level,
    /// Passes of the level that do not run, see [`crate::pass_names`].
    pub disabled_passes: Vec<String>,
    /// Threads of the model's pool; `None` for as many as the process may use.
    pub threads: Option<NonZeroUsize>,
    /// The kernel tier; `None` for `PIPELINE_KERNELS`, or else the best of this CPU.
    pub tier: Option<Tier>,
    /// What float layers multiply.
    pub precision: Precision,
}

/// A model ready to run. Cloning shares everything.
#[derive(Clone)]
pub struct CompiledModel {
    shared: Arc<Shared>,
}

/// What the sessions of a model share.
pub(crate) struct Shared {
    pub(crate) module: Module,
    /// One for each node of the module.
    pub(crate) steps: Vec<Prepared>,
    pub(crate) pool: ThreadPool,
    explanation: Explanation,
}

impl fmt::Debug for CompiledModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explanation = &self.shared.explanation;
        formatter
            .debug_struct("CompiledModel")
            .field("nodes", &explanation.nodes.len())
            .field("tier", &explanation.tier)
            .field("threads", &explanation.threads)
            .finish_non_exhaustive()
    }
}

/// Compiles a graph for inference on this CPU.
///
/// # Errors
/// When a disabled pass does not exist, the tier cannot be had, or the threads do not start.
pub fn compile(graph: &Graph, options: &CompileOptions) -> Result<CompiledModel, RuntimeError> {
    let cpu = match options.tier {
        Some(tier) => Cpu::with_tier(tier)?,
        None => Cpu::from_environment()?,
    };
    let mut module = Module { precision: options.precision, ..Module::new(graph) };
    let passes = pass::run(&mut module, options.level, &options.disabled_passes)?;
    let choices: Vec<Choice> = module.nodes.iter().map(|node| choose(&module, node, cpu)).collect();
    let nodes = explain_nodes(&module, &choices);
    let steps: Vec<Prepared> = choices.into_iter().map(|choice| choice.prepared).collect();
    release_unread(&mut module, &steps);
    let pool = pool(options.threads)?;
    let explanation = Explanation {
        tier: cpu.tier().name().to_owned(),
        threads: pool.current_num_threads(),
        level: options.level,
        precision: options.precision,
        passes,
        nodes,
        constant_bytes: constant_bytes(&module),
        packed_bytes: steps.iter().map(packed_bytes).sum(),
    };
    Ok(CompiledModel { shared: Arc::new(Shared { module, steps, pool, explanation }) })
}

impl CompiledModel {
    /// A session, with memory of its own. Sessions of one model may run at the same time; they
    /// share its threads.
    pub fn session(&self) -> Session {
        Session::new(self.shared.clone())
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
        let Shared { module, steps, .. } = &*self.shared;
        Plan::new(module, steps, bindings.clone()).map(|plan| plan.bytes)
    }
}

fn pool(threads: Option<NonZeroUsize>) -> Result<ThreadPool, RuntimeError> {
    // 0 is rayon's word for as many as the process may use.
    let threads = threads.map_or(0, NonZeroUsize::get);
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("runtime-{index}"))
        .build()
        .map_err(|error| RuntimeError::Threads { threads, reason: error.to_string() })
}

fn explain_nodes(module: &Module, choices: &[Choice]) -> Vec<ExplainedNode> {
    let explain = |(node, choice): (&crate::module::Node, &Choice)| {
        let value = module.value(node.output);
        ExplainedNode {
            name: node.name.clone(),
            operation: node.operation.kind().to_owned(),
            output: format!("{}{}", value.dtype, graph::dim::display(&value.shape)),
            kernel: choice.entry.name.to_owned(),
            fused_from: node.fused_from.clone(),
            rejected: choice.rejected.clone(),
        }
    };
    module.nodes.iter().zip(choices).map(explain).collect()
}

/// Lets go of constants that nothing reads when the model runs: rewritten or packed ones.
fn release_unread(module: &mut Module, steps: &[Prepared]) {
    let mut read = vec![false; module.values.len()];
    for output in &module.outputs {
        read[output.0] = true;
    }
    for (node, step) in module.nodes.iter().zip(steps) {
        let packed = match step {
            Prepared::Run(kernel) => kernel.packed_input(),
            Prepared::View { .. } => None,
        };
        for (position, input) in node.inputs.iter().enumerate() {
            read[input.0] |= packed != Some(position);
        }
    }
    for (value, _) in module.values.iter_mut().zip(read).filter(|(_, read)| !read) {
        value.constant = None;
    }
}

/// Bytes of the constants that are left.
fn constant_bytes(module: &Module) -> usize {
    let constants = module.values.iter().filter_map(|value| value.constant.as_ref());
    constants.map(graph::Tensor::size_bytes).sum()
}

fn packed_bytes(step: &Prepared) -> usize {
    match step {
        Prepared::Run(kernel) => kernel.packed_bytes(),
        Prepared::View { .. } => 0,
    }
}
