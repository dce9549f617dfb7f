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

/// Number of elements of an output of this shape, which must be small enough to hold.
///
/// # Errors
///
/// When there are too many, or more than the allocator gives.
pub(super) fn affordable(shape: &[usize]) -> Result<usize, String> {
    let elements = checked_elements(shape)
        .filter(|&elements| elements <= EVALUATION_LIMIT)
        .ok_or_else(|| format!("expected at most {EVALUATION_LIMIT} elements, found {shape:?}"))?;
    // Memory that is not there would end the process where the elements are made.
    let mut widest: Vec<u64> = Vec::new();
    let reserved = widest.try_reserve_exact(elements);
    std::hint::black_box(&widest);
    reserved.map_err(|_| format!("expected sizes that fit in memory, found {shape:?}"))?;
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_holds_is_refused() {
        assert_eq!(affordable(&[2, 3]), Ok(6));
        assert_eq!(affordable(&[1 << 40, 0]), Ok(0));
        for shape in [&[EVALUATION_LIMIT + 1][..], &[1 << 20, 1 << 20], &[usize::MAX, 2]] {
            assert!(affordable(shape).unwrap_err().contains("elements, found"), "{shape:?}");
        }
    }
}
