//! Convolution and pooling of images in bf16. Of small integers everything is exact, whatever the order of
//! sums, so that results are those of the same kernels in f32.

use kernels::bf16::Input;
use kernels::channels_last::{
    self, Bf16Conv, Bf16Filters, Filters, PackedFilters, bf16_conv2d, bf16_scratch_len,
};
use kernels::int8::Output;
use kernels::{Activation, Conv2d, Cpu, Function, Pooling, Slide};
use proptest::prelude::*;

use super::images::{slide, slides};
use super::numbers;

/// Integers from −8 to 8.
fn small(len: usize, seed: u64) -> Vec<f32> {
    numbers(len, seed).iter().map(|x| (x * 4.0).round()).collect()
}

/// The nearest bf16, halves to even.
fn rounded(x: &[f32]) -> Vec<u16> {
    let round = |x: &f32| {
        let bits = x.to_bits();
        (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
    };
    x.iter().map(round).collect()
}

fn widened(x: &[u16]) -> Vec<f32> {
    x.iter().map(|&x| f32::from_bits(u32::from(x) << 16)).collect()
}

const ACTIVATIONS: [Activation; 5] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Map(Function::Clip { low: -3.0, high: 6.0 }),
    Activation::Map(Function::LeakyRelu { alpha: 0.5 }),
    Activation::Map(Function::Swish { alpha: 1.5 }),
];

/// Compares all that inputs, addends and results may be, on every tier.
fn check(conv: &Conv2d, activation: Activation, seed: u64) {
    let [rows, columns] = &conv.windows;
    let sizes = [conv.outputs, conv.channels / conv.groups, rows.kernel * columns.kernel];
    let x = small(conv.batch * rows.input * columns.input * conv.channels, seed);
    let weight = small(sizes.iter().product(), seed ^ 1);
    let bias = small(conv.outputs, seed ^ 2);
    let len = conv.batch * rows.output * columns.output * conv.outputs;
    let sums = small(len, seed ^ 3);
    let (narrow_x, narrow_sums) = (rounded(&x), rounded(&sums));

    let packed = PackedFilters::new(&weight, sizes, conv.groups);
    let narrow = Bf16Filters::new(&weight, sizes, conv.groups);
    for has_addend in [false, true] {
        let mut expected = vec![f32::NAN; len];
        let addend = has_addend.then_some(&sums[..]);
        let filters = Filters { weight: &packed, bias: Some(&bias), addend, activation };
        let mut scratch = vec![f32::NAN; channels_last::scratch_len(conv)];
        channels_last::conv2d(Cpu::best(), conv, &x, &filters, &mut expected, &mut scratch);
        let expected_bf16 = rounded(&expected);
        for cpu in Cpu::every() {
            for in_bf16 in [false, true] {
                let x = if in_bf16 { Input::Bf16(&narrow_x) } else { Input::F32(&x) };
                // The other of the two.
                let addend = if in_bf16 { Input::F32(&sums) } else { Input::Bf16(&narrow_sums) };
                let addend = has_addend.then_some(addend);
                let filters = Bf16Conv { weight: &narrow, bias: Some(&bias), addend, activation };
                let mut scratch = vec![0x7fff; bf16_scratch_len(conv, in_bf16)];
                let mut y = vec![f32::NAN; len];
                bf16_conv2d(cpu, conv, x, &filters, Output::F32(&mut y), &mut scratch);
                assert_eq!(y, expected, "{} {conv:?}", cpu.tier());
                let mut y = vec![0x7fff; len];
                bf16_conv2d(cpu, conv, x, &filters, Output::Bf16(&mut y), &mut scratch);
                // Zeros of either sign.
                assert_eq!(widened(&y), widened(&expected_bf16), "{} {conv:?}", cpu.tier());
            }
        }
    }
}

proptest! {
    #[test]
    fn filters_of_all_channels(
        batch in 0usize..3, channels in 0usize..40, outputs in 0usize..40,
        rows in slides(), columns in slides(), activation in 0usize..5, seed: u64,
    ) {
        let conv = Conv2d { batch, channels, outputs, groups: 1, windows: [rows, columns] };
        check(&conv, ACTIVATIONS[activation], seed);
    }

    #[test]
    fn pixels(
        batch in 0usize..3, channels in 0usize..70, outputs in 0usize..70, height in 0usize..9,
        width in 0usize..30, stride in 1usize..3, activation in 0usize..5, seed: u64,
    ) {
        let windows = [height, width].map(|size| slide(size, 1, stride, 1, [0, 0]));
        let conv = Conv2d { batch, channels, outputs, groups: 1, windows };
        check(&conv, ACTIVATIONS[activation], seed);
    }

    #[test]
    fn filters_of_groups(
        batch in 0usize..3, groups in 2usize..10, channels in 1usize..40, outputs in 1usize..40,
        rows in slides(), columns in slides(), activation in 0usize..5, seed: u64,
    ) {
        let (channels, outputs) = (channels * groups, outputs * groups);
        let conv = Conv2d { batch, channels, outputs, groups, windows: [rows, columns] };
        check(&conv, ACTIVATIONS[activation], seed);
    }

    /// Groups whose pixels are multiplied where they lie.
    #[test]
    fn pixels_of_groups(
        groups in 2usize..10, channels in 1usize..40, outputs in 1usize..40, height in 1usize..5,
        width in 1usize..30, activation in 0usize..5, seed: u64,
    ) {
        let windows = [height, width].map(|size| slide(size, 1, 1, 1, [0, 0]));
        let (channels, outputs) = (channels * groups, outputs * groups);
        let conv = Conv2d { batch: 1, channels, outputs, groups, windows };
        check(&conv, ACTIVATIONS[activation], seed);
    }

    #[test]
    fn filters_of_a_channel(
        channels in 1usize..70, rows in slides(), columns in slides(), activation in 0usize..5, seed: u64,
    ) {
        let windows = [rows, columns];
        let conv = Conv2d { batch: 2, channels, outputs: channels, groups: channels, windows };
        check(&conv, ACTIVATIONS[activation], seed);
    }

    /// Those whose pixels are loaded once for several windows.
    #[test]
    fn filters_of_a_channel_that_share_pixels(
        channels in 1usize..40, width in 1usize..24, kernel in prop::sample::select(vec![3usize, 5]),
        stride in 1usize..3, before in 0usize..4, after in 0usize..4, activation in 0usize..5, seed: u64,
    ) {
        let windows = [slide(6, 3, 1, 1, [1, 1]), slide(width, kernel, stride, 1, [before, after])];
        let conv = Conv2d { batch: 1, channels, outputs: channels, groups: channels, windows };
        check(&conv, ACTIVATIONS[activation], seed);
    }

    /// Whatever images and results are, with a factor and a summand for each channel.
    #[test]
    fn channels_are_scaled(pixels in 0usize..50, channels in 1usize..70, seed: u64) {
        let x = widened(&rounded(&numbers(pixels * channels, seed)));
        let (scale, shift) = (numbers(channels, seed ^ 1), numbers(channels, seed ^ 2));
        let element = |(place, x): (usize, &f32)| {
            (x * scale[place % channels] + shift[place % channels]).max(0.0)
        };
        let expected: Vec<f32> = x.iter().enumerate().map(element).collect();
        for cpu in Cpu::every() {
            let activation = Activation::Relu;
            let mut y = vec![0x7fffu16; x.len()];
            channels_last::scale_shift(cpu, &x, &scale, &shift, activation, &mut y);
            prop_assert_eq!(&y, &rounded(&expected), "{}", cpu.tier());
            channels_last::scale_shift(cpu, &rounded(&x), &scale, &shift, activation, &mut y);
            prop_assert_eq!(&y, &rounded(&expected), "{}", cpu.tier());
            let mut y = vec![f32::NAN; x.len()];
            channels_last::scale_shift(cpu, &rounded(&x), &scale, &shift, activation, &mut y);
            prop_assert_eq!(&y, &expected, "{}", cpu.tier());
        }
    }

    #[test]
    fn images_are_scaled(
        batch in 0usize..4, pixels in 0usize..300, channels in 0usize..70, seed: u64,
    ) {
        let x = widened(&rounded(&numbers(batch * pixels * channels, seed)));
        let scale = numbers(batch * channels, seed ^ 1);
        let factor = |place: usize| scale[place / (pixels * channels) * channels + place % channels];
        let expected: Vec<f32> = x.iter().enumerate().map(|(place, x)| x * factor(place)).collect();
        let sizes = [batch, pixels, channels];
        for cpu in Cpu::every() {
            let mut y = vec![0x7fffu16; x.len()];
            channels_last::scale_images(cpu, sizes, &x, &scale, &mut y);
            prop_assert_eq!(&y, &rounded(&expected), "{}", cpu.tier());
            channels_last::scale_images(cpu, sizes, &rounded(&x), &scale, &mut y);
            prop_assert_eq!(&y, &rounded(&expected), "{}", cpu.tier());
            let mut y = vec![f32::NAN; x.len()];
            channels_last::scale_images(cpu, sizes, &x, &scale, &mut y);
            prop_assert_eq!(&y, &expected, "{}", cpu.tier());
        }
    }

    #[test]
    fn negative_numbers_become_zero(len in 0usize..100, seed: u64) {
        let mut x = numbers(len, seed);
        x.extend([-0.0, 0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let x = rounded(&x);
        let relu = |&x: &u16| if f32::from_bits(u32::from(x) << 16) < 0.0 { 0 } else { x };
        let expected: Vec<u16> = x.iter().map(relu).collect();
        for cpu in Cpu::every() {
            let mut y = vec![0x7fff; x.len()];
            kernels::bf16::relu(cpu, &x, &mut y);
            prop_assert_eq!(&y, &expected, "{}", cpu.tier());
        }
    }

    #[test]
    fn pools(batch in 0usize..3, channels in 1usize..70, rows in slides(), columns in slides(), seed: u64) {
        let windows: [Slide; 2] = [rows, columns];
        let x = widened(&rounded(&numbers(batch * channels * rows.input * columns.input, seed)));
        let narrow = rounded(&x);
        let (sizes, len) = ([batch, channels], batch * channels * rows.output * columns.output);
        for pooling in [Pooling::Max, Pooling::Average, Pooling::AverageWithPadding] {
            let mut expected = vec![0.0f32; len];
            channels_last::pool2d(Cpu::best(), pooling, sizes, &windows, &x, &mut expected);
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            for cpu in Cpu::every() {
                let mut y = vec![0.0f32; len];
                channels_last::pool2d(cpu, pooling, sizes, &windows, &narrow, &mut y);
                prop_assert_eq!(bits(&y), bits(&expected), "{}", cpu.tier());
                let expected = expected.iter().map(|y| if y.is_nan() { 0.0 } else { *y });
                let expected = expected.collect::<Vec<_>>();
                let mut y = vec![0u16; len];
                channels_last::pool2d(cpu, pooling, sizes, &windows, &x, &mut y);
                let y = widened(&y).iter().map(|y| if y.is_nan() { 0.0 } else { *y }).collect::<Vec<_>>();
                prop_assert_eq!(&y, &widened(&rounded(&expected)), "{}", cpu.tier());
            }
        }
    }
}

/// Enough images for threads, each too small for them, and one that threads share.
#[test]
fn many_images() {
    let window = [slide(6, 3, 1, 1, [1, 1]); 2];
    let images = Conv2d { batch: 90, channels: 8, outputs: 16, groups: 1, windows: window };
    check(&images, Activation::Relu, 5);
    let window = [slide(40, 3, 1, 1, [1, 1]); 2];
    check(
        &Conv2d { batch: 1, channels: 32, outputs: 48, groups: 1, windows: window },
        Activation::Relu,
        6,
    );
    check(
        &Conv2d { batch: 1, channels: 96, outputs: 48, groups: 3, windows: window },
        Activation::Relu,
        7,
    );
}
