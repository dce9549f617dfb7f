#![allow(unsafe_code, reason = "threads fill disjoint ranges of one slice")]
//! How work is cut: by size alone, so that results do not depend on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

/// Elements a thread takes at once. Starting a rayon job costs 2–5 µs, as much as 16 Ki cheap
/// element operations; below this size one thread is faster.
pub const CHUNK: usize = 16 * 1024;

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

/// Runs `job` for every index below `count`.
pub(crate) fn for_each(count: usize, job: impl Fn(usize) + Sync) {
    if count == 1 {
        job(0);
        return;
    }
    (0..count).into_par_iter().for_each(&job);
}

/// Runs `job` on every piece of `chunk` elements and its index.
pub(crate) fn for_each_chunk<T: Send>(
    y: &mut [T],
    chunk: usize,
    job: impl Fn(usize, &mut [T]) + Sync,
) {
    if y.len() <= chunk {
        job(0, y);
        return;
    }
    y.par_chunks_mut(chunk).enumerate().for_each(|(index, y)| job(index, y));
}

/// Cuts rows into tiles of at most `most` rows that differ by one row at most.
pub(crate) fn tiles(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let (start, len) = (rows.start, rows.len());
    let count = len.div_ceil(most);
    (0..count).map(move |tile| start + tile * len / count..start + (tile + 1) * len / count)
}

/// Panics unless `found` is `expected`; `what` names the slice.
#[track_caller]
pub(crate) fn check_len(what: &str, found: usize, expected: usize) {
    assert!(found == expected, "{what}: expected {expected} elements, found {found}");
}

/// The start of a result that threads fill in disjoint ranges.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: a `Shared` is only a pointer; what is done with it is the contract of `range`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(y: &mut [T]) -> Self {
        Self(y.as_mut_ptr())
    }

    /// A pointer to element `start`.
    ///
    /// # Safety
    /// `start` lies in the slice given to [`Shared::new`], or just behind it.
    pub(crate) unsafe fn at(self, start: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(start) }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// The range lies in the slice given to [`Shared::new`], that borrow is still alive, and no
    /// other reference to an element of the range exists meanwhile.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn range<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
