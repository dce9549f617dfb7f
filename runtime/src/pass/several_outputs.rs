//! Nodes that differ in which output of an operator they give → one that runs once, and gives all of them.

use std::collections::BTreeMap;

use graph::Op;
use graph::op::{Loop, Recurrent, Subgraph, TopK};

use crate::guards::Guards;
use crate::kernel::has_kernel;
use crate::module::{Id, Module, Node, Operation, SeveralOutputs};

pub(super) fn run(module: &mut Module) -> usize {
    let has_several = |node: &Node| {
        matches!(node.operation, Operation::Graph(Op::Loop(_) | Op::Recurrent(_) | Op::TopK(_)))
    };
    let nodes = module.nodes.iter().enumerate();
    let nodes: Vec<usize> = nodes.filter(|(_, node)| has_several(node)).map(|(i, _)| i).collect();
    let guards = Guards::new(module);
    let mut fired = 0;
    for (index, &first) in nodes.iter().enumerate() {
        for &second in &nodes[index + 1..] {
            let fits = guards.of(first) == guards.of(second) && merge(module, first, second);
            fired += usize::from(fits);
        }
    }
    fired
}

/// Has the first of two nodes give what the second does, where both are the same but for that.
fn merge(module: &mut Module, first: usize, second: usize) -> bool {
    let Some((several, inputs)) = both(module, first, second) else { return false };
    let is_late = |id: &Id| module.nodes[first..].iter().any(|node| node.output == *id);
    if inputs.iter().any(is_late) {
        return false;
    }
    let place = several.others.len() - 1;
    let operation = Operation::Several(several);
    let merged = Node { operation, inputs, ..module.nodes[first].clone() };
    if !has_kernel(module, &merged) {
        return false;
    }
    let output = merged.output;
    module.nodes[first] = merged;
    module.nodes[second].operation = Operation::OtherOutput { place };
    module.nodes[second].inputs = vec![output];
    true
}

/// Two nodes as one, and what it reads.
fn both(module: &Module, first: usize, second: usize) -> Option<(SeveralOutputs, Vec<Id>)> {
    let [a, b] = [first, second].map(|index| &module.nodes[index]);
    let several = match &a.operation {
        Operation::Graph(op) => SeveralOutputs { op: op.clone(), others: Vec::new() },
        Operation::Several(several) => several.clone(),
        _ => return None,
    };
    let Operation::Graph(other) = &b.operation else { return None };
    let own_type = module.value(b.output).value_type();
    let same = match (&several.op, other) {
        (Op::Loop(op), Op::Loop(other)) => {
            let (joined, output, inputs) = joined((op, &a.inputs), (other, &b.inputs))?;
            let of = |output| Op::Loop(Loop { output, ..joined.clone() });
            let others = several.others.iter().filter_map(|(op, value_type)| match op {
                Op::Loop(op) => Some((of(op.output), value_type.clone())),
                _ => None,
            });
            let others = others.chain([(of(output), own_type)]).collect();
            return Some((SeveralOutputs { op: of(op.output), others }, inputs));
        }
        (Op::TopK(op), Op::TopK(other)) => TopK { part: other.part, ..*op } == *other,
        (Op::Recurrent(op), Op::Recurrent(other)) => {
            Recurrent { output: other.output, ..op.clone() } == *other
        }
        _ => false,
    };
    if !same || a.inputs != b.inputs {
        return None;
    }
    let mut others = several.others;
    others.push((other.clone(), own_type));
    Some((SeveralOutputs { others, ..several }, a.inputs.clone()))
}

/// The loop of the nodes of both, which gives what the first does and, behind that, what the second
/// collects; which output of it the second's is; and what it reads. `None` where they run other rounds, or
/// a name means one thing here and another there.
fn joined(
    (a, read): (&Loop, &[Id]),
    (b, also_read): (&Loop, &[Id]),
) -> Option<(Loop, usize, Vec<Id>)> {
    let given = 2 + a.carried;
    if a.carried != b.carried || read.get(..given) != also_read.get(..given) {
        return None;
    }
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
    let mut output = b.output;
    if b.output >= b.carried {
        output = outputs.len() - 1;
        outputs.push(b.body.outputs.get(1 + b.output)?.clone());
    }
    let body = Subgraph { inputs, nodes, outputs };
    Some((Loop { body, carried: a.carried, output: a.output }, output, ids))
}
