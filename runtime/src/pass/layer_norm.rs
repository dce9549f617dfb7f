//! Layer normalization written out, as exporters do it, → one operator:
//! `(x − mean)/√(mean((x − mean)²) + ε)·scale + bias` over the last dimension.

use graph::op::{Binary, LayerNorm, Reduce, ReduceKind, Unary};
use graph::{Dim, Op};

use super::repeat;
use crate::module::{Id, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let fired = repeat(module, rewrite);
    module.sweep();
    fired
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let Some(found) = find(module, index) else { return false };
    let operation = Operation::Graph(Op::LayerNorm(LayerNorm { epsilon: found.epsilon }));
    let inputs = vec![found.x, found.scale, found.bias];
    module.fuse(index, &found.absorbed, operation, inputs);
    true
}

struct Found {
    x: Id,
    scale: Id,
    bias: Id,
    epsilon: f32,
    absorbed: Vec<usize>,
}

/// Walks back from the addition of the bias.
fn find(module: &Module, index: usize) -> Option<Found> {
    let Operation::Graph(Op::Add) = module.nodes[index].operation else { return None };
    let (scaled, bias) = with_row(module, index)?;
    let (product, Op::Mul) = single(module, scaled)? else { return None };
    let (normal, scale) = with_row(module, product)?;
    let (quotient, Op::Div) = single(module, normal)? else { return None };
    let [centred, deviation] = module.nodes[quotient].inputs[..] else { return None };
    let (root, Op::Unary(Unary::Sqrt)) = single(module, deviation)? else { return None };
    let (sum, Op::Add) = single(module, module.nodes[root].inputs[0])? else { return None };
    let [a, b] = module.nodes[sum].inputs[..] else { return None };
    let (variance, epsilon) = match (module.scalar(a), module.scalar(b)) {
        (_, Some(epsilon)) => (a, epsilon),
        (Some(epsilon), _) => (b, epsilon),
        _ => return None,
    };
    let (variance_mean, squared) = mean_of(module, variance)?;
    let square = square_of(module, squared, centred)?;
    let (difference, Op::Sub) = module.produced(centred)? else { return None };
    let [x, mean] = module.nodes[difference].inputs[..] else { return None };
    let (mean_node, averaged) = mean_of(module, mean)?;
    // The difference is read by the quotient and, once or twice, by the square.
    let readers = 1 + module.nodes[square].inputs.iter().filter(|&&id| id == centred).count();
    if averaged != x || module.uses(centred) != readers || epsilon <= 0.0 {
        return None;
    }
    let absorbed =
        vec![mean_node, difference, square, variance_mean, sum, root, quotient, product, index];
    Some(Found { x, scale, bias, epsilon, absorbed })
}

/// The node that writes `id`, when nothing else reads the value.
pub(super) fn single(module: &Module, id: Id) -> Option<(usize, &Op)> {
    if module.uses(id) == 1 { module.produced(id) } else { None }
}

/// The two inputs of a node, one of which has the output's sizes and the other is a constant row as
/// long as its last dimension: `(other, row)`.
pub(super) fn with_row(module: &Module, index: usize) -> Option<(Id, Id)> {
    let [a, b] = module.nodes[index].inputs[..] else { return None };
    let sizes = &module.value(module.nodes[index].output).shape;
    let width = sizes.last().and_then(Dim::fixed)?;
    let is_row = |id: Id| module.constant(id).is_some_and(|row| row.shape() == [width]);
    let (other, row) = if is_row(b) { (a, b) } else { is_row(a).then_some((b, a))? };
    (module.value(other).shape == *sizes).then_some((other, row))
}

/// The node that averages over the last dimension and keeps it, and what it averages.
pub(super) fn mean_of(module: &Module, id: Id) -> Option<(usize, Id)> {
    let (index, Op::Reduce(reduce)) = single(module, id)? else { return None };
    let &[x] = module.nodes[index].inputs.as_slice() else { return None };
    let last = module.value(x).shape.len().checked_sub(1)?;
    let Reduce { kind: ReduceKind::Mean, axes: Some(axes), keep_dims: true, .. } = reduce else {
        return None;
    };
    (*axes == [last]).then_some((index, x))
}

/// The node that squares `x`: a power, or a product of it with itself.
pub(super) fn square_of(module: &Module, squared: Id, x: Id) -> Option<usize> {
    let (index, op) = single(module, squared)?;
    let [a, b] = module.nodes[index].inputs[..] else { return None };
    let fits = match op {
        Op::Binary(Binary::Pow) => a == x && module.scalar(b) == Some(2.0),
        Op::Mul => a == x && b == x,
        _ => false,
    };
    fits.then_some(index)
}
