#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Pooling: one number for every window, or for every whole image.

use crate::lanes;
use crate::parallel::{check_len, for_each_row, rows_per_chunk};
use crate::tier::{Cpu, tiered};
use crate::window::{Count, Fold, Slide, fold_plane};

/// What pooling makes of the elements of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The greatest; minus infinity where there is none. A NaN counts when it comes first.
    Max,
    /// The mean of those that lie in the input.
    Average,
    /// The mean, where padding counts as zeros.
    AverageWithPadding,
}

pub(crate) struct Greatest;

impl Fold for Greatest {
    #[inline(always)]
    fn start(&self, first: Option<f32>) -> f32 {
        first.unwrap_or(f32::NEG_INFINITY)
    }

    #[inline(always)]
    fn step(&self, value: f32, element: f32, _: f32) -> f32 {
        if element > value { element } else { value }
    }

    #[inline(always)]
    fn finish(&self, value: f32, _: Count) -> f32 {
        value
    }
}

pub(crate) struct Mean {
    pub(crate) padding_counts: bool,
}

impl Fold for Mean {
    #[inline(always)]
    fn start(&self, _: Option<f32>) -> f32 {
        0.0
    }

    #[inline(always)]
    fn step(&self, value: f32, element: f32, _: f32) -> f32 {
        value + element
    }

    #[inline(always)]
    fn finish(&self, value: f32, count: Count) -> f32 {
        value / if self.padding_counts { count.padded } else { count.inside } as f32
    }
}

tiered! {
    fn greatest(windows: &[Slide; 2], x: &[f32], y: &mut [f32]) {
        fold_plane(windows, x, y, &Greatest);
    }
}

tiered! {
    fn mean(windows: &[Slide; 2], padding_counts: bool, x: &[f32], y: &mut [f32]) {
        fold_plane(windows, x, y, &Mean { padding_counts });
    }
}

tiered! {
    fn sum(x: &[f32]) -> f32 {
        lanes::sum(x, |x| x)
    }
}

tiered! {
    fn max(x: &[f32]) -> f32 {
        lanes::max(x)
    }
}

/// Pools `planes` images of one channel.
///
/// # Shapes
/// `x`: `[planes, windows[0].input, windows[1].input]`;
/// `y`: `[planes, windows[0].output, windows[1].output]`.
///
/// # Panics
/// When a length differs, or a kernel, stride or dilation is 0.
pub fn pool2d(
    cpu: Cpu,
    pooling: Pooling,
    planes: usize,
    windows: &[Slide; 2],
    x: &[f32],
    y: &mut [f32],
) {
    windows.iter().for_each(Slide::check);
    let [rows, columns] = windows;
    let (image, positions) = (rows.input * columns.input, rows.output * columns.output);
    check_len("pool2d: x", x.len(), planes * image);
    check_len("pool2d: y", y.len(), planes * positions);
    if y.is_empty() {
        return;
    }
    let pool = |plane: usize, y: &mut [f32]| {
        let x = &x[plane * image..][..image];
        match pooling {
            Pooling::Max => greatest(cpu, windows, x, y),
            Pooling::Average => mean(cpu, windows, false, x, y),
            Pooling::AverageWithPadding => mean(cpu, windows, true, x, y),
        }
    };
    let work = positions * rows.kernel * columns.kernel;
    for_each_row(y, positions, rows_per_chunk(work), pool);
}

/// The mean of each row of `image` elements; NaN when `image` is 0.
///
/// # Shapes
/// `x`: `[rows, image]`; `y`: `[rows]`.
pub fn row_means(cpu: Cpu, x: &[f32], image: usize, y: &mut [f32]) {
    rows(x, image, y, |x| sum(cpu, x) / image as f32);
}

/// The greatest element of each row of `image` elements, NaN passed over; minus infinity when
/// there is none.
///
/// # Shapes
/// `x`: `[rows, image]`; `y`: `[rows]`.
pub fn row_maxima(cpu: Cpu, x: &[f32], image: usize, y: &mut [f32]) {
    rows(x, image, y, |x| max(cpu, x));
}

#[track_caller]
fn rows(x: &[f32], image: usize, y: &mut [f32], reduce: impl Fn(&[f32]) -> f32 + Sync) {
    check_len("rows: x", x.len(), y.len() * image);
    for_each_row(y, 1, rows_per_chunk(image), |row, y| y[0] = reduce(&x[row * image..][..image]));
}
