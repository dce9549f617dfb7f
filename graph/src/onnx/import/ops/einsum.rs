//! Einsum: two operands at a time, each pair one matrix product where something is summed.

mod equation;

use equation::{Equation, Label};

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

fn einsum(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let values = node.all_inputs()?;
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

/// The labels of two operands by what a product does with them.
struct Roles {
    /// Outermost: of both and kept, or summed afterwards.
    batch: Vec<Label>,
    /// Summed afterwards; those of `batch` that are not kept.
    late: Vec<Label>,
    /// Of the left operand, along which the right one is repeated.
    left: Vec<Label>,
    /// Of the right operand, along which the left one is repeated.
    right: Vec<Label>,
    /// One dimension of rows, of fixed sizes where there are several.
    rows: Vec<Label>,
    /// One dimension that is summed, as `rows`.
    inner: Vec<Label>,
    /// One dimension of columns, as `rows`.
    columns: Vec<Label>,
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
    let place = |x: &Operand, y: &Operand| {
        let own = x.labels.iter().filter(|label| !y.labels.contains(label));
        own.filter_map(|label| output.iter().position(|found| found == label)).min()
    };
    // What stands first in the output makes the rows.
    let swap = place(&b, &a).is_some_and(|b_place| place(&a, &b).is_none_or(|a| b_place < a));
    let (a, b) = if swap { (b, a) } else { (a, b) };
    let roles = roles(node, &a, &b, output, contracted);
    product(node, a, b, &roles)
}

fn is_fixed(node: &NodeContext<'_, '_>, x: &Operand, label: Label) -> bool {
    let axis = x.labels.iter().position(|&found| found == label);
    axis.is_some_and(|axis| node.shape(x.value)[axis].fixed().is_some())
}

fn roles(
    node: &NodeContext<'_, '_>,
    a: &Operand,
    b: &Operand,
    output: &[Label],
    mut contracted: Vec<Label>,
) -> Roles {
    let only = |x: &Operand, y: &Operand| -> Vec<Label> {
        x.labels.iter().filter(|label| !y.labels.contains(label)).copied().collect()
    };
    // Several make one dimension where their product is a number.
    let grouped = |x: &Operand, labels: &mut Vec<Label>| {
        let merges = labels.iter().all(|&label| is_fixed(node, x, label));
        let last = labels.len().saturating_sub(1);
        labels.split_off(if merges { 0 } else { last })
    };
    let inner = grouped(a, &mut contracted);
    let late = contracted;
    let shared = a.labels.iter().filter(|label| b.labels.contains(label));
    let mut kept: Vec<Label> = shared.filter(|label| !inner.contains(label)).copied().collect();
    kept.retain(|label| !late.contains(label));
    kept.sort_by_key(|label| output.iter().position(|found| found == label));
    let batch = [late.clone(), kept].concat();
    let (mut left, mut right) = (only(a, b), only(b, a));
    let columns = grouped(b, &mut right);
    let rows = if batch.is_empty() && right.is_empty() {
        // The right one is a matrix for any number of dimensions before.
        left.split_off(left.len().saturating_sub(1))
    } else {
        grouped(a, &mut left)
    };
    Roles { batch, late, left, right, rows, inner, columns }
}

/// One matrix product, and sums for what it cannot sum.
fn product(
    node: &mut NodeContext<'_, '_>,
    a: Operand,
    b: Operand,
    roles: &Roles,
) -> Result<Operand, ImportError> {
    let Roles { batch, late, left, right, rows, inner, columns } = roles;
    let sizes = |node: &NodeContext<'_, '_>, x: &Operand, labels: &[Label]| -> Vec<Dim> {
        let axis = |label: &Label| x.labels.iter().position(|found| found == label);
        let shape = node.shape(x.value);
        labels.iter().filter_map(axis).map(|axis| shape[axis].clone()).collect()
    };
    let (row_sizes, column_sizes) = (sizes(node, &a, rows), sizes(node, &b, columns));
    let before = batch.len() + left.len();
    let order = [&batch[..], left, rows, inner].concat();
    let a = ordered(node, a, &order)?.value;
    let a = merged(node, a, &[before, rows.len(), inner.len()])?;
    let mut a = matrix(node, a, before, rows.is_empty(), false)?;
    if before > 0 {
        a = with_ones(node, a, before, right.len())?;
    }
    let order = [&batch[..], right, inner, columns].concat();
    let b = ordered(node, b, &order)?.value;
    let before = batch.len() + right.len();
    let b = merged(node, b, &[before, inner.len(), columns.len()])?;
    let mut b = matrix(node, b, before, false, columns.is_empty())?;
    if before > 0 {
        b = with_ones(node, b, batch.len(), left.len())?;
    }
    let y = node.add(Op::MatMul, &[a, b])?;
    let outer = [&batch[..], left, right].concat();
    let y = split(node, y, outer.len(), &row_sizes, &column_sizes)?;
    let empty = [
        rows.is_empty().then_some(outer.len()),
        columns.is_empty().then_some(outer.len() + rows.len().max(1)),
    ];
    let axes: Vec<usize> = empty.into_iter().flatten().collect();
    let value = if axes.is_empty() { y } else { node.add(Op::Squeeze(Squeeze { axes }), &[y])? };
    let labels = [&outer[..], rows, columns].concat();
    summed(node, Operand { value, labels }, |label| late.contains(&label))
}

/// A dimension of size 1 where a matrix lacks its rows or columns.
fn matrix(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    before: usize,
    lacks_rows: bool,
    lacks_columns: bool,
) -> Result<ValueId, ImportError> {
    let axes = [lacks_rows.then_some(before), lacks_columns.then_some(before + 1)];
    let axes: Vec<usize> = axes.into_iter().flatten().collect();
    if axes.is_empty() { Ok(x) } else { node.add(Op::Unsqueeze(Unsqueeze { axes }), &[x]) }
}

/// `count` dimensions of size 1 from `axis` on.
fn with_ones(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    axis: usize,
    count: usize,
) -> Result<ValueId, ImportError> {
    if count == 0 {
        return Ok(x);
    }
    node.add(Op::Unsqueeze(Unsqueeze { axes: (axis..axis + count).collect() }), &[x])
}

/// The number that dimensions of fixed sizes make together.
fn elements(node: &NodeContext<'_, '_>, dims: &[Dim]) -> Result<i64, ImportError> {
    let sizes: Option<Vec<usize>> = dims.iter().map(Dim::fixed).collect();
    let elements = sizes.and_then(|sizes| crate::weights::checked_elements(&sizes));
    let elements = elements.and_then(|elements| i64::try_from(elements).ok());
    let elements = elements.filter(|&elements| elements > 0);
    elements
        .ok_or_else(|| node.unsupported(format!("dimensions {} as one", crate::dim::display(dims))))
}

/// The last dimensions as two: `first` of them and then `second`, each of fixed sizes or one alone.
fn merged(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    &[before, first, second]: &[usize; 3],
) -> Result<ValueId, ImportError> {
    if first <= 1 && second <= 1 {
        return Ok(x);
    }
    let shape = node.shape(x);
    let mut sizes = vec![0; before];
    let (first, second) = shape[before..].split_at(first);
    match first {
        [] => {}
        [_] => sizes.push(0),
        several => sizes.push(elements(node, several)?),
    }
    match second {
        [] => {}
        [one] if one.fixed().is_none() => sizes.push(-1),
        several => sizes.push(elements(node, several)?),
    }
    node.add(Op::Reshape(Reshape { shape: sizes }), &[x])
}

/// What [`merged`] put together, in two dimensions after `before` others, as it was. Nothing keeps a
/// dimension of size 1.
fn split(
    node: &mut NodeContext<'_, '_>,
    y: ValueId,
    before: usize,
    rows: &[Dim],
    columns: &[Dim],
) -> Result<ValueId, ImportError> {
    if rows.len() <= 1 && columns.len() <= 1 {
        return Ok(y);
    }
    let size = |dim: &Dim| dim.fixed().map_or(-1, |size| size as i64);
    let mut sizes = vec![0; before];
    match rows {
        [] | [_] => sizes.push(0),
        several => sizes.extend(several.iter().map(size)),
    }
    match columns {
        [] => sizes.push(1),
        several => sizes.extend(several.iter().map(size)),
    }
    node.add(Op::Reshape(Reshape { shape: sizes }), &[y])
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
