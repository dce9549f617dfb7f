//! Rotary embedding.

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use super::attention::{by_head, head_count, places, refuse, transpose};
use crate::op::{
    Cast, Concat, Expand, Op, Reshape, RotaryEmbedding, RotaryPairs, ShapeOf, Unsqueeze,
};
use crate::{DType, Dim, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] =
    &[OperatorEntry { name: "RotaryEmbedding", import: rotary_embedding }];

/// How rows are rotated.
pub(super) struct Rotation {
    pub(super) cos: ValueId,
    pub(super) sin: ValueId,
    /// `[batch, sequence]`, i64
    pub(super) positions: ValueId,
    pub(super) pairs: RotaryPairs,
}

impl Rotation {
    /// Rotates `[batch, heads, sequence, size]`.
    pub(super) fn op(&self, node: &NodeContext<'_, '_>, x: ValueId) -> Result<Op, ImportError> {
        let last = |x| node.shape(x).last().and_then(Dim::fixed);
        let (Some(size), Some(half)) = (last(x), last(self.cos)) else {
            return Err(node.unsupported("angles or heads of a size that is not fixed"));
        };
        let width = half.checked_mul(2).filter(|&width| width <= size);
        let width = width.ok_or_else(|| {
            node.invalid(format!("expected at most {} angles, found {half}", size / 2))
        })?;
        let width = (width < size).then_some(width);
        Ok(Op::RotaryEmbedding(RotaryEmbedding { pairs: self.pairs, width }))
    }

    pub(super) fn inputs(&self, x: ValueId) -> [ValueId; 4] {
        [x, self.cos, self.sin, self.positions]
    }
}

/// Places `first`, `first + 1`, … for every sequence of `x`, `[batch, …, sequence, size]`; `first` is a
/// list of one or of one a sequence.
pub(super) fn counted(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    axis: usize,
    first: ValueId,
) -> Result<ValueId, ImportError> {
    let first = node.add(Op::Cast(Cast { to: DType::I64 }), &[first])?;
    let first = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[first])?;
    let range = places(node, x, axis)?;
    let positions = node.add(Op::Add, &[first, range])?;
    let batch = node.add(Op::ShapeOf(ShapeOf { start: 0, end: 1 }), &[x])?;
    let length = node.add(Op::ShapeOf(ShapeOf { start: axis, end: axis + 1 }), &[x])?;
    let sizes = node.add(Op::Concat(Concat { axis: 0 }), &[batch, length])?;
    node.add(Op::Expand(Expand {}), &[positions, sizes])
}

fn rotary_embedding(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    refuse(node, &["is_packed_batching"])?;
    if node.float_or("scale", 1.0) != 1.0 {
        return Err(node.unsupported(format!("scale = {}", node.float_or("scale", 1.0))));
    }
    let (x, mut positions) = (node.input(0)?, node.input(1)?);
    let (cos, sin) = (node.input(2)?, node.input(3)?);
    let flat = node.rank(x) == 3;
    if node.rank(positions) == 1 {
        positions = counted(node, x, if flat { 1 } else { 2 }, positions)?;
    }
    let pairs = pairs(node, "interleaved");
    let rotation = Rotation { cos, sin, positions, pairs };
    if !flat {
        let op = rotation.op(node, x)?;
        return node.output(0, op, &rotation.inputs(x));
    }
    let heads = match node.int_or("rotary_embedding_dim", 0) {
        // A head has as many entries as there are angles for.
        0 => {
            let sizes = (node.shape(x)[2].fixed(), node.shape(cos).last().and_then(Dim::fixed));
            let (Some(width), Some(half)) = sizes else {
                return Err(node.unsupported("rows or angles whose number is not fixed"));
            };
            let heads = width.checked_div(half.saturating_mul(2)).filter(|&heads| heads > 0);
            heads.ok_or_else(|| node.invalid(format!("no heads of {half} angles in {width}")))?
        }
        _ => head_count(node, "num_heads")?,
    };
    let x = by_head(node, x, heads)?;
    let op = rotation.op(node, x)?;
    let rotated = node.add(op, &rotation.inputs(x))?;
    let rotated = node.add(transpose([0, 2, 1, 3]), &[rotated])?;
    node.output(0, Op::Reshape(Reshape { shape: vec![0, 0, -1] }), &[rotated])
}

/// Which entries are rotated together.
pub(super) fn pairs(node: &NodeContext<'_, '_>, name: &str) -> RotaryPairs {
    if node.flag(name, false) { RotaryPairs::Interleaved } else { RotaryPairs::Halves }
}
