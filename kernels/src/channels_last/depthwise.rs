#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Convolution where every output sees one channel of its own.

use std::array::from_fn;

#[cfg(target_arch = "x86_64")]
use super::avx512::{self, Folding};
use super::fold::{Fold, fold_row};
use crate::activation::Activation;
use crate::bf16::{Input, widened};
use crate::conv::Conv2d;
use crate::element::Element;
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
    fn filter_row<X: Element>(
        windows: &[Slide; 2], channels: usize, x: &[X], row: usize, filter: &Weighted<'_>, y: &mut [f32],
    ) {
        fold_row(windows, channels, x, row, y, filter);
    }
}

/// What is applied to the windows of each channel.
#[derive(Clone, Copy)]
pub(super) struct Depthwise<'a> {
    /// `[taps, channels]`
    pub(super) weights: &'a [f32],
    /// Added to the sums, `[channels]`.
    pub(super) bias: Option<&'a [f32]>,
    /// What is added to them then, laid out like the result.
    pub(super) addend: Option<Input<'a>>,
    /// Applied last.
    pub(super) activation: Activation,
}

/// The convolution of images, whose sizes were checked; `y` is not empty.
pub(super) fn depthwise<X: Element, Y: Element>(
    cpu: Cpu,
    conv: &Conv2d,
    x: &[X],
    filters: &Depthwise<'_>,
    y: &mut [Y],
) {
    let Conv2d { channels, windows, .. } = conv;
    let [rows, columns] = windows;
    let (image, row_len) = (conv.image() * channels, columns.output * channels);
    for_each_row(y, row_len, rows_per_chunk(row_len * conv.taps()), |row, y| {
        let x = &x[row / rows.output * image..][..image];
        let place = (x, row % rows.output);
        #[cfg(target_arch = "x86_64")]
        if Y::is_stored(cpu) && filters.addend.is_none() {
            let limits = filters.activation.limits();
            if limits.is_some() || filters.activation == Activation::Identity {
                // SAFETY: `is_stored` said that the CPU has the instructions.
                unsafe { in_registers(conv, place, filters, limits, y) };
                return;
            }
        }
        Y::written(cpu, y, |y| {
            fold(cpu, conv, place, filters, y);
            let addend = row * row_len..(row + 1) * row_len;
            match filters.addend {
                Some(Input::F32(all)) => {
                    y.iter_mut().zip(&all[addend]).for_each(|(y, addend)| *y += addend);
                }
                Some(Input::Bf16(all)) => {
                    let addends = all[addend].iter().map(|&addend| widened(addend));
                    y.iter_mut().zip(addends).for_each(|(y, addend)| *y += addend);
                }
                None => {}
            }
            filters.activation.apply(cpu, y);
        });
    });
}

/// One row of sums with their bias.
fn fold<X: Element>(
    cpu: Cpu,
    conv: &Conv2d,
    (x, row): (&[X], usize),
    filters: &Depthwise<'_>,
    y: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if cpu.tier() >= Tier::Avx512 {
        // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
        unsafe { in_registers(conv, (x, row), filters, None, y) };
        return;
    }
    let Depthwise { weights, bias, .. } = *filters;
    let filter = Weighted { weights, bias, channels: conv.channels };
    filter_row(cpu, &conv.windows, conv.channels, x, row, &filter, y);
}

/// # Safety
/// The elements of y [are stored](Element::is_stored) from registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn in_registers<X: Element, Y: Element>(
    conv: &Conv2d,
    (x, row): (&[X], usize),
    filters: &Depthwise<'_>,
    limits: Option<[f32; 2]>,
    y: &mut [Y],
) {
    let folding = Folding::Weighted(filters.weights, filters.bias, limits);
    // SAFETY: the caller's promise.
    unsafe { avx512::fold_row(&conv.windows, conv.channels, x, row, y, folding) };
}
