//! Swish written out, as exporters do it, → one operator: `x·sigmoid(x)`, and `x·hard-sigmoid(x)`
//! with the slope of 1/6 and the value of 1/2 that make a hard swish.

use graph::Op;
use graph::op::Unary;

use super::factors::close;
use super::repeat;
use crate::module::{Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let (Operation::Graph(Op::Mul), &[a, b]) = (&node.operation, node.inputs.as_slice()) else {
        return false;
    };
    for (x, gate) in [(a, b), (b, a)] {
        let Some((gate_index, Op::Unary(op))) = module.produced(gate) else { continue };
        let swish = match *op {
            Unary::Sigmoid => Unary::Swish { alpha: 1.0 },
            Unary::HardSigmoid { alpha, beta } if close(alpha, 1.0 / 6.0) && beta == 0.5 => {
                Unary::HardSwish
            }
            _ => continue,
        };
        if module.nodes[gate_index].inputs == [x] && module.uses(gate) == 1 {
            let operation = Operation::Graph(Op::Unary(swish));
            module.fuse(index, &[gate_index, index], operation, vec![x]);
            return true;
        }
    }
    false
}
