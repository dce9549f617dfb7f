#![allow(unsafe_code, reason = "threads fill disjoint ranges of one slice")]
//! How work is cut: by size alone, so that results do not depend on the number of threads. Where the
//! pieces do not show in a result, threads share it as evenly as they can, and one alone takes it whole.

use std::ops::Range;

use crate::team;

/// Elements a thread takes at once: what cheap operations need a few µs for; below this size one
/// thread is faster.
pub const CHUNK: usize = 16 * 1024;

/// Rows of `row_len` elements that make about one [`CHUNK`], at least one.
pub(crate) fn rows_per_chunk(row_len: usize) -> usize {
    (CHUNK / row_len.max(1)).max(1)
}

/// Rows of a piece where each row is computed by itself: as many pieces for each thread, of at most about one
/// [`CHUNK`], unless a thread would have fewer than `least` elements.
pub(crate) fn rows_of_threads(rows: usize, row_len: usize, least: usize) -> usize {
    let most = rows_per_chunk(row_len);
    blocks_of_threads(rows, most, least.div_ceil(row_len.max(1))).unwrap_or(most)
}

/// Whether so much work is worth more than one thread, where it takes `least` to be, and there is one.
pub(crate) fn is_worth_sharing(work: usize, least: usize) -> bool {
    work >= least && !team::is_alone()
}

/// Rows of a block, at most `most`, with which all blocks have about the same.
pub(crate) fn even_blocks(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// Rows of a block, at most `most`, with which each thread has about as many blocks: it multiplies those rows by all
/// weights, packs them itself, and finds what it wrote of them in its caches in the next layer. Nothing
/// where a thread would have fewer than `least` rows, for which reading all weights takes too long.
pub(crate) fn blocks_of_threads(rows: usize, most: usize, least: usize) -> Option<usize> {
    let threads = team::threads();
    let blocks = rows.div_ceil(most.max(1)).next_multiple_of(threads).max(1);
    (rows >= threads.saturating_mul(least)).then(|| rows.div_ceil(blocks).max(1))
}

/// Pieces that a result is cut into where it has the rows and columns, so that many threads find some.
pub(crate) const PIECES: usize = 16;

/// Speed of tiles of half the panels, of that of whole ones.
const HALF_TILE_RATE: f64 = 0.9;

/// Runs `job` on rectangles of a result, given by their rows and panels: blocks of `block_rows` rows,
/// and where these are fewer than [`PIECES`] each cut into whole tiles of `tile_panels` panels, or into
/// half ones where that shares the work more evenly.
pub(crate) fn for_each_rectangle(
    [rows, panels]: [usize; 2],
    [block_rows, tile_panels]: [usize; 2],
    job: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let blocks = rows.div_ceil(block_rows);
    let wanted = if team::is_alone() { 1 } else { PIECES.div_ceil(blocks.max(1)) };
    // Least time over the time that equal pieces take where a thread may get one more than another.
    let evenness = |unit: usize| {
        let (pieces, threads) = (blocks * panels.div_ceil(unit), team::threads());
        pieces as f64 / pieces.next_multiple_of(threads).max(1) as f64
    };
    let half = tile_panels.div_ceil(2);
    let unit =
        if evenness(tile_panels) < HALF_TILE_RATE * evenness(half) { half } else { tile_panels };
    let cuts = wanted.min(panels.div_ceil(unit));
    for_each(blocks * cuts, |index| {
        let (block, cut) = (index / cuts, index % cuts);
        let edge = |cut: usize| panels.min(cut * panels.div_ceil(unit) / cuts * unit);
        let rows = block * block_rows..rows.min((block + 1) * block_rows);
        job(rows, edge(cut)..edge(cut + 1));
    });
}

/// Things of a piece, at most `most` of them, so that no thread gets more pieces than another, or larger ones; but
/// not for so many threads that pieces become small.
fn evened(count: usize, most: usize) -> usize {
    /// Parts of the greatest piece that are still worth a thread.
    const SMALLEST: usize = 8;
    let most = most.max(1);
    match count.div_ceil(most) {
        0 | 1 => most,
        pieces => {
            let of_threads = count.div_ceil(pieces.next_multiple_of(team::threads()));
            if of_threads >= most / SMALLEST { of_threads.max(1) } else { count.div_ceil(pieces) }
        }
    }
}

/// Elements of a line of the cache, at least, which threads do not share.
pub(crate) const LINE: usize = 64;

/// Runs `job` on pieces of about [`CHUNK`] elements, whole numbers of `unit` > 0 of them, and where each starts;
/// also on an empty slice.
pub(crate) fn for_each_piece<T: Send>(
    y: &mut [T],
    unit: usize,
    job: impl Fn(usize, &mut [T]) + Sync,
) {
    let piece = evened(y.len().div_ceil(unit), rows_per_chunk(unit)) * unit;
    for_each_chunk(y, piece, |index, y| job(index * piece, y));
}

/// Runs `kernel` over matching [pieces](for_each_piece) of `x` and `y`.
pub(crate) fn map<X: Sync, Y: Send>(
    x: &[X],
    y: &mut [Y],
    unit: usize,
    kernel: impl Fn(&[X], &mut [Y]) + Sync,
) {
    for_each_piece(y, unit, |start, y| kernel(&x[start..start + y.len()], y));
}

/// Runs `kernel` over matching [pieces](for_each_piece) of `a`, `b` and `y`.
pub(crate) fn zip(
    a: &[f32],
    b: &[f32],
    y: &mut [f32],
    unit: usize,
    kernel: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) {
    for_each_piece(y, unit, |start, y| {
        let range = start..start + y.len();
        kernel(&a[range.clone()], &b[range], y);
    });
}

/// Runs `job` for every index below `count`.
pub(crate) fn for_each(count: usize, job: impl Fn(usize) + Sync) {
    if count <= 1 {
        (0..count).for_each(job);
    } else {
        team::share(count, job);
    }
}

/// Runs `job` on every piece of `chunk` > 0 elements and its index; also on an empty slice.
pub(crate) fn for_each_chunk<T: Send>(
    y: &mut [T],
    chunk: usize,
    job: impl Fn(usize, &mut [T]) + Sync,
) {
    if y.len() <= chunk {
        job(0, y);
        return;
    }
    let (len, shared) = (y.len(), Shared::new(y));
    team::share(len.div_ceil(chunk), |index| {
        let start = index * chunk;
        // SAFETY: the piece ends at the end of y at most, y is borrowed until all pieces are done,
        // and every index is run once.
        job(index, unsafe { shared.range(start, chunk.min(len - start)) });
    });
}

/// Runs `job` on every row of `row_len` > 0 elements and its index, at most `at_once` rows in a piece.
pub(crate) fn for_each_row<T: Send>(
    y: &mut [T],
    row_len: usize,
    at_once: usize,
    job: impl Fn(usize, &mut [T]) + Sync,
) {
    let at_once = evened(y.len() / row_len, at_once);
    for_each_chunk(y, at_once * row_len, |piece, y| {
        let rows = y.chunks_exact_mut(row_len).enumerate();
        rows.for_each(|(row, y)| job(piece * at_once + row, y));
    });
}

/// Runs `job` on every row of `row_len` elements and its index, on all threads where there are many.
pub fn for_each_row_of<T: Send>(y: &mut [T], row_len: usize, job: impl Fn(usize, &mut [T]) + Sync) {
    if row_len > 0 {
        // Elements that are less than a number count as their part.
        let numbers = (row_len * size_of::<T>()).div_ceil(size_of::<f32>());
        for_each_row(y, row_len, rows_per_chunk(numbers), job);
    }
}

/// Cuts rows into tiles of at most `most` rows that differ by one row at most.
pub(crate) fn tiles(
    rows: Range<usize>,
    most: usize,
) -> impl ExactSizeIterator<Item = Range<usize>> {
    let (start, len) = (rows.start, rows.len());
    let count = len.div_ceil(most);
    (0..count).map(move |tile| start + tile * len / count..start + (tile + 1) * len / count)
}

/// Panics unless a slice has the elements of this shape; `what` names it.
#[track_caller]
pub(crate) fn check_shape(what: &str, found: usize, shape: &[usize]) {
    let expected = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    assert!(expected == Some(found), "{what}: expected elements for {shape:?}, found {found}");
}

/// Panics unless `found` is `expected`; `what` names the slice.
#[track_caller]
pub(crate) fn check_len(what: &str, found: usize, expected: usize) {
    assert!(found == expected, "{what}: expected {expected} elements, found {found}");
}

/// The start of a result that threads fill in disjoint ranges.
pub(crate) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: a `Shared` is only a pointer; what is done with it is the contract of `range`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(y: &mut [T]) -> Self {
        Self(y.as_mut_ptr())
    }

    /// The memory behind the elements of `y`, as far as its capacity reaches.
    pub(crate) fn uninitialized(y: &mut Vec<T>) -> Self {
        Self(y.spare_capacity_mut().as_mut_ptr().cast())
    }

    /// A pointer to element `start`.
    ///
    /// # Safety
    /// `start` lies in the slice given to [`Shared::new`], or just behind it.
    pub(crate) unsafe fn at(self, start: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(start) }
    }

    /// Starts to fetch the elements `start..start + len`, which will be written: rows of a large
    /// result lie in as many pages, and to wait for each costs more than to write it.
    pub(crate) fn prefetch(self, start: usize, len: usize) {
        #[cfg(target_arch = "x86_64")]
        for line in (0..len).step_by((64 / size_of::<T>()).max(1)) {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            // SAFETY: every x86-64 CPU has SSE, and fetching ahead is no access: any address may be
            // named.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(self.0.wrapping_add(start + line).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, len);
    }

    /// Writes elements from `start` on, which need not be initialized.
    ///
    /// # Safety
    /// As for [`Self::range`], but that the elements may hold anything.
    #[inline]
    pub(crate) unsafe fn write(self, start: usize, values: &[T])
    where
        T: Copy,
    {
        // SAFETY: the caller's promise; a reference to them does not overlap elements that nothing
        // else refers to.
        unsafe { self.at(start).copy_from_nonoverlapping(values.as_ptr(), values.len()) }
    }

    /// The elements `start..start + len`, to be read.
    ///
    /// # Safety
    /// The range lies in the slice given to [`Shared::new`], that borrow is still alive, and no
    /// element of the range is written meanwhile.
    pub(crate) unsafe fn read<'a>(self, start: usize, len: usize) -> &'a [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0.add(start), len) }
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::Team;

    /// What kernels that write without locks rely on.
    #[test]
    fn rectangles_cover_a_result_once() {
        let teams =
            [1, 2, 5].map(|threads| Team::new(NonZeroUsize::new(threads).unwrap()).unwrap());
        for (rows, panels) in
            [(0, 3), (1, 0), (1, 1), (7, 5), (32, 20), (48, 24), (100, 59), (900, 3)]
        {
            for tile_panels in 1..5 {
                for team in &teams {
                    let visits: Vec<AtomicU32> = (0..rows * panels).map(|_| 0.into()).collect();
                    team.run(|| {
                        for_each_rectangle([rows, panels], [48, tile_panels], |rows, columns| {
                            for place in rows.flat_map(|row| {
                                columns.clone().map(move |column| row * panels + column)
                            }) {
                                visits[place].fetch_add(1, Ordering::Relaxed);
                            }
                        });
                    });
                    assert!(visits.iter().all(|visits| visits.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }
}
