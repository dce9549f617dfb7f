#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
#![allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
//! `f32` to bf16: the upper half of the bits.

use crate::parallel::{LINE, map};
use crate::tier::{Cpu, tiered};

/// The nearest bf16, halves to even; NaN stays a NaN.
#[inline(always)]
pub(super) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let half_up = 0x7fff + ((bits >> 16) & 1);
    // A NaN whose payload lies in the lower half alone would round to infinity.
    let rounded = if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(half_up) };
    (rounded >> 16) as u16
}

/// The number that a bf16 stands for.
#[inline(always)]
pub(crate) fn widened(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// The nearest number that a bf16 can be, halves to even; NaN stays a NaN.
#[must_use]
pub fn rounded(x: f32) -> f32 {
    widened(round(x))
}

tiered! {
    /// Rounds element by element.
    pub(crate) fn round_piece(x: &[f32], y: &mut [u16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = round(x);
        }
    }
}

tiered! {
    /// The numbers that bf16 stand for.
    pub(crate) fn widen_piece(x: &[u16], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = widened(x);
        }
    }
}

tiered! {
    fn relu_piece(x: &[u16], y: &mut [u16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if widened(x) < 0.0 { 0 } else { x };
        }
    }
}

/// [`Activation::Relu`](crate::Activation::Relu) of each number.
///
/// # Panics
/// When the lengths differ.
pub fn relu(cpu: Cpu, x: &[u16], y: &mut [u16]) {
    map(x, y, LINE, |x, y| relu_piece(cpu, x, y));
}

#[cfg(test)]
mod tests {
    use super::round;

    #[test]
    fn rounds_to_the_nearest_and_halves_to_even() {
        let cases = [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0xbf81_8000), 0xbf82),
            (f32::MAX, 0x7f80),
            (f32::INFINITY, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
            (f32::from_bits(1), 0x0000),
        ];
        for (x, expected) in cases {
            assert_eq!(round(x), expected, "{x}");
        }
        for nan in [0x7f80_0001, 0xffff_ffff, 0x7fc0_0000] {
            assert!(f32::from_bits(u32::from(round(f32::from_bits(nan))) << 16).is_nan());
        }
    }
}
