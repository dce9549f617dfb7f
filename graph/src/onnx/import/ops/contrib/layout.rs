//! Images whose channels are their last dimension.

use super::super::super::{ImportError, NodeContext};
use crate::ValueId;
use crate::op::{Op, Transpose};

/// Whether the node says that its channels are the last dimension.
pub(super) fn is_channels_last(node: &NodeContext<'_, '_>, default: bool) -> bool {
    node.flag("channels_last", default)
}

/// `[batch, …, channels]` as `[batch, channels, …]`.
pub(super) fn channels_first(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
) -> Result<ValueId, ImportError> {
    let mut permutation: Vec<usize> = (0..node.rank(x)).collect();
    if permutation.len() < 2 {
        return Err(node.invalid("expected a batch and channels"));
    }
    permutation[1..].rotate_right(1);
    node.add(Op::Transpose(Transpose { permutation }), &[x])
}

/// `[batch, channels, …]` of `rank` dimensions as `[batch, …, channels]`.
pub(super) fn channels_last(rank: usize) -> Op {
    let mut permutation: Vec<usize> = (0..rank).collect();
    permutation[1..].rotate_left(1);
    Op::Transpose(Transpose { permutation })
}
