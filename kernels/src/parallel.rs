//! How work is cut: by size alone, so that results do not depend on the number of threads.

use rayon::prelude::*;

/// Elements a thread takes at once. Starting a rayon job costs 2–5 µs, as much as 16 Ki cheap
/// element operations; below this size one thread is faster.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Rows of `row_len` elements that make about one [`CHUNK`], at least one.
pub(crate) fn rows_per_chunk(row_len: usize) -> usize {
    (CHUNK / row_len.max(1)).max(1)
}

/// Runs `kernel` over matching pieces of `x` and `y`, pieces of `chunk` elements.
pub(crate) fn map(
    x: &[f32],
    y: &mut [f32],
    chunk: usize,
    kernel: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    if y.len() <= chunk {
        kernel(x, y);
        return;
    }
    y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| kernel(x, y));
}

/// Runs `kernel` over matching pieces of `a`, `b` and `y`, pieces of `chunk` elements.
pub(crate) fn zip(
    a: &[f32],
    b: &[f32],
    y: &mut [f32],
    chunk: usize,
    kernel: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) {
    if y.len() <= chunk {
        kernel(a, b, y);
        return;
    }
    y.par_chunks_mut(chunk)
        .zip(a.par_chunks(chunk).zip(b.par_chunks(chunk)))
        .for_each(|(y, (a, b))| kernel(a, b, y));
}

/// Panics unless `found` is `expected`; `what` names the slice.
#[track_caller]
pub(crate) fn check_len(what: &str, found: usize, expected: usize) {
    assert!(found == expected, "{what}: expected {expected} elements, found {found}");
}
