//! What is added to the products of queries and keys.

use super::super::super::super::{ImportError, NodeContext};
use crate::op::{Binary, Cast, Op, ShapeOf, Slice, Squeeze, Unsqueeze};
use crate::{DType, Dim, Tensor, ValueId};

/// Queries and keys by head: `[batch, heads, queries, size]` and `[batch, heads, keys, size]`.
pub(in super::super) struct Span {
    pub(in super::super) query: ValueId,
    pub(in super::super) key: ValueId,
}

impl Span {
    /// All that is added: for padding, `bias` itself, and for later keys where the node hides them.
    pub(in super::super) fn mask(
        &self,
        node: &mut NodeContext<'_, '_>,
        padding: Option<ValueId>,
        bias: Option<ValueId>,
    ) -> Result<Option<ValueId>, ImportError> {
        let padding = padding.map(|mask| self.padding(node, mask)).transpose()?;
        let mask = added(node, padding, bias)?;
        if !node.flag("unidirectional", false) {
            return Ok(mask);
        }
        let later = self.later(node)?;
        added(node, mask, Some(later))
    }

    /// For keys that are padding: by `[batch]` ends, `[2 · batch]` ends and starts, or marks of
    /// `[batch, keys]` or `[batch, queries, keys]`, above 0 for what is none.
    fn padding(
        &self,
        node: &mut NodeContext<'_, '_>,
        mask: ValueId,
    ) -> Result<ValueId, ImportError> {
        let kept = match node.rank(mask) {
            1 => self.between(node, mask)?,
            2 | 3 => {
                let zero = node.weight(Tensor::scalar(0i32))?;
                let marks = node.add(Op::Cast(Cast { to: DType::I32 }), &[mask])?;
                node.add(Op::Binary(Binary::Greater), &[marks, zero])?
            }
            rank => return Err(node.unsupported(format!("a mask of {rank} dimensions"))),
        };
        let axes = if node.rank(kept) == 3 { vec![1] } else { vec![1, 2] };
        let filter = node.float_or("mask_filter_value", -10000.0);
        let mask = additive(node, kept, filter)?;
        node.add(Op::Unsqueeze(Unsqueeze { axes }), &[mask])
    }

    /// Which keys are before the end of their sequence, and not before its start: `[batch, keys]`.
    fn between(
        &self,
        node: &mut NodeContext<'_, '_>,
        bounds: ValueId,
    ) -> Result<ValueId, ImportError> {
        let (batch, count) = (node.shape(self.query)[0].clone(), node.shape(bounds)[0].clone());
        let keys = places(node, self.key, 2)?;
        let bounds = node.add(Op::Cast(Cast { to: DType::I64 }), &[bounds])?;
        let bounds = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[bounds])?;
        let twice = match (&batch, &count) {
            (Dim::Fixed(batch), Dim::Fixed(count)) => batch.checked_mul(2) == Some(*count),
            _ => false,
        };
        if let (true, Dim::Fixed(batch)) = (twice, &batch) {
            let part =
                |start: usize, end: usize| Op::Slice(Slice { axis: 0, start, end: end.into() });
            let ends = node.add(part(0, *batch), &[bounds])?;
            let starts = node.add(part(*batch, 2 * batch), &[bounds])?;
            let before = node.add(Op::Binary(Binary::Less), &[keys, ends])?;
            let after = node.add(Op::Binary(Binary::GreaterOrEqual), &[keys, starts])?;
            return node.add(Op::Binary(Binary::And), &[before, after]);
        }
        if batch == Dim::Unknown || batch != count {
            let reason = format!("a mask of {count} numbers for {batch} sequences");
            return Err(node.unsupported(reason));
        }
        node.add(Op::Binary(Binary::Less), &[keys, bounds])
    }

    /// For keys that are later than the query, where the last query is at the last key:
    /// `[1, 1, queries, keys]`.
    fn later(&self, node: &mut NodeContext<'_, '_>) -> Result<ValueId, ImportError> {
        let mut queries = places(node, self.query, 2)?;
        let (query, key) = (node.shape(self.query)[2].clone(), node.shape(self.key)[2].clone());
        if query == Dim::Unknown || query != key {
            let length = Op::ShapeOf(ShapeOf { start: 2, end: 3 });
            let keys = node.add(length.clone(), &[self.key])?;
            let own = node.add(length, &[self.query])?;
            let before = node.add(Op::Sub, &[keys, own])?;
            queries = node.add(Op::Add, &[queries, before])?;
        }
        let queries = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[queries])?;
        let keys = places(node, self.key, 2)?;
        let seen = node.add(Op::Binary(Binary::LessOrEqual), &[keys, queries])?;
        let mask = additive(node, seen, f32::MIN)?;
        node.add(Op::Unsqueeze(Unsqueeze { axes: vec![0, 1] }), &[mask])
    }
}

/// 0 where `kept` is true, `number` elsewhere.
pub(in super::super) fn additive(
    node: &mut NodeContext<'_, '_>,
    kept: ValueId,
    number: f32,
) -> Result<ValueId, ImportError> {
    let (zero, number) = (node.scalar(0.0)?, node.scalar(number)?);
    node.add(Op::Where, &[kept, zero, number])
}

/// The sum of what is there.
pub(in super::super) fn added(
    node: &mut NodeContext<'_, '_>,
    a: Option<ValueId>,
    b: Option<ValueId>,
) -> Result<Option<ValueId>, ImportError> {
    match (a, b) {
        (Some(a), Some(b)) => node.add(Op::Add, &[a, b]).map(Some),
        (one, other) => Ok(one.or(other)),
    }
}

/// `0, 1, …` for each entry of a dimension of `x`, i64.
pub(in super::super) fn places(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    axis: usize,
) -> Result<ValueId, ImportError> {
    let size = node.add(Op::ShapeOf(ShapeOf { start: axis, end: axis + 1 }), &[x])?;
    let size = node.add(Op::Squeeze(Squeeze { axes: vec![0] }), &[size])?;
    let (zero, one) = (node.weight(Tensor::scalar(0i64))?, node.weight(Tensor::scalar(1i64))?);
    node.add(Op::Range, &[zero, size, one])
}
