//! Nodes that a run may skip: what only one side of a choice needs, while the other is chosen.
//!
//! Which these are follows from who reads what, after all passes: a value that both sides need, or someone
//! else does, is always computed. So no pass has to know of it, but for one that has nodes of several
//! branches share their work.

use crate::module::{Id, Module, Operation};

/// What a condition has to be for a node to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    pub(crate) condition: Id,
    pub(crate) holds: bool,
}

/// The guards of each node, all of which have to be met.
#[derive(Debug)]
pub(crate) struct Guards(Vec<Vec<Guard>>);

impl Guards {
    pub(crate) fn new(module: &Module) -> Self {
        let is_choice = |operation: &Operation| matches!(operation, Operation::Choose);
        if !module.nodes.iter().any(|node| is_choice(&node.operation)) {
            return Self(Vec::new());
        }
        // What all readers so far need a value under; `None` without any.
        let mut needed: Vec<Option<Vec<Guard>>> = vec![None; module.values.len()];
        for output in &module.outputs {
            needed[output.0] = Some(Vec::new());
        }
        let mut guards = Vec::new();
        for node in module.nodes.iter().rev() {
            let own = needed[node.output.0].clone().unwrap_or_default();
            for (position, &input) in node.inputs.iter().enumerate() {
                let mut guards = own.clone();
                if is_choice(&node.operation) && position > 0 {
                    guards.push(Guard { condition: node.inputs[0], holds: position == 1 });
                }
                match &mut needed[input.0] {
                    Some(known) => known.retain(|guard| guards.contains(guard)),
                    unread => *unread = Some(guards),
                }
            }
            guards.push(own);
        }
        guards.reverse();
        // A condition that is not known yet keeps nothing from running, nor what the node reads.
        let mut known = vec![true; module.values.len()];
        module.nodes.iter().for_each(|node| known[node.output.0] = false);
        for (node, guards) in module.nodes.iter().zip(&mut guards) {
            guards.retain(|guard| known[guard.condition.0]);
            known[node.output.0] = true;
        }
        Self(guards)
    }

    /// Those of a node.
    pub(crate) fn of(&self, node: usize) -> &[Guard] {
        self.0.get(node).map_or(&[], Vec::as_slice)
    }

    /// Whether a node runs; `holds` says what a condition is.
    pub(crate) fn admit(&self, node: usize, holds: impl Fn(Id) -> bool) -> bool {
        self.of(node).iter().all(|guard| holds(guard.condition) == guard.holds)
    }
}
