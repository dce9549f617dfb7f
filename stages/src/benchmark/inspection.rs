//! What the runtime made of a model, written down for reports: its kernels, and what lies where in
//! the memory of a run.

use anyhow::Result;
use graph::Bindings;
use runtime::{ArenaBlock, CompiledModel};
use serde::Serialize;

/// Version of the layout; reports read this one.
pub(super) const SCHEMA: u32 = 1;

/// A compiled model as people look at it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Inspection {
    /// The kernel tier that runs.
    tier: String,
    /// Threads of a run.
    threads: usize,
    /// Word pieces of the one text that the arena is planned for.
    sequence: usize,
    /// Bytes of the arena.
    arena_bytes: usize,
    /// Bytes of constants that kernels read.
    constant_bytes: usize,
    /// Bytes of weights that kernels packed for themselves.
    packed_bytes: usize,
    /// Every node, in the order in which they run.
    nodes: Vec<Node>,
    /// What lies where in the arena, and when.
    blocks: Vec<Block>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Node {
    name: String,
    operation: String,
    output: String,
    kernel: String,
    /// Nodes of the graph that this one stands for, 1 when it is one of them.
    stands_for: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Block {
    offset: usize,
    size_bytes: usize,
    first: usize,
    last: usize,
    name: String,
    scratch: bool,
}

impl Inspection {
    /// Of `compiled` for one text of `sequence` word pieces.
    ///
    /// # Errors
    /// When the model cannot run with it.
    pub(super) fn of(compiled: &CompiledModel, sequence: usize) -> Result<Self> {
        let bindings = Bindings::new([("batch", 1), ("sequence", sequence)]);
        let explanation = compiled.explain();
        let node = |node: &runtime::ExplainedNode| Node {
            name: node.name.clone(),
            operation: node.operation.clone(),
            output: node.output.clone(),
            kernel: node.kernel.clone(),
            stands_for: node.fused_from.len().max(1),
        };
        Ok(Self {
            tier: explanation.tier.clone(),
            threads: explanation.threads,
            sequence,
            arena_bytes: compiled.peak_bytes(&bindings)?,
            constant_bytes: explanation.constant_bytes,
            packed_bytes: explanation.packed_bytes,
            nodes: explanation.nodes.iter().map(node).collect(),
            blocks: compiled.arena(&bindings)?.into_iter().map(Block::from).collect(),
        })
    }
}

impl From<ArenaBlock> for Block {
    fn from(block: ArenaBlock) -> Self {
        let ArenaBlock { offset, size_bytes, first, last, name, scratch } = block;
        Self { offset, size_bytes, first, last, name, scratch }
    }
}
