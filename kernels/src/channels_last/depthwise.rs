#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Convolution where every output sees one channel of its own.

use std::array::from_fn;

#[cfg(target_arch = "x86_64")]
use super::avx512::{self, Folding};
use super::conv::Filters;
use super::fold::{Fold, fold_row};
use crate::conv::Conv2d;
use crate::parallel::{for_each_row, rows_per_chunk};
#[cfg(target_arch = "x86_64")]
use crate::tier::Tier;
use crate::tier::{Cpu, tiered};
use crate::window::{Count, Slide};

struct Weighted<'a> {
    /// `[taps, channels]`
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    channels: usize,
}

impl Fold for Weighted<'_> {
    #[inline(always)]
    fn start(&self, _: Option<f32>) -> f32 {
        0.0
    }

    #[inline(always)]
    fn step<const N: usize>(
        &self,
        values: [f32; N],
        elements: &[f32; N],
        entry: usize,
        channel: usize,
    ) -> [f32; N] {
        let weights = &self.weights[entry * self.channels + channel..];
        let weights: &[f32; N] = weights.first_chunk().expect("a weight for each channel");
        from_fn(|lane| values[lane] + weights[lane] * elements[lane])
    }

    #[inline(always)]
    fn finish(&self, value: f32, channel: usize, _: Count) -> f32 {
        value + self.bias.map_or(0.0, |bias| bias[channel])
    }
}

tiered! {
    fn filter_row(windows: &[Slide; 2], channels: usize, x: &[f32], row: usize, filter: &Weighted<'_>, y: &mut [f32]) {
        fold_row(windows, channels, x, row, y, filter);
    }
}

fn row_of(
    cpu: Cpu,
    windows: &[Slide; 2],
    x: &[f32],
    row: usize,
    filter: &Weighted<'_>,
    y: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if cpu.tier() >= Tier::Avx512 {
        let folding = Folding::Weighted(filter.weights, filter.bias);
        // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
        unsafe { avx512::fold_row(windows, filter.channels, x, row, y, folding) };
        return;
    }
    filter_row(cpu, windows, filter.channels, x, row, filter, y);
}

/// The convolution of images, whose sizes were checked; `y` is not empty.
pub(super) fn depthwise(
    cpu: Cpu,
    conv: &Conv2d,
    x: &[f32],
    weights: &[f32],
    filters: &Filters<'_>,
    y: &mut [f32],
) {
    let Conv2d { channels, windows, .. } = conv;
    let [rows, columns] = windows;
    let (image, row_len) = (conv.image() * channels, columns.output * channels);
    let filter = Weighted { weights, bias: filters.bias, channels: *channels };
    for_each_row(y, row_len, rows_per_chunk(row_len * conv.taps()), |row, y| {
        let x = &x[row / rows.output * image..][..image];
        row_of(cpu, windows, x, row % rows.output, &filter, y);
        if let Some(addend) = filters.addend {
            let addend = &addend[row * row_len..][..row_len];
            y.iter_mut().zip(addend).for_each(|(y, addend)| *y += addend);
        }
        filters.activation.apply(cpu, y);
    });
}
