//! Numbers that look random and are the same at every run.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use super::position::affordable;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, DType, Tensor, ValueType};

/// Random numbers in the shape of the input, whose values do not count, as ONNX's RandomNormalLike
/// and RandomUniformLike: `(like)`.
///
/// The numbers are a function of the seed and of their places alone: runs repeat them, and a graph
/// may compute them once. Two nodes of one seed give the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// How numbers are spread.
    pub distribution: Distribution,
    /// What tells nodes apart: the bits of ONNX's attribute `seed`, which is an f32.
    pub seed: u32,
}

/// How random numbers are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Distribution {
    /// Around a mean, by Box and Muller's transform (1958, doi:10.1214/aoms/1177706645).
    Normal {
        /// Their mean.
        mean: f32,
        /// Their standard deviation.
        scale: f32,
    },
    /// Evenly, from `low` to below `high`.
    Uniform {
        /// The least.
        low: f32,
        /// The bound, which rounding may reach.
        high: f32,
    },
}

/// Four random numbers for each counter: Philox4x32-10 (Salmon et al. 2011, "Parallel random
/// numbers: as easy as 1, 2, 3", doi:10.1145/2063384.2063405).
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const FACTORS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let [a, b] = [FACTORS[0] * u64::from(counter[0]), FACTORS[1] * u64::from(counter[2])];
        let [high_a, high_b] = [a, b].map(|product| (product >> 32) as u32);
        counter = [high_b ^ counter[1] ^ key[0], b as u32, high_a ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(STEPS[0]), key[1].wrapping_add(STEPS[1])];
    }
    counter
}

impl Distribution {
    fn numbers(self, words: [u32; 4]) -> [f32; 4] {
        match self {
            // As many bits as an f32 below 1 has.
            Self::Uniform { low, high } => {
                words.map(|word| low + (high - low) * ((word >> 8) as f32 / (1 << 24) as f32))
            }
            Self::Normal { mean, scale } => {
                let pair = |a: u32, b: u32| {
                    // Above 0, for the logarithm.
                    let share = (f64::from(a) + 1.0) / (1u64 << 32) as f64;
                    let angle = TAU * f64::from(b) / (1u64 << 32) as f64;
                    let radius = (-2.0 * share.ln()).sqrt();
                    [radius * angle.cos(), radius * angle.sin()]
                };
                let [[a, b], [c, d]] = [pair(words[0], words[1]), pair(words[2], words[3])];
                [a, b, c, d].map(|x| mean + scale * x as f32)
            }
        }
    }
}

impl Operator for Random {
    fn onnx_type(&self) -> &'static str {
        match self.distribution {
            Distribution::Normal { .. } => "RandomNormalLike",
            Distribution::Uniform { .. } => "RandomUniformLike",
        }
    }

    fn onnx(&self) -> OnnxForm {
        let [(a, first), (b, second)] = match self.distribution {
            Distribution::Normal { mean, scale } => [("mean", mean), ("scale", scale)],
            Distribution::Uniform { low, high } => [("low", low), ("high", high)],
        };
        OnnxForm::default()
            .attribute("dtype", OnnxAttribute::Type(DType::F32))
            .attribute("seed", OnnxAttribute::Float(f32::from_bits(self.seed)))
            .attribute(a, OnnxAttribute::Float(first))
            .attribute(b, OnnxAttribute::Float(second))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [like] = exactly(inputs)?;
        Ok(ValueType { dtype: DType::F32, shape: like.shape.clone() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [like] = exactly(inputs)?;
        let length = affordable(like.shape())?;
        let block = |index: usize| {
            let counter = [index as u32, (index as u64 >> 32) as u32, 0, 0];
            self.distribution.numbers(philox(counter, [self.seed, 0]))
        };
        let numbers = (0..length.div_ceil(4)).flat_map(block).take(length).collect();
        Tensor::new(like.shape(), numbers).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' library, Random123.
    #[test]
    fn words_are_those_of_the_paper() {
        let all = u32::MAX;
        let zeros = philox([0; 4], [0; 2]);
        assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([all; 4], [all; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let digits = philox(counter, [0xa409_3822, 0x299f_31d0]);
        assert_eq!(digits, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    fn numbers(distribution: Distribution, seed: u32, count: usize) -> Vec<f32> {
        let like = Tensor::zeros(DType::Bool, &[count]);
        let y = Random { distribution, seed }.evaluate(&[&like], &Bindings::default()).unwrap();
        y.elements::<f32>().unwrap().to_vec()
    }

    const NORMAL: Distribution = Distribution::Normal { mean: 3.0, scale: 2.0 };

    #[test]
    fn numbers_have_the_moments_asked_for() {
        // Of n numbers the mean is off by about deviation/√n, which is below 0.01 here.
        let moments = |x: &[f32]| {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
            let square = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
            (mean, (square / x.len() as f64).sqrt())
        };
        let (mean, deviation) = moments(&numbers(NORMAL, 1, 100_000));
        assert!((mean - 3.0).abs() < 0.03 && (deviation - 2.0).abs() < 0.03, "{mean} {deviation}");
        let uniform = numbers(Distribution::Uniform { low: -1.0, high: 5.0 }, 1, 100_000);
        let (mean, deviation) = moments(&uniform);
        let expected = 6.0 / 12f64.sqrt();
        assert!((mean - 2.0).abs() < 0.03 && (deviation - expected).abs() < 0.03);
        assert!(uniform.iter().all(|x| (-1.0..5.0).contains(x)));
    }

    #[test]
    fn seeds_tell_numbers_apart_and_places_do_not_matter() {
        assert_eq!(numbers(NORMAL, 7, 5), numbers(NORMAL, 7, 9)[..5]);
        assert_ne!(numbers(NORMAL, 7, 5), numbers(NORMAL, 8, 5));
        assert_eq!(numbers(Distribution::Normal { mean: 3.0, scale: 0.0 }, 7, 2), [3.0; 2]);
        assert!(numbers(NORMAL, 7, 0).is_empty());
    }
}
