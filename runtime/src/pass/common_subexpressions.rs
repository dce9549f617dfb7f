//! Two nodes that compute the same from the same inputs → one node.

use std::collections::BTreeMap;

use crate::module::{Id, Module};

pub(super) fn run(module: &mut Module) -> usize {
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
        let twin = earlier.iter().find(|&&other| module.nodes[other].operation == node.operation);
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
