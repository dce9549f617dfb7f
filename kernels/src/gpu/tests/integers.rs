//! int8 images whose channels are last, and sums of int8: the same to the bit as on CPUs, as long as the
//! activation is.

use super::windows::area;
use super::*;
use crate::channels_last::{self, PackedDepthwise};
use crate::{Conv2d, Slide};

/// Ways to write results, the last within limits that an activation left.
const OUTPUTS: [Quantization; 3] = [
    Quantization { scale: 0.013, zero_point: -5, min: -128, max: 127 },
    Quantization::symmetric(0.015_625),
    Quantization { scale: 0.02, zero_point: -100, min: -100, max: 50 },
];

fn square(slide: Slide) -> [Slide; 2] {
    [slide; 2]
}

/// A convolution with its operands.
struct Case {
    conv: Conv2d,
    x: Vec<i8>,
    zero_point: i8,
    /// `[outputs, channels / groups, taps]`
    weight: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new([batch, channels, outputs, groups]: [usize; 4], windows: [Slide; 2]) -> Self {
        let conv = Conv2d { batch, channels, outputs, groups, windows };
        let products = channels / groups * area(&windows, |slide| slide.kernel);
        let scale = 1e-4 / (products as f32).sqrt();
        Self {
            conv,
            x: integers(batch * channels * area(&windows, |slide| slide.input), 1),
            zero_point: 3 - 14 * (outputs % 3) as i8,
            weight: integers(outputs * products, 2),
            scales: numbers(outputs, 3).iter().map(|x| scale * (2.0 + x)).collect(),
            bias: numbers(outputs, 4),
        }
    }

    fn sizes(&self) -> [usize; 3] {
        let Conv2d { channels, outputs, groups, windows, .. } = self.conv;
        [outputs, channels / groups, area(&windows, |slide| slide.kernel)]
    }

    fn elements(&self) -> usize {
        self.conv.batch * self.conv.outputs * area(&self.conv.windows, |slide| slide.output)
    }

    /// What the twin makes of it.
    fn expected(&self, activation: Activation, y: int8::Output<'_>) {
        let Self { conv, x, zero_point, scales, bias, .. } = self;
        let (cpu, x, bias) = (Cpu::best(), (x.as_slice(), *zero_point), Some(bias.as_slice()));
        if conv.groups == 1 {
            let weights = &channels_last::pack_integer_filters(&self.weight, self.sizes());
            let layer = int8::Layer { weights, scales, bias, activation, coarse: false };
            let mut scratch = vec![0; channels_last::integer_scratch_len(conv)];
            channels_last::integer_conv2d(cpu, conv, x, &layer, y, &mut scratch);
        } else {
            let kernel = conv.windows.map(|slide| slide.kernel);
            let weights = &PackedDepthwise::new(&self.weight, conv.channels, kernel);
            let layer = int8::Layer { weights, scales, bias, activation, coarse: false };
            channels_last::integer_depthwise(cpu, conv, x, &layer, y);
        }
    }

    /// x in a part of a buffer, from this element on.
    fn uploaded(&self, gpu: &Gpu, start: usize) -> Buffer {
        let whole = upload(gpu, &[vec![0; start].as_slice(), &self.x].concat());
        whole.slice(start..whole.len())
    }

    /// x as the numbers that it stands for.
    fn as_floats(&self) -> Vec<f32> {
        self.x.iter().map(|&x| f32::from(x) - f32::from(self.zero_point)).collect()
    }

    /// Launches it on x, of any number of bytes an element.
    fn launch(&self, gpu: &Gpu, x: &Buffer, activation: Activation, y: Output<'_>) {
        let Self { conv, zero_point, weight, scales, .. } = self;
        let bias = upload(gpu, &self.bias);
        if conv.groups > 1 {
            let filters = IntegerGroupFilters::new(gpu, weight, self.sizes(), scales, *zero_point);
            return integer_conv2d_of_groups(gpu, conv, x, &filters, &bias, activation, y);
        }
        let [outputs, channels, taps] = self.sizes();
        let sum = |output: usize| {
            let row = &weight[output * channels * taps..][..channels * taps];
            row.iter().map(|&weight| i32::from(weight)).sum()
        };
        let sums: Vec<i32> = (0..outputs).map(sum).collect();
        let layer = IntegerLayer {
            weights: &Weights::integer_filters(gpu, weight, self.sizes()),
            column_sums: &upload(gpu, &sums),
            scales: &upload(gpu, scales),
            bias: &bias,
            input: Quantization { zero_point: *zero_point, ..Quantization::symmetric(1.0) },
            float_input: x.len() > self.x.len(),
            activation,
        };
        integer_linear_of_windows(gpu, conv, x, &layer, y);
    }

    /// `turn`: which activation and way to write results.
    fn check(&self, gpu: &Gpu, turn: usize) {
        let elements = self.elements();
        let activation = EXACT[turn % EXACT.len()];
        let mut expected = vec![0.0; elements];
        self.expected(activation, int8::Output::F32(&mut expected));
        let y = empty::<f32>(gpu, elements);
        self.launch(gpu, &self.uploaded(gpu, 0), activation, Output::Floats(Floats::F32(&y)));
        assert_eq!(read::<f32>(gpu, &y), expected, "{:?} {activation:?}", self.conv);

        let to = OUTPUTS[turn % OUTPUTS.len()];
        let mut expected = vec![0; elements];
        self.expected(activation, int8::Output::Int8(&mut expected, to));
        let y = empty::<i8>(gpu, elements);
        // What begins between pieces is read element by element, but by matrix units.
        let starts = if turn > 1 || matrix::multiplies::<i8, i32>(gpu, 16) { 1 } else { 2 };
        for start in 0..starts {
            self.launch(gpu, &self.uploaded(gpu, start), activation, Output::Int8(&y, to));
            assert_eq!(read::<i8>(gpu, &y), expected, "{:?} {activation:?}", self.conv);
        }
        if turn == 0 && self.conv.groups == 1 {
            let (x, y) = (upload(gpu, &self.as_floats()), empty::<i8>(gpu, elements));
            self.launch(gpu, &x, activation, Output::Int8(&y, to));
            assert_eq!(read::<i8>(gpu, &y), expected, "{:?} of floats", self.conv);
        }
        assert!(elements < 100 || expected.iter().any(|y| *y != expected[0]));
    }
}

#[test]
fn integer_convolutions_match() {
    for gpu in gpus() {
        let cases = [
            (
                [2, 3, 5, 1],
                [Slide::fitting(7, 3, 2, 1, [1, 1]), Slide::fitting(6, 3, 1, 2, [2, 0])],
            ),
            ([1, 8, 12, 1], [Slide::ONE, Slide::fitting(19, 5, 1, 1, [2, 2])]),
            ([2, 16, 8, 1], square(Slide::fitting(5, 1, 1, 1, [0, 0]))),
            ([2, 16, 24, 1], square(Slide::fitting(9, 3, 2, 1, [1, 0]))),
            ([3, 6, 17, 1], square(Slide::fitting(6, 1, 2, 1, [0, 0]))),
            ([1, 32, 16, 1], square(Slide::fitting(6, 3, 1, 2, [3, 3]))),
            ([0, 2, 3, 1], square(Slide::fitting(2, 2, 1, 1, [0, 0]))),
        ];
        for (turn, (sizes, windows)) in cases.into_iter().enumerate() {
            Case::new(sizes, windows).check(&gpu, turn);
        }
    }
}

#[test]
fn integer_filters_of_single_channels_match() {
    for gpu in gpus() {
        let cases = [
            ([2, 8], [Slide::fitting(7, 3, 2, 1, [1, 1]), Slide::fitting(6, 3, 1, 2, [2, 0])]),
            ([1, 5], square(Slide::fitting(6, 5, 1, 1, [2, 2]))),
            ([3, 68], square(Slide::fitting(5, 3, 1, 1, [1, 1]))),
            ([1, 6], [Slide::ONE, Slide::fitting(19, 5, 1, 1, [4, 0])]),
            ([0, 4], square(Slide::fitting(2, 2, 1, 1, [0, 0]))),
        ];
        for (turn, ([batch, channels], windows)) in cases.into_iter().enumerate() {
            Case::new([batch, channels, channels, channels], windows).check(&gpu, turn);
        }
    }
}

/// The largest sums that are taken, all of one sign, and the next ones.
#[test]
fn the_largest_sums_of_single_channels_are_exact() {
    let Some(gpu) = gpu() else { return };
    let windows = [Slide::fitting(16, 16, 1, 1, [0, 0]), Slide::fitting(33, 32, 1, 1, [0, 0])];
    let mut case = Case::new([1, 2, 2, 2], windows);
    assert_eq!(case.sizes()[2], IntegerGroupFilters::MOST_PRODUCTS);
    case.zero_point = 127;
    case.x.fill(-128);
    case.weight.fill(-128);
    case.weight[1] = -127;
    case.scales.fill(1.0);
    case.bias.fill(0.0);
    let mut expected = vec![0.0; case.elements()];
    case.expected(Activation::Identity, int8::Output::F32(&mut expected));
    let y = empty::<f32>(&gpu, expected.len());
    case.launch(
        &gpu,
        &case.uploaded(&gpu, 0),
        Activation::Identity,
        Output::Floats(Floats::F32(&y)),
    );
    assert_eq!(read::<f32>(&gpu, &y), expected);
    assert_eq!(expected[1], (512 * 255 * 128) as f32);
}

#[test]
fn greatest_integers_match() {
    for gpu in gpus() {
        for (batch, channels, windows) in [
            (2, 5, [Slide::fitting(7, 3, 2, 1, [1, 1]), Slide::fitting(6, 2, 1, 2, [1, 0])]),
            (1, 8, [Slide::ONE, Slide::fitting(9, 3, 3, 1, [0, 0])]),
            (1, 3, square(Slide { output: 4, after: 2, ..Slide::fitting(6, 3, 2, 1, [1, 1]) })),
            // Windows of padding alone.
            (1, 4, square(Slide::fitting(4, 1, 1, 1, [2, 1]))),
            (0, 4, square(Slide::fitting(2, 2, 1, 1, [0, 0]))),
        ] {
            let x = integers(batch * channels * area(&windows, |slide| slide.input), 1);
            let x: Vec<i8> = x.into_iter().map(|x| x.min(-1)).collect();
            let mut expected = vec![0; batch * channels * area(&windows, |slide| slide.output)];
            let sizes = [batch, channels];
            channels_last::greatest2d(Cpu::best(), sizes, &windows, &x, &mut expected);
            let y = empty::<i8>(&gpu, expected.len());
            greatest2d(&gpu, sizes, &windows, &upload(&gpu, &x), &y);
            assert_eq!(read::<i8>(&gpu, &y), expected);
        }
    }
}

#[test]
fn sums_of_integers_match() {
    let Some(gpu) = gpu() else { return };
    let of_a = Quantization { scale: 0.013, zero_point: 7, min: -128, max: 127 };
    for of_b in [of_a, Quantization { scale: 0.0071, zero_point: -128, min: -127, max: 100 }] {
        for count in [0, 1, 4, 256, 301, 4 * 257] {
            let (a, b) = (integers(count, 1), integers(count, 2));
            let [on_a, on_b] = [&a, &b].map(|x| upload(&gpu, x));
            for (activation, to) in EXACT.into_iter().flat_map(|a| OUTPUTS.map(|to| (a, to))) {
                let mut expected = vec![0; count];
                let addends = [(a.as_slice(), of_a), (b.as_slice(), of_b)];
                int8::quantized_sum(Cpu::best(), addends, activation, &mut expected, to);
                let y = empty::<i8>(&gpu, count);
                let addends = [(&on_a, of_a), (&on_b, of_b)];
                quantized_sum(&gpu, addends, activation, (&y, to));
                assert_eq!(read::<i8>(&gpu, &y), expected);
            }
        }
    }
}
