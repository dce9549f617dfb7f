#![allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
//! Sums and maxima in one fixed order: sixteen running values, folded as a tree.
//!
//! Sixteen is one AVX-512 register; narrower tiers use several registers for the same sixteen
//! values, which is what makes their results equal.

/// Running values of a reduction.
pub(crate) const LANES: usize = 16;

#[inline(always)]
fn fold(mut values: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            values[lane] = combine(values[lane], values[lane + width]);
        }
        width /= 2;
    }
    values[0]
}

/// Sum of `term(x)`.
#[inline(always)]
pub(crate) fn sum(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += term(block[lane]);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(tail) {
        *lane += term(value);
    }
    fold(lanes, |a, b| a + b)
}

/// Replaces each element by `function` of it, and gives the sum of the new ones.
#[inline(always)]
pub(crate) fn sum_of_mapped(x: &mut [f32], function: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, tail) = x.as_chunks_mut::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            block[lane] = function(block[lane]);
            lanes[lane] += block[lane];
        }
    }
    for (lane, value) in lanes.iter_mut().zip(tail) {
        *value = function(*value);
        *lane += *value;
    }
    fold(lanes, |a, b| a + b)
}

/// Sum of `term(x, y)`; both slices have the same length.
#[inline(always)]
pub(crate) fn sum_pairs(x: &[f32], y: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (x_blocks, x_tail) = x.as_chunks::<LANES>();
    let (y_blocks, y_tail) = y.as_chunks::<LANES>();
    for (x_block, y_block) in x_blocks.iter().zip(y_blocks) {
        for lane in 0..LANES {
            lanes[lane] += term(x_block[lane], y_block[lane]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(x_tail).zip(y_tail) {
        *lane += term(a, b);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest value, minus infinity for an empty slice. NaN is passed over.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], block[lane]);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(tail) {
        *lane = larger(*lane, value);
    }
    fold(lanes, larger)
}
