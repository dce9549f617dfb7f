use std::collections::BTreeMap;

use serde::Serialize;

use crate::compile::{Level, Precision};
use crate::pass::PassReport;

/// What the compiler did with a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Where it runs, such as `cpu`.
    pub device: String,
    /// Why no GPU runs it although one was welcome; absent where nothing fell back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_reason: Option<String>,
    /// The kernel tier of what runs on the CPU.
    pub tier: String,
    /// Threads of a run.
    pub threads: usize,
    /// The optimisation level that ran.
    pub level: Level,
    /// Whether sizes depend on values: then the passes of [`Level::O2`] and [`Level::O3`] do not run,
    /// and runs go node by node.
    pub dynamic: bool,
    /// What float layers multiply.
    pub precision: Precision,
    /// Every pass and how often it fired, in order.
    pub passes: Vec<PassReport>,
    /// What the graph's nodes compute before any pass: kinds of operation, and how many of each.
    pub operations_before: BTreeMap<String, usize>,
    /// The same for the nodes that run.
    pub operations_after: BTreeMap<String, usize>,
    /// Every node that is left, in the order in which they run.
    pub nodes: Vec<ExplainedNode>,
    /// Bytes of constants that kernels read when they run.
    pub constant_bytes: usize,
    /// Bytes of weights that kernels packed for themselves.
    pub packed_bytes: usize,
    /// Where the time of the compilation went.
    pub times: CompileTimes,
}

impl Explanation {
    /// Whether a GPU runs what it has kernels for.
    pub fn on_gpu(&self) -> bool {
        self.device != crate::Device::Cpu.to_string()
    }

    /// The nodes that run on the CPU although the model runs on a GPU, and why.
    pub fn fallbacks(&self) -> impl Iterator<Item = (&ExplainedNode, &str)> {
        let pairs = self.nodes.iter().map(|node| (node, node.fallback.as_deref()));
        pairs.filter_map(|(node, reason)| Some((node, reason?)))
    }
}

/// Time of each part of a compilation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CompileTimes {
    /// Rewriting the graph.
    pub passes_ms: f64,
    /// Choosing kernels and packing weights for them.
    pub packing_ms: f64,
    /// Finding out what shares memory.
    pub memory_ms: f64,
    /// Starting the threads.
    pub threads_ms: f64,
}

/// One node and its kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedNode {
    /// Name of the node; its output has the name of the graph's value, unless a pass made it.
    pub name: String,
    /// Kind of operation.
    pub operation: String,
    /// Type and shape of the output.
    pub output: String,
    /// The kernel that runs; `reference` is the graph's own slow definition.
    pub kernel: String,
    /// Why it was chosen.
    pub reason: String,
    /// Why it runs on the CPU although the model runs on a GPU; absent where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Names of the graph's nodes that this one stands for; empty when it is one of them.
    pub fused_from: Vec<String>,
    /// The other kernels for the operation.
    pub rejected: Vec<RejectedKernel>,
}

/// A kernel that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectedKernel {
    /// Name of the kernel.
    pub kernel: String,
    /// Why it was not chosen.
    pub reason: String,
}
