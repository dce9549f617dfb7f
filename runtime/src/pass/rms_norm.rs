//! Root-mean-square normalization written out, as exporters do it, → one operator:
//! `x/√(mean(x²) + ε)·scale` over the last dimension.

use graph::Op;
use graph::op::{RmsNorm, Unary};

use super::layer_norm::{mean_of, single, square_of, with_row};
use super::repeat;
use crate::module::{Id, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| {
        let Some(Found { x, scale, epsilon, absorbed }) = find(module, index) else { return false };
        let operation = Operation::Graph(Op::RmsNorm(RmsNorm { epsilon }));
        module.fuse(index, &absorbed, operation, vec![x, scale]);
        true
    })
}

struct Found {
    x: Id,
    scale: Id,
    epsilon: f32,
    absorbed: Vec<usize>,
}

/// Walks back from the product with the scale.
fn find(module: &Module, index: usize) -> Option<Found> {
    let Operation::Graph(Op::Mul) = module.nodes[index].operation else { return None };
    let (normal, scale) = with_row(module, index)?;
    let (product, op) = single(module, normal)?;
    let [a, b] = module.nodes[product].inputs[..] else { return None };
    let mut absorbed = vec![product, index];
    let (x, root) = match op {
        Op::Div => (a, b),
        Op::Mul => [(a, b), (b, a)].into_iter().find_map(|(x, factor)| {
            let (inverse, root) = inverse_of(module, factor)?;
            absorbed.push(inverse);
            Some((x, root))
        })?,
        _ => return None,
    };
    let (root, Op::Unary(Unary::Sqrt)) = single(module, root)? else { return None };
    let (sum, Op::Add) = single(module, module.nodes[root].inputs[0])? else { return None };
    let [a, b] = module.nodes[sum].inputs[..] else { return None };
    let (mean, epsilon) = match (module.scalar(a), module.scalar(b)) {
        (_, Some(epsilon)) => (a, epsilon),
        (Some(epsilon), _) => (b, epsilon),
        _ => return None,
    };
    let (mean, squared) = mean_of(module, mean)?;
    let square = square_of(module, squared, x)?;
    absorbed.extend([root, sum, mean, square]);
    let same = module.value(x).shape == module.value(module.nodes[index].output).shape;
    (same && epsilon > 0.0).then_some(Found { x, scale, epsilon, absorbed })
}

/// The node that divides 1 by something, and that, where nothing else reads the quotient.
fn inverse_of(module: &Module, id: Id) -> Option<(usize, Id)> {
    let (index, op) = single(module, id)?;
    match (op, &module.nodes[index].inputs[..]) {
        (Op::Unary(Unary::Reciprocal), &[x]) => Some((index, x)),
        (Op::Div, &[one, x]) if module.scalar(one) == Some(1.0) => Some((index, x)),
        _ => None,
    }
}
