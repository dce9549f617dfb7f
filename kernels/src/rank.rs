//! The best entries of lines: which is best, and the first of their order.

use crate::parallel::{CHUNK, check_shape, for_each_row, rows_per_chunk};

/// Which entries are best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// The greatest.
    Greatest,
    /// The least.
    Least,
}

/// Numbers that are ranked: both zeros are one, and NaN is above all.
pub trait Ranked: Copy + Send + Sync {
    /// A number's rank and then its place, the lower the better: of equal numbers the
    /// one at the lower place is.
    type Key: Copy + Ord + Send + Sync;

    /// The key of a number at a place below 2³².
    fn key(self, best: Best, place: usize) -> Self::Key;

    /// The place that a key has.
    fn place(key: Self::Key) -> usize;

    /// Whether the number ranks before another.
    fn is_before(self, best: Best, other: Self) -> bool {
        // Equal numbers fall to the other one, which has the lower place.
        self.key(best, 1) < other.key(best, 0)
    }
}

impl Ranked for u32 {
    type Key = u64;

    #[inline]
    fn key(self, best: Best, place: usize) -> u64 {
        let rank = if best == Best::Greatest { !self } else { self };
        u64::from(rank) << 32 | place as u64
    }

    #[inline]
    fn place(key: u64) -> usize {
        key as u32 as usize
    }
}

impl Ranked for f32 {
    type Key = u64;

    #[inline]
    fn key(self, best: Best, place: usize) -> u64 {
        const SIGN: u32 = 1 << 31;
        // Adding 0 makes both zeros one.
        let bits = (self + 0.0).to_bits();
        let rank = if bits & SIGN == 0 { bits | SIGN } else { !bits };
        (if self.is_nan() { u32::MAX } else { rank }).key(best, place)
    }

    #[inline]
    fn place(key: u64) -> usize {
        u32::place(key)
    }
}

impl Ranked for i32 {
    type Key = u64;

    #[inline]
    fn key(self, best: Best, place: usize) -> u64 {
        (self.cast_unsigned() ^ 1 << 31).key(best, place)
    }

    #[inline]
    fn place(key: u64) -> usize {
        u32::place(key)
    }
}

impl Ranked for i64 {
    type Key = [u64; 2];

    #[inline]
    fn key(self, best: Best, place: usize) -> [u64; 2] {
        let rank = self.cast_unsigned() ^ 1 << 63;
        [if best == Best::Greatest { !rank } else { rank }, place as u64]
    }

    #[inline]
    fn place([_, place]: [u64; 2]) -> usize {
        place as usize
    }
}

/// Most of the best entries that each entry is compared with: moving them costs less than sorting.
const FEW_ENTRIES: usize = 16;

/// Most entries of a line: their places fit into keys.
const MOST_ENTRIES: usize = u32::MAX as usize;

/// The keys of the `k` best entries along the middle dimension, best first, at the start of each
/// line of `keys`; the rest of a line has any content.
///
/// # Shapes
/// `x`: `[outer, size, inner]`; `keys`: `[outer, inner, size]`
///
/// # Panics
/// When a length differs, or `k` is larger than `size`, which is below 2³².
pub fn top_k<T: Ranked>(
    x: &[T],
    [outer, size, inner]: [usize; 3],
    best: Best,
    k: usize,
    keys: &mut [T::Key],
) {
    check_shape("top_k: x", x.len(), &[outer, size, inner]);
    check_shape("top_k: keys", keys.len(), &[outer, inner, size]);
    assert!(k <= size && size <= MOST_ENTRIES, "top_k: {k} of {size} entries");
    if k == 0 || keys.is_empty() {
        return;
    }
    // Ranking takes several steps an entry.
    for_each_row(keys, size, (CHUNK / 16 / size).max(1), |line, keys| {
        let start = line / inner * size * inner + line % inner;
        let key = |place: usize| x[start + place * inner].key(best, place);
        if k <= FEW_ENTRIES && k < size {
            let found = &mut keys[..k];
            found.iter_mut().enumerate().for_each(|(place, entry)| *entry = key(place));
            found.sort_unstable();
            for key in (k..size).map(key) {
                if key < found[k - 1] {
                    let place = found.partition_point(|&other| other < key);
                    found.copy_within(place..k - 1, place + 1);
                    found[place] = key;
                }
            }
            return;
        }
        keys.iter_mut().enumerate().for_each(|(place, entry)| *entry = key(place));
        if k < size {
            keys.select_nth_unstable(k - 1);
        }
        keys[..k].sort_unstable();
    });
}

/// The place of the best entry along the middle dimension, of equal ones the first.
///
/// # Shapes
/// `x`: `[outer, size, inner]`; `y`: `[outer, inner]`
///
/// # Panics
/// When a length differs, or there is a place to find but no entry.
pub fn best_place<T: Ranked>(x: &[T], [outer, size, inner]: [usize; 3], best: Best, y: &mut [i64]) {
    check_shape("best_place: x", x.len(), &[outer, size, inner]);
    check_shape("best_place: y", y.len(), &[outer, inner]);
    if y.is_empty() {
        return;
    }
    assert!(0 < size && size <= MOST_ENTRIES, "best_place: one of {size} entries");
    for_each_row(y, inner, rows_per_chunk(size * inner), |line, y| {
        let x = &x[line * size * inner..][..size * inner];
        if let [y] = y {
            *y = T::place(best_key(x, best)) as i64;
            return;
        }
        y.fill(0);
        for (place, row) in x.chunks_exact(inner).enumerate().skip(1) {
            for (column, (y, &entry)) in y.iter_mut().zip(row).enumerate() {
                if entry.is_before(best, x[*y as usize * inner + column]) {
                    *y = place as i64;
                }
            }
        }
    });
}

/// Keys that are compared at once.
const LANES: usize = 8;

fn best_key<T: Ranked>(x: &[T], best: Best) -> T::Key {
    let mut lanes = [x[0].key(best, 0); LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for (chunk, x) in chunks.iter().enumerate() {
        for (at, (lane, x)) in lanes.iter_mut().zip(x).enumerate() {
            *lane = (*lane).min(x.key(best, chunk * LANES + at));
        }
    }
    let first = x.len() - rest.len();
    let rest = rest.iter().enumerate().map(|(at, x)| x.key(best, first + at));
    lanes.into_iter().chain(rest).min().expect("there are lanes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of a line, best first, by comparing.
    fn sorted(line: &[f32], best: Best) -> Vec<usize> {
        let mut places: Vec<usize> = (0..line.len()).collect();
        places.sort_by(|&a, &b| {
            let (a, b) = (line[a] + 0.0, line[b] + 0.0);
            let order = a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
            if best == Best::Greatest { order.reverse() } else { order }
        });
        places
    }

    #[test]
    fn order_is_that_of_a_stable_sort() {
        const SPECIAL: [f32; 7] =
            [f32::NAN, 0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1.0, -1.0];
        for [outer, size, inner] in [[1, 1, 1], [2, 19, 1], [3, 40, 5], [1, 7, 2], [0, 3, 2]] {
            let x: Vec<f32> = (0..outer * size * inner)
                .map(|at| SPECIAL.get(at * 5 % 11).copied().unwrap_or((at * 37 % 17) as f32 - 8.0))
                .collect();
            for best in [Best::Greatest, Best::Least] {
                let mut first = vec![0; outer * inner];
                best_place(&x, [outer, size, inner], best, &mut first);
                for k in [0, 1, size / 2, size] {
                    let mut keys = vec![0; x.len()];
                    top_k(&x, [outer, size, inner], best, k, &mut keys);
                    for line in 0..outer * inner {
                        let start = line / inner * size * inner + line % inner;
                        let entries: Vec<f32> =
                            (0..size).map(|place| x[start + place * inner]).collect();
                        let expected = sorted(&entries, best);
                        let found = keys[line * size..][..k].iter().map(|&key| f32::place(key));
                        assert_eq!(found.collect::<Vec<_>>(), expected[..k]);
                        assert_eq!(first[line] as usize, expected[0]);
                    }
                }
            }
        }
    }

    #[test]
    fn integers_rank_over_their_whole_range() {
        let x = [3, i64::MIN, i64::MAX, -1, 3];
        let mut keys = [[0; 2]; 5];
        top_k(&x, [1, 5, 1], Best::Greatest, 5, &mut keys);
        assert_eq!(keys.map(i64::place), [2, 0, 4, 3, 1]);
        let x = [3, i32::MIN, i32::MAX, -1, 3];
        let mut keys = [0u64; 5];
        top_k(&x, [1, 5, 1], Best::Least, 3, &mut keys);
        assert_eq!(keys[..3].iter().map(|&key| i32::place(key)).collect::<Vec<_>>(), [1, 3, 0]);
    }
}
