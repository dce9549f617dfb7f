//! Group normalization written out, as exporters do it for lack of the operator, → one operator: groups as
//! the channels of an instance normalization that neither scales nor shifts, and a factor and a summand for
//! each channel behind it.

use graph::op::GroupNorm;
use graph::{Dim, Op, Tensor};

use super::layer_norm::single;
use super::repeat;
use crate::module::{Id, Module, Operation, same_sizes};

pub(super) fn run(module: &mut Module) -> usize {
    let fired = repeat(module, rewrite);
    module.sweep();
    fired
}

struct Found {
    x: Id,
    /// For each channel.
    scale: Tensor,
    bias: Tensor,
    op: GroupNorm,
    absorbed: [usize; 4],
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let Some(Found { x, scale, bias, op, absorbed }) = find(module, index) else { return false };
    let name = module.nodes[index].name.clone();
    let scale = module.add_constant(format!("{name}/scale"), scale);
    let bias = module.add_constant(format!("{name}/bias"), bias);
    let operation = Operation::Graph(Op::GroupNorm(op));
    module.fuse(index, &[&absorbed[..], &[index]].concat(), operation, vec![x, scale, bias]);
    true
}

/// Walks back from the addition of the summands.
fn find(module: &Module, index: usize) -> Option<Found> {
    let Operation::Graph(Op::Add) = module.nodes[index].operation else { return None };
    let (scaled, bias) = by_channel(module, index)?;
    let (product, Op::Mul) = single(module, scaled)? else { return None };
    let (normal, scale) = by_channel(module, product)?;
    let (merge, flat) = reshape(module, normal)?;
    let (norm, Op::InstanceNorm(op)) = single(module, flat)? else { return None };
    let &[groups, ones, zeros] = module.nodes[norm].inputs.as_slice() else { return None };
    let (split, x) = reshape(module, groups)?;
    let [batch, channels, ..] = module.value(x).shape.as_slice() else { return None };
    let [same_batch, Dim::Fixed(count), _] = module.value(groups).shape.as_slice() else {
        return None;
    };
    let all = |id: Id, number: f32| {
        let elements = module.constant(id).and_then(|tensor| tensor.elements::<f32>().ok());
        elements.is_some_and(|elements| elements.iter().all(|&x| x == number))
    };
    let fits = batch == same_batch
        && *count > 0
        && channels.fixed().is_some_and(|channels| channels.is_multiple_of(*count))
        && same_sizes(&module.value(x).shape, &module.value(module.nodes[index].output).shape)
        && all(ones, 1.0)
        && all(zeros, 0.0);
    let op = GroupNorm { groups: *count, epsilon: op.epsilon };
    fits.then_some(Found { x, scale, bias, op, absorbed: [split, norm, merge, product] })
}

/// The node that writes `id` as another shape of what it reads, when nothing else reads the value.
fn reshape(module: &Module, id: Id) -> Option<(usize, Id)> {
    match single(module, id)? {
        (index, Op::Reshape(_) | Op::ReshapeTo(_)) => Some((index, module.nodes[index].inputs[0])),
        _ => None,
    }
}

/// The two inputs of a node, one of which has the output's sizes and the other is a constant with a number
/// for each channel: `(other, numbers)`.
fn by_channel(module: &Module, index: usize) -> Option<(Id, Tensor)> {
    let &[a, b] = module.nodes[index].inputs.as_slice() else { return None };
    let sizes = &module.value(module.nodes[index].output).shape;
    let channels = sizes.get(1)?.fixed()?;
    let numbers = |id: Id| {
        let constant = module.constant(id)?;
        // Of channels, and of dimensions behind them that it repeats along.
        let own = constant.shape().iter().rev().skip(sizes.len().checked_sub(2)?);
        let is_long = own.copied().next() == Some(channels) && constant.len() == channels;
        if is_long { constant.reshaped(&[channels]).ok() } else { None }
    };
    let (other, numbers) = match (numbers(a), numbers(b)) {
        (_, Some(numbers)) => (a, numbers),
        (Some(numbers), _) => (b, numbers),
        _ => return None,
    };
    same_sizes(&module.value(other).shape, sizes).then_some((other, numbers))
}
