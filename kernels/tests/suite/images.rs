//! Convolution and pooling of images.

use kernels::channels_last::{self, PackedFilters};
use kernels::int8::{Layer, Output};
use kernels::{
    Activation, Conv2d, Cpu, Filters, Pooling, Slide, conv2d, pool2d, row_maxima, row_means,
};
use proptest::prelude::*;

use super::{assert_close, integers, numbers, on_any_threads, on_every_tier};

/// Sums of up to a few hundred products of numbers up to 4, rounded at each step.
const TOLERANCE: f64 = 1e-4;

/// A slide whose number of windows is rounded down, or none where no window fits.
pub(super) fn slide(
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    [before, after]: [usize; 2],
) -> Slide {
    let span = (kernel - 1) * dilation + 1;
    let room = (input + before + after).checked_sub(span);
    let output = room.map_or(0, |room| room / stride + 1);
    Slide { input, kernel, stride, dilation, before, after, output }
}

pub(super) fn slides() -> impl Strategy<Value = Slide> {
    let sizes = (0usize..40, 1usize..5, 1usize..4, 1usize..3, 0usize..4, 0usize..4);
    sizes.prop_map(|(input, kernel, stride, dilation, before, after)| {
        slide(input, kernel, stride, dilation, [before, after])
    })
}

/// Places in a plane, and in the window, of a window's elements that lie in the input.
pub(super) fn elements(
    [rows, columns]: &[Slide; 2],
    [row, column]: [usize; 2],
) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for down in 0..rows.kernel {
        for across in 0..columns.kernel {
            let y = (row * rows.stride + down * rows.dilation) as i64 - rows.before as i64;
            let x = (column * columns.stride + across * columns.dilation) as i64
                - columns.before as i64;
            let inside =
                (0..rows.input as i64).contains(&y) && (0..columns.input as i64).contains(&x);
            if inside {
                let place = y as usize * columns.input + x as usize;
                found.push((place, down * columns.kernel + across));
            }
        }
    }
    found
}

/// `reduce(plane, window)` for every window of every plane.
fn windows(
    planes: usize,
    slides: &[Slide; 2],
    mut reduce: impl FnMut(usize, [usize; 2]) -> f64,
) -> Vec<f64> {
    let mut y = Vec::new();
    for plane in 0..planes {
        for row in 0..slides[0].output {
            for column in 0..slides[1].output {
                y.push(reduce(plane, [row, column]));
            }
        }
    }
    y
}

fn conv_twin(conv: &Conv2d, x: &[f32], filters: &Filters<'_>) -> Vec<f64> {
    let [rows, columns] = &conv.windows;
    let (image, taps) = (rows.input * columns.input, rows.kernel * columns.kernel);
    let inner = conv.channels / conv.groups;
    windows(conv.batch * conv.outputs, &conv.windows, |plane, window| {
        let (sample, output) = (plane / conv.outputs, plane % conv.outputs);
        let group = output / (conv.outputs / conv.groups);
        let mut sum = filters.bias.map_or(0.0, |bias| f64::from(bias[output]));
        for (place, entry) in elements(&conv.windows, window) {
            for channel in 0..inner {
                let plane = sample * conv.channels + group * inner + channel;
                let weight = filters.weight[(output * inner + channel) * taps + entry];
                sum += f64::from(x[plane * image + place]) * f64::from(weight);
            }
        }
        if filters.activation == Activation::Relu { sum.max(0.0) } else { sum }
    })
}

struct Sample {
    conv: Conv2d,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Sample {
    fn new(conv: Conv2d, seed: u64) -> Self {
        let [rows, columns] = &conv.windows;
        let taps = rows.kernel * columns.kernel;
        Self {
            x: numbers(conv.batch * conv.channels * rows.input * columns.input, seed),
            weight: numbers(conv.outputs * (conv.channels / conv.groups) * taps, seed ^ 1),
            bias: numbers(conv.outputs, seed ^ 2),
            conv,
        }
    }

    fn filters(&self) -> Filters<'_> {
        Filters { weight: &self.weight, bias: Some(&self.bias), activation: Activation::Relu }
    }

    fn run(&self, cpu: Cpu, filters: &Filters<'_>, scratch: usize) -> Vec<f32> {
        let [rows, columns] = &self.conv.windows;
        let len = self.conv.batch * self.conv.outputs * rows.output * columns.output;
        let mut y = vec![f32::NAN; len];
        conv2d(cpu, &self.conv, &self.x, filters, &mut y, &mut vec![f32::NAN; scratch]);
        y
    }

    fn check(&self) {
        let plain = Filters { bias: None, activation: Activation::Identity, ..self.filters() };
        for filters in [self.filters(), plain] {
            let expected = conv_twin(&self.conv, &self.x, &filters);
            let y = on_every_tier(|cpu| self.run(cpu, &filters, self.conv.scratch_len()));
            assert_close("conv2d", &y, &expected, TOLERANCE);
        }
    }
}

/// Images `[batch, channels, pixels]` as `[batch, pixels, channels]`.
fn with_channels_last<T: Copy>(x: &[T], channels: usize, pixels: usize) -> Vec<T> {
    let images = x.chunks_exact((channels * pixels).max(1));
    let turned = images.flat_map(|x| {
        (0..pixels)
            .flat_map(move |pixel| (0..channels).map(move |channel| x[channel * pixels + pixel]))
    });
    turned.collect()
}

impl Sample {
    fn run_last(&self, cpu: Cpu, filters: &Filters<'_>, addend: Option<&[f32]>) -> Vec<f32> {
        let conv = &self.conv;
        let [rows, columns] = &conv.windows;
        let x = with_channels_last(&self.x, conv.channels, rows.input * columns.input);
        let sizes = [conv.outputs, conv.channels / conv.groups, rows.kernel * columns.kernel];
        let weight = PackedFilters::new(filters.weight, sizes, conv.groups);
        let Filters { bias, activation, .. } = *filters;
        let filters = channels_last::Filters { weight: &weight, bias, addend, activation };
        let mut y = vec![f32::NAN; conv.batch * conv.outputs * rows.output * columns.output];
        let mut scratch = vec![f32::NAN; channels_last::scratch_len(conv)];
        channels_last::conv2d(cpu, conv, &x, &filters, &mut y, &mut scratch);
        y
    }

    /// The convolution of channels that are last is that of channels that are first.
    fn check_last(&self, tolerance: f64) {
        let conv = &self.conv;
        let positions = conv.windows[0].output * conv.windows[1].output;
        let plain = Filters { bias: None, activation: Activation::Identity, ..self.filters() };
        for filters in [self.filters(), plain] {
            let expected = conv_twin(conv, &self.x, &filters);
            let expected = with_channels_last(&expected, conv.outputs, positions);
            let y = on_every_tier(|cpu| self.run_last(cpu, &filters, None));
            assert_close("channels last", &y, &expected, tolerance);
        }
        let sums = self.run_last(Cpu::best(), &plain, None);
        let addend = numbers(sums.len(), 9);
        let expected: Vec<f64> =
            sums.iter().zip(&addend).map(|(sum, addend)| f64::from(sum + addend)).collect();
        let y = on_every_tier(|cpu| self.run_last(cpu, &plain, Some(&addend)));
        assert_close("addend", &y, &expected, 0.0);
    }
}

fn conv(batch: usize, [channels, outputs, groups]: [usize; 3], windows: [Slide; 2]) -> Conv2d {
    Conv2d { batch, channels, outputs, groups, windows }
}

proptest! {
    #[test]
    fn conv2d_takes_any_window(
        batch in 0usize..3, inner in 0usize..4, filters in 0usize..4, groups in 1usize..4,
        rows in slides(), columns in slides(), seed: u64,
    ) {
        let channels = [inner * groups, filters * groups, groups];
        Sample::new(conv(batch, channels, [rows, columns]), seed).check();
    }

    #[test]
    fn conv2d_of_pixels(batch in 0usize..3, inner in 0usize..20, filters in 0usize..20, height in 0usize..9, width in 0usize..30, seed: u64) {
        let windows = [height, width].map(|size| Slide { input: size, output: size, ..Slide::ONE });
        Sample::new(conv(batch, [inner, filters, 1], windows), seed).check();
    }

    #[test]
    fn channels_may_be_last(
        batch in 0usize..3, inner in 0usize..4, filters in 0usize..4, groups in 1usize..4,
        rows in slides(), columns in slides(), seed: u64,
    ) {
        let channels = [inner * groups, filters * groups, groups];
        Sample::new(conv(batch, channels, [rows, columns]), seed).check_last(TOLERANCE);
    }

    #[test]
    fn pixels_may_have_channels_last(batch in 0usize..3, inner in 0usize..20, filters in 0usize..40, height in 0usize..9, width in 0usize..30, stride in 1usize..3, seed: u64) {
        let windows = [height, width].map(|size| slide(size, 1, stride, 1, [0, 0]));
        Sample::new(conv(batch, [inner, filters, 1], windows), seed).check_last(TOLERANCE);
    }

    #[test]
    fn few_filters_have_channels_last(batch in 0usize..3, inner in 1usize..70, filters in 1usize..4, height in 0usize..9, columns in slides(), kernel in 1usize..40, seed: u64) {
        let rows = slide(height, 3, 1, 1, [1, 1]);
        Sample::new(conv(batch, [inner, filters, 1], [rows, columns]), seed).check_last(TOLERANCE);
        // Of sequences.
        let windows = [slide(1, 1, 1, 1, [0, 0]), slide(height * 11, 8 * kernel, 2, 1, [3, 0])];
        Sample::new(conv(batch, [1, filters, 1], windows), seed).check_last(TOLERANCE);
    }

    // Sums of so few products are exact in f32 as well.
    #[test]
    fn windows_of_integers_have_the_sums_of_their_numbers(
        batch in 0usize..3, channels in 0usize..9, outputs in 0usize..40,
        rows in slides(), columns in slides(), zero_point: i8, seed: u64,
    ) {
        let conv = conv(batch, [channels, outputs, 1], [rows, columns]);
        let (taps, image) = (rows.kernel * columns.kernel, rows.input * columns.input);
        let x = integers(batch * image * channels, seed);
        let weight = integers(outputs * channels * taps, seed ^ 1);
        let elements = batch * rows.output * columns.output * outputs;
        let floats: Vec<f32> = x.iter().map(|&x| f32::from(i16::from(x) - i16::from(zero_point))).collect();
        let weights: Vec<f32> = weight.iter().copied().map(f32::from).collect();
        let packed = PackedFilters::new(&weights, [outputs, channels, taps], 1);
        let activation = Activation::Identity;
        let filters = channels_last::Filters { weight: &packed, bias: None, addend: None, activation };
        let mut expected = vec![f32::NAN; elements];
        let mut scratch = vec![f32::NAN; channels_last::scratch_len(&conv)];
        channels_last::conv2d(Cpu::best(), &conv, &floats, &filters, &mut expected, &mut scratch);

        let packed = channels_last::pack_integer_filters(&weight, [outputs, channels, taps]);
        let scales = vec![1.0; outputs];
        let layer = Layer { weights: &packed, scales: &scales, bias: None, activation, coarse: false };
        for cpu in Cpu::every() {
            let mut y = vec![f32::NAN; elements];
            let mut scratch = vec![0; channels_last::integer_scratch_len(&conv)];
            let x = (x.as_slice(), zero_point);
            channels_last::integer_conv2d(cpu, &conv, x, &layer, Output::F32(&mut y), &mut scratch);
            prop_assert_eq!(&y, &expected, "{}", cpu.tier());
        }
    }

    #[test]
    fn depthwise_channels_may_be_last(channels in 0usize..140, rows in slides(), columns in slides(), seed: u64) {
        Sample::new(conv(2, [channels, channels, channels.max(1)], [rows, columns]), seed).check_last(TOLERANCE);
    }

    /// Padding is left out, not multiplied by what may be no number.
    #[test]
    fn infinite_filters_of_single_channels(width in 1usize..24, channels in 1usize..20, stride in 1usize..3, kernel in prop::sample::select(vec![3usize, 5])) {
        let windows = [Slide::ONE, slide(width, kernel, stride, 1, [kernel / 2; 2])];
        let conv = conv(1, [channels, channels, channels], windows);
        let mut weight = vec![1.0; channels * kernel];
        weight.iter_mut().step_by(kernel).for_each(|first| *first = f32::INFINITY);
        let packed = PackedFilters::new(&weight, [channels, 1, kernel], channels);
        let activation = Activation::Identity;
        let filters = channels_last::Filters { weight: &packed, bias: None, addend: None, activation };
        let x = vec![1.0; width * channels];
        let y = on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; windows[1].output * channels];
            channels_last::conv2d(cpu, &conv, &x, &filters, &mut y, &mut []);
            y
        });
        let inside = (kernel / 2 + 1).min(width) as f32;
        prop_assert_eq!(&y[..channels], &vec![inside; channels]);
    }

    #[test]
    fn pools_may_have_channels_last(batch in 0usize..3, channels in 1usize..90, rows in slides(), columns in slides(), seed: u64) {
        let slides = [rows, columns];
        let (image, positions) = (rows.input * columns.input, rows.output * columns.output);
        let x = numbers(batch * channels * image, seed);
        let turned = with_channels_last(&x, channels, image);
        for pooling in [Pooling::Max, Pooling::Average, Pooling::AverageWithPadding] {
            let mut expected = vec![f32::NAN; batch * channels * positions];
            pool2d(Cpu::best(), pooling, batch * channels, &slides, &x, &mut expected);
            let y = on_every_tier(|cpu| {
                let mut y = vec![f32::NAN; expected.len()];
                channels_last::pool2d(cpu, pooling, [batch, channels], &slides, &turned, &mut y);
                y
            });
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&y), bits(&with_channels_last(&expected, channels, positions)));
        }
    }

    #[test]
    fn whole_images_with_channels_last(batch in 0usize..3, channels in 1usize..140, pixels in 0usize..150, seed: u64) {
        let mut x = numbers(batch * channels * pixels, seed);
        if let Some(first) = x.first_mut() {
            *first = f32::NAN;
        }
        let turned = with_channels_last(&x, channels, pixels);
        let run = |pooling| on_every_tier(|cpu| {
            let mut y = vec![f32::INFINITY; batch * channels];
            channels_last::global_pool(cpu, pooling, [batch, pixels, channels], &turned, &mut y);
            y
        });
        let mut expected = vec![0.0; batch * channels];
        row_maxima(Cpu::best(), &x, pixels, &mut expected);
        prop_assert_eq!(run(Pooling::Max), expected.clone());
        row_means(Cpu::best(), &x, pixels, &mut expected);
        for (y, expected) in run(Pooling::Average).iter().zip(&expected) {
            prop_assert!((y - expected).abs() < 1e-5 || y.is_nan() && expected.is_nan());
        }
    }

    #[test]
    fn channels_are_scaled(pixels in 0usize..50, channels in 1usize..70, seed: u64) {
        let x = numbers(pixels * channels, seed);
        let (scale, shift) = (numbers(channels, seed ^ 1), numbers(channels, seed ^ 2));
        let y = on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; x.len()];
            channels_last::scale_shift(cpu, &x, &scale, &shift, Activation::Relu, &mut y);
            y
        });
        for (place, (y, x)) in y.iter().zip(&x).enumerate() {
            let channel = place % channels;
            assert_eq!(*y, (x * scale[channel] + shift[channel]).max(0.0));
        }
    }

    #[test]
    fn depthwise_rows_of_any_width(filters in 1usize..3, width in 1usize..70, stride in 1usize..4, dilation in 1usize..3, seed: u64) {
        let windows = [slide(5, 3, 2, 1, [1, 1]), slide(width, 3, stride, dilation, [1, 2])];
        Sample::new(conv(2, [3, 3 * filters, 3], windows), seed).check();
    }

    #[test]
    fn pools_of_any_window(planes in 0usize..4, rows in slides(), columns in slides(), seed: u64) {
        let slides = [rows, columns];
        let image = rows.input * columns.input;
        let x = numbers(planes * image, seed);
        let own = |plane: usize, window: [usize; 2]| -> Vec<f64> {
            let places = elements(&slides, window).into_iter();
            places.map(|(place, _)| f64::from(x[plane * image + place])).collect()
        };
        let run = |pooling| on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; planes * rows.output * columns.output];
            pool2d(cpu, pooling, planes, &slides, &x, &mut y);
            y
        });
        let max = windows(planes, &slides, |plane, window| {
            own(plane, window).into_iter().fold(f64::NEG_INFINITY, f64::max)
        });
        let y = run(Pooling::Max);
        assert!(y.iter().map(|&y| f64::from(y)).eq(max));
        let taps = (rows.kernel * columns.kernel) as f64;
        let mean = windows(planes, &slides, |plane, window| own(plane, window).iter().sum::<f64>() / taps);
        // Rounded down, no window reaches beyond the padding.
        assert_close("padding counts", &run(Pooling::AverageWithPadding), &mean, TOLERANCE);
        let y = run(Pooling::Average);
        let mean = windows(planes, &slides, |plane, window| {
            let own = own(plane, window);
            own.iter().sum::<f64>() / own.len() as f64
        });
        for (found, expected) in y.iter().zip(&mean) {
            let close = (f64::from(*found) - expected).abs() < TOLERANCE;
            assert!(close || found.is_nan() && expected.is_nan(), "{expected}, found {found}");
        }
    }

    #[test]
    fn whole_images(planes in 0usize..5, image in 0usize..70, seed: u64) {
        let x = numbers(planes * image, seed);
        let rows = |plane: usize| x[plane * image..][..image].iter().map(|&x| f64::from(x));
        let reduce = |kernel: fn(Cpu, &[f32], usize, &mut [f32])| on_every_tier(|cpu| {
            let mut y = vec![0.0; planes];
            kernel(cpu, &x, image, &mut y);
            y
        });
        let maxima = (0..planes).map(|plane| rows(plane).fold(f64::NEG_INFINITY, f64::max));
        assert!(reduce(row_maxima).iter().map(|&y| f64::from(y)).eq(maxima));
        if image > 0 {
            let means: Vec<_> = (0..planes).map(|plane| rows(plane).sum::<f64>() / image as f64).collect();
            assert_close("means", &reduce(row_means), &means, TOLERANCE);
        }
    }
}

#[test]
fn entries_beyond_the_padding_do_not_count() {
    // Windows of three over four entries with one before and one after, rounded up.
    let columns = Slide { output: 3, ..slide(4, 3, 2, 1, [1, 1]) };
    let mut y = [0.0; 3];
    let x = [1.0, 2.0, 3.0, 4.0];
    pool2d(Cpu::best(), Pooling::AverageWithPadding, 1, &[Slide::ONE, columns], &x, &mut y);
    assert_eq!(y, [1.0, 3.0, 2.0]);
}

#[test]
fn large_convolutions_do_not_depend_on_threads_or_scratch() {
    let window = |size| slide(size, 3, 1, 1, [1, 1]);
    let large = conv(2, [24, 70, 1], [window(30), window(31)]);
    let deep = conv(1, [96, 160, 1], [window(7), window(7)]);
    let groups = conv(2, [24, 72, 3], [window(30), slide(31, 3, 2, 1, [1, 1])]);
    let depthwise = conv(2, [24, 24, 24], [window(30), window(31)]);
    let pixels = conv(1, [200, 300, 1], [Slide { input: 7, output: 7, ..Slide::ONE }; 2]);
    for conv in [large, deep, groups, depthwise, pixels] {
        let sample = Sample::new(conv, 3);
        let filters = sample.filters();
        let len = conv.scratch_len();
        let y = on_any_threads(|| sample.run(Cpu::best(), &filters, len));
        assert_close("large", &y, &conv_twin(&conv, &sample.x, &filters), 2e-4);
        assert_eq!(sample.run(Cpu::best(), &filters, len.min(512 * 216)), y);
        let depth = sample.weight.len() / conv.outputs;
        assert!(len <= Conv2d::scratch_bound(depth));
        sample.check_last(2e-4);
        on_any_threads(|| sample.run_last(Cpu::best(), &filters, None));
    }
}

#[test]
fn small_images_and_groups_do_not_depend_on_threads() {
    let window = |size| slide(size, 3, 1, 1, [1, 1]);
    let images = conv(64, [8, 8, 1], [window(8), window(7)]);
    let unpadded = conv(64, [8, 8, 1], [slide(8, 2, 2, 1, [0, 0]), window(7)]);
    let groups = conv(2, [128, 128, 16], [window(9), window(9)]);
    for conv in [images, unpadded, groups] {
        let sample = Sample::new(conv, 5);
        sample.check_last(2e-4);
        on_any_threads(|| sample.run_last(Cpu::best(), &sample.filters(), None));
    }
}

#[test]
#[should_panic(expected = "reaches too far")]
fn places_without_numbers_are_refused() {
    let rows = Slide { stride: 1 << 62, output: 5, ..Slide::ONE };
    let conv = conv(1, [1, 2, 1], [rows, Slide::ONE]);
    let weight = PackedFilters::new(&[1.0, 1.0], [2, 1, 1], 1);
    let activation = Activation::Identity;
    let filters = channels_last::Filters { weight: &weight, bias: None, addend: None, activation };
    channels_last::conv2d(Cpu::best(), &conv, &[1.0], &filters, &mut [0.0; 10], &mut []);
}

#[test]
#[should_panic(expected = "conv2d: scratch: expected 303 elements at least, found 71")]
fn short_scratch_is_refused() {
    let windows = [slide(3, 3, 1, 1, [0, 1]), slide(4, 3, 1, 1, [0, 0])];
    let sample = Sample::new(conv(1, [2, 2, 1], windows), 1);
    sample.run(Cpu::best(), &sample.filters(), 71);
}

#[test]
#[should_panic(expected = "expected channels and outputs in 2 groups, found 3 and 2")]
fn uneven_groups_are_refused() {
    Sample::new(conv(1, [3, 2, 2], [Slide::ONE; 2]), 1).check();
}
