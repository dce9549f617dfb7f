//! What the body of a loop computes from values that are the same in every round → nodes before the loop.
//!
//! Only nodes that cannot fail go there, for there may be no round. What moves elements goes along where
//! something that is computed reads it, and stays otherwise: what it costs is little, and passes look for it
//! beside what reads it.

use std::collections::{BTreeMap, BTreeSet};

use graph::op::{Binary, Loop};
use graph::{DType, Dim, Op, Shape, ValueType};

use super::common_subexpressions;
use crate::body::Body;
use crate::module::{Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let mut fired = 0;
    let mut index = 0;
    while index < module.nodes.len() {
        if let Some(lifted) = lift(module, index) {
            fired += lifted;
            index += lifted;
        }
        index += 1;
    }
    if fired > 0 {
        // Loops that differ in their output become one where they read the same.
        common_subexpressions::run(module);
    }
    fired
}

/// Puts nodes of a loop's body before it; gives how many.
fn lift(module: &mut Module, index: usize) -> Option<usize> {
    let node = &module.nodes[index];
    let Operation::Graph(Op::Loop(op)) = &node.operation else { return None };
    let types = types(module, node, op)?;
    let Sorted { lifted, handed, kept } = Sorted::new(module, node, op, &types);
    if handed.is_empty() {
        return None;
    }
    let Node { name, inputs, .. } = node.clone();
    let mut op = op.clone();
    let mut outside: BTreeMap<String, Id> =
        op.body.inputs.iter().cloned().zip(inputs.iter().copied()).collect();
    let mut before = Vec::new();
    for &place in &lifted {
        let inner = &op.body.nodes[place];
        let name = format!("{name}/{}", inner.name);
        let ValueType { dtype, shape } = types[place].clone();
        let output = module.add_value(name.clone(), dtype, shape);
        let inputs = inner.inputs.iter().map(|input| outside[input]).collect();
        let operation = Operation::Graph(inner.op.clone());
        before.push(Node { name, operation, inputs, output, fused_from: Vec::new() });
        outside.insert(inner.name.clone(), output);
    }
    let handed: Vec<String> = handed.iter().map(|&at| op.body.nodes[at].name.clone()).collect();
    let node = &mut module.nodes[index];
    node.inputs.extend(handed.iter().map(|name| outside[name]));
    op.body.inputs.extend(handed);
    op.body.nodes = kept.iter().map(|&at| op.body.nodes[at].clone()).collect();
    node.operation = Operation::Graph(Op::Loop(op));
    let count = before.len();
    module.nodes.splice(index..index, before);
    Some(count)
}

/// Types of what the nodes of a body compute.
fn types(module: &Module, node: &Node, op: &Loop) -> Option<Vec<ValueType>> {
    let body = Body::new(module, node, op).ok()?;
    Some(body.module.nodes.iter().map(|node| body.module.value(node.output).value_type()).collect())
}

/// Nodes of a body, by their places.
struct Sorted {
    /// Those that are computed before the loop.
    lifted: Vec<usize>,
    /// Those of them that the body reads.
    handed: Vec<usize>,
    /// Those that it computes itself.
    kept: Vec<usize>,
}

impl Sorted {
    fn new(module: &Module, node: &Node, op: &Loop, types: &[ValueType]) -> Self {
        let is_wanted = wanted(module, node, op, types);
        let nodes = || op.body.nodes.iter().enumerate().rev();
        let mut read: BTreeSet<&str> = op.body.outputs.iter().map(String::as_str).collect();
        let (mut handed, mut kept) = (Vec::new(), Vec::new());
        for (place, node) in nodes() {
            if !read.contains(node.name.as_str()) {
                continue;
            }
            if is_wanted[place] {
                handed.push(place);
            } else {
                kept.push(place);
                read.extend(node.inputs.iter().map(String::as_str));
            }
        }
        let mut read: BTreeSet<&str> =
            handed.iter().map(|&place| op.body.nodes[place].name.as_str()).collect();
        let mut lifted = Vec::new();
        for (place, node) in nodes() {
            if read.contains(node.name.as_str()) {
                lifted.push(place);
                read.extend(node.inputs.iter().map(String::as_str));
            }
        }
        for list in [&mut lifted, &mut handed, &mut kept] {
            list.reverse();
        }
        Self { lifted, handed, kept }
    }
}

/// For each node of a body whether it computes something from outside that a run gives. Constants stay in
/// the body, whose own passes fold them, or read integers with their scales.
fn wanted(module: &Module, node: &Node, op: &Loop, types: &[ValueType]) -> Vec<bool> {
    let is_known = |shape: &Shape| !shape.contains(&Dim::Unknown);
    // What is the same in every round, and whether only a run tells.
    let mut outside: BTreeMap<&str, bool> = op
        .body
        .inputs
        .iter()
        .zip(&node.inputs)
        .skip(2 + op.carried)
        .filter(|(_, id)| is_known(&module.value(**id).shape))
        .map(|(name, id)| (name.as_str(), module.constant(*id).is_none()))
        .collect();
    let mut wanted = Vec::with_capacity(types.len());
    for (node, value_type) in op.body.nodes.iter().zip(types) {
        let read: Option<Vec<bool>> =
            node.inputs.iter().map(|name| outside.get(name.as_str()).copied()).collect();
        let computes = computes(&node.op, value_type.dtype);
        let fits = is_known(&value_type.shape) && (computes || moves(&node.op));
        let read = read.filter(|_| fits);
        wanted.push(read.as_ref().is_some_and(|read| computes && read.contains(&true)));
        if let Some(read) = read {
            outside.insert(&node.name, read.contains(&true));
        }
    }
    wanted
}

/// Whether an operator computes numbers or truths, and cannot fail on values of the right types.
fn computes(op: &Op, output: DType) -> bool {
    match op {
        Op::Add | Op::Sub | Op::Mul => true,
        Op::Binary(binary) if output != DType::F32 => {
            use Binary::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
            matches!(binary, Equal | Greater | GreaterOrEqual | Less | LessOrEqual)
        }
        Op::Div
        | Op::Relu
        | Op::Tanh
        | Op::Gelu(_)
        | Op::MatMul
        | Op::Softmax(_)
        | Op::LayerNorm(_)
        | Op::RmsNorm(_)
        | Op::GroupNorm(_)
        | Op::InstanceNorm(_)
        | Op::BatchNorm(_)
        | Op::ReduceSum(_)
        | Op::Reduce(_)
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Where
        | Op::Conv(_) => output == DType::F32,
        _ => false,
    }
}

/// Whether an operator moves elements, or has them in another type, and cannot fail.
fn moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Identity
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Unsqueeze(_)
            | Op::Concat(_)
            | Op::Cast(_)
    )
}
