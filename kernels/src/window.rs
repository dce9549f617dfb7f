#![allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
//! Windows that slide over images: where they lie, and folding the elements of each.

use std::ops::Range;

/// How a window slides along one dimension; what lies outside the input is padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slide {
    /// Entries of the input.
    pub input: usize,
    /// Entries of the window, > 0.
    pub kernel: usize,
    /// Distance of two windows, > 0.
    pub stride: usize,
    /// Distance of two entries of a window, > 0.
    pub dilation: usize,
    /// Padding before the first entry of the input.
    pub before: usize,
    /// Padding after the last entry of the input.
    pub after: usize,
    /// Number of windows.
    pub output: usize,
}

impl Slide {
    /// One window over one entry: the dimension that shorter images lack.
    pub const ONE: Self =
        Self { input: 1, kernel: 1, stride: 1, dilation: 1, before: 0, after: 0, output: 1 };

    /// Panics when a number that has to be positive is not.
    #[track_caller]
    pub(crate) fn check(&self) {
        assert!(
            self.kernel > 0 && self.stride > 0 && self.dilation > 0,
            "expected a kernel, stride and dilation above 0, found {self:?}"
        );
    }

    /// Whether each window is the entry of the input with its number.
    pub(crate) fn is_identity(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.before == 0 && self.output == self.input
    }

    /// Place in the input of an entry of a window; `None` in the padding.
    pub(crate) fn place(&self, window: usize, entry: usize) -> Option<usize> {
        let padded = window * self.stride + entry * self.dilation;
        padded.checked_sub(self.before).filter(|&place| place < self.input)
    }

    /// The entries of a window that lie in the input.
    #[inline(always)]
    pub(crate) fn inside(&self, window: usize) -> Range<usize> {
        let start = window * self.stride;
        let reaching =
            |place: usize| place.saturating_sub(start).div_ceil(self.dilation).min(self.kernel);
        reaching(self.before)..reaching(self.before + self.input)
    }

    /// The windows whose entry `entry` lies in the input.
    #[inline(always)]
    pub(crate) fn windows(&self, entry: usize) -> Range<usize> {
        let shift = entry * self.dilation;
        let reaching =
            |place: usize| place.saturating_sub(shift).div_ceil(self.stride).min(self.output);
        reaching(self.before)..reaching(self.before + self.input)
    }

    /// The windows of which every entry lies in the input.
    #[inline(always)]
    fn whole(&self) -> Range<usize> {
        let first = self.windows(0).start;
        first..self.windows(self.kernel - 1).end.max(first)
    }

    /// Entries of a window that lie in the input or the padding.
    pub(crate) fn within_padding(&self, window: usize) -> usize {
        let padded = self.before + self.input + self.after;
        padded.saturating_sub(window * self.stride).div_ceil(self.dilation).min(self.kernel)
    }
}

/// Makes one number of the elements of a window, which come row by row.
pub(crate) trait Fold {
    /// The running value before the first element, which is `None` when all is padding.
    fn start(&self, first: Option<f32>) -> f32;

    /// The running value after the element at flat index `entry` of the window.
    fn step(&self, value: f32, element: f32, entry: usize) -> f32;

    /// The result for the window at this row and column.
    fn finish(&self, value: f32, window: [usize; 2]) -> f32;
}

/// Columns whose running values are kept in registers at once, where the image is wide enough.
const WIDE: usize = 16;
const NARROW: usize = 8;

/// Folds every window of a plane; every tier does so in the same order.
///
/// # Shapes
/// `x`: `[rows.input, columns.input]`; `y`: `[rows.output, columns.output]`.
#[inline(always)]
pub(crate) fn fold_plane([rows, columns]: &[Slide; 2], x: &[f32], y: &mut [f32], fold: &impl Fold) {
    let plane = Plane { rows, columns, x };
    let whole = match columns.stride {
        1 | 2 => columns.whole(),
        _ => 0..0,
    };
    for (row, y) in y.chunks_exact_mut(columns.output.max(1)).enumerate() {
        let edges = match (columns.stride, whole.len()) {
            (_, ..NARROW) => 0..0,
            (1, NARROW..WIDE) => plane.blocks::<1, NARROW>(row, whole.clone(), y, fold),
            (1, _) => plane.blocks::<1, WIDE>(row, whole.clone(), y, fold),
            (_, NARROW..WIDE) => plane.blocks::<2, NARROW>(row, whole.clone(), y, fold),
            _ => plane.blocks::<2, WIDE>(row, whole.clone(), y, fold),
        };
        for column in (0..edges.start).chain(edges.end..columns.output) {
            y[column] = plane.one(row, column, fold);
        }
    }
}

struct Plane<'a> {
    rows: &'a Slide,
    columns: &'a Slide,
    x: &'a [f32],
}

impl Plane<'_> {
    /// Flat index of an entry that lies in the input.
    #[inline(always)]
    fn place(&self, [row, column]: [usize; 2], [down, across]: [usize; 2]) -> usize {
        let (rows, columns) = (self.rows, self.columns);
        let row = row * rows.stride + down * rows.dilation - rows.before;
        row * columns.input + column * columns.stride + across * columns.dilation - columns.before
    }

    /// One window, wherever it lies.
    #[inline(always)]
    fn one(&self, row: usize, column: usize, fold: &impl Fold) -> f32 {
        let window = [row, column];
        let (down, across) = (self.rows.inside(row), self.columns.inside(column));
        let none = down.is_empty() || across.is_empty();
        let first = (!none).then(|| self.x[self.place(window, [down.start, across.start])]);
        let mut value = fold.start(first);
        for down in down {
            for across in across.clone() {
                let element = self.x[self.place(window, [down, across])];
                value = fold.step(value, element, down * self.columns.kernel + across);
            }
        }
        fold.finish(value, window)
    }

    /// The columns `whole` of a row, at least `N`, in blocks of `N`; the last may overlap.
    #[inline(always)]
    fn blocks<const STRIDE: usize, const N: usize>(
        &self,
        row: usize,
        whole: Range<usize>,
        y: &mut [f32],
        fold: &impl Fold,
    ) -> Range<usize> {
        let mut column = whole.start;
        while column < whole.end {
            let start = column.min(whole.end - N);
            let block = self.block::<STRIDE, N>(row, start, fold);
            y[start..start + N].copy_from_slice(&block);
            column = start + N;
        }
        whole
    }

    #[inline(always)]
    fn block<const STRIDE: usize, const N: usize>(
        &self,
        row: usize,
        column: usize,
        fold: &impl Fold,
    ) -> [f32; N] {
        let window = [row, column];
        let down = self.rows.inside(row);
        let elements = |entry| &self.x[self.place(window, entry)..][..(N - 1) * STRIDE + 1];
        let mut values = if down.is_empty() {
            [fold.start(None); N]
        } else {
            let first = elements([down.start, 0]);
            std::array::from_fn(|lane| fold.start(Some(first[lane * STRIDE])))
        };
        for down in down {
            for across in 0..self.columns.kernel {
                let elements = elements([down, across]);
                let entry = down * self.columns.kernel + across;
                for lane in 0..N {
                    values[lane] = fold.step(values[lane], elements[lane * STRIDE], entry);
                }
            }
        }
        std::array::from_fn(|lane| fold.finish(values[lane], [row, column + lane]))
    }
}
