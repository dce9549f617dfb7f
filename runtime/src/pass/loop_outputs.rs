//! Loops that differ in the output they give → one that runs once, and gives all of them.

use std::collections::BTreeMap;

use graph::Op;
use graph::op::{Loop, Subgraph};

use crate::body::Body;
use crate::guards::Guards;
use crate::module::{Id, Module, Node, Operation, SeveralOutputs};

pub(super) fn run(module: &mut Module) -> usize {
    let is_loop = |node: &Node| matches!(node.operation, Operation::Graph(Op::Loop(_)));
    let nodes = module.nodes.iter().enumerate();
    let loops: Vec<usize> = nodes.filter(|(_, node)| is_loop(node)).map(|(i, _)| i).collect();
    let guards = Guards::new(module);
    let mut fired = 0;
    for (index, &first) in loops.iter().enumerate() {
        for &second in &loops[index + 1..] {
            let fits = guards.of(first) == guards.of(second) && merge(module, first, second);
            fired += usize::from(fits);
        }
    }
    fired
}

/// Has the first of two loops give what the second does, where both run the same rounds.
fn merge(module: &mut Module, first: usize, second: usize) -> bool {
    let Operation::Graph(Op::Loop(other)) = &module.nodes[second].operation else { return false };
    let [a, b] = [first, second].map(|index| module.nodes[index].inputs.as_slice());
    let given = 2 + other.carried;
    if a.get(..given) != b.get(..given) {
        return false;
    }
    let Some(several) = several(&module.nodes[first]) else { return false };
    if several.op.carried != other.carried {
        return false;
    }
    let Some((mut op, inputs)) = joined((&several.op, a), (other, b)) else { return false };
    let is_late = |id: &Id| module.nodes[first..].iter().any(|node| node.output == *id);
    if inputs.iter().any(is_late) {
        return false;
    }
    let collected = other.output >= other.carried;
    let output = if collected { op.body.outputs.len() - 2 } else { other.output };
    op.output = several.op.output;
    let mut others = several.others;
    others.push((output, module.value(module.nodes[second].output).value_type()));
    let op = SeveralOutputs { op, others };
    let place = op.others.len() - 1;
    let merged = Node { inputs, ..module.nodes[first].clone() };
    if Body::new(module, &merged, &op.op).is_err() {
        return false;
    }
    let output = merged.output;
    module.nodes[first] = Node { operation: Operation::Loop(op), ..merged };
    module.nodes[second].operation = Operation::LoopOutput { place };
    module.nodes[second].inputs = vec![output];
    true
}

/// The loop of a node, and what it gives beside its output.
fn several(node: &Node) -> Option<SeveralOutputs> {
    match &node.operation {
        Operation::Graph(Op::Loop(op)) => {
            Some(SeveralOutputs { op: op.clone(), others: Vec::new() })
        }
        Operation::Loop(several) => Some(several.clone()),
        _ => None,
    }
}

/// The loop of the nodes of both, which gives what the first does and, behind that, what the second
/// collects; and what it reads. `None` where a name means one thing here and another there.
fn joined((a, read): (&Loop, &[Id]), (b, also_read): (&Loop, &[Id])) -> Option<(Loop, Vec<Id>)> {
    let given = 2 + a.carried;
    let (own, also_own) = (a.body.inputs.get(..given)?, b.body.inputs.get(..given)?);
    let (carried, also_carried) =
        (a.body.outputs.get(..=a.carried)?, b.body.outputs.get(..=a.carried)?);
    if own != also_own || carried != also_carried {
        return None;
    }
    let Subgraph { mut inputs, mut nodes, mut outputs } = a.body.clone();
    let mut ids = read.to_vec();
    let known: BTreeMap<&str, Id> =
        a.body.inputs.iter().map(String::as_str).zip(read.iter().copied()).collect();
    let computed: BTreeMap<&str, _> =
        a.body.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    for (name, &id) in b.body.inputs.iter().zip(also_read).skip(given) {
        match known.get(name.as_str()) {
            Some(&other) if other == id => {}
            None if !computed.contains_key(name.as_str()) => {
                inputs.push(name.clone());
                ids.push(id);
            }
            _ => return None,
        }
    }
    for node in &b.body.nodes {
        match computed.get(node.name.as_str()) {
            Some(&other) if other == node => {}
            None if !known.contains_key(node.name.as_str()) => nodes.push(node.clone()),
            _ => return None,
        }
    }
    if b.output >= b.carried {
        outputs.push(b.body.outputs.get(1 + b.output)?.clone());
    }
    let body = Subgraph { inputs, nodes, outputs };
    Some((Loop { body, carried: a.carried, output: a.output }, ids))
}
