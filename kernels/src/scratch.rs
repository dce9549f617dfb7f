//! Memory that a thread keeps from call to call.

use std::cell::Cell;
use std::thread::LocalKey;

/// Where a thread keeps it, one for each use.
pub(crate) type Kept<T> = LocalKey<Cell<Vec<T>>>;

/// Lends `len` elements of unspecified content. They are taken out meanwhile, so that work which a
/// waiting thread takes on finds others.
pub(crate) fn lend<T: Copy + Default, R>(
    kept: &'static Kept<T>,
    len: usize,
    run: impl FnOnce(&mut [T]) -> R,
) -> R {
    let mut scratch = kept.take();
    if scratch.len() < len {
        scratch.resize(len, T::default());
    }
    let result = run(&mut scratch[..len]);
    kept.set(scratch);
    result
}
