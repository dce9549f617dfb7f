#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Pooling over windows.

use std::array::from_fn;

#[cfg(target_arch = "x86_64")]
use super::avx512::{self, Folding};
use super::fold::{Fold, fold_row};
use crate::element::Element;
use crate::parallel::{CHUNK, Shared, check_shape, for_each, for_each_row, rows_per_chunk};
use crate::pool::{Greatest, Mean, Pooling};
use crate::tier::{Cpu, tiered};
use crate::window::{self, Count, Slide};

/// What pooling makes of a window, in every channel alike.
struct Alike<F>(F);

impl<F: window::Fold> Fold for Alike<F> {
    #[inline(always)]
    fn start(&self, first: Option<f32>) -> f32 {
        self.0.start(first)
    }

    #[inline(always)]
    fn step<const N: usize>(
        &self,
        values: [f32; N],
        elements: &[f32; N],
        _: usize,
        _: usize,
    ) -> [f32; N] {
        from_fn(|lane| self.0.step(values[lane], elements[lane], 1.0))
    }

    #[inline(always)]
    fn finish(&self, value: f32, _: usize, count: Count) -> f32 {
        self.0.finish(value, count)
    }
}

tiered! {
    fn greatest<X: Element>(
        windows: &[Slide; 2], channels: usize, x: &[X], row: usize, y: &mut [f32],
    ) {
        fold_row(windows, channels, x, row, y, &Alike(Greatest));
    }
}

tiered! {
    fn mean<X: Element>(
        windows: &[Slide; 2], channels: usize, padding_counts: bool, x: &[X], row: usize, y: &mut [f32],
    ) {
        fold_row(windows, channels, x, row, y, &Alike(Mean { padding_counts }));
    }
}

/// Pools images of `f32` or of bf16 to such.
///
/// # Shapes
/// `sizes`: batch and channels; `x`: `[batch, windows[0].input, windows[1].input, channels]`;
/// `y`: `[batch, windows[0].output, windows[1].output, channels]`.
///
/// # Panics
/// When a length differs, or a kernel, stride or dilation is 0.
pub fn pool2d<X: Element, Y: Element>(
    cpu: Cpu,
    pooling: Pooling,
    sizes: [usize; 2],
    windows: &[Slide; 2],
    x: &[X],
    y: &mut [Y],
) {
    let channels = sizes[1];
    for_each_row_of_windows(sizes, windows, x, y, |x, row, y| {
        #[cfg(target_arch = "x86_64")]
        if Y::is_stored(cpu) {
            let folding = match pooling {
                Pooling::Max => Folding::Greatest,
                Pooling::Average => Folding::Mean { padding_counts: false },
                Pooling::AverageWithPadding => Folding::Mean { padding_counts: true },
            };
            // SAFETY: `is_stored` said that the CPU has the instructions.
            unsafe { avx512::fold_row(windows, channels, x, row, y, folding) };
            return;
        }
        Y::written(cpu, y, |y| match pooling {
            Pooling::Max => greatest(cpu, windows, channels, x, row, y),
            Pooling::Average => mean(cpu, windows, channels, false, x, row, y),
            Pooling::AverageWithPadding => mean(cpu, windows, channels, true, x, row, y),
        });
    });
}

/// Has `fold` write what becomes of every row of windows: it gets an image, the row's number in it, and where
/// it goes. Shapes as those of [`pool2d`].
///
/// # Panics
/// When a length differs, or a kernel, stride or dilation is 0.
pub(super) fn for_each_row_of_windows<X: Sync, Y: Send>(
    [batch, channels]: [usize; 2],
    windows: &[Slide; 2],
    x: &[X],
    y: &mut [Y],
    fold: impl Fn(&[X], usize, &mut [Y]) + Sync,
) {
    windows.iter().for_each(Slide::check);
    let [rows, columns] = windows;
    check_shape("pool: x", x.len(), &[batch, rows.input, columns.input, channels]);
    check_shape("pool: y", y.len(), &[batch, rows.output, columns.output, channels]);
    if y.is_empty() {
        return;
    }
    let (image, row_len) = (rows.input * columns.input * channels, columns.output * channels);
    let work = row_len * rows.kernel * columns.kernel;
    for_each_row(y, row_len, rows_per_chunk(work), |row, y| {
        fold(&x[row / rows.output * image..][..image], row % rows.output, y);
    });
}

/// Channels of a whole image that are pooled at once.
const CHANNELS: usize = 64;

/// Pixels whose sum is added to the others' as one number, so that rounding does not add up over all.
const PIXELS: usize = 64;

tiered! {
    fn image_sum<X: Element>(x: &[X], channels: usize, y: &mut [f32]) {
        y.fill(0.0);
        for pixels in x.chunks(PIXELS * channels) {
            let mut sums = [0.0; CHANNELS];
            for pixel in pixels.chunks(channels) {
                sums.iter_mut().zip(&pixel[..y.len()]).for_each(|(sum, x)| *sum += x.widen());
            }
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
        }
    }
}

tiered! {
    fn image_max<X: Element>(x: &[X], channels: usize, y: &mut [f32]) {
        y.fill(f32::NEG_INFINITY);
        for pixel in x.chunks(channels) {
            for (y, x) in y.iter_mut().zip(pixel) {
                let x = x.widen();
                *y = if x > *y { x } else { *y };
            }
        }
    }
}

/// Means of whole images of `f32` or bf16, NaN where there are no pixels, or with [`Pooling::Max`] the greatest element,
/// NaN passed over; minus infinity when there is none.
///
/// # Shapes
/// `x`: `[batch, pixels, channels]`; `y`: `[batch, channels]`.
///
/// # Panics
/// When a length differs.
pub fn global_pool<X: Element>(
    cpu: Cpu,
    pooling: Pooling,
    [batch, pixels, channels]: [usize; 3],
    x: &[X],
    y: &mut [f32],
) {
    check_shape("global_pool: x", x.len(), &[batch, pixels, channels]);
    check_shape("global_pool: y", y.len(), &[batch, channels]);
    if y.is_empty() {
        return;
    }
    let (blocks, y) = (channels.div_ceil(CHANNELS), Shared::new(y));
    let pool = |index: usize| {
        let (image, channel) = (index / blocks, index % blocks * CHANNELS);
        let len = CHANNELS.min(channels - channel);
        // SAFETY: the channels are some of the image's, and nobody else has them.
        let y = unsafe { y.range(image * channels + channel, len) };
        let x = &x[image * pixels * channels..][..pixels * channels];
        let x = x.get(channel..).unwrap_or_default();
        if pooling == Pooling::Max {
            image_max(cpu, x, channels, y);
        } else {
            image_sum(cpu, x, channels, y);
            y.iter_mut().for_each(|y| *y /= pixels as f32);
        }
    };
    if x.len() > CHUNK {
        for_each(batch * blocks, pool);
    } else {
        (0..batch * blocks).for_each(pool);
    }
}
