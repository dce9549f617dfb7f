#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! Folding the elements of windows in registers, to the bit what [`fold_row`](super::fold::fold_row)
//! makes of them.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::ops::Range;

use crate::element::Element;
use crate::parallel::{check_len, check_shape};
use crate::wide::clamp;
use crate::window::Slide;

/// Lanes of a register.
const LANES: usize = 16;

/// Windows whose running values are in registers at once: each weight is loaded for all.
const WINDOWS: usize = 4;

/// The same where windows share the pixels that are loaded, if there are so many, or if there are fewer.
const MANY: usize = 8;
const FEW: usize = 4;

/// Pixels of a row that windows reach which share them.
const MOST_PIXELS: usize = 2 * (MANY - 1) + 3;

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
///
/// # Safety
/// The elements of y [are stored](Element::is_stored) from registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn fold_row<X: Element, Y: Element>(
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
    let is_done = match folding {
        // SAFETY: the lengths were checked; the instructions are the caller's promise.
        Folding::Weighted(weights, bias, limits) => unsafe {
            line.shared(&Weighted { weights, bias, limits }, y)
        },
        _ => false,
    };
    if is_done {
        return;
    }
    let whole = columns.whole();
    let mut column = 0;
    while column < columns.output {
        // SAFETY: the lengths were checked, the windows are some of the output, and `inside` and
        // `whole` give entries and windows that lie in the input; the instructions are the caller's
        // promise.
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

/// What [`Folding::Weighted`] says.
#[derive(Clone, Copy)]
struct Weighted<'a> {
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    limits: Option<[f32; 2]>,
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
    /// [`fold_row`] checks, and the instructions those that it asks for.
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
                        self.weighted::<W, Y>(&block, &Weighted { weights, bias, limits }, y);
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
        filter: &Weighted<'_>,
        y: &mut [Y],
    ) {
        let start = [_mm512_setzero_ps(); W];
        // SAFETY: the caller's promise: there are weights and a bias for each channel.
        unsafe {
            let sums = self.fold(
                block,
                start,
                |entry| filter.weight(self.channels, block, entry),
                |value, x, weight| _mm512_add_ps(value, _mm512_mul_ps(weight, x)),
            );
            self.write(block, filter.finished(block, sums), y);
        }
    }

    /// Sums of products of all windows of the row, if they are of a kind that has much in common: then each
    /// pixel is loaded once for several. Says whether they are.
    ///
    /// # Safety
    /// The lengths are those that [`fold_row`] checks, and the instructions those that it asks for.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn shared<Y: Element>(&self, filter: &Weighted<'_>, y: &mut [Y]) -> bool {
        let columns = &self.slides[1];
        if columns.dilation != 1 {
            return false;
        }
        // SAFETY: the caller's promise, and as many windows are asked for as there are.
        unsafe {
            match (columns.kernel, columns.stride, columns.output) {
                (3, 1, MANY..) => self.shared_by::<MANY, 3, 1, Y>(filter, y),
                (3, 2, MANY..) => self.shared_by::<MANY, 3, 2, Y>(filter, y),
                (5, 1, MANY..) => self.shared_by::<MANY, 5, 1, Y>(filter, y),
                (3, 1, FEW..) => self.shared_by::<FEW, 3, 1, Y>(filter, y),
                (3, 2, FEW..) => self.shared_by::<FEW, 3, 2, Y>(filter, y),
                (5, 1, FEW..) => self.shared_by::<FEW, 5, 1, Y>(filter, y),
                (5, 2, FEW..) => self.shared_by::<FEW, 5, 2, Y>(filter, y),
                _ => return false,
            }
        }
        true
    }

    /// [`Self::shared`] for `W` windows at a time, of `K` entries across, `S` apart. The last are computed
    /// with some before them, twice where these were already.
    ///
    /// # Safety
    /// As for [`Self::shared`]; there are `W` windows or more, and they are such.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn shared_by<const W: usize, const K: usize, const S: usize, Y: Element>(
        &self,
        filter: &Weighted<'_>,
        y: &mut [Y],
    ) {
        let columns = &self.slides[1];
        let whole = columns.whole();
        for column in (0..columns.output).step_by(W) {
            let column = column.min(columns.output - W);
            let is_whole = whole.start <= column && column + W <= whole.end;
            for channel in (0..self.channels).step_by(LANES) {
                let count = (self.channels - channel).min(LANES);
                let block = Block { column, across: 0..K, channel, count };
                // SAFETY: the caller's promise; the channels are some.
                unsafe {
                    if is_whole && count == LANES {
                        self.products::<W, K, S, true, Y>(&block, filter, y);
                    } else {
                        self.products::<W, K, S, false, Y>(&block, filter, y);
                    }
                }
            }
        }
    }

    /// `W` windows of some channels: all of a register and of pixels of the image, where they are `WHOLE`.
    ///
    /// # Safety
    /// As for [`Self::shared_by`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn products<
        const W: usize,
        const K: usize,
        const S: usize,
        const WHOLE: bool,
        Y: Element,
    >(
        &self,
        block: &Block,
        filter: &Weighted<'_>,
        y: &mut [Y],
    ) {
        const { assert!((W - 1) * S + K <= MOST_PIXELS, "the pixels of windows have a place") };
        let columns = &self.slides[1];
        let mask = if WHOLE { !0 } else { block.mask() };
        let masks: [__mmask16; MOST_PIXELS] = from_fn(|index| {
            let column = (block.column * S + index).checked_sub(columns.before);
            if column.is_some_and(|column| column < columns.input) { mask } else { 0 }
        });
        let mut sums = [_mm512_setzero_ps(); W];
        for down in self.down.clone() {
            let place = self.x.as_ptr().wrapping_add(self.place(block, down, 0, 0));
            let mut pixels = [_mm512_setzero_ps(); MOST_PIXELS];
            for (index, pixel) in pixels.iter_mut().take((W - 1) * S + K).enumerate() {
                let place = place.wrapping_add(index * self.channels);
                // SAFETY: the caller's promise; no lanes are read but the channels of pixels.
                *pixel = unsafe {
                    if WHOLE { X::load(place) } else { X::load_some(masks[index], place) }
                };
            }
            let weights: [__m512; K] = from_fn(|across| {
                let place = (down * K + across) * self.channels + block.channel;
                // SAFETY: the caller's promise; no lanes but the channels are read.
                unsafe { _mm512_maskz_loadu_ps(mask, filter.weights.as_ptr().add(place)) }
            });
            for (window, sum) in sums.iter_mut().enumerate() {
                for (across, &weight) in weights.iter().enumerate() {
                    let index = window * S + across;
                    let product = _mm512_mul_ps(weight, pixels[index]);
                    *sum = if WHOLE {
                        _mm512_add_ps(*sum, product)
                    } else {
                        // Padding is left out: a weight may be no number.
                        _mm512_mask_add_ps(*sum, masks[index], *sum, product)
                    };
                }
            }
        }
        let bias = filter.bias.map_or(_mm512_setzero_ps(), |bias| {
            // SAFETY: the caller's promise; no lanes but the channels are read.
            unsafe { _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(block.channel)) }
        });
        let [low, high] = filter.limits.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        for (window, &sum) in sums.iter().enumerate() {
            let place = (block.column + window) * self.channels + block.channel;
            let value = clamp(_mm512_add_ps(sum, bias), low, high);
            // SAFETY: the caller's promise; no lanes but the channels are written.
            unsafe { Y::store(y.as_mut_ptr().add(place), mask, value) };
        }
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
            unsafe { X::load_some(block.mask(), self.x.as_ptr().add(place)) }
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
        // Of padding before a row there is no place, but one after which its pixels come.
        let column = (row * columns.input + column).wrapping_sub(columns.before);
        column.wrapping_mul(self.channels).wrapping_add(block.channel)
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
                    let x = unsafe { X::load_some(mask, place.wrapping_add(window * window_step)) };
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

impl Weighted<'_> {
    /// Weights of the channels of a block.
    ///
    /// # Safety
    /// There are weights for each channel.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn weight(&self, channels: usize, block: &Block, entry: usize) -> __m512 {
        let place = entry * channels + block.channel;
        // SAFETY: the caller's promise; no lanes but the channels are read.
        unsafe { _mm512_maskz_loadu_ps(block.mask(), self.weights.as_ptr().add(place)) }
    }

    /// Sums with the bias, within limits.
    ///
    /// # Safety
    /// There is a bias for each channel, if there is one.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn finished<const W: usize>(&self, block: &Block, mut sums: [__m512; W]) -> [__m512; W] {
        let bias = self.bias.map_or(_mm512_setzero_ps(), |bias| {
            // SAFETY: the caller's promise; no lanes but the channels are read.
            unsafe { _mm512_maskz_loadu_ps(block.mask(), bias.as_ptr().add(block.channel)) }
        });
        sums = sums.map(|sum| _mm512_add_ps(sum, bias));
        if let Some([low, high]) = self.limits {
            sums = sums.map(|sum| clamp(sum, low, high));
        }
        sums
    }
}

/// Some channels of windows from a column on.
#[derive(Clone)]
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
