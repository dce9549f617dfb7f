//! The arena as a map: what lies where, and from which step to which.

use graph::Bindings;
use serde::Serialize;

use super::layout::{Request, layout};
use super::requests;
use crate::RuntimeError;
use crate::compile::Shared;

/// A part of the arena that one value after another lies in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArenaBlock {
    /// Bytes from the start of the arena.
    pub offset: usize,
    /// Bytes.
    pub size_bytes: usize,
    /// Index in [`crate::Explanation::nodes`] of the node that writes it first.
    pub first: usize,
    /// Index of the last node that needs it; the number of nodes where it holds an output.
    pub last: usize,
    /// Name of the node that writes it first.
    pub name: String,
    /// Whether it is a kernel's scratch and holds no value.
    pub scratch: bool,
}

/// The blocks of the plan for these sizes, in the order of their first step.
///
/// # Errors
/// When a size is not bound or the model cannot run with it.
pub(crate) fn blocks(
    shared: &Shared,
    bindings: &Bindings,
) -> Result<Vec<ArenaBlock>, RuntimeError> {
    let requests = requests(&shared.program.module, &shared.program.buffers, bindings)?;
    let found = layout(&requests);
    let scratch: Vec<usize> = shared.program.buffers.scratch.iter().flatten().copied().collect();
    let block = |(buffer, (request, offset)): (usize, (&Request, &usize))| ArenaBlock {
        offset: *offset,
        size_bytes: request.bytes,
        first: request.first,
        last: request.last,
        name: shared.program.module.nodes[request.first].name.clone(),
        scratch: scratch.contains(&buffer),
    };
    Ok(requests.iter().zip(&found.offsets).enumerate().map(block).collect())
}

#[cfg(test)]
mod tests {
    use graph::bert::{self, BertConfig, BertLayer};

    use super::*;
    use crate::{CompileOptions, compile};

    #[test]
    fn blocks_that_meet_in_time_do_not_meet_in_memory() {
        let layer = BertLayer { heads: 2, intermediate: 32 };
        let config = BertConfig::uniform(30, 16, 2, layer);
        let graph = bert::build(&config, &mut bert::initial_weights(1)).unwrap();
        let model = compile(&graph, &CompileOptions::default()).unwrap();
        let sizes = Bindings::new([("batch", 2), ("sequence", 9)]);
        let blocks = model.arena(&sizes).unwrap();
        let end = blocks.iter().map(|block| block.offset + block.size_bytes).max().unwrap();
        let peak = model.peak_bytes(&sizes).unwrap();
        assert!(end <= peak, "{end} of {peak}");
        let nodes = &model.explain().nodes;
        for (index, block) in blocks.iter().enumerate() {
            assert_eq!(block.name, nodes[block.first].name);
            for other in &blocks[..index] {
                let in_time = block.first <= other.last && other.first <= block.last;
                let in_memory = block.offset < other.offset + other.size_bytes
                    && other.offset < block.offset + block.size_bytes;
                assert!(!(in_time && in_memory), "{block:?} and {other:?}");
            }
        }
        assert!(blocks.iter().any(|block| block.last == nodes.len()), "an output lives to the end");
    }
}
