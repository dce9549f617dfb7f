#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! A factor and a summand for each channel.

use crate::activation::Activation;
use crate::parallel::{CHUNK, check_len, for_each_chunk};
use crate::tier::{Cpu, tiered};

tiered! {
    fn scale_pixel(x: &[f32], scale: &[f32], shift: &[f32], y: &mut [f32]) {
        for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
            *y = x * scale + shift;
        }
    }
}

/// `y = activation(x·scale + shift)` by channel.
///
/// # Shapes
/// `x`, `y`: `[pixels, channels]`; `scale`, `shift`: `[channels]`.
///
/// # Panics
/// When a length differs.
pub fn scale_shift(
    cpu: Cpu,
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    activation: Activation,
    y: &mut [f32],
) {
    let channels = scale.len();
    check_len("scale_shift: shift", shift.len(), channels);
    check_len("scale_shift: y", y.len(), x.len());
    check_len("scale_shift: x", x.len(), x.len().checked_div(channels).unwrap_or(0) * channels);
    if y.is_empty() {
        return;
    }
    let chunk = (CHUNK / channels).max(1) * channels;
    for_each_chunk(y, chunk, |index, y| {
        let x = &x[index * chunk..][..y.len()];
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            scale_pixel(cpu, x, scale, shift, y);
        }
        activation.apply(cpu, y);
    });
}
