#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! Folding the elements of windows in registers, to the bit what [`fold_row`](super::fold::fold_row)
//! makes of them.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::ops::Range;

use super::element::Element;
use crate::parallel::{check_len, check_shape};
use crate::wide::clamp;
use crate::window::Slide;

/// Lanes of a register.
const LANES: usize = 16;

/// Windows whose running values are in registers at once: each weight is loaded for all.
const WINDOWS: usize = 4;

/// What is made of the elements of a window.
#[derive(Clone, Copy)]
pub(super) enum Folding<'a> {
    /// The sum of products with weights `[taps, channels]`, and the bias, within limits.
    Weighted(&'a [f32], Option<&'a [f32]>, Option<[f32; 2]>),
    /// The greatest.
    Greatest,
    /// The mean; whether padding counts as zeros.
    Mean { padding_counts: bool },
}

/// Folds the windows of row `row` of the output.
///
/// # Shapes
/// `x`: `[rows.input, columns.input, channels]`; `y`: `[columns.output, channels]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn fold_row<X: Element, Y: Element>(
    slides: &[Slide; 2],
    channels: usize,
    x: &[X],
    row: usize,
    y: &mut [Y],
    folding: Folding<'_>,
) {
    let [rows, columns] = slides;
    slides.iter().for_each(Slide::check);
    check_shape("fold: x", x.len(), &[rows.input, columns.input, channels]);
    check_shape("fold: y", y.len(), &[columns.output, channels]);
    if let Folding::Weighted(weights, bias, _) = folding {
        check_shape("fold: weights", weights.len(), &[rows.kernel, columns.kernel, channels]);
        if let Some(bias) = bias {
            check_len("fold: bias", bias.len(), channels);
        }
    }
    let line = Line { slides, channels, x, row, down: rows.inside(row), folding };
    let whole = columns.whole();
    let mut column = 0;
    while column < columns.output {
        // SAFETY: the lengths were checked, the windows are some of the output, and `inside` and
        // `whole` give entries and windows that lie in the input.
        unsafe {
            if whole.start <= column && column + WINDOWS <= whole.end {
                line.windows::<WINDOWS, Y>(column, 0..columns.kernel, y);
                column += WINDOWS;
            } else {
                line.windows::<1, Y>(column, columns.inside(column), y);
                column += 1;
            }
        }
    }
}

/// The windows of one row of the output.
struct Line<'a, X> {
    slides: &'a [Slide; 2],
    channels: usize,
    x: &'a [X],
    row: usize,
    /// Their entries, down, that lie in the input.
    down: Range<usize>,
    folding: Folding<'a>,
}

impl<X: Element> Line<'_, X> {
    /// `W` windows from `column` on, whose entries `across` lie in the input.
    ///
    /// # Safety
    /// These lie in the input, and the windows in the output; the lengths are those that
    /// [`fold_row`] checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn windows<const W: usize, Y: Element>(
        &self,
        column: usize,
        across: Range<usize>,
        y: &mut [Y],
    ) {
        for channel in (0..self.channels).step_by(LANES) {
            let count = (self.channels - channel).min(LANES);
            let block = Block { column, across: across.clone(), channel, count };
            // SAFETY: the caller's promise; the channels are some.
            unsafe {
                match self.folding {
                    Folding::Weighted(weights, bias, limits) => {
                        self.weighted::<W, Y>(&block, (weights, bias, limits), y);
                    }
                    Folding::Greatest => self.greatest::<W, Y>(&block, y),
                    Folding::Mean { padding_counts } => {
                        self.mean::<W, Y>(&block, padding_counts, y);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`Self::windows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn weighted<const W: usize, Y: Element>(
        &self,
        block: &Block,
        (weights, bias, limits): (&[f32], Option<&[f32]>, Option<[f32; 2]>),
        y: &mut [Y],
    ) {
        let (channel, mask) = (block.channel, block.mask());
        // SAFETY: there are weights and a bias for each channel, and no other lanes are read.
        let load = |from: &[f32], start: usize| unsafe {
            _mm512_maskz_loadu_ps(mask, from.as_ptr().add(start))
        };
        let start = [_mm512_setzero_ps(); W];
        // SAFETY: the caller's promise.
        let mut values = unsafe {
            self.fold(
                block,
                start,
                |entry| load(weights, entry * self.channels + channel),
                |value, x, weight| _mm512_add_ps(value, _mm512_mul_ps(weight, x)),
            )
        };
        let bias = bias.map_or(_mm512_setzero_ps(), |bias| load(bias, channel));
        values = values.map(|value| _mm512_add_ps(value, bias));
        if let Some([low, high]) = limits {
            values = values.map(|value| clamp(value, low, high));
        }
        // SAFETY: the caller's promise.
        unsafe { self.write(block, values, y) };
    }

    /// # Safety
    /// As for [`Self::windows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn greatest<const W: usize, Y: Element>(&self, block: &Block, y: &mut [Y]) {
        let none = self.down.is_empty() || block.across.is_empty();
        let start = from_fn(|window| {
            if none {
                return _mm512_set1_ps(f32::NEG_INFINITY);
            }
            let place = self.place(block, self.down.start, block.across.start, window);
            // SAFETY: the caller's promise; no lanes but the channels are read.
            unsafe { X::load(block.mask(), self.x.as_ptr().add(place)) }
        });
        let zero = _mm512_setzero_ps();
        // Where one is no number, the second operand is taken.
        let step = |value, x, _| _mm512_max_ps(x, value);
        // SAFETY: the caller's promise.
        unsafe {
            let values: [__m512; W] = self.fold(block, start, |_| zero, step);
            self.write(block, values, y);
        }
    }

    /// # Safety
    /// As for [`Self::windows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn mean<const W: usize, Y: Element>(
        &self,
        block: &Block,
        padding_counts: bool,
        y: &mut [Y],
    ) {
        let zero = _mm512_setzero_ps();
        let [rows, columns] = self.slides;
        // SAFETY: the caller's promise.
        let sums: [__m512; W] =
            unsafe { self.fold(block, [zero; W], |_| zero, |value, x, _| _mm512_add_ps(value, x)) };
        let means: [__m512; W] = from_fn(|window| {
            let count = if padding_counts {
                rows.within_padding(self.row) * columns.within_padding(block.column + window)
            } else {
                self.down.len() * block.across.len()
            };
            _mm512_div_ps(sums[window], _mm512_set1_ps(count as f32))
        });
        // SAFETY: the caller's promise.
        unsafe { self.write(block, means, y) };
    }

    /// Where an entry of a window is in x, in the first channel of a block.
    #[inline]
    fn place(&self, block: &Block, down: usize, across: usize, window: usize) -> usize {
        let [rows, columns] = self.slides;
        let row = self.row * rows.stride + down * rows.dilation - rows.before;
        let column = (block.column + window) * columns.stride + across * columns.dilation;
        (row * columns.input + column - columns.before) * self.channels + block.channel
    }

    /// Running values after all elements of `W` windows, which come row by row.
    ///
    /// # Safety
    /// As for [`Self::windows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn fold<const W: usize>(
        &self,
        block: &Block,
        mut values: [__m512; W],
        weight: impl Fn(usize) -> __m512,
        step: impl Fn(__m512, __m512, __m512) -> __m512,
    ) -> [__m512; W] {
        let columns = &self.slides[1];
        let mask = block.mask();
        let (window_step, entry_step) =
            (columns.stride * self.channels, columns.dilation * self.channels);
        // Of windows without elements there is no place.
        let down = if block.across.is_empty() { 0..0 } else { self.down.clone() };
        for down in down {
            let mut place =
                self.x.as_ptr().wrapping_add(self.place(block, down, block.across.start, 0));
            for across in block.across.clone() {
                let weight = weight(down * columns.kernel + across);
                for (window, value) in values.iter_mut().enumerate() {
                    // SAFETY: the caller's promise; no lanes but the channels are read.
                    let x = unsafe { X::load(mask, place.wrapping_add(window * window_step)) };
                    *value = step(*value, x, weight);
                }
                place = place.wrapping_add(entry_step);
            }
        }
        values
    }

    /// # Safety
    /// As for [`Self::windows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn write<const W: usize, Y: Element>(
        &self,
        block: &Block,
        values: [__m512; W],
        y: &mut [Y],
    ) {
        for (window, value) in values.into_iter().enumerate() {
            let place = (block.column + window) * self.channels + block.channel;
            // SAFETY: the caller's promise; no lanes but the channels are written.
            unsafe { Y::store(y.as_mut_ptr().add(place), block.mask(), value) };
        }
    }
}

/// Some channels of windows from a column on.
struct Block {
    column: usize,
    across: Range<usize>,
    channel: usize,
    count: usize,
}

impl Block {
    #[inline]
    fn mask(&self) -> __mmask16 {
        ((1u32 << self.count) - 1) as __mmask16
    }
}
