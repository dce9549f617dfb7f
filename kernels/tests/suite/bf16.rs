//! The bf16 linear layer: tiers up to avx512 agree bit for bit, and every tier keeps to the bound.

use kernels::bf16::{Input, Layer, PackedBf16, linear_bf16, linear_bf16_into};
use kernels::int8::Output;
use kernels::{Activation, Cpu, Tier};
use proptest::prelude::*;

use super::{numbers, on_any_threads};

/// The nearest bf16, halves to even, found among the three that come into question.
fn nearest(x: f32) -> f64 {
    let below = f32::from_bits(x.to_bits() & 0xffff_0000);
    let step = f32::from_bits(below.to_bits() + 0x0001_0000) - below;
    let (below, step) = (f64::from(below), f64::from(step));
    let parts = (f64::from(x) - below) / step;
    below + step * if parts == 0.5 { f64::from((x.to_bits() >> 16) & 1) } else { parts.round() }
}

/// The bits of [`nearest`].
pub(super) fn rounded(x: &f32) -> u16 {
    ((nearest(*x) as f32).to_bits() >> 16) as u16
}

/// A layer with bias, in plain loops.
struct Twin {
    sizes: [usize; 3],
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
}

impl Twin {
    fn new(sizes: [usize; 3], seed: u64) -> Self {
        let [m, k, n] = sizes;
        let (x, w) = (numbers(m * k, seed), numbers(k * n, seed ^ 1));
        Self { sizes, x, w, bias: numbers(n, seed ^ 2) }
    }

    /// Each exact sum, and Σ|x·w| + |bias|.
    fn expected(&self) -> Vec<[f64; 2]> {
        let [m, k, n] = self.sizes;
        let round = |numbers: &[f32]| numbers.iter().map(|&x| nearest(x)).collect::<Vec<_>>();
        let (x, w) = (round(&self.x), round(&self.w));
        let element = |i: usize| {
            let products = (0..k).map(|j| x[i / n * k + j] * w[j * n + i % n]);
            let bias = f64::from(self.bias[i % n]);
            let sums = products
                .fold([0.0, 0.0], |[sum, sizes], product| [sum + product, sizes + product.abs()]);
            [sums[0] + bias, sums[1] + bias.abs()]
        };
        (0..m * n).map(element).collect()
    }

    fn run(&self, cpu: Cpu, activation: Activation) -> Vec<f32> {
        let [m, k, n] = self.sizes;
        let weights = PackedBf16::new(&self.w, [k, n], [n, 1]);
        let layer = Layer { weights: &weights, bias: Some(&self.bias), addend: None, activation };
        let mut y = vec![f32::NAN; m * n];
        linear_bf16(cpu, &self.x, m, &layer, &mut y);
        y
    }

    fn run_rounded(&self, cpu: Cpu) -> Vec<u16> {
        let [m, k, n] = self.sizes;
        let weights = PackedBf16::new(&self.w, [k, n], [n, 1]);
        let activation = Activation::Identity;
        let layer = Layer { weights: &weights, bias: Some(&self.bias), addend: None, activation };
        let mut y = vec![u16::MAX; m * n];
        linear_bf16_into(cpu, Input::F32(&self.x), m, &layer, Output::Bf16(&mut y));
        // What is bf16 already is read as it is.
        let x: Vec<u16> = self.x.iter().map(rounded).collect();
        let mut again = vec![u16::MAX; m * n];
        linear_bf16_into(cpu, Input::Bf16(&x), m, &layer, Output::Bf16(&mut again));
        assert_eq!(y, again, "{}", cpu.tier());
        y
    }

    /// The bound of Higham 2002, §3.1: k products and the bias, each added with an error of 2⁻²⁴
    /// of the sum so far, in any order. The test numbers have no subnormal products.
    fn check(&self) {
        let steps = (self.sizes[1] + 1) as f64 * 2f64.powi(-24);
        let gamma = steps / (1.0 - steps);
        let expected = self.expected();
        let mut portable = None;
        for cpu in Cpu::every() {
            let y = self.run(cpu, Activation::Identity);
            assert_eq!(y.len(), expected.len());
            for (i, (&y, &[sum, sizes])) in y.iter().zip(&expected).enumerate() {
                let error = (f64::from(y) - sum).abs();
                assert!(error <= gamma * sizes, "{}: element {i}: {y} for {sum}", cpu.tier());
            }
            if cpu.tier() < Tier::Amx && !cpu.has_fast_bf16_dot() {
                assert_eq!(&y, portable.get_or_insert_with(|| y.clone()), "{}", cpu.tier());
            }
            assert_eq!(self.run_rounded(cpu), y.iter().map(rounded).collect::<Vec<_>>());
            let relu: Vec<_> = y.iter().map(|y| y.max(0.0)).collect();
            assert_eq!(self.run(cpu, Activation::Relu), relu, "{}", cpu.tier());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn linear_keeps_to_the_bound_on_every_tier(m in 0usize..40, k in 0usize..70, n in 0usize..90, seed: u64) {
        Twin::new([m, k, n], seed).check();
    }
}

#[test]
fn large_layers_are_cut_into_jobs_without_a_trace() {
    Twin::new([1, 700, 3001], 7).check();
    Twin::new([101, 133, 300], 8).check();
    Twin::new([800, 40, 70], 9).check();
    let twin = Twin::new([203, 96, 130], 10);
    for cpu in Cpu::every() {
        on_any_threads(|| twin.run(cpu, Activation::Gelu));
    }
}

#[test]
fn weights_are_rounded_halves_to_even_and_pack_the_same_from_either_layout() {
    let (k, n) = (37, 21);
    let w = numbers(k * n, 3);
    let transposed: Vec<_> = (0..k * n).map(|i| w[i % k * n + i / k]).collect();
    let packed = PackedBf16::new(&w, [k, n], [n, 1]);
    assert_eq!(packed, PackedBf16::new(&transposed, [k, n], [1, k]));
    assert_eq!((packed.inputs(), packed.outputs()), (k, n));
    let rounded: Vec<_> = w.iter().map(|&w| nearest(w) as f32).collect();
    assert_eq!(packed, PackedBf16::new(&rounded, [k, n], [n, 1]));
    let half = |bits: u32| PackedBf16::new(&[f32::from_bits(bits)], [1, 1], [1, 1]);
    assert_eq!(half(0x3f80_8000), half(0x3f80_0000));
    assert_eq!(half(0x3f81_8000), half(0x3f82_0000));
}

#[test]
fn infinities_and_nan_pass_through() {
    let weights = PackedBf16::new(&[1.0, 1.0], [2, 1], [1, 1]);
    let layer =
        Layer { weights: &weights, bias: None, addend: None, activation: Activation::Identity };
    for cpu in Cpu::every() {
        let mut y = [0.0; 3];
        let x = [f32::INFINITY, 1.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0];
        linear_bf16(cpu, &x, 3, &layer, &mut y);
        assert!(y[0] == f32::INFINITY && y[1].is_nan() && y[2].is_nan(), "{}: {y:?}", cpu.tier());
    }
}

#[test]
#[should_panic(expected = "bf16 linear: y: expected 4 elements, found 3")]
fn a_short_result_is_refused() {
    let weights = PackedBf16::new(&[0.0; 4], [2, 2], [2, 1]);
    let layer =
        Layer { weights: &weights, bias: None, addend: None, activation: Activation::Identity };
    linear_bf16(Cpu::best(), &[0.0; 4], 2, &layer, &mut [0.0; 3]);
}
