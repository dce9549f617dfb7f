//! What is done with images whose channels are last, but for products: filters of few channels, pools of
//! windows, factors and summands by channel. A unit makes a piece of one pixel.

use cubecl::prelude::*;
use half::bf16;

use super::activation::{Curve, activated};
use super::math::rounded_to_bf16;
use super::weights::by_taps;
use super::windows::{Windows, WindowsLaunch, area};
use super::{Buffer, Floats, Gpu};
use crate::{Activation, Conv2d, Pooling, Slide};

/// Channels of a piece, where all pixels are whole pieces.
const WIDE: usize = 4;

/// What becomes of the elements of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fold {
    /// Each channel has filters of its own.
    Depthwise,
    /// Groups of channels have; pieces are single channels.
    Grouped,
    Greatest,
    Mean,
    MeanWithPadding,
}

impl Fold {
    const fn is_filter(self) -> bool {
        matches!(self, Self::Depthwise | Self::Grouped)
    }
}

/// Sizes of a group's filters.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
struct Groups {
    /// Channels that an output sees.
    channels: usize,
    outputs: usize,
}

/// A number as it is multiplied.
#[cube]
fn factor<X: Numeric, N: Size>(x: Vector<X, N>, #[comptime] rounds: bool) -> Vector<f32, N> {
    let mut value = Vector::<f32, N>::cast_from(x);
    if comptime!(rounds) {
        #[unroll]
        for index in 0..value.vector_size() {
            value.insert(index, rounded_to_bf16(value.extract(index)));
        }
    }
    value
}

/// The running value of a window after a piece, which is the first where `count` is 0.
#[cube]
fn step<N: Size>(
    value: Vector<f32, N>,
    element: Vector<f32, N>,
    count: usize,
    #[comptime] fold: Fold,
) -> Vector<f32, N> {
    if comptime!(fold == Fold::Greatest) {
        let mut greatest = value;
        #[unroll]
        for index in 0..value.vector_size() {
            let (a, b) = (value.extract(index), element.extract(index));
            greatest.insert(index, select(count == 0usize || b > a, b, a));
        }
        greatest
    } else {
        value + element
    }
}

/// `channels` of the windows are pieces; w and bias are read by filters only.
#[cube(launch_unchecked)]
fn fold_kernel<X: Numeric, Y: Numeric, N: Size>(
    x: &[Vector<X, N>],
    w: &[Vector<f32, N>],
    bias: &[Vector<f32, N>],
    addend: &[Vector<f32, N>],
    y: &mut [Vector<Y, N>],
    windows: Windows,
    groups: Groups,
    pieces: usize,
    alpha: f32,
    beta: f32,
    #[comptime] fold: Fold,
    #[comptime] rounds: bool,
    #[comptime] adds: bool,
    #[comptime] curve: Curve,
) {
    let stride = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let piece = index % pieces;
        let at = windows.position(index / pieces);
        let first = piece / groups.outputs * groups.channels;
        let mut value = Vector::<f32, N>::new(0.0f32);
        if comptime!(fold == Fold::Greatest) {
            value = Vector::new(f32::NEG_INFINITY);
        }
        let mut count = 0usize;
        for down in 0..windows.kernel.y {
            let row = at.row * windows.stride.y + down * windows.dilation.y;
            if windows.has_row(row) {
                for across in 0..windows.kernel.x {
                    let column = at.column * windows.stride.x + across * windows.dilation.x;
                    if windows.has_column(column) {
                        let pixel = windows.pixel(at.image, row, column) * windows.channels;
                        let tap = down * windows.kernel.x + across;
                        if comptime!(fold == Fold::Depthwise) {
                            let element = factor(x[pixel + piece], rounds);
                            value = fma(element, w[tap * pieces + piece], value);
                        } else if comptime!(fold == Fold::Grouped) {
                            for channel in 0..groups.channels {
                                let element = factor(x[pixel + first + channel], rounds);
                                let weight = (tap * groups.channels + channel) * pieces + piece;
                                value = fma(element, w[weight], value);
                            }
                        } else {
                            value = step(value, Vector::cast_from(x[pixel + piece]), count, fold);
                        }
                        count += 1usize;
                    }
                }
            }
        }
        if comptime!(fold == Fold::Mean) {
            value /= Vector::new(f32::cast_from(count));
        }
        if comptime!(fold == Fold::MeanWithPadding) {
            value /= Vector::new(f32::cast_from(padded(&windows, at.row, at.column)));
        }
        if comptime!(fold.is_filter()) {
            value += bias[piece];
        }
        if comptime!(adds) {
            value += addend[index];
        }
        let mut result = Vector::<Y, N>::empty();
        #[unroll]
        for element in 0..value.vector_size() {
            let value = activated(value.extract(element), alpha, beta, curve);
            result.insert(element, Y::cast_from(value));
        }
        y[index] = result;
        index += stride;
    }
}

/// Entries of a window that lie in the image or its padding.
#[cube]
fn padded(windows: &Windows, row: usize, column: usize) -> usize {
    let height = windows.before.y + windows.input.y + windows.after.y;
    let width = windows.before.x + windows.input.x + windows.after.x;
    let mut rows = 0usize;
    for down in 0..windows.kernel.y {
        let inside = row * windows.stride.y + down * windows.dilation.y < height;
        rows += select(inside, 1usize, 0usize);
    }
    let mut columns = 0usize;
    for across in 0..windows.kernel.x {
        let inside = column * windows.stride.x + across * windows.dilation.x < width;
        columns += select(inside, 1usize, 0usize);
    }
    rows * columns
}

/// The filters of [`conv2d_of_groups`] on a device.
#[derive(Clone, Debug)]
pub struct GroupFilters {
    /// f32 `[taps, channels / groups, outputs]`
    weight: Buffer,
    bias: Buffer,
    in_bf16: bool,
}

impl GroupFilters {
    /// Filters as they are, or rounded to bf16, to which x is then rounded, too; with zeros for a bias that
    /// is not there.
    ///
    /// # Shapes
    /// `filters`: `[outputs, channels / groups, taps]`; `bias`: `[outputs]`.
    ///
    /// # Panics
    /// When a length differs.
    pub fn new(
        gpu: &Gpu,
        filters: &[f32],
        [outputs, channels, taps]: [usize; 3],
        bias: Option<&[f32]>,
        in_bf16: bool,
    ) -> Self {
        assert_eq!(filters.len(), outputs * channels * taps, "filters");
        let rounded = |weight: f32| if in_bf16 { bf16::from_f32(weight).to_f32() } else { weight };
        let weights = by_taps(filters, [outputs, channels, taps]).map(rounded);
        Self { weight: gpu.upload_floats(weights), bias: upload_bias(gpu, bias, outputs), in_bf16 }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.weight.len() + self.bias.len()
    }
}

/// A bias, or zeros.
pub(super) fn upload_bias(gpu: &Gpu, bias: Option<&[f32]>, outputs: usize) -> Buffer {
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "bias: expected {outputs}");
    gpu.upload_floats((0..outputs).map(|output| bias.map_or(0.0, |bias| bias[output])))
}

/// A launch of [`fold_kernel`].
struct Folding<'a> {
    windows: &'a [Slide; 2],
    images: usize,
    channels: usize,
    outputs: usize,
    groups: [usize; 2],
    fold: Fold,
    /// Weights and their bias.
    filters: Option<[&'a Buffer; 2]>,
    rounds: bool,
    addend: Option<&'a Buffer>,
    activation: Activation,
}

impl Folding<'_> {
    fn launch(&self, gpu: &Gpu, x: Floats<'_>, y: Floats<'_>) {
        match (x, y) {
            (Floats::F32(x), Floats::F32(y)) => self.launch_of::<f32, f32>(gpu, x, y),
            (Floats::F32(x), Floats::Bf16(y)) => self.launch_of::<f32, bf16>(gpu, x, y),
            (Floats::Bf16(x), Floats::F32(y)) => self.launch_of::<bf16, f32>(gpu, x, y),
            (Floats::Bf16(x), Floats::Bf16(y)) => self.launch_of::<bf16, bf16>(gpu, x, y),
            _ => panic!("images: expected x and y in one type each"),
        }
    }

    fn launch_of<X: Numeric, Y: Numeric>(&self, gpu: &Gpu, x: &Buffer, y: &Buffer) {
        let elements = self.images * area(self.windows, |slide| slide.output) * self.outputs;
        let input = self.images * area(self.windows, |slide| slide.input) * self.channels;
        let taps = area(self.windows, |slide| slide.kernel);
        let aligned = x.is_aligned_to(WIDE * size_of::<X>())
            && y.is_aligned_to(WIDE * size_of::<Y>())
            && self.addend.is_none_or(|addend| addend.is_aligned_to(WIDE * size_of::<f32>()));
        let whole = self.channels.is_multiple_of(WIDE) && self.fold != Fold::Grouped;
        let wide = if whole && aligned { WIDE } else { 1 };
        let x_argument = x.argument::<X>("images: x", input);
        let y_argument = y.argument::<Y>("images: y", elements);
        // Nothing reads what is not there.
        let or_x = |name: &str, buffer: Option<&Buffer>, elements: usize| match buffer {
            Some(buffer) => buffer.argument::<f32>(name, elements),
            None => x.argument::<X>("images: x", input),
        };
        let [channels, outputs] = self.groups;
        let weight = self.filters.map(|[weight, _]| weight);
        let weight = or_x("images: weight", weight, taps * channels * self.outputs);
        let bias = or_x("images: bias", self.filters.map(|[_, bias]| bias), self.outputs);
        let addend = or_x("images: addend", self.addend, elements);
        if elements == 0 {
            return;
        }
        let (curve, [alpha, beta]) = Curve::of(self.activation);
        let (cubes, units) = gpu.spread(elements / wide);
        // SAFETY: the kernel stays below the length of y; what it reads of x lies in an image, what it
        // reads of filters in theirs, for the lengths of all were checked against these sizes.
        unsafe {
            fold_kernel::launch_unchecked::<X, Y>(
                &gpu.client,
                cubes,
                units,
                wide,
                x_argument,
                weight,
                bias,
                addend,
                y_argument,
                WindowsLaunch::of(self.windows, self.channels / wide),
                GroupsLaunch::new(channels, outputs),
                self.outputs / wide,
                alpha,
                beta,
                self.fold,
                self.rounds,
                self.addend.is_some(),
                curve,
            );
        };
    }
}

/// Convolution of images whose channels are last, where a filter sees the channels of its group only:
/// `activation(x ∗ filters + bias + addend)`. Best with one channel a group.
///
/// # Shapes
/// - `x`: `[batch, windows[0].input, windows[1].input, channels]`
/// - `y`: `[batch, windows[0].output, windows[1].output, outputs]`; `addend`: the same in f32
///
/// # Panics
/// When a length differs.
pub fn conv2d_of_groups(
    gpu: &Gpu,
    conv: &Conv2d,
    x: Floats<'_>,
    filters: &GroupFilters,
    activation: Activation,
    addend: Option<&Buffer>,
    y: Floats<'_>,
) {
    let groups = [conv.channels / conv.groups, conv.outputs / conv.groups];
    let folding = Folding {
        windows: &conv.windows,
        images: conv.batch,
        channels: conv.channels,
        outputs: conv.outputs,
        groups,
        fold: if groups == [1, 1] { Fold::Depthwise } else { Fold::Grouped },
        filters: Some([&filters.weight, &filters.bias]),
        rounds: filters.in_bf16,
        addend,
        activation,
    };
    folding.launch(gpu, x, y);
}

/// Pools images whose channels are last, see [`crate::channels_last::pool2d`]. Of a window that lies in the
/// padding alone, the greatest is −∞ and the mean NaN.
///
/// # Shapes
/// f32; `x`: `[batch, windows[0].input, windows[1].input, channels]`;
/// `y`: `[batch, windows[0].output, windows[1].output, channels]`.
///
/// # Panics
/// When a length differs.
pub fn pool2d(
    gpu: &Gpu,
    pooling: Pooling,
    [batch, channels]: [usize; 2],
    windows: &[Slide; 2],
    x: &Buffer,
    y: &Buffer,
) {
    let fold = match pooling {
        Pooling::Max => Fold::Greatest,
        Pooling::Average => Fold::Mean,
        Pooling::AverageWithPadding => Fold::MeanWithPadding,
    };
    let folding = Folding {
        windows,
        images: batch,
        channels,
        outputs: channels,
        groups: [1, 1],
        fold,
        filters: None,
        rounds: false,
        addend: None,
        activation: Activation::Identity,
    };
    folding.launch(gpu, Floats::F32(x), Floats::F32(y));
}

#[cube(launch_unchecked)]
fn scale_kernel(
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    y: &mut [f32],
    channels: usize,
    alpha: f32,
    beta: f32,
    #[comptime] curve: Curve,
) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let channel = index % channels;
        let value = x[index] * scale[channel] + shift[channel];
        y[index] = activated(value, alpha, beta, curve);
        index += step;
    }
}

/// `y = activation(x·scale + shift)` by channel.
///
/// # Shapes
/// f32; `x`, `y`: `[pixels, channels]`; `scale`, `shift`: `[channels]`.
///
/// # Panics
/// When a length differs.
pub fn scale_shift(
    gpu: &Gpu,
    x: &Buffer,
    [scale, shift]: [&Buffer; 2],
    activation: Activation,
    y: &Buffer,
) {
    let (elements, channels) = (y.len() / size_of::<f32>(), scale.len() / size_of::<f32>());
    let x = x.argument::<f32>("scale_shift: x", elements);
    let y = y.argument::<f32>("scale_shift: y", elements);
    let [scale, shift] = [("scale_shift: scale", scale), ("scale_shift: shift", shift)]
        .map(|(name, buffer)| buffer.argument::<f32>(name, channels));
    if elements == 0 {
        return;
    }
    assert!(elements.is_multiple_of(channels), "scale_shift: expected pixels of {channels}");
    let (cubes, units) = gpu.spread(elements);
    let (curve, [alpha, beta]) = Curve::of(activation);
    let client = &gpu.client;
    // SAFETY: the kernel stays below the length of y, which is also that of x; channels below that of
    // the factors and summands.
    unsafe {
        scale_kernel::launch_unchecked(
            client, cubes, units, x, scale, shift, y, channels, alpha, beta, curve,
        );
    };
}
