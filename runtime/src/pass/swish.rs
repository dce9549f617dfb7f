//! Swish written out, as exporters do it, → one operator: `x·sigmoid(x)`, and the hard swish as
//! `x·hard-sigmoid(x)` with the slope of 1/6 and the value of 1/2, or `x·clip(x + 3, 0, 6) / 6`.

use graph::Op;
use graph::op::{Clip, Unary};

use super::factors::{Factors, close};
use super::repeat;
use crate::module::{Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| gated(module, index) || clipped(module, index))
}

/// `x·clip(x + 3, 0, 6) / 6`
fn clipped(module: &mut Module, index: usize) -> bool {
    let found = || {
        let Operation::Graph(Op::Div | Op::Mul) = module.nodes[index].operation else {
            return None;
        };
        let product = Factors::of(module, index)?;
        let &[a, b] = product.values.as_slice() else { return None };
        if !close(product.constant, 1.0 / 6.0) {
            return None;
        }
        let sides = [(a, b), (b, a)];
        let (x, [clip, sum]) = sides.into_iter().find_map(|(x, gate)| {
            let (clip, &Op::Clip(Clip { low: true, high: true })) = module.produced(gate)? else {
                return None;
            };
            let &[inside, low, high] = module.nodes[clip].inputs.as_slice() else { return None };
            let (sum, Op::Add) = module.produced(inside)? else { return None };
            let &[left, right] = module.nodes[sum].inputs.as_slice() else { return None };
            let added = if left == x { right } else { left };
            let bounds = [low, high, added].map(|id| module.scalar(id));
            let fits = (left == x || right == x)
                && bounds == [Some(0.0), Some(6.0), Some(3.0)]
                && module.uses(gate) == 1
                && module.uses(inside) == 1;
            fits.then_some((x, [clip, sum]))
        })?;
        let same_shape = module.value(x).shape == module.value(module.nodes[index].output).shape;
        let inner = product.nodes.iter().filter(|&&node| node != index);
        let alone = inner.into_iter().all(|&node| module.uses(module.nodes[node].output) == 1);
        (same_shape && alone).then(|| (x, [product.nodes, vec![clip, sum]].concat()))
    };
    let Some((x, absorbed)) = found() else { return false };
    module.fuse(index, &absorbed, Operation::Graph(Op::Unary(Unary::HardSwish)), vec![x]);
    true
}

fn gated(module: &mut Module, index: usize) -> bool {
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
