//! The order in which nodes are read.

use std::collections::{BTreeMap, BTreeSet};

use super::{ImportError, Scope, node};
use crate::onnx::proto;

/// The nodes such that each comes after those it reads from. ONNX asks for this order; files in the
/// wild do not always keep it.
pub(super) fn execution_order(
    nodes: &[proto::NodeMessage],
    scope: &Scope,
) -> Result<Vec<usize>, ImportError> {
    let mut writers: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if writers.insert(name, index).is_some()
                || scope.values.contains_key(name) && scope.prefix.is_empty() && scope.depth == 0
            {
                return Err(ImportError::Malformed {
                    reason: format!("value `{name}` is written twice"),
                });
            }
        }
    }
    let mut order = Vec::with_capacity(nodes.len());
    let mut state = vec![Visit::New; nodes.len()];
    let mut waits: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let mut reads = BTreeSet::new();
        node::reads(node, &mut reads);
        let writer = reads.iter().rev().filter_map(|name| writers.get(name.as_str())).copied();
        waits.push(writer.filter(|&writer| writer != index).collect());
    }
    for root in 0..nodes.len() {
        let mut path = vec![root];
        while let Some(&index) = path.last() {
            if state[index] == Visit::Done {
                path.pop();
                continue;
            }
            state[index] = Visit::Open;
            while waits[index].last().is_some_and(|&writer| state[writer] == Visit::Done) {
                waits[index].pop();
            }
            match waits[index].last().copied() {
                Some(writer) if state[writer] == Visit::Open => {
                    let node = nodes[writer].output.first().cloned().unwrap_or_default();
                    return Err(crate::GraphError::Cycle(node).into());
                }
                Some(writer) => path.push(writer),
                None => {
                    state[index] = Visit::Done;
                    order.push(index);
                    path.pop();
                }
            }
        }
    }
    Ok(order)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}
