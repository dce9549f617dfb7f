//! Convolution of single channels in integers, against its definition and the dense convolution.

use kernels::channels_last::{
    PackedDepthwise, integer_conv2d, integer_depthwise, integer_scratch_len, pack_integer_filters,
};
use kernels::int8::{Layer, Output, Quantization};
use kernels::{Activation, Conv2d, Cpu, Slide};
use proptest::prelude::*;

use super::images::{elements, slide, slides};
use super::{integers, numbers, on_any_threads};

/// Multiply-adds of a dense convolution that a test takes the time for.
const DENSE: usize = 1 << 21;

const TO: Quantization = Quantization { scale: 0.013, zero_point: -3, min: -127, max: 120 };

struct Sample {
    conv: Conv2d,
    x: Vec<i8>,
    zero_point: i8,
    weight: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
}

impl Sample {
    fn new(batch: usize, channels: usize, windows: [Slide; 2], zero_point: i8, seed: u64) -> Self {
        let [rows, columns] = &windows;
        let pixels = batch * rows.input * columns.input;
        let scales = numbers(channels, seed ^ 3).iter().map(|x| x * 1e-4).collect();
        Self {
            x: integers(pixels * channels, seed),
            zero_point,
            weight: integers(channels * rows.kernel * columns.kernel, seed ^ 1),
            scales,
            bias: numbers(channels, seed ^ 2),
            conv: Conv2d { batch, channels, outputs: channels, groups: channels, windows },
        }
    }

    fn len(&self) -> usize {
        let [rows, columns] = &self.conv.windows;
        self.conv.batch * rows.output * columns.output * self.conv.channels
    }

    fn taps(&self) -> usize {
        self.conv.windows[0].kernel * self.conv.windows[1].kernel
    }

    /// Without activation.
    fn expected(&self, has_bias: bool) -> Vec<f32> {
        let Conv2d { channels, windows: [rows, columns], .. } = self.conv;
        let positions = rows.output * columns.output;
        let element = |place: usize| {
            let (pixel, channel) = (place / channels, place % channels);
            let (image, position) = (pixel / positions, pixel % positions);
            let at = [position / columns.output, position % columns.output];
            let first = image * rows.input * columns.input;
            let products = elements(&self.conv.windows, at).into_iter().map(|(place, tap)| {
                let x = i32::from(self.x[(first + place) * channels + channel]);
                let weight = self.weight[channel * self.taps() + tap];
                (x - i32::from(self.zero_point)) * i32::from(weight)
            });
            let value = products.sum::<i32>() as f32 * self.scales[channel];
            if has_bias { value + self.bias[channel] } else { value }
        };
        (0..self.len()).map(element).collect()
    }

    fn run(&self, cpu: Cpu, activation: Activation, has_bias: bool, y: Output<'_>) {
        let Conv2d { channels, windows: [rows, columns], .. } = &self.conv;
        let kernel = [rows.kernel, columns.kernel];
        let filters = Layer {
            weights: &PackedDepthwise::new(&self.weight, *channels, kernel),
            scales: &self.scales,
            bias: has_bias.then_some(&self.bias[..]),
            activation,
            coarse: true,
        };
        integer_depthwise(cpu, &self.conv, (&self.x, self.zero_point), &filters, y);
    }

    /// The dense convolution whose other weights are 0.
    fn run_dense(&self, cpu: Cpu, activation: Activation, has_bias: bool, y: Output<'_>) {
        let (channels, taps) = (self.conv.channels, self.taps());
        let mut weight = vec![0; channels * channels * taps];
        for (channel, filter) in self.weight.chunks(taps).enumerate() {
            weight[(channel * channels + channel) * taps..][..taps].copy_from_slice(filter);
        }
        let layer = Layer {
            weights: &pack_integer_filters(&weight, [channels, channels, taps]),
            scales: &self.scales,
            bias: has_bias.then_some(&self.bias[..]),
            activation,
            coarse: true,
        };
        let conv = Conv2d { groups: 1, ..self.conv };
        let mut scratch = vec![0; integer_scratch_len(&conv)];
        integer_conv2d(cpu, &conv, (&self.x, self.zero_point), &layer, y, &mut scratch);
    }

    fn check(&self) {
        for has_bias in [true, false] {
            let expected = self.expected(has_bias);
            let mut rounded = vec![0; expected.len()];
            let portable = Cpu::every().next().expect("portable is a tier of every CPU");
            kernels::int8::quantize(portable, &expected, TO, &mut rounded);
            for cpu in Cpu::every() {
                let mut y = vec![f32::NAN; self.len()];
                self.run(cpu, Activation::Identity, has_bias, Output::F32(&mut y));
                assert_eq!(y, expected, "{}: {:?}", cpu.tier(), self.conv);
                let mut y = vec![99; self.len()];
                self.run(cpu, Activation::Identity, has_bias, Output::Int8(&mut y, TO));
                assert_eq!(y, rounded, "{}: {:?}", cpu.tier(), self.conv);
            }
        }
        let work = self.len().saturating_mul(self.conv.channels * self.taps());
        if work <= DENSE {
            self.check_dense(TO);
        }
    }

    fn check_dense(&self, to: Quantization) {
        for (activation, has_bias) in [
            (Activation::Identity, true),
            (Activation::Relu, false),
            (Activation::Relu, true),
            (Activation::Gelu, true),
            (Activation::Tanh, true),
        ] {
            for cpu in Cpu::every() {
                let [mut found, mut expected] = [(); 2].map(|()| vec![99; self.len()]);
                self.run(cpu, activation, has_bias, Output::Int8(&mut found, to));
                self.run_dense(cpu, activation, has_bias, Output::Int8(&mut expected, to));
                assert_eq!(found, expected, "{}, {activation:?}: {:?}", cpu.tier(), self.conv);
                let [mut found, mut expected] = [(); 2].map(|()| vec![99; self.len()]);
                self.run(cpu, activation, has_bias, Output::Bf16(&mut found));
                self.run_dense(cpu, activation, has_bias, Output::Bf16(&mut expected));
                assert_eq!(found, expected, "{}, {activation:?}: {:?}", cpu.tier(), self.conv);
            }
        }
    }
}

/// Blocks of every kind, more windows than are taken at a time, and what networks have.
#[test]
fn sizes_of_networks() {
    let padded = |input, kernel, stride| slide(input, kernel, stride, 1, [kernel / 2; 2]);
    for (batch, channels, windows) in [
        (1, 32, [padded(9, 3, 1), padded(112, 3, 1)]),
        (1, 96, [padded(7, 3, 2), padded(112, 3, 2)]),
        (2, 144, [padded(5, 5, 1), padded(56, 5, 1)]),
        (1, 24, [padded(6, 5, 2), padded(57, 5, 2)]),
        (1, 200, [padded(7, 7, 1), padded(7, 7, 1)]),
        (3, 16, [Slide::ONE, padded(300, 9, 1)]),
        (1, 64, [padded(14, 3, 1), padded(150, 3, 1)]),
        (1, 12, [slide(9, 3, 3, 1, [0, 0]), slide(200, 2, 5, 1, [0, 0])]),
        (1, 70, [slide(9, 3, 1, 2, [2, 2]), slide(90, 3, 1, 30, [0, 40])]),
        (1, 0, [padded(5, 3, 1); 2]),
        (0, 3, [padded(5, 3, 1); 2]),
    ] {
        Sample::new(batch, channels, windows, 5, channels as u64).check();
    }
}

/// Scales that no product replaces a division by, limits on one side of zero, steps so coarse that GELU may
/// be, and scales and biases that are no numbers.
#[test]
fn roundings_of_every_kind() {
    let windows = [slide(5, 3, 1, 1, [1, 1]), slide(20, 3, 1, 1, [1, 1])];
    let mut sample = Sample::new(1, 40, windows, -128, 7);
    for to in [
        Quantization { scale: f32::from_bits(0x3c7f_ffff), ..TO },
        Quantization { scale: 1e-35, ..TO },
        Quantization { zero_point: 0, min: 20, ..TO },
        Quantization { zero_point: 0, max: -20, ..TO },
        Quantization { zero_point: -128, min: -128, max: 127, ..TO },
        Quantization { zero_point: 127, min: -128, max: 127, ..TO },
        Quantization { scale: 0.001, ..TO },
    ] {
        sample.check_dense(to);
    }
    sample.scales[3] = f32::NAN;
    sample.scales[4] = f32::INFINITY;
    sample.bias[5] = f32::NAN;
    sample.bias[39] = f32::NEG_INFINITY;
    sample.check_dense(TO);
}

#[test]
fn threads_change_nothing() {
    let windows = [slide(60, 3, 1, 1, [1, 1]), slide(50, 3, 1, 1, [1, 1])];
    let sample = Sample::new(2, 80, windows, 4, 1);
    on_any_threads(|| {
        let mut y = vec![0; sample.len()];
        sample.run(Cpu::best(), Activation::Relu, true, Output::Int8(&mut y, TO));
        y.into_iter().map(f32::from).collect()
    });
}

#[test]
#[should_panic(expected = "integer_depthwise: expected as many groups")]
fn groups_of_several_channels_are_refused() {
    let mut sample = Sample::new(1, 4, [slide(5, 3, 1, 1, [1, 1]); 2], 0, 1);
    sample.conv.groups = 2;
    let mut y = vec![0.0; sample.len()];
    sample.run(Cpu::best(), Activation::Identity, false, Output::F32(&mut y));
}

proptest! {
    #[test]
    fn windows_of_single_channels(
        batch in 0usize..3, channels in 0usize..140, rows in slides(), columns in slides(),
        zero_point: i8, seed: u64,
    ) {
        Sample::new(batch, channels, [rows, columns], zero_point, seed).check();
    }

    #[test]
    fn few_windows_as_dense_ones(
        channels in 0usize..40, height in 1usize..7, width in 1usize..9, kernel in 1usize..6,
        stride in 1usize..4, zero_point: i8, seed: u64,
    ) {
        let windows = [height, width].map(|size| slide(size, kernel, stride, 1, [kernel / 2; 2]));
        Sample::new(1, channels, windows, zero_point, seed).check();
    }
}
