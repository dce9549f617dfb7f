#![allow(unsafe_code, reason = "intrinsics, and calls of code for detected instruction sets")]
//! A factor and a summand for each channel.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::activation::Activation;
use crate::element::Element;
use crate::parallel::{check_len, check_shape, for_each_chunk, rows_of_threads};
use crate::tier::{Cpu, tiered};
#[cfg(target_arch = "x86_64")]
use crate::wide::clamp;

/// Elements of a thread below which one is faster.
const PARALLEL_ELEMENTS: usize = 1 << 12;

/// What is done with the pixels of an image.
#[derive(Clone, Copy)]
struct ByChannel<'a> {
    scale: &'a [f32],
    /// Added to the products; as many as factors.
    shift: Option<&'a [f32]>,
    activation: Activation,
}

tiered! {
    fn scale_pixel<X: Element>(x: &[X], scale: &[f32], y: &mut [f32]) {
        for ((y, &x), &scale) in y.iter_mut().zip(x).zip(scale) {
            *y = x.widen() * scale;
        }
    }
}

tiered! {
    fn scale_shift_pixel<X: Element>(x: &[X], scale: &[f32], shift: &[f32], y: &mut [f32]) {
        for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
            *y = x.widen() * scale + shift;
        }
    }
}

/// `y = activation(x·scale + shift)` by channel, of images of `f32` or of bf16 to such.
///
/// # Shapes
/// `x`, `y`: `[pixels, channels]`; `scale`, `shift`: `[channels]`.
///
/// # Panics
/// When a length differs.
pub fn scale_shift<X: Element, Y: Element>(
    cpu: Cpu,
    x: &[X],
    scale: &[f32],
    shift: &[f32],
    activation: Activation,
    y: &mut [Y],
) {
    let channels = scale.len();
    check_len("scale_shift: shift", shift.len(), channels);
    check_len("scale_shift: y", y.len(), x.len());
    check_len("scale_shift: x", x.len(), x.len().checked_div(channels).unwrap_or(0) * channels);
    let by = ByChannel { scale, shift: Some(shift), activation };
    scale_all(cpu, x, x.len(), |_| by, y);
}

/// `y = x·scale` by image and channel, of images of `f32` or of bf16 to such.
///
/// # Shapes
/// `x`, `y`: `[batch, pixels, channels]`; `scale`: `[batch, channels]`.
///
/// # Panics
/// When a length differs.
pub fn scale_images<X: Element, Y: Element>(
    cpu: Cpu,
    [batch, pixels, channels]: [usize; 3],
    x: &[X],
    scale: &[f32],
    y: &mut [Y],
) {
    check_shape("scale_images: x", x.len(), &[batch, pixels, channels]);
    check_shape("scale_images: y", y.len(), &[batch, pixels, channels]);
    check_shape("scale_images: scale", scale.len(), &[batch, channels]);
    let of_image = |image: usize| {
        let scale = &scale[image * channels..][..channels];
        ByChannel { scale, shift: None, activation: Activation::Identity }
    };
    scale_all(cpu, x, pixels * channels, of_image, y);
}

/// Images of `image_len` elements, each in its own way.
fn scale_all<'a, X: Element, Y: Element>(
    cpu: Cpu,
    x: &[X],
    image_len: usize,
    of_image: impl Fn(usize) -> ByChannel<'a> + Sync,
    y: &mut [Y],
) {
    if y.is_empty() {
        return;
    }
    let channels = of_image(0).scale.len();
    let chunk = rows_of_threads(y.len() / channels, channels, PARALLEL_ELEMENTS) * channels;
    for_each_chunk(y, chunk, |index, mut y| {
        let mut start = index * chunk;
        while !y.is_empty() {
            let rest = image_len - start % image_len;
            let (some, others) = y.split_at_mut(rest.min(y.len()));
            of_image(start / image_len).apply(cpu, &x[start..][..some.len()], some);
            start += some.len();
            y = others;
        }
    });
}

impl ByChannel<'_> {
    /// On some pixels, this thread.
    fn apply<X: Element, Y: Element>(&self, cpu: Cpu, x: &[X], y: &mut [Y]) {
        let Self { scale, shift, activation } = *self;
        #[cfg(target_arch = "x86_64")]
        if Y::is_stored(cpu) {
            let limits = activation.limits();
            if limits.is_some() || activation == Activation::Identity {
                // SAFETY: `is_stored` said that the CPU has the instructions.
                unsafe { self.in_registers(limits, x, y) };
                return;
            }
        }
        let channels = scale.len();
        Y::written(cpu, y, |y| {
            for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
                match shift {
                    Some(shift) => scale_shift_pixel(cpu, x, scale, shift, y),
                    None => scale_pixel(cpu, x, scale, y),
                }
            }
            activation.apply(cpu, y);
        });
    }

    /// The same in registers, to the bit.
    ///
    /// # Safety
    /// The elements of y [are stored](Element::is_stored) from registers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn in_registers<X: Element, Y: Element>(
        &self,
        limits: Option<[f32; 2]>,
        x: &[X],
        y: &mut [Y],
    ) {
        const LANES: usize = 16;
        let Self { scale, shift, .. } = *self;
        let channels = scale.len();
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            for start in (0..channels).step_by(LANES) {
                let count = (channels - start).min(LANES);
                let mask = ((1u32 << count) - 1) as __mmask16;
                // SAFETY: start + count ≤ channels, the length of all four; the instructions are the
                // caller's promise.
                unsafe {
                    let x = match count {
                        LANES => X::load(x.as_ptr().add(start)),
                        _ => X::load_some(mask, x.as_ptr().add(start)),
                    };
                    let scale = _mm512_maskz_loadu_ps(mask, scale.as_ptr().add(start));
                    let mut numbers = _mm512_mul_ps(x, scale);
                    if let Some(shift) = shift {
                        let shift = _mm512_maskz_loadu_ps(mask, shift[start..].as_ptr());
                        numbers = _mm512_add_ps(numbers, shift);
                    }
                    if let Some([low, high]) = limits {
                        numbers = clamp(numbers, low, high);
                    }
                    Y::store(y.as_mut_ptr().add(start), mask, numbers);
                }
            }
        }
    }
}
