//! Scores replaced by a very small number where a mask says so → the number added to them there,
//! which is what attention takes in. The number has to be so small that adding a score to it changes
//! nothing, and scores have to be finite.

use graph::{DType, Op, Tensor};

use crate::module::{Id, Module, Node, Operation};

/// Numbers up to this swallow any score that a product of floats of ordinary size gives.
const SMALL_ENOUGH: f32 = -1e30;

/// A node that writes a very small number over some scores.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    node: usize,
    pub(super) condition: Id,
    pub(super) scores: Id,
    number: f32,
    /// Whether the scores stay where the condition holds.
    keeps: bool,
}

impl Choice {
    /// The node that writes `masked`, when it is one and nothing else reads it.
    pub(super) fn find(module: &Module, masked: Id) -> Option<Self> {
        let (node, Op::Where) = module.produced(masked)? else { return None };
        let [condition, a, b] = module.nodes[node].inputs[..] else { return None };
        let small = |id: Id| module.scalar(id).filter(|number| *number <= SMALL_ENOUGH);
        let (scores, number, keeps) = match (small(a), small(b)) {
            (None, Some(number)) => (a, number, true),
            (Some(number), None) => (b, number, false),
            _ => return None,
        };
        (module.uses(masked) == 1).then_some(Self { node, condition, scores, number, keeps })
    }
}

/// Adds the number instead; gives how many nodes were inserted before.
pub(super) fn add(module: &mut Module, choice: Choice) -> usize {
    let Choice { node, condition, scores, number, keeps } = choice;
    let name = module.nodes[node].name.clone();
    let shape = module.value(condition).shape.clone();
    let zero = module.add_constant(format!("{name}/zero"), Tensor::scalar(0f32));
    let number = module.add_constant(format!("{name}/masked"), Tensor::scalar(number));
    let mask = module.add_value(format!("{name}/mask"), DType::F32, shape);
    let [yes, no] = if keeps { [zero, number] } else { [number, zero] };
    module.nodes[node].operation = Operation::Graph(Op::Add);
    module.nodes[node].inputs = vec![scores, mask];
    let chosen = Node {
        name: format!("{name}/mask"),
        operation: Operation::Graph(Op::Where),
        inputs: vec![condition, yes, no],
        output: mask,
        fused_from: vec![name],
    };
    module.nodes.insert(node, chosen);
    1
}
