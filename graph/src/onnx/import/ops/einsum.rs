//! Einsum: two operands at a time, each pair one matrix product where something is summed.

mod equation;
mod product;

use equation::{Equation, Label};
use product::Roles;

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::dim::how_to_bind;
use crate::op::{
    Gather, Op, Reduce, ReduceKind, ReduceSum, Reshape, Squeeze, Transpose, Unsqueeze,
};
use crate::{DType, Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[OperatorEntry { name: "Einsum", import: einsum }];

/// Most entries of a diagonal.
const DIAGONAL_LIMIT: usize = 1 << 16;

/// A value and what its dimensions are called.
#[derive(Clone)]
struct Operand {
    value: ValueId,
    labels: Vec<Label>,
}

/// Operands of one product at most: all of them are looked at for each.
const MOST_OPERANDS: usize = 64;

fn einsum(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let values = node.all_inputs()?;
    if values.len() > MOST_OPERANDS {
        return Err(node.unsupported(format!("more than {MOST_OPERANDS} operands")));
    }
    let ranks: Vec<usize> = values.iter().map(|&value| node.rank(value)).collect();
    let text = node.text_or("equation", "");
    let equation = Equation::parse(&text, &ranks).map_err(|reason| node.invalid(reason))?;
    check_sizes(node, &values, &equation)?;
    let mut operands = Vec::new();
    for (value, labels) in values.into_iter().zip(equation.inputs) {
        operands.push(diagonal(node, Operand { value, labels })?);
    }
    let wanted = |label: Label, others: &[Operand]| {
        equation.output.contains(&label) || others.iter().any(|x| x.labels.contains(&label))
    };
    for index in 0..operands.len() {
        let mut others = operands.clone();
        operands[index] = squeezed(node, others.remove(index), &others)?;
    }
    for index in 0..operands.len() {
        let mut others = operands.clone();
        operands[index] = summed(node, others.remove(index), |label| !wanted(label, &others))?;
    }
    let [first, rest @ ..] = operands.as_slice() else {
        return Err(node.invalid("expected an input, found none"));
    };
    let (mut so_far, mut rest) = (first.clone(), rest);
    while let Some((next, after)) = rest.split_first() {
        let kept = |label| wanted(label, after);
        so_far = pair(node, so_far, next.clone(), &equation.output, kept)?;
        rest = after;
    }
    let result = ordered(node, so_far, &equation.output)?;
    node.set(0, result.value);
    Ok(())
}

/// Refuses dimensions of one label whose sizes differ where none is 1.
fn check_sizes(
    node: &NodeContext<'_, '_>,
    values: &[ValueId],
    equation: &Equation,
) -> Result<(), ImportError> {
    let mut seen: Vec<(Label, Dim)> = Vec::new();
    for (index, (&value, labels)) in values.iter().zip(&equation.inputs).enumerate() {
        let dims = labels.iter().zip(node.shape(value));
        for (&label, dim) in dims.filter(|(_, dim)| *dim != Dim::Fixed(1)) {
            match seen.iter().find(|(other, _)| *other == label) {
                Some((_, other)) if !other.may_equal(&dim) => {
                    let bind = how_to_bind(other, &dim);
                    return Err(node.invalid(format!(
                        "expected {other} for `{label}` of input {index}, found {dim}{bind}"
                    )));
                }
                Some(_) => {}
                None => seen.push((label, dim)),
            }
        }
    }
    Ok(())
}

/// The entries at which dimensions of the same label have the same index.
fn diagonal(node: &mut NodeContext<'_, '_>, mut x: Operand) -> Result<Operand, ImportError> {
    let twice = |labels: &[Label]| {
        let repeated = |place: &usize| labels[..*place].contains(&labels[*place]);
        (0..labels.len()).find(repeated)
    };
    while let Some(second) = twice(&x.labels) {
        let label = x.labels[second];
        let first = x.labels.iter().position(|other| *other == label).unwrap_or(0);
        let rank = x.labels.len();
        let shape = node.shape(x.value);
        let (Some(size), Some(other)) = (shape[first].fixed(), shape[second].fixed()) else {
            return Err(node.unsupported(format!("a diagonal `{label}` of unknown length")));
        };
        if size != other {
            let reason = format!("expected {size} for the second `{label}`, found {other}");
            return Err(node.invalid(reason));
        }
        if size == 0 || size > DIAGONAL_LIMIT {
            return Err(node.unsupported(format!("a diagonal `{label}` of {size} entries")));
        }
        let mut permutation: Vec<usize> =
            (0..rank).filter(|&axis| axis != first && axis != second).collect();
        let mut labels: Vec<Label> = permutation.iter().map(|&axis| x.labels[axis]).collect();
        let axis = labels.len();
        permutation.extend([first, second]);
        labels.push(label);
        let last = transposed(node, x.value, permutation)?;
        let sizes = [vec![0; axis], vec![(size * size) as i64]].concat();
        let flat = node.add(Op::Reshape(Reshape { shape: sizes }), &[last])?;
        let places = node.weight(Tensor::from_fn(&[size], |index| (index * (size + 1)) as i64))?;
        let value = node.add(Op::Gather(Gather { axis }), &[flat, places])?;
        x = Operand { value, labels };
    }
    Ok(x)
}

/// Without the dimensions of size 1 that are larger elsewhere, along which the operand is repeated.
fn squeezed(
    node: &mut NodeContext<'_, '_>,
    x: Operand,
    others: &[Operand],
) -> Result<Operand, ImportError> {
    let larger = |label: &Label| {
        others.iter().any(|other| {
            let axis = other.labels.iter().position(|found| found == label);
            axis.is_some_and(|axis| node.shape(other.value)[axis] != Dim::Fixed(1))
        })
    };
    let shape = node.shape(x.value);
    let axes: Vec<usize> = (0..x.labels.len())
        .filter(|&axis| shape[axis] == Dim::Fixed(1) && larger(&x.labels[axis]))
        .collect();
    if axes.is_empty() {
        return Ok(x);
    }
    let labels = without(&x.labels, &axes);
    let value = node.add(Op::Squeeze(Squeeze { axes }), &[x.value])?;
    Ok(Operand { value, labels })
}

fn without(labels: &[Label], axes: &[usize]) -> Vec<Label> {
    let kept = labels.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
    kept.map(|(_, &label)| label).collect()
}

/// Summed over the dimensions of these labels.
fn summed(
    node: &mut NodeContext<'_, '_>,
    x: Operand,
    drops: impl Fn(Label) -> bool,
) -> Result<Operand, ImportError> {
    let axes: Vec<usize> = (0..x.labels.len()).filter(|&axis| drops(x.labels[axis])).collect();
    let labels = without(&x.labels, &axes);
    let op = match axes.as_slice() {
        [] => return Ok(x),
        &[axis] if node.dtype(x.value) == DType::F32 => Op::ReduceSum(ReduceSum { axis }),
        _ => Op::Reduce(Reduce {
            kind: ReduceKind::Sum,
            axes: Some(axes),
            keep_dims: false,
            empty_means_none: false,
        }),
    };
    let value = node.add(op, &[x.value])?;
    Ok(Operand { value, labels })
}

fn transposed(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    permutation: Vec<usize>,
) -> Result<ValueId, ImportError> {
    if permutation.is_sorted() {
        return Ok(x);
    }
    node.add(Op::Transpose(Transpose { permutation }), &[x])
}

/// With the dimensions in the order of `labels`, which are all of the operand's.
fn ordered(
    node: &mut NodeContext<'_, '_>,
    x: Operand,
    labels: &[Label],
) -> Result<Operand, ImportError> {
    let axis = |label: &Label| x.labels.iter().position(|found| found == label);
    let permutation = labels.iter().filter_map(axis).collect();
    let value = transposed(node, x.value, permutation)?;
    Ok(Operand { value, labels: labels.to_vec() })
}

/// `a · b` summed over what both have and nothing else reads.
fn pair(
    node: &mut NodeContext<'_, '_>,
    a: Operand,
    b: Operand,
    output: &[Label],
    kept: impl Fn(Label) -> bool,
) -> Result<Operand, ImportError> {
    let shared = |label: &&Label| a.labels.contains(label) && b.labels.contains(label);
    let contracted: Vec<Label> =
        a.labels.iter().filter(shared).filter(|&&label| !kept(label)).copied().collect();
    if contracted.is_empty() || node.dtype(a.value) != DType::F32 {
        return elementwise(node, &a, &b, output, &contracted);
    }
    for (vector, matrices) in [(&a, &b), (&b, &a)] {
        if let Some(roles) = Roles::where_they_lie(node, vector, matrices, &contracted) {
            return roles.product(node, vector.clone(), matrices.clone());
        }
    }
    let place = |x: &Operand, y: &Operand| {
        let own = x.labels.iter().filter(|label| !y.labels.contains(label));
        own.filter_map(|label| output.iter().position(|found| found == label)).min()
    };
    // What stands first in the output makes the rows.
    let swap = place(&b, &a).is_some_and(|b_place| place(&a, &b).is_none_or(|a| b_place < a));
    let (a, b) = if swap { (b, a) } else { (a, b) };
    Roles::of(node, &a, &b, output, contracted).product(node, a, b)
}

/// The product of each pair of elements, and sums of those.
fn elementwise(
    node: &mut NodeContext<'_, '_>,
    a: &Operand,
    b: &Operand,
    output: &[Label],
    contracted: &[Label],
) -> Result<Operand, ImportError> {
    let mut labels = a.labels.clone();
    labels.extend(b.labels.iter().filter(|label| !a.labels.contains(label)));
    labels.sort_by_key(|label| {
        output.iter().position(|found| found == label).unwrap_or(output.len())
    });
    let mut aligned = Vec::new();
    for x in [a, b] {
        let own: Vec<Label> =
            labels.iter().filter(|label| x.labels.contains(label)).copied().collect();
        let x = ordered(node, x.clone(), &own)?;
        // Before the first of its own it broadcasts as it is.
        let first = labels.iter().position(|label| own.contains(label)).unwrap_or(labels.len());
        let after = labels[first..].iter().enumerate();
        let axes: Vec<usize> =
            after.filter(|(_, label)| !own.contains(label)).map(|(axis, _)| axis).collect();
        aligned.push(match axes.as_slice() {
            [] => x.value,
            _ => node.add(Op::Unsqueeze(Unsqueeze { axes }), &[x.value])?,
        });
    }
    let value = node.add(Op::Mul, &aligned)?;
    summed(node, Operand { value, labels }, |label| contracted.contains(&label))
}
