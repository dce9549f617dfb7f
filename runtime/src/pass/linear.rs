//! Product with a constant matrix → linear layer, which can take bias and activation in.

use graph::Op;
use kernels::Activation;

use super::repeat;
use crate::module::{Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| {
        let node = &module.nodes[index];
        let (Operation::Graph(Op::MatMul), [x, w]) = (&node.operation, node.inputs.as_slice())
        else {
            return false;
        };
        let matrix = module.constant(*w).is_some_and(|w| w.shape().len() == 2);
        if !matrix || module.value(*x).shape.len() < 2 {
            return false;
        }
        let inputs = node.inputs.clone();
        let operation = Operation::Linear { activation: Activation::Identity };
        module.fuse(index, &[index], operation, inputs);
        true
    })
}
