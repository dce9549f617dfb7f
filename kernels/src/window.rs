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

    /// As many windows as fit, for tests.
    #[cfg(test)]
    pub(crate) fn fitting(
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        [before, after]: [usize; 2],
    ) -> Self {
        let output = (input + before + after - dilation * (kernel - 1) - 1) / stride + 1;
        Self { input, kernel, stride, dilation, before, after, output }
    }

    /// Panics when a number that has to be positive is not, or a place has no number.
    #[track_caller]
    pub(crate) fn check(&self) {
        assert!(
            self.kernel > 0 && self.stride > 0 && self.dilation > 0,
            "expected a kernel, stride and dilation above 0, found {self:?}"
        );
        let span = (self.kernel - 1).checked_mul(self.dilation);
        let last = self.output.checked_mul(self.stride);
        let reach = span.zip(last).and_then(|(span, last)| span.checked_add(last));
        let padded =
            self.before.checked_add(self.input).and_then(|size| size.checked_add(self.after));
        let sizes = reach.zip(padded).and_then(|(reach, padded)| reach.checked_add(padded));
        assert!(sizes.is_some(), "{self:?} reaches too far");
    }

    /// Entries that windows reach, padding included.
    pub(crate) fn reached(&self) -> usize {
        match self.output {
            0 => 0,
            output => (output - 1) * self.stride + (self.kernel - 1) * self.dilation + 1,
        }
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
            |place: usize| steps(place.saturating_sub(start), self.dilation).min(self.kernel);
        reaching(self.before)..reaching(self.before + self.input)
    }

    /// The windows whose entry `entry` lies in the input.
    #[inline(always)]
    pub(crate) fn windows(&self, entry: usize) -> Range<usize> {
        let shift = entry * self.dilation;
        let reaching =
            |place: usize| steps(place.saturating_sub(shift), self.stride).min(self.output);
        reaching(self.before)..reaching(self.before + self.input)
    }

    /// The windows of which every entry lies in the input.
    #[inline(always)]
    pub(crate) fn whole(&self) -> Range<usize> {
        let first = self.windows(0).start;
        first..self.windows(self.kernel - 1).end.max(first)
    }

    /// Entries of a window that lie in the input or the padding.
    #[inline(always)]
    pub(crate) fn within_padding(&self, window: usize) -> usize {
        let padded = self.before + self.input + self.after;
        steps(padded.saturating_sub(window * self.stride), self.dilation).min(self.kernel)
    }
}

/// Steps that cover a distance. Most are 1, and a division takes as long as a window.
#[inline(always)]
fn steps(distance: usize, step: usize) -> usize {
    if step == 1 { distance } else { distance.div_ceil(step) }
}

/// How many entries of a window there are.
#[derive(Clone, Copy)]
pub(crate) struct Count {
    /// Those that lie in the input.
    pub(crate) inside: usize,
    /// Those that lie in the input or the padding.
    pub(crate) padded: usize,
}

/// Makes one number of the elements of a window, which come row by row.
pub(crate) trait Fold {
    /// The running value before the first element, which is `None` when all is padding.
    fn start(&self, first: Option<f32>) -> f32;

    /// What goes with the elements at flat index `entry` of every window.
    fn weight(&self, _entry: usize) -> f32 {
        1.0
    }

    /// The running value after an element.
    fn step(&self, value: f32, element: f32, weight: f32) -> f32;

    /// The result for a window.
    fn finish(&self, value: f32, count: Count) -> f32;
}

/// Columns whose running values are kept in registers at once, where the image is wide enough.
const WIDE: usize = 32;
const MIDDLE: usize = 16;
const NARROW: usize = 8;

/// Folds every window of a plane; every tier does so in the same order.
///
/// # Shapes
/// `x`: `[rows.input, columns.input]`; `y`: `[rows.output, columns.output]`.
#[inline(always)]
pub(crate) fn fold_plane([rows, columns]: &[Slide; 2], x: &[f32], y: &mut [f32], fold: &impl Fold) {
    let whole = columns.whole();
    let blocks = match columns.stride {
        1 | 2 if whole.len() >= NARROW => whole,
        _ => 0..0,
    };
    for (row, y) in y.chunks_exact_mut(columns.output.max(1)).enumerate() {
        let down = rows.inside(row);
        let line = Line { rows, columns, x, row, down, padded: rows.within_padding(row) };
        match (columns.stride, blocks.len()) {
            (1, ..MIDDLE) => line.blocks::<1, NARROW>(blocks.clone(), y, fold),
            (1, MIDDLE..WIDE) => line.blocks::<1, MIDDLE>(blocks.clone(), y, fold),
            (1, _) => line.blocks::<1, WIDE>(blocks.clone(), y, fold),
            (_, ..MIDDLE) => line.blocks::<2, NARROW>(blocks.clone(), y, fold),
            (_, MIDDLE..WIDE) => line.blocks::<2, MIDDLE>(blocks.clone(), y, fold),
            _ => line.blocks::<2, WIDE>(blocks.clone(), y, fold),
        }
        for column in (0..blocks.start).chain(blocks.end..columns.output) {
            y[column] = line.one(column, fold);
        }
    }
}

/// The windows of one row of the output.
struct Line<'a> {
    rows: &'a Slide,
    columns: &'a Slide,
    x: &'a [f32],
    row: usize,
    /// Their entries, down, that lie in the input.
    down: Range<usize>,
    /// Number of their entries, down, that lie in the input or the padding.
    padded: usize,
}

impl Line<'_> {
    /// The row of the input under the windows' entries at `down`.
    #[inline(always)]
    fn input(&self, down: usize) -> &[f32] {
        let row = self.row * self.rows.stride + down * self.rows.dilation - self.rows.before;
        &self.x[row * self.columns.input..][..self.columns.input]
    }

    /// One window, wherever it lies.
    #[inline(always)]
    fn one(&self, column: usize, fold: &impl Fold) -> f32 {
        let columns = self.columns;
        let across = columns.inside(column);
        let inside = self.down.len() * across.len();
        let place =
            |across: usize| column * columns.stride + across * columns.dilation - columns.before;
        let first = (inside > 0).then(|| self.input(self.down.start)[place(across.start)]);
        let mut value = fold.start(first);
        for down in self.down.clone() {
            let input = self.input(down);
            for across in across.clone() {
                let weight = fold.weight(down * columns.kernel + across);
                value = fold.step(value, input[place(across)], weight);
            }
        }
        let padded = self.padded * columns.within_padding(column);
        fold.finish(value, Count { inside, padded })
    }

    /// The columns `whole`, of which there are none or at least `N`, in blocks of `N`; the last
    /// may overlap.
    #[inline(always)]
    fn blocks<const STRIDE: usize, const N: usize>(
        &self,
        whole: Range<usize>,
        y: &mut [f32],
        fold: &impl Fold,
    ) {
        let mut column = whole.start;
        while column < whole.end {
            let start = column.min(whole.end - N);
            let block = self.block::<STRIDE, N>(start, fold);
            y[start..start + N].copy_from_slice(&block);
            column = start + N;
        }
    }

    #[inline(always)]
    fn block<const STRIDE: usize, const N: usize>(
        &self,
        column: usize,
        fold: &impl Fold,
    ) -> [f32; N] {
        let columns = self.columns;
        let across = columns.kernel;
        let first = column * STRIDE - columns.before;
        let lanes = |x: &[f32]| -> [f32; N] {
            let x = &x[..(N - 1) * STRIDE + 1];
            let mut lanes = [0.0; N];
            for lane in 0..N {
                lanes[lane] = x[lane * STRIDE];
            }
            lanes
        };
        let mut values = [fold.start(None); N];
        if !self.down.is_empty() {
            let elements = lanes(&self.input(self.down.start)[first..]);
            for lane in 0..N {
                values[lane] = fold.start(Some(elements[lane]));
            }
        }
        for down in self.down.clone() {
            let input = self.input(down);
            for entry in 0..across {
                let elements = lanes(&input[first + entry * columns.dilation..]);
                let weight = fold.weight(down * across + entry);
                for lane in 0..N {
                    values[lane] = fold.step(values[lane], elements[lane], weight);
                }
            }
        }
        let count = Count { inside: self.down.len() * across, padded: self.padded * across };
        for value in &mut values {
            *value = fold.finish(*value, count);
        }
        values
    }
}
