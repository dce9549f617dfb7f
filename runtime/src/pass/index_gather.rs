//! Gather with indices that count all rows of what is gathered, in order → the same elements under
//! another shape. Exporters write `mask[batch, key]` so, with an index for each dimension
//! (`GatherND`) or `batch·keys + key` on the flattened mask.

use graph::op::{Integer, Reshape};
use graph::{DType, Dim, Op};

use super::repeat;
use super::sizes::{Numbers, integers};
use super::transposes::reshape;
use crate::module::{Id, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let gathers = |node: &crate::module::Node| {
        matches!(node.operation, Operation::Graph(Op::Gather(_) | Op::GatherNd(_)))
    };
    let ranges = module.nodes.iter().any(|node| node.operation == Operation::Graph(Op::Range));
    if !ranges || !module.nodes.iter().any(gathers) {
        return 0;
    }
    let sizes = integers(module);
    let fired = repeat(module, |module, index| {
        let Some((x, op)) = find(module, &sizes, index) else { return false };
        module.nodes[index].operation = Operation::Graph(Op::Reshape(op));
        module.nodes[index].inputs = vec![x];
        true
    });
    module.sweep();
    fired
}

/// How much an integer value grows with each step along a dimension; it is 0 where all are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Zero,
    One,
    Size(Dim),
}

/// What is gathered, and the reshape to the output.
fn find(module: &Module, sizes: &Numbers, index: usize) -> Option<(Id, Reshape)> {
    let node = &module.nodes[index];
    let &[data, indices] = node.inputs.as_slice() else { return None };
    let shape = |id: Id| module.value(id).shape.as_slice();
    let x = match &node.operation {
        Operation::Graph(Op::Gather(gather)) if gather.axis == 0 => {
            let steps = steps(module, sizes, indices)?;
            // Rows of one element, of a matrix laid out as one column.
            let (flatten, Op::Reshape(_) | Op::ReshapeTo(_)) = module.produced(data)? else {
                return None;
            };
            let x = module.nodes[flatten].inputs[0];
            let [_, columns] = shape(x) else { return None };
            let column = shape(data).split_first()?.1.iter().all(|dim| *dim == Dim::Fixed(1));
            let expected = [Step::Size(columns.clone()), Step::One];
            (column && counts(shape(indices), &steps, shape(x), &expected)).then_some(x)?
        }
        Operation::Graph(Op::GatherNd(op)) if op.batch_dims == 0 => {
            let parts = components(module, indices)?;
            let [row, column] = parts.as_slice() else { return None };
            let (rows, columns) = (steps(module, sizes, *row)?, steps(module, sizes, *column)?);
            // As one index into a matrix that lies row by row.
            let width = Step::Size(shape(data).get(1)?.clone());
            let index = |steps| match steps {
                (Step::One, Step::Zero) => Some(width.clone()),
                (Step::Zero, step) => Some(step),
                _ => None,
            };
            let index: Vec<Step> =
                rows.into_iter().zip(columns).map(index).collect::<Option<_>>()?;
            let fits = shape(data).len() == 2
                && shape(*row) == shape(*column)
                && counts(shape(*row), &index, shape(data), &[width, Step::One]);
            fits.then_some(data)?
        }
        _ => return None,
    };
    Some((x, reshape(shape(x), shape(node.output))?))
}

/// Whether an index with these steps counts the elements of a matrix row by row.
fn counts(indices: &[Dim], steps: &[Step], matrix: &[Dim], expected: &[Step; 2]) -> bool {
    let moving: Vec<(&Dim, &Step)> =
        indices.iter().zip(steps).filter(|(dim, _)| **dim != Dim::Fixed(1)).collect();
    let [(rows, row_step), (columns, column_step)] = moving.as_slice() else { return false };
    [*rows, *columns] == [&matrix[0], &matrix[1]]
        && [*row_step, *column_step] == [&expected[0], &expected[1]]
        && !matrix.contains(&Dim::Unknown)
}

/// The parts of a value that is put together along its last dimension, each of size 1 there; each
/// without that dimension.
fn components(module: &Module, id: Id) -> Option<Vec<Id>> {
    let (concat, Op::Concat(op)) = module.produced(id)? else { return None };
    let rank = module.value(id).shape.len();
    if op.axis + 1 != rank {
        return None;
    }
    let part = |&id: &Id| {
        let (index, Op::Unsqueeze(op)) = module.produced(id)? else { return None };
        (op.axes == [rank - 1]).then(|| module.nodes[index].inputs[0])
    };
    module.nodes[concat].inputs.iter().map(part).collect()
}

/// How an integer value grows along each of its dimensions, when it starts at 0 and grows evenly.
fn steps(module: &Module, sizes: &Numbers, id: Id) -> Option<Vec<Step>> {
    let (index, op) = module.produced(id)?;
    let inputs = module.nodes[index].inputs.as_slice();
    let of = |id: Id| steps(module, sizes, id);
    let number = |id: Id| sizes.get(&id).and_then(|numbers| numbers.first()).cloned();
    match (op, inputs) {
        (Op::Range, &[start, _, delta]) => {
            let fits = number(start) == Some(Integer::Known(0))
                && number(delta) == Some(Integer::Known(1));
            fits.then(|| vec![Step::One])
        }
        (Op::Identity, &[x]) => of(x),
        (Op::Cast(op), &[x]) if op.to == DType::I64 => of(x),
        (Op::Unsqueeze(op), &[x]) => {
            let mut steps = of(x)?;
            op.axes.iter().for_each(|&axis| steps.insert(axis.min(steps.len()), Step::Zero));
            Some(steps)
        }
        (Op::Expand(_), &[x, _]) => broadcast(module, x, of(x)?, id),
        (Op::Mul, &[a, b]) => {
            let (x, factor) = if module.value(b).shape.iter().all(|d| *d == Dim::Fixed(1)) {
                (a, number(b)?)
            } else {
                (b, number(a)?)
            };
            let size = factor.dim().ok().filter(|dim| !dim.is_unknown())?;
            let scaled = |step| match step {
                Step::Zero => Some(Step::Zero),
                Step::One => Some(Step::Size(size.clone())),
                Step::Size(_) => None,
            };
            let steps = of(x)?.into_iter().map(scaled).collect::<Option<Vec<_>>>()?;
            broadcast(module, x, steps, id)
        }
        (Op::Add, &[a, b]) => {
            let sides = [a, b].map(|side| broadcast(module, side, of(side)?, id));
            let [Some(a), Some(b)] = sides else { return None };
            let sum = |steps| match steps {
                (step, Step::Zero) | (Step::Zero, step) => Some(step),
                _ => None,
            };
            a.into_iter().zip(b).map(sum).collect()
        }
        _ => None,
    }
}

/// The steps of a value once it is repeated to the shape of another.
fn broadcast(module: &Module, from: Id, steps: Vec<Step>, to: Id) -> Option<Vec<Step>> {
    let (shape, rank) = (&module.value(from).shape, module.value(to).shape.len());
    let missing = rank.checked_sub(shape.len())?;
    let own = steps.into_iter().zip(shape).map(|(step, dim)| match dim {
        Dim::Fixed(1) => Step::Zero,
        _ => step,
    });
    Some(std::iter::repeat_n(Step::Zero, missing).chain(own).collect())
}
