#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Batch normalization by given statistics (Ioffe & Szegedy 2015, arXiv:1502.03167).

use crate::parallel::{check_len, for_each_row, rows_per_chunk};
use crate::tier::{Cpu, tiered};

/// The parameters of a batch normalization, each with one number a channel.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Factor after normalizing.
    pub scale: &'a [f32],
    /// Added last.
    pub bias: &'a [f32],
    /// What is subtracted.
    pub mean: &'a [f32],
    /// Square of what is divided by, less `epsilon`.
    pub variance: &'a [f32],
    /// Added to the variance, > 0.
    pub epsilon: f32,
}

tiered! {
    fn scale_plane(x: &[f32], mean: f32, factor: f32, bias: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - mean) * factor + bias;
        }
    }
}

/// `y = (x − mean) / √(variance + epsilon) · scale + bias` by channel.
///
/// # Shapes
/// `x`, `y`: `[batch, channels, image]`.
///
/// # Panics
/// When a length differs.
pub fn batch_norm(cpu: Cpu, x: &[f32], norm: &BatchNorm<'_>, image: usize, y: &mut [f32]) {
    let channels = norm.scale.len();
    check_len("batch_norm: y", y.len(), x.len());
    check_len("batch_norm: bias", norm.bias.len(), channels);
    check_len("batch_norm: mean", norm.mean.len(), channels);
    check_len("batch_norm: variance", norm.variance.len(), channels);
    let sample = channels * image;
    check_len("batch_norm: x", x.len(), x.len().checked_div(sample).unwrap_or(0) * sample);
    if y.is_empty() {
        return;
    }
    let plane = |plane: usize, y: &mut [f32]| {
        let channel = plane % channels;
        let deviation = (norm.variance[channel] + norm.epsilon).sqrt();
        let (mean, factor) = (norm.mean[channel], norm.scale[channel] / deviation);
        scale_plane(cpu, &x[plane * image..][..image], mean, factor, norm.bias[channel], y);
    };
    for_each_row(y, image, rows_per_chunk(image), plane);
}
