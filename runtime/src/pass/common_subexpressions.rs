//! Two nodes that compute the same from the same inputs, and under the same conditions → one node. (One
//! for a branch and another's would run always, and might fail where neither would.)

use std::collections::BTreeMap;

use crate::guards::Guards;
use crate::module::{Id, Module};

pub(super) fn run(module: &mut Module) -> usize {
    let mut fired = 0;
    loop {
        match once(module) {
            0 => return fired,
            // Conditions that became one make nodes under them alike.
            count => fired += count,
        }
    }
}

fn once(module: &mut Module) -> usize {
    let guards = Guards::new(module);
    // Earlier nodes by what they read; only those are compared in full.
    let mut seen: BTreeMap<(&'static str, Vec<Id>), Vec<usize>> = BTreeMap::new();
    let mut same: BTreeMap<Id, Id> = BTreeMap::new();
    let mut dropped = vec![false; module.nodes.len()];
    for (index, dropped) in dropped.iter_mut().enumerate() {
        for input in &mut module.nodes[index].inputs {
            *input = same.get(input).copied().unwrap_or(*input);
        }
        let node = &module.nodes[index];
        let earlier = seen.entry((node.operation.kind(), node.inputs.clone())).or_default();
        let is_twin = |&&other: &&usize| {
            module.nodes[other].operation == node.operation && guards.of(other) == guards.of(index)
        };
        let twin = earlier.iter().find(is_twin);
        match twin {
            // An output keeps its own name and place.
            Some(&twin) if !module.outputs.contains(&node.output) => {
                same.insert(node.output, module.nodes[twin].output);
                *dropped = true;
            }
            _ => earlier.push(index),
        }
    }
    module.remove(|index| dropped[index]);
    same.len()
}
