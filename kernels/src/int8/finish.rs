#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! What follows integer sums, one step after another: on every tier the meaning, on some the way.

use super::output::Output;
use super::quantize::{Quantization, quantize_piece};
use crate::activation::{Activation, COARSE_STEP, coarse_gelu_in_place};
use crate::bf16::round_piece;
use crate::tier::{Cpu, tiered};
#[cfg(target_arch = "x86_64")]
use crate::wide::Rounding;

/// Sums that are scaled and activated at a time.
const PIECE: usize = 64;

/// What is made of scaled sums.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    pub(crate) cpu: Cpu,
    pub(crate) activation: Activation,
    /// Whether GELU may be coarse, see [`super::Layer::coarse`].
    pub(crate) coarse: bool,
}

impl Finish {
    /// Whether GELU may be coarse, and the result is rounded coarsely enough.
    pub(super) fn has_coarse_gelu(&self, to: Quantization) -> bool {
        self.coarse && to.scale >= COARSE_STEP && self.activation == Activation::Gelu
    }

    pub(super) fn activate(&self, coarse_gelu: bool, values: &mut [f32]) {
        if coarse_gelu {
            coarse_gelu_in_place(self.cpu, values);
        } else {
            self.activation.apply(self.cpu, values);
        }
    }

    /// How results are rounded without activating them before: ReLU is a limit of the integers.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn rounding(&self, to: Quantization) -> Option<Rounding> {
        match self.activation {
            Activation::Identity => Rounding::new(to),
            Activation::Relu => {
                let min = to.zero_point.max(to.min).min(to.max);
                Rounding::new(Quantization { min, ..to })
            }
            _ => None,
        }
    }

    /// Scales, adds the bias, activates and writes sums of columns, whose scales and bias these slices start
    /// with, from element `start` of y on.
    pub(crate) fn write(
        &self,
        sums: &[i32],
        (scales, bias): (&[f32], Option<&[f32]>),
        y: &mut Output<'_>,
        start: usize,
    ) {
        let coarse_gelu = matches!(y, Output::Int8(_, to) if self.has_coarse_gelu(*to));
        let mut values = [0.0; PIECE];
        for (piece, sums) in sums.chunks(PIECE).enumerate() {
            let (values, first) = (&mut values[..sums.len()], piece * PIECE);
            let (none, scales) = ([0; PIECE], &scales[first..][..sums.len()]);
            let bias = bias.map_or(&[][..], |bias| &bias[first..][..sums.len()]);
            rescale(self.cpu, sums, &none[..sums.len()], 0, scales, bias, values);
            self.activate(coarse_gelu, values);
            let range = start + first..start + first + sums.len();
            match y {
                Output::F32(y) => y[range].copy_from_slice(values),
                Output::Int8(y, to) => quantize_piece(self.cpu, values, *to, &mut y[range]),
                Output::Bf16(y) => round_piece(self.cpu, values, &mut y[range]),
            }
        }
    }
}

tiered! {
    /// `values[r, c] = (sums[r, c] − zero_point·column_sums[c])·scales[c] + bias[c]`, rounded at each
    /// step, as training does: with one rounding, a trained model and its int8 one were seen to differ.
    pub(super) fn rescale(sums: &[i32], column_sums: &[i32], zero_point: i32, scales: &[f32], bias: &[f32], values: &mut [f32]) {
        let width = scales.len();
        let rows = sums.chunks_exact(column_sums.len()).zip(values.chunks_exact_mut(width));
        for (sums, values) in rows {
            let columns = sums[..width].iter().zip(&column_sums[..width]);
            for ((value, (&sum, &column_sum)), &scale) in values.iter_mut().zip(columns).zip(scales) {
                *value = sum.wrapping_sub(zero_point.wrapping_mul(column_sum)) as f32 * scale;
            }
            for (value, &bias) in values.iter_mut().zip(bias) {
                *value += bias;
            }
        }
    }
}
