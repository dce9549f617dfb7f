//! Sums along an axis.

use graph::op;

use super::floats::Floats;

/// The sum along `op.axis`, which is dropped.
pub(super) fn reduce_sum(op: &op::ReduceSum, x: Floats) -> Floats {
    let mut shape = x.shape();
    shape.remove(op.axis);
    let sum = x.sum_axis(op.axis);
    // Rank 0 is held as one element of rank 1.
    if shape.is_empty() { sum.reshape(&[1]) } else { sum.reshape(&shape) }
}
