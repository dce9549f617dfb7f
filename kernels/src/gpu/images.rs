//! What is done with images whose channels are last, but for products: filters of few channels, pools of
//! windows, factors and summands by channel.

use cubecl::prelude::*;
use half::bf16;

use super::activation::{Curve, activated};
use super::fold::{Factors, Fold, Folding};
use super::weights::by_taps;
use super::{Buffer, Floats, Gpu, Output};
use crate::int8::Quantization;
use crate::{Activation, Conv2d, Pooling, Slide};

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

/// The filters of [`integer_conv2d_of_groups`] on a device.
#[derive(Clone, Debug)]
pub struct IntegerGroupFilters {
    /// f32 `[taps, channels / groups, outputs]`: sums of products are whole numbers that f32 has.
    weight: Buffer,
    /// f32 `[outputs]`
    scales: Buffer,
    zero_point: i8,
}

impl IntegerGroupFilters {
    /// Most products of a sum: each is at most 255·128, and their sum below 2²⁴.
    pub const MOST_PRODUCTS: usize = 1 << 9;

    /// Filters with zero point 0, for images with this one.
    ///
    /// # Shapes
    /// `filters`: `[outputs, channels / groups, taps]`; `scales`, of the input times that of the output:
    /// `[outputs]`.
    ///
    /// # Panics
    /// When a length differs, or a sum has more than [`Self::MOST_PRODUCTS`].
    pub fn new(
        gpu: &Gpu,
        filters: &[i8],
        [outputs, channels, taps]: [usize; 3],
        scales: &[f32],
        zero_point: i8,
    ) -> Self {
        assert_eq!(filters.len(), outputs * channels * taps, "filters");
        assert_eq!(scales.len(), outputs, "scales");
        assert!(channels * taps <= Self::MOST_PRODUCTS, "filters: expected sums that f32 has");
        let weights = by_taps(filters, [outputs, channels, taps]).map(f32::from);
        let scales = gpu.upload_floats(scales.iter().copied());
        Self { weight: gpu.upload_floats(weights), scales, zero_point }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.weight.len() + self.scales.len()
    }
}

/// A bias, or zeros.
pub(super) fn upload_bias(gpu: &Gpu, bias: Option<&[f32]>, outputs: usize) -> Buffer {
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "bias: expected {outputs}");
    gpu.upload_floats((0..outputs).map(|output| bias.map_or(0.0, |bias| bias[output])))
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
    let GroupFilters { weight, bias, in_bf16 } = filters;
    let factors = Factors { weight, bias, rounds: *in_bf16, integers: None };
    Folding::of_groups(conv, factors, activation).adding(addend).launch(gpu, x, y);
}

/// `y = activation((x − zero_point) ∗ filters · scales + bias)`, of filters as in [`conv2d_of_groups`]; what
/// lies outside of an image is 0, as [`crate::channels_last::integer_depthwise`] has it.
///
/// # Shapes
/// - `x`: i8 `[batch, windows[0].input, windows[1].input, channels]`; `bias`: f32 `[outputs]`
/// - `y`: `[batch, windows[0].output, windows[1].output, outputs]`
///
/// # Panics
/// When a length differs.
pub fn integer_conv2d_of_groups(
    gpu: &Gpu,
    conv: &Conv2d,
    x: &Buffer,
    filters: &IntegerGroupFilters,
    bias: &Buffer,
    activation: Activation,
    y: Output<'_>,
) {
    let IntegerGroupFilters { weight, scales, zero_point } = filters;
    let integers = Some((*zero_point, scales));
    let factors = Factors { weight, bias, rounds: false, integers };
    Folding::of_groups(conv, factors, activation).launch_integers(gpu, x, y);
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
    let folding = Folding::of_pool(fold, [batch, channels], windows);
    folding.launch(gpu, Floats::F32(x), Floats::F32(y));
}

/// The greatest integer of each window, see [`crate::channels_last::greatest2d`]; −128 where all of a window
/// is padding.
///
/// # Shapes
/// i8; otherwise as [`pool2d`].
///
/// # Panics
/// When a length differs.
pub fn greatest2d(gpu: &Gpu, sizes: [usize; 2], windows: &[Slide; 2], x: &Buffer, y: &Buffer) {
    let folding = Folding::of_pool(Fold::Greatest, sizes, windows);
    // Steps of 1 leave integers as they are.
    folding.launch_integers(gpu, x, Output::Int8(y, Quantization::symmetric(1.0)));
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
