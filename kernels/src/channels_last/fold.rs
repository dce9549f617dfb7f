#![allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
//! Folding the elements of each window, channel by channel.

use std::array::from_fn;

use crate::element::Element;
use crate::window::{Count, Slide};

/// Makes one number of the elements of a window in one channel, which come row by row.
pub(super) trait Fold {
    /// The running value before the first element, which is `None` when all is padding.
    fn start(&self, first: Option<f32>) -> f32;

    /// The running values of some channels after an element of each, which is entry `entry` of the
    /// window.
    fn step<const N: usize>(
        &self,
        values: [f32; N],
        elements: &[f32; N],
        entry: usize,
        channel: usize,
    ) -> [f32; N];

    /// The result in a channel.
    fn finish(&self, value: f32, channel: usize, count: Count) -> f32;
}

/// Channels whose running values are kept in registers at once.
const WIDE: usize = 64;
const MIDDLE: usize = 16;
const NARROW: usize = 4;

/// Folds the windows of one row of the output; every tier does so in the same order.
///
/// # Shapes
/// `x`: `[rows.input, columns.input, channels]`; `y`: `[columns.output, channels]`.
#[inline(always)]
pub(super) fn fold_row<X: Element>(
    [rows, columns]: &[Slide; 2],
    channels: usize,
    x: &[X],
    row: usize,
    y: &mut [f32],
    fold: &impl Fold,
) {
    for (column, y) in y.chunks_exact_mut(channels).enumerate() {
        let window = Window { rows, columns, channels, x, row, column };
        let mut channel = 0;
        while channel < channels {
            let y = &mut y[channel..];
            channel += if let Some(y) = y.first_chunk_mut::<WIDE>() {
                *y = window.fold(channel, fold);
                WIDE
            } else if let Some(y) = y.first_chunk_mut::<MIDDLE>() {
                *y = window.fold(channel, fold);
                MIDDLE
            } else if let Some(y) = y.first_chunk_mut::<NARROW>() {
                *y = window.fold(channel, fold);
                NARROW
            } else {
                [y[0]] = window.fold(channel, fold);
                1
            };
        }
    }
}

/// A window of an image.
struct Window<'a, X> {
    rows: &'a Slide,
    columns: &'a Slide,
    channels: usize,
    x: &'a [X],
    row: usize,
    column: usize,
}

impl<X: Element> Window<'_, X> {
    /// `N` channels from `channel` on.
    #[inline(always)]
    fn fold<const N: usize>(&self, channel: usize, fold: &impl Fold) -> [f32; N] {
        let (down, across) = (self.rows.inside(self.row), self.columns.inside(self.column));
        let inside = down.len() * across.len();
        let elements = |down: usize, across: usize| -> [f32; N] {
            let row = self.row * self.rows.stride + down * self.rows.dilation - self.rows.before;
            let column = self.column * self.columns.stride + across * self.columns.dilation
                - self.columns.before;
            let place = (row * self.columns.input + column) * self.channels + channel;
            let elements: &[X; N] =
                self.x[place..].first_chunk().expect("a pixel has all channels");
            elements.map(X::widen)
        };
        let mut values = if inside == 0 {
            [fold.start(None); N]
        } else {
            let first = elements(down.start, across.start);
            from_fn(|lane| fold.start(Some(first[lane])))
        };
        for down in down {
            for across in across.clone() {
                let entry = down * self.columns.kernel + across;
                values = fold.step(values, &elements(down, across), entry, channel);
            }
        }
        let padded = self.rows.within_padding(self.row) * self.columns.within_padding(self.column);
        from_fn(|lane| fold.finish(values[lane], channel + lane, Count { inside, padded }))
    }
}
