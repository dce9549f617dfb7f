//! Sum, then a layer normalisation that alone reads it → both in one. One side of the sum has its
//! full shape; the other may lack leading dimensions, as a position table does.

use graph::{Dim, Op};

use super::repeat;
use crate::module::{Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    if node.operation != Operation::Graph(Op::Add) {
        return false;
    }
    let Some(next) = module.only_consumer(node.output) else { return false };
    let Operation::Graph(Op::LayerNorm(op)) = &module.nodes[next].operation else { return false };
    let (&[x, residual], &[sum, scale, bias]) =
        (node.inputs.as_slice(), module.nodes[next].inputs.as_slice())
    else {
        return false;
    };
    let shape = |id| &module.value(id).shape;
    let (x, residual) = if shape(x) == shape(sum) { (x, residual) } else { (residual, x) };
    let leading = shape(residual).iter().take_while(|dim| **dim == Dim::Fixed(1)).count();
    let repeated = &shape(residual)[leading..];
    let repeats = !repeated.is_empty() && shape(sum).ends_with(repeated);
    if sum != node.output || shape(x) != shape(sum) || !repeats {
        return false;
    }
    let operation = Operation::ResidualLayerNorm { epsilon: op.epsilon };
    module.fuse(next, &[index, next], operation, vec![x, residual, scale, bias]);
    true
}
