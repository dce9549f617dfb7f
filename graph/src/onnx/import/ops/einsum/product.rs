//! Two operands as one product of matrices.

use super::super::super::{ImportError, NodeContext};
use super::{Label, Operand, ordered, summed};
use crate::op::{Op, Reshape, Squeeze, Unsqueeze};
use crate::{Dim, ValueId};

/// The labels of two operands by what a product does with them.
#[derive(Default)]
pub(super) struct Roles {
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

fn is_fixed(node: &NodeContext<'_, '_>, x: &Operand, label: Label) -> bool {
    let axis = x.labels.iter().position(|&found| found == label);
    axis.is_some_and(|axis| node.shape(x.value)[axis].fixed().is_some())
}

impl Roles {
    /// Those of `a` and `b`, of which both have the `contracted`.
    pub(super) fn of(
        node: &NodeContext<'_, '_>,
        a: &Operand,
        b: &Operand,
        output: &[Label],
        mut contracted: Vec<Label>,
    ) -> Self {
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
        Self { batch, late, left, right, rows, inner, columns }
    }

    /// Those of a vector for each entry of a batch, and of matrices that need not be transposed for it:
    /// it becomes a row, and their columns are what comes last.
    pub(super) fn where_they_lie(
        node: &NodeContext<'_, '_>,
        vector: &Operand,
        matrices: &Operand,
        contracted: &[Label],
    ) -> Option<Self> {
        if vector.labels.iter().any(|label| !matrices.labels.contains(label)) {
            return None;
        }
        let role = |label: &Label| {
            let is_shared = vector.labels.contains(label);
            let before = |inner: &Label| {
                let place = |wanted| matrices.labels.iter().position(|found| found == wanted);
                place(label) < place(inner)
            };
            match (contracted.contains(label), is_shared) {
                (true, _) => 2,
                (_, true) => 0,
                _ if contracted.iter().all(before) => 1,
                _ => 3,
            }
        };
        let roles: Vec<usize> = matrices.labels.iter().map(role).collect();
        let of = |wanted: usize| -> Vec<Label> {
            let labels = matrices.labels.iter().zip(&roles);
            labels.filter(|(_, role)| **role == wanted).map(|(&label, _)| label).collect()
        };
        let [batch, right, inner, columns] = [0, 1, 2, 3].map(of);
        let merges = |labels: &[Label]| {
            labels.len() == 1 || labels.iter().all(|&label| is_fixed(node, matrices, label))
        };
        let fits = roles.is_sorted() && !columns.is_empty() && merges(&columns) && merges(&inner);
        fits.then(|| Self { batch, right, inner, columns, ..Self::default() })
    }

    /// One matrix product, and sums for what it cannot sum.
    pub(super) fn product(
        &self,
        node: &mut NodeContext<'_, '_>,
        a: Operand,
        b: Operand,
    ) -> Result<Operand, ImportError> {
        let Self { batch, late, left, right, rows, inner, columns } = self;
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
        let mut a = matrix(node, a, rows.is_empty().then_some(before))?;
        if before > 0 {
            a = with_ones(node, a, before, right.len())?;
        }
        let order = [&batch[..], right, inner, columns].concat();
        let b = ordered(node, b, &order)?.value;
        let before = batch.len() + right.len();
        let b = merged(node, b, &[before, inner.len(), columns.len()])?;
        let mut b = matrix(node, b, columns.is_empty().then_some(before + 1))?;
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
        let value =
            if axes.is_empty() { y } else { node.add(Op::Squeeze(Squeeze { axes }), &[y])? };
        let labels = [&outer[..], rows, columns].concat();
        summed(node, Operand { value, labels }, |label| late.contains(&label))
    }
}

/// A dimension of size 1 where a matrix lacks its rows or columns.
fn matrix(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    lacking: Option<usize>,
) -> Result<ValueId, ImportError> {
    let axes: Vec<usize> = lacking.into_iter().collect();
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
