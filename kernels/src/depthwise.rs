#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Convolutions in which every output sees one channel (Howard et al. 2017, arXiv:1704.04861,
//! section 3.1): a direct loop, since a product would be a vector's.

use crate::conv::{Conv2d, Filters};
use crate::parallel::{self, rows_per_chunk};
use crate::tier::{Cpu, tiered};
use crate::window::{Count, Fold, Slide, fold_plane};

struct Weighted<'a> {
    weights: &'a [f32],
    bias: f32,
}

impl Fold for Weighted<'_> {
    #[inline(always)]
    fn start(&self, _: Option<f32>) -> f32 {
        0.0
    }

    #[inline(always)]
    fn weight(&self, entry: usize) -> f32 {
        self.weights[entry]
    }

    #[inline(always)]
    fn step(&self, value: f32, element: f32, weight: f32) -> f32 {
        value + weight * element
    }

    #[inline(always)]
    fn finish(&self, value: f32, _: Count) -> f32 {
        value + self.bias
    }
}

tiered! {
    fn filter_plane(windows: &[Slide; 2], x: &[f32], filter: &Weighted<'_>, y: &mut [f32]) {
        fold_plane(windows, x, y, filter);
    }
}

/// The convolution of planes, whose sizes were checked; `y` is not empty.
pub(crate) fn depthwise(cpu: Cpu, conv: &Conv2d, x: &[f32], filters: &Filters<'_>, y: &mut [f32]) {
    let (image, positions, taps) = (conv.image(), conv.positions(), conv.taps());
    let per_channel = conv.outputs / conv.groups;
    parallel::for_each_row(y, positions, rows_per_chunk(positions * taps), |plane, y| {
        let (sample, output) = (plane / conv.outputs, plane % conv.outputs);
        let channel = sample * conv.channels + output / per_channel;
        let weights = &filters.weight[output * taps..][..taps];
        let bias = filters.bias.map_or(0.0, |bias| bias[output]);
        let x = &x[channel * image..][..image];
        filter_plane(cpu, &conv.windows, x, &Weighted { weights, bias }, y);
        filters.activation.apply(cpu, y);
    });
}
