//! Left operands of products, as a tile reads them.

use std::array::from_fn;
use std::ops::Range;

use super::Rows;

/// Places line after line: what is at index `i` starts at
/// `i / across · steps[0] + i % across · steps[1]`. No line starts before the last place of the one
/// before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Places of a line, > 0.
    pub(crate) across: usize,
    /// Elements from a line to the next, and from a place to the next.
    pub(crate) steps: [usize; 2],
}

impl Grid {
    /// One line.
    pub(crate) const fn line(step: usize) -> Self {
        Self { across: usize::MAX, steps: [0, step] }
    }

    #[inline]
    const fn line_and_column(&self, index: usize) -> [usize; 2] {
        // A division takes as long as a few products.
        if index < self.across { [0, index] } else { [index / self.across, index % self.across] }
    }

    #[inline]
    const fn place(&self, index: usize) -> usize {
        let [line, column] = self.line_and_column(index);
        line * self.steps[0] + column * self.steps[1]
    }
}

/// Rows of which each is made of segments, which may lie apart: the windows of an image whose
/// channels are last are rows of such a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left<'a, T = f32> {
    data: &'a [T],
    /// Where rows start.
    rows: Grid,
    /// Which of them are meant.
    first: usize,
    count: usize,
    /// Where the segments of a row start, from where it does.
    segments: Grid,
    segment_len: usize,
    /// The elements of a row that are multiplied: so many, and how many come before.
    k: usize,
    skipped: usize,
}

impl<'a> From<Rows<'a>> for Left<'a> {
    fn from(rows: Rows<'a>) -> Self {
        Self::new(rows.data, Grid::line(rows.stride), rows.count, (Grid::line(0), rows.k), rows.k)
    }
}

impl<'a, T: Copy> Left<'a, T> {
    /// `count` rows of `k` elements, in segments of equal length.
    ///
    /// What a row reads is checked when it is.
    pub(crate) fn new(
        data: &'a [T],
        rows: Grid,
        count: usize,
        (segments, segment_len): (Grid, usize),
        k: usize,
    ) -> Self {
        assert!(segment_len > 0 || k == 0, "segments without elements");
        // What `run` relies on.
        let ends = rows.across.saturating_sub(1).saturating_mul(rows.steps[1]);
        assert!(rows.across == usize::MAX || rows.steps[0] >= ends, "lines overlap: {rows:?}");
        Self { data, rows, first: 0, count, segments, segment_len, k, skipped: 0 }
    }

    /// Some of the rows.
    pub(crate) fn range(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.count, "row {} of {}", rows.end, self.count);
        Self { first: self.first + rows.start, count: rows.len(), ..*self }
    }

    /// Some elements of each row.
    pub(crate) fn part(&self, part: &Range<usize>) -> Self {
        assert!(part.end <= self.k, "element {} of {}", part.end, self.k);
        Self { k: part.len(), skipped: self.skipped + part.start, ..*self }
    }

    /// Rows that start so many elements further on.
    pub(crate) fn behind(&self, elements: usize) -> Self {
        Self { data: &self.data[elements..], ..*self }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) const fn k(&self) -> usize {
        self.k
    }

    /// Gives where one row after another starts, none before the one before it.
    #[inline]
    fn walk(self) -> impl FnMut() -> usize {
        let Grid { across, steps } = self.rows;
        let [mut line, mut column] = self.rows.line_and_column(self.first);
        move || {
            let start = line * steps[0] + column * steps[1];
            column += 1;
            if column == across {
                (line, column) = (line + 1, 0);
            }
            start
        }
    }

    /// Where the first `R` rows start.
    #[inline]
    pub(super) fn starts<const R: usize>(&self) -> [usize; R] {
        let mut next = self.walk();
        from_fn(|_| next())
    }

    /// What rows have from element `index` on, as far as it lies together: the slice whose element
    /// `start + i` is element `index + i` of the row that starts there, and how many there are, which
    /// are some while `index` is below k.
    ///
    /// # Panics
    /// When the row that starts last does not have them.
    #[inline]
    pub(super) fn run(&self, last_start: usize, index: usize) -> (&'a [T], usize) {
        let at = self.skipped + index;
        let (segment, inside) = if at < self.segment_len {
            (0, at)
        } else {
            (at / self.segment_len, at % self.segment_len)
        };
        let len = (self.segment_len - inside).min(self.k - index);
        let data = &self.data[self.segments.place(segment) + inside..];
        assert!(last_start + len <= data.len(), "{len} elements from {last_start} on");
        (data, len)
    }

    /// Elements of a segment.
    pub(crate) const fn segment_len(&self) -> usize {
        self.segment_len
    }

    /// Where some rows start, one after another.
    pub(crate) fn starts_of(&self, rows: Range<usize>) -> impl Iterator<Item = usize> {
        let rows = self.range(rows);
        let mut next = rows.walk();
        (0..rows.count).map(move |_| next())
    }

    /// The data, where rows start in it, and where in a row its segments do.
    pub(crate) fn segment_starts(&self) -> (&'a [T], impl Iterator<Item = usize>) {
        assert_eq!(self.skipped, 0, "rows are read from their start");
        let count = if self.k == 0 { 0 } else { self.k.div_ceil(self.segment_len) };
        let segments = self.segments;
        (self.data, (0..count).map(move |segment| segments.place(segment)))
    }

    /// Writes what `map` makes of the row that starts there. Pieces of at most `N` elements are moved as
    /// `N` where there are so many in the data and in `to`, whose content behind the row is then anything:
    /// a copy of a number of elements that is not known is a call.
    ///
    /// # Panics
    /// As [`Self::pieces`], or when the row does not fit.
    #[inline]
    pub(crate) fn copy_row<const N: usize, U>(
        &self,
        start: usize,
        to: &mut [U],
        map: impl Fn(T) -> U,
    ) {
        assert_eq!(self.skipped, 0, "rows are read from their start");
        let Self { data, segments: Grid { across, steps }, segment_len, k, .. } = *self;
        let (mut index, mut line, mut column) = (0, start, 0);
        while index < k {
            let len = segment_len.min(k - index);
            let (from, to) = (&data[line + column * steps[1]..], &mut to[index..]);
            match (from.first_chunk::<N>(), to.first_chunk_mut::<N>()) {
                (Some(from), Some(to)) if len <= N => {
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = map(*from);
                    }
                }
                _ => {
                    for (to, from) in to[..len].iter_mut().zip(&from[..len]) {
                        *to = map(*from);
                    }
                }
            }
            index += len;
            column += 1;
            if column == across {
                (line, column) = (line + steps[0], 0);
            }
        }
    }

    /// The row that starts there, piece by piece: index of the first element, and what lies together.
    ///
    /// # Panics
    /// When the row ends behind the data, or only a part of it is multiplied.
    #[inline]
    pub(crate) fn pieces(&self, start: usize) -> impl Iterator<Item = (usize, &'a [T])> {
        assert_eq!(self.skipped, 0, "rows are read from their start");
        let Self { data, segments: Grid { across, steps }, segment_len, k, .. } = *self;
        let (mut index, mut line, mut column) = (0, start, 0);
        std::iter::from_fn(move || {
            if index == k {
                return None;
            }
            let len = segment_len.min(k - index);
            let piece = (index, &data[line + column * steps[1]..][..len]);
            index += len;
            column += 1;
            if column == across {
                (line, column) = (line + steps[0], 0);
            }
            Some(piece)
        })
    }
}
