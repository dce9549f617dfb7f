#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864).

use crate::parallel::{check_len, for_each_row, rows_per_chunk};
use crate::tier::{Cpu, tiered};

/// Angles by which pairs of entries are rotated.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Cosines, `[places, pairs]`.
    pub cos: &'a [f32],
    /// Sines, `[places, pairs]`.
    pub sin: &'a [f32],
    /// Pairs of a row that are rotated.
    pub pairs: usize,
    /// Whether neighbours are a pair, rather than entry `i` of the first half and of the second.
    pub interleaved: bool,
}

tiered! {
    fn rotate_halves(first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (cos * *a - sin * *b, sin * *a + cos * *b);
        }
    }
}

tiered! {
    fn rotate_neighbours(row: &mut [f32], cos: &[f32], sin: &[f32]) {
        for ((pair, &cos), &sin) in row.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            let [a, b] = *pair;
            *pair = [cos * a - sin * b, sin * a + cos * b];
        }
    }
}

/// Rotates the first entries of each row of `y`, in place; `place` tells a row's among the angles.
///
/// # Shapes
/// `y`: `[rows, size]`, `size` at least twice the pairs.
///
/// # Panics
/// When a length does not fit, or there are no angles for a place.
pub fn rotate(
    cpu: Cpu,
    y: &mut [f32],
    size: usize,
    rotation: &Rotation<'_>,
    place: impl Fn(usize) -> usize + Sync,
) {
    let Rotation { cos, sin, pairs, interleaved } = *rotation;
    assert!(2 * pairs <= size, "rotate: {pairs} pairs of rows of {size}");
    check_len("rotate: sin", sin.len(), cos.len());
    check_len("rotate: y", y.len(), y.len().checked_div(size).unwrap_or(0) * size);
    if y.is_empty() || pairs == 0 {
        return;
    }
    for_each_row(y, size, rows_per_chunk(size), |row, y| {
        let start = place(row) * pairs;
        let (cos, sin) = (&cos[start..][..pairs], &sin[start..][..pairs]);
        let y = &mut y[..2 * pairs];
        if interleaved {
            rotate_neighbours(cpu, y, cos, sin);
        } else {
            let (first, second) = y.split_at_mut(pairs);
            rotate_halves(cpu, first, second, cos, sin);
        }
    });
}
