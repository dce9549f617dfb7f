//! Places in row-major arrays.

use crate::weights::checked_elements;

/// Most elements that the reference evaluates an operator to whose output's size is a value: far
/// above any test, far below what a hostile file could ask for.
const EVALUATION_LIMIT: usize = 1 << 31;

/// Position along each dimension of flat `index`.
pub(super) fn position(index: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = index;
    let mut position = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        position[axis] = rest % shape[axis];
        rest /= shape[axis];
    }
    position
}

/// Flat index of `position`, which has to lie inside.
pub(super) fn flat(position: &[usize], shape: &[usize]) -> usize {
    position.iter().zip(shape).fold(0, |flat, (place, size)| flat * size + place)
}

/// Checks that an output of this shape can be held.
///
/// # Errors
///
/// When it has too many elements.
pub(super) fn affordable(shape: &[usize]) -> Result<(), String> {
    match checked_elements(shape) {
        Some(elements) if elements <= EVALUATION_LIMIT => Ok(()),
        _ => Err(format!("expected at most {EVALUATION_LIMIT} elements, found sizes {shape:?}")),
    }
}
