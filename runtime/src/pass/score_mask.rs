//! Scores replaced by a very small number where a mask says so → the number added to them there,
//! which is what attention takes in. The number has to be so small that adding a score to it changes
//! nothing.

use graph::{DType, Op, Tensor};

use super::repeat;
use crate::module::{Id, Module, Node, Operation, same_sizes};

/// Numbers up to this swallow any score that a product of floats of ordinary size gives.
const SMALL_ENOUGH: f32 = -1e30;

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| rewrite(module, index).is_some())
}

fn rewrite(module: &mut Module, index: usize) -> Option<()> {
    let node = &module.nodes[index];
    let (Operation::Graph(Op::Where), &[condition, a, b]) =
        (&node.operation, node.inputs.as_slice())
    else {
        return None;
    };
    let (output, name) = (node.output, node.name.clone());
    let softmax = module.only_consumer(output)?;
    let Operation::Graph(Op::Softmax(_)) = module.nodes[softmax].operation else { return None };
    let small = |id: Id| module.scalar(id).filter(|number| *number <= SMALL_ENOUGH);
    let (scores, number, keeps) = match (small(a), small(b)) {
        (None, Some(number)) => (a, number, true),
        (Some(number), None) => (b, number, false),
        _ => return None,
    };
    if !same_sizes(&module.value(scores).shape, &module.value(output).shape) {
        return None;
    }
    let shape = module.value(condition).shape.clone();
    let zero = module.add_constant(format!("{name}/zero"), Tensor::scalar(0f32));
    let number = module.add_constant(format!("{name}/masked"), Tensor::scalar(number));
    let mask = module.add_value(format!("{name}/mask"), DType::F32, shape);
    let [yes, no] = if keeps { [zero, number] } else { [number, zero] };
    module.nodes[index].operation = Operation::Graph(Op::Add);
    module.nodes[index].inputs = vec![scores, mask];
    let chosen = Node {
        name: format!("{name}/mask"),
        operation: Operation::Graph(Op::Where),
        inputs: vec![condition, yes, no],
        output: mask,
        fused_from: vec![name],
    };
    module.nodes.insert(index, chosen);
    Some(())
}
