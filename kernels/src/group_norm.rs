#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Normalization of groups of an image's channels by their own mean and variance (Wu & He 2018,
//! arXiv:1803.08494); a group of one channel is an instance (Ulyanov et al. 2016, arXiv:1607.08022).

use crate::lanes;
use crate::parallel::{check_len, check_shape, for_each_row, rows_per_chunk};
use crate::tier::{Cpu, tiered};

/// The parameters of a group normalization.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// Factor after normalizing, one a channel.
    pub scale: &'a [f32],
    /// Added last, one a channel.
    pub bias: &'a [f32],
    /// Groups of neighbouring channels; divides their number.
    pub groups: usize,
    /// Added to the population variance, inside the root.
    pub epsilon: f32,
}

tiered! {
    /// Normalizes one group; `scale` and `bias` are its channels'.
    fn normalize(x: &[f32], scale: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
        let count = x.len() as f32;
        let mean = lanes::sum(x, |x| x) / count;
        let variance = lanes::sum(x, |x| (x - mean) * (x - mean)) / count;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        let image = x.len() / scale.len();
        let planes = x.chunks_exact(image).zip(y.chunks_exact_mut(image));
        for ((x, y), (&scale, &bias)) in planes.zip(scale.iter().zip(bias)) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - mean) * inverse * scale + bias;
            }
        }
    }
}

/// `y = (x − mean)/√(variance + ε)·scale + bias`, mean and variance of each group of each image.
///
/// # Shapes
/// `x`, `y`: `[batch, channels, image]`, as many channels as scales.
///
/// # Panics
/// When a length differs, or the channels do not fall into the groups.
pub fn group_norm(cpu: Cpu, x: &[f32], norm: &GroupNorm<'_>, image: usize, y: &mut [f32]) {
    let (channels, groups) = (norm.scale.len(), norm.groups);
    check_len("group_norm: bias", norm.bias.len(), channels);
    check_len("group_norm: y", y.len(), x.len());
    let batch = x.len().checked_div(channels * image).unwrap_or(0);
    check_shape("group_norm: x", x.len(), &[batch, channels, image]);
    if x.is_empty() {
        return;
    }
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "group_norm: {channels} channels do not fall into {groups} groups"
    );
    let own = channels / groups;
    let run = own * image;
    for_each_row(y, run, rows_per_chunk(run), |row, y| {
        let of_group = row % groups * own..(row % groups + 1) * own;
        let (scale, bias) = (&norm.scale[of_group.clone()], &norm.bias[of_group]);
        normalize(cpu, &x[row * run..][..run], scale, bias, norm.epsilon, y);
    });
}
