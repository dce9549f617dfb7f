//! Linear layer, then a constant row added → linear layer with bias.

use graph::{Dim, Op};
use kernels::Activation;

use super::repeat;
use crate::module::{Id, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let takes_bias = match &node.operation {
        Operation::Linear { activation } => *activation == Activation::Identity,
        Operation::IntegerLinear(layer) => {
            layer.activation == Activation::Identity && layer.output.is_none()
        }
        _ => false,
    };
    if !takes_bias || node.inputs.len() != 2 {
        return false;
    }
    let Some(add) = module.only_consumer(node.output) else { return false };
    let [a, b] = module.nodes[add].inputs[..] else { return false };
    let bias = if a == node.output { b } else { a };
    if module.nodes[add].operation != Operation::Graph(Op::Add)
        || !is_row(module, node.output, bias)
    {
        return false;
    }
    let inputs = [node.inputs.as_slice(), &[bias]].concat();
    let operation = node.operation.clone();
    module.fuse(add, &[index, add], operation, inputs);
    true
}

/// Whether `bias` is a constant of one element a column of `output`.
fn is_row(module: &Module, output: Id, bias: Id) -> bool {
    let columns = module.value(output).shape.last().and_then(Dim::fixed);
    module
        .constant(bias)
        .is_some_and(|bias| Some(bias.shape()) == columns.as_ref().map(std::slice::from_ref))
}
