//! Transpositions in their shortest form, so that later passes see one: of several dimensions
//! merged into one and split again, two in a row, and reshapes in a row.

use graph::op::Transpose;
use graph::{Dim, Op};

use super::repeat;
use crate::module::{Id, Module, Node, Operation, same_sizes};

pub(super) fn run(module: &mut Module) -> usize {
    let fired = repeat(module, |module, index| {
        merged(module, index) || batched(module, index) || reshaped(module, index)
    });
    module.sweep();
    fired
}

/// The input and permutation of the transposition that writes `id`.
fn transposed(module: &Module, id: Id) -> Option<(Id, &[usize])> {
    let (index, Op::Transpose(op)) = module.produced(id)? else { return None };
    Some((module.nodes[index].inputs[0], &op.permutation))
}

/// The input of the reshape that writes `id`.
fn reshape_of(module: &Module, id: Id) -> Option<Id> {
    match module.produced(id)? {
        (index, Op::Reshape(_) | Op::ReshapeTo(_)) => module.nodes[index].inputs.first().copied(),
        _ => None,
    }
}

fn set(module: &mut Module, index: usize, x: Id, permutation: Vec<usize>) {
    module.nodes[index].operation = Operation::Graph(Op::Transpose(Transpose { permutation }));
    module.nodes[index].inputs = vec![x];
}

/// Two transpositions in a row → one.
fn merged(module: &mut Module, index: usize) -> bool {
    let output = module.nodes[index].output;
    let Some((middle, outer)) = transposed(module, output) else { return false };
    let Some((x, inner)) = transposed(module, middle) else { return false };
    let both = outer.iter().map(|&axis| inner[axis]).collect();
    set(module, index, x, both);
    true
}

/// `[a, b, m, n]` → `[a·b, m, n]` → `[a·b, n, m]` → `[c, d, n, m]`: a transposition of the last two,
/// behind a reshape of the others where they differ.
fn batched(module: &mut Module, index: usize) -> bool {
    let output = module.nodes[index].output;
    let found = || {
        let flat = reshape_of(module, output)?;
        let (merged, permutation) = transposed(module, flat)?;
        let x = reshape_of(module, merged)?;
        let from = &module.value(x).shape;
        let [_, rows, columns] = module.value(merged).shape.as_slice() else { return None };
        let [batch @ .., n, m] = module.value(output).shape.as_slice() else { return None };
        let expected = [batch, &[rows.clone(), columns.clone()]].concat();
        let fits = permutation == [0, 2, 1]
            && from.ends_with(&[rows.clone(), columns.clone()])
            && [n, m] == [columns, rows];
        let split = match same_sizes(from, &expected) {
            true => None,
            false => Some(reshape(from, &expected)?),
        };
        fits.then_some((x, expected, split))
    };
    let Some((mut x, expected, split)) = found() else { return false };
    let (mut index, rank) = (index, expected.len());
    if let Some(op) = split {
        let name = format!("{}/split", module.nodes[index].name);
        let value = module.add_value(name.clone(), module.value(x).dtype, expected);
        let node = Node {
            name,
            operation: Operation::Graph(Op::Reshape(op)),
            inputs: vec![x],
            output: value,
            fused_from: Vec::new(),
        };
        module.nodes.insert(index, node);
        (index, x) = (index + 1, value);
    }
    set(module, index, x, (0..rank - 2).chain([rank - 1, rank - 2]).collect());
    true
}

/// A reshape of a reshape → the last one alone, where its sizes are known.
fn reshaped(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Some(middle) = reshape_of(module, node.output) else { return false };
    let Some(x) = reshape_of(module, middle) else { return false };
    let Some(op) = reshape(&module.value(x).shape, &module.value(node.output).shape) else {
        return false;
    };
    module.nodes[index].operation = Operation::Graph(Op::Reshape(op));
    module.nodes[index].inputs = vec![x];
    true
}

/// The reshape from one shape to another with as many elements; `None` where it cannot be said
/// before a run.
pub(super) fn reshape(from: &[Dim], to: &[Dim]) -> Option<graph::op::Reshape> {
    let mut left = false;
    let size = |(position, dim): (usize, &Dim)| match dim {
        Dim::Unknown => None,
        // 0 copies, and nothing says "empty".
        Dim::Fixed(size) => i64::try_from(*size).ok().filter(|size| *size > 0),
        Dim::Symbol(_) if from.get(position) == Some(dim) => Some(0),
        Dim::Symbol(_) => (!std::mem::replace(&mut left, true)).then_some(-1),
    };
    let shape = to.iter().enumerate().map(size).collect::<Option<Vec<i64>>>()?;
    Some(graph::op::Reshape { shape })
}
