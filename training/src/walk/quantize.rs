//! Quantize followed by dequantize, as one operation with a straight-through gradient.
//!
//! The forward pass is the arithmetic of `graph::op::Quantize` and `graph::op::Dequantize` to the
//! bit: `round_half_even(x / scale)`, the zero point added, saturated, and back. The gradient passes
//! where nothing was cut off (Jacob et al. 2018, arXiv:1712.05877, §3); the scale's gradient is that
//! of learned step sizes (Esser et al. 2020, arXiv:1902.08153, eq. 3).

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::floats::Floats;
use super::fused::{self, Operation};
use super::plan::FakeQuantize;
use crate::device::Device;

/// Elements that one thread takes at once.
const CHUNK: usize = 16 * 1024;

/// Adding and subtracting 1.5·2²³ rounds a float below 2²² to a whole number, halves to even.
const ROUND: f32 = 12_582_912.0;

/// Beyond this every 8-bit value is saturated: what is greater may be cut before it is rounded.
const BEYOND: f32 = 1024.0;

/// How one element is quantized.
#[derive(Clone, Copy, Debug)]
struct Channel {
    scale: f32,
    zero_point: f32,
    low: f32,
    high: f32,
}

impl Channel {
    /// The whole number of steps from 0, not yet saturated, zero point included.
    fn steps(self, x: f32) -> f32 {
        ((x / self.scale).clamp(-BEYOND, BEYOND) + ROUND - ROUND) + self.zero_point
    }

    fn quantized(self, x: f32) -> f32 {
        (self.steps(x).clamp(self.low, self.high) - self.zero_point) * self.scale
    }

    /// Whether nothing is cut off.
    fn passes(self, x: f32) -> bool {
        let steps = self.steps(x);
        steps >= self.low && steps <= self.high
    }

    /// The output's derivative by the scale.
    fn scale_slope(self, x: f32) -> f32 {
        let steps = self.steps(x);
        let kept = steps.clamp(self.low, self.high) - self.zero_point;
        if kept + self.zero_point == steps { kept - x / self.scale } else { kept }
    }
}

/// `(x, scale)`.
#[derive(Clone, Debug)]
struct Fake {
    quantization: FakeQuantize,
}

impl Fake {
    fn channel(&self, scales: &[f32], index: usize) -> Channel {
        let (low, high) = self.quantization.range;
        Channel {
            scale: scales[index],
            zero_point: self.quantization.zero_points[index],
            low,
            high,
        }
    }

    /// Channels, and elements from one entry of the axis to the next.
    fn layout(&self, shape: &[usize]) -> (usize, usize) {
        match self.quantization.axis {
            None => (1, shape.iter().product::<usize>().max(1)),
            Some(axis) => (shape[axis], shape[axis + 1..].iter().product::<usize>().max(1)),
        }
    }

    /// Fills `y` piece by piece; `run` gets ranges whose elements share a channel.
    fn fill(
        &self,
        shape: &[usize],
        scales: &[f32],
        y: &mut [f32],
        run: impl Fn(Channel, Range<usize>, &mut [f32]) + Sync,
    ) {
        let (channels, inner) = self.layout(shape);
        y.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, y)| {
            let (mut start, end) = (chunk * CHUNK, chunk * CHUNK + y.len());
            let mut rest = y;
            while start < end {
                let stop = ((start / inner + 1) * inner).min(end);
                let (piece, after) = rest.split_at_mut(stop - start);
                run(self.channel(scales, start / inner % channels), start..stop, piece);
                (start, rest) = (stop, after);
            }
        });
    }

    /// One scale a column is so common (linear weights) that it has a loop of its own.
    fn fill_columns(
        &self,
        scales: &[f32],
        x: &[f32],
        y: &mut [f32],
        one: impl Fn(Channel, f32, &mut f32) + Sync,
    ) {
        let columns = scales.len();
        let rows = (CHUNK / columns).max(1) * columns;
        y.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                for (index, (y, &x)) in y.iter_mut().zip(x).enumerate() {
                    one(self.channel(scales, index), x, y);
                }
            }
        });
    }

    fn map(
        &self,
        shape: &[usize],
        scales: &[f32],
        x: &[f32],
        y: &mut [f32],
        one: impl Fn(Channel, f32, &mut f32) + Sync,
    ) {
        if self.quantization.axis.is_some_and(|axis| axis + 1 == shape.len()) {
            self.fill_columns(scales, x, y, one);
        } else {
            self.fill(shape, scales, y, |channel, range, y| {
                for (y, &x) in y.iter_mut().zip(&x[range]) {
                    one(channel, x, y);
                }
            });
        }
    }

    /// Sum of `dy · slope` over the elements of each channel, in a fixed order.
    fn scale_gradient(&self, shape: &[usize], scales: &[f32], x: &[f32], dy: &[f32]) -> Vec<f32> {
        let (channels, inner) = self.layout(shape);
        let partial = |(chunk, (x, dy)): (usize, (&[f32], &[f32]))| {
            let mut sums = vec![0f64; channels];
            for (offset, (&x, &dy)) in x.iter().zip(dy).enumerate() {
                let index = (chunk * CHUNK + offset) / inner % channels;
                let slope = self.channel(scales, index).scale_slope(x);
                sums[index] += f64::from(dy * slope);
            }
            sums
        };
        let pieces = x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK)).enumerate();
        let partials: Vec<Vec<f64>> = pieces.map(partial).collect();
        let sum = |index| partials.iter().map(|partial: &Vec<f64>| partial[index]).sum::<f64>();
        (0..channels).map(|index| sum(index) as f32).collect()
    }
}

impl Operation<2> for Fake {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, scale]: &[FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        let x = fused::contiguous(x);
        let shape = fused::shape(&x);
        let (elements, scales) = (fused::elements(&x), fused::elements(scale));
        let mut y = vec![0f32; elements.len()];
        self.map(&shape, &scales, &elements, &mut y, |channel, x, y| *y = channel.quantized(x));
        drop(elements);
        (fused::tensor(&shape, y), [x, scale.clone()])
    }

    fn backward(
        &self,
        [x, scale]: Self::Saved,
        gradient: &FlexTensor,
        wanted: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let shape = fused::shape(&x);
        let (elements, scales) = (fused::elements(&x), fused::elements(&scale));
        let dy = fused::elements(gradient);
        let dx = wanted[0].then(|| {
            let mut dx = dy.to_vec();
            self.map(&shape, &scales, &elements, &mut dx, |channel, x, dx| {
                *dx = if channel.passes(x) { *dx } else { 0.0 };
            });
            fused::tensor(&shape, dx)
        });
        let dscale = wanted[1].then(|| {
            let sums = self.scale_gradient(&shape, &scales, &elements, &dy);
            fused::tensor(&fused::shape(&scale), sums)
        });
        [dx, dscale]
    }
}

/// `x` quantized and dequantized; `scale`: one element, or one an entry of the axis.
pub(super) fn fake_quantize(
    fuse: bool,
    device: &Device,
    quantization: &FakeQuantize,
    x: Floats,
    scale: Floats,
) -> Floats {
    if fuse {
        let operation = Fake { quantization: quantization.clone() };
        return Floats(fused::apply(&operation, [x.0, scale.0]));
    }
    let shape = x.shape();
    let spread = channel_shape(quantization.axis, &shape);
    let scale = scale.reshape(&spread);
    let zero_points = Floats(device.upload(&spread, quantization.zero_points.clone()));
    let (low, high) = quantization.range;
    // Everything that rounds into the range keeps its gradient, so the cut is half a step out.
    let steps = x.div(scale.clone()).add(zero_points.clone()).clamp(low - 0.5, high + 0.5);
    let steps = steps.sub(zero_points.clone());
    let rounded = steps.clone().detach().round().add(zero_points.clone()).clamp(low, high);
    let straight = rounded.sub(zero_points).sub(steps.clone().detach());
    steps.add(straight).mul(scale)
}

/// The shape in which one value an entry of `axis` broadcasts over `shape`.
pub(super) fn channel_shape(axis: Option<usize>, shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|index| if Some(index) == axis { shape[index] } else { 1 }).collect()
}

/// Greatest magnitude of each entry of `axis`, or of all, `[entries]` or `[1]`. `x` is on no tape.
pub(crate) fn greatest_magnitude(x: Floats, axis: Option<usize>) -> Floats {
    let shape = x.shape();
    let (entries, inner) = match axis {
        None => (1, shape.iter().product::<usize>().max(1)),
        Some(axis) => (shape[axis], shape[axis + 1..].iter().product::<usize>().max(1)),
    };
    if let Some(tensor) = fused::on_cpu(&x.0) {
        let found = magnitudes(&fused::elements(&tensor), entries, inner);
        return Floats(fused::plain(fused::tensor(&[entries], found)));
    }
    let outer = shape.iter().product::<usize>() / (entries * inner).max(1);
    let magnitude = x.abs().reshape(&[outer, entries, inner]).max_axis(2);
    magnitude.reshape(&[outer, entries]).max_axis(0).reshape(&[entries])
}

/// Greatest magnitude of each of `entries`, whose elements come in runs of `inner`.
fn magnitudes(x: &[f32], entries: usize, inner: usize) -> Vec<f32> {
    let greatest = |x: &[f32]| x.iter().fold(0f32, |greatest, x| greatest.max(x.abs()));
    let merged = |mut left: Vec<f32>, right: Vec<f32>| {
        for (left, right) in left.iter_mut().zip(right) {
            *left = left.max(right);
        }
        left
    };
    if entries == 1 {
        return vec![x.par_chunks(CHUNK).map(greatest).reduce(|| 0.0, f32::max)];
    }
    let block = entries * inner;
    if inner > 1 {
        let of = |entry: usize| {
            let runs = x.chunks_exact(block).map(|block| &block[entry * inner..][..inner]);
            runs.map(greatest).fold(0f32, f32::max)
        };
        return (0..entries).into_par_iter().map(of).collect();
    }
    let pieces = x.par_chunks((CHUNK / block).max(1) * block);
    let columns = |piece: &[f32]| {
        let mut found = vec![0f32; entries];
        for row in piece.chunks_exact(block) {
            for (found, x) in found.iter_mut().zip(row) {
                *found = found.max(x.abs());
            }
        }
        found
    };
    pieces.map(columns).reduce(|| vec![0f32; entries], merged)
}
