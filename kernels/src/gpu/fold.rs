//! What becomes of the windows of images whose channels are last, element by element: filters of few
//! channels, means, the greatest. A unit makes a piece of one pixel.

use cubecl::prelude::*;
use half::bf16;

use super::activation::{Curve, activated};
use super::math::{Steps, StepsLaunch, quantized, rounded_product, rounded_to_bf16};
use super::windows::{Windows, WindowsLaunch, area};
use super::{Buffer, Floats, Gpu, Output};
use crate::{Activation, Conv2d, Slide};

/// Channels of a piece, where all pixels are whole pieces.
const WIDE: usize = 4;

/// What becomes of the elements of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fold {
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

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    fold: Fold,
    /// Elements are rounded to bf16 as they are read.
    rounds: bool,
    /// Filters see distances to a zero point, and what they make of them has scales.
    scales: bool,
    /// Something of the result's shape is added before the activation.
    adds: bool,
    /// The result is rounded to int8.
    quantizes: bool,
    curve: Curve,
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
fn factor<X: Numeric, N: Size>(
    x: Vector<X, N>,
    zero_point: f32,
    #[comptime] form: Form,
) -> Vector<f32, N> {
    let mut value = Vector::<f32, N>::cast_from(x);
    if comptime!(form.scales) {
        value -= Vector::new(zero_point);
    }
    if comptime!(form.rounds) {
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

/// `channels` of the windows are pieces; w, scales and bias are read by filters only.
#[cube(launch_unchecked)]
fn fold_kernel<X: Numeric, Y: Numeric, N: Size>(
    x: &[Vector<X, N>],
    w: &[Vector<f32, N>],
    scales: &[Vector<f32, N>],
    bias: &[Vector<f32, N>],
    addend: &[Vector<f32, N>],
    y: &mut [Vector<Y, N>],
    windows: Windows,
    groups: Groups,
    pieces: usize,
    zero_point: f32,
    to: Steps,
    alpha: f32,
    beta: f32,
    #[comptime] form: Form,
) {
    let fold = comptime!(form.fold);
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
                            let element = factor(x[pixel + piece], zero_point, form);
                            value = fma(element, w[tap * pieces + piece], value);
                        } else if comptime!(fold == Fold::Grouped) {
                            for channel in 0..groups.channels {
                                let element = factor(x[pixel + first + channel], zero_point, form);
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
        if comptime!(form.scales) {
            let scales = scales[piece];
            #[unroll]
            for element in 0..value.vector_size() {
                let scaled = rounded_product(value.extract(element), scales.extract(element));
                value.insert(element, scaled);
            }
        }
        if comptime!(fold.is_filter()) {
            value += bias[piece];
        }
        if comptime!(form.adds) {
            value += addend[index];
        }
        let mut result = Vector::<Y, N>::empty();
        #[unroll]
        for element in 0..value.vector_size() {
            let value = activated(value.extract(element), alpha, beta, form.curve);
            if comptime!(form.quantizes) {
                result.insert(element, Y::cast_from(quantized(value, &to)));
            } else {
                result.insert(element, Y::cast_from(value));
            }
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

/// What filters multiply and add.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub(super) weight: &'a Buffer,
    pub(super) bias: &'a Buffer,
    /// Whether elements are rounded to bf16 before.
    pub(super) rounds: bool,
    /// Zero point of the elements and a scale for each output, where elements are int8.
    pub(super) integers: Option<(i8, &'a Buffer)>,
}

/// A launch of [`fold_kernel`].
pub(super) struct Folding<'a> {
    windows: &'a [Slide; 2],
    images: usize,
    channels: usize,
    outputs: usize,
    /// Channels and outputs of one.
    groups: [usize; 2],
    fold: Fold,
    filters: Option<Factors<'a>>,
    addend: Option<&'a Buffer>,
    activation: Activation,
}

impl<'a> Folding<'a> {
    pub(super) fn of_groups(
        conv: &'a Conv2d,
        filters: Factors<'a>,
        activation: Activation,
    ) -> Self {
        let groups = [conv.channels / conv.groups, conv.outputs / conv.groups];
        Self {
            windows: &conv.windows,
            images: conv.batch,
            channels: conv.channels,
            outputs: conv.outputs,
            groups,
            fold: if groups == [1, 1] { Fold::Depthwise } else { Fold::Grouped },
            filters: Some(filters),
            addend: None,
            activation,
        }
    }

    /// The same with something in the shape of the result added before the activation.
    pub(super) const fn adding(mut self, addend: Option<&'a Buffer>) -> Self {
        self.addend = addend;
        self
    }

    pub(super) fn of_pool(
        fold: Fold,
        [images, channels]: [usize; 2],
        windows: &'a [Slide; 2],
    ) -> Self {
        Self {
            windows,
            images,
            channels,
            outputs: channels,
            groups: [1, 1],
            fold,
            filters: None,
            addend: None,
            activation: Activation::Identity,
        }
    }
}

impl Folding<'_> {
    /// # Panics
    /// When a length differs, or x or y is kept as both.
    pub(super) fn launch(&self, gpu: &Gpu, x: Floats<'_>, y: Floats<'_>) {
        let output = Output::Floats(y);
        match (x, y) {
            (Floats::F32(x), Floats::F32(_)) => self.launch_of::<f32, f32>(gpu, x, output),
            (Floats::F32(x), Floats::Bf16(_)) => self.launch_of::<f32, bf16>(gpu, x, output),
            (Floats::Bf16(x), Floats::F32(_)) => self.launch_of::<bf16, f32>(gpu, x, output),
            (Floats::Bf16(x), Floats::Bf16(_)) => self.launch_of::<bf16, bf16>(gpu, x, output),
            _ => panic!("images: expected x and y in one type each"),
        }
    }

    /// The same of int8 images.
    ///
    /// # Panics
    /// When a length differs, or y is kept as both.
    pub(super) fn launch_integers(&self, gpu: &Gpu, x: &Buffer, y: Output<'_>) {
        match y {
            Output::Int8(..) => self.launch_of::<i8, i8>(gpu, x, y),
            Output::Floats(Floats::F32(_)) => self.launch_of::<i8, f32>(gpu, x, y),
            Output::Floats(Floats::Bf16(_)) => self.launch_of::<i8, bf16>(gpu, x, y),
            Output::Floats(Floats::Both { .. }) => panic!("images: expected y in one type"),
        }
    }

    fn form(&self, y: Output<'_>) -> Form {
        Form {
            fold: self.fold,
            rounds: self.filters.is_some_and(|filters| filters.rounds),
            scales: self.filters.is_some_and(|filters| filters.integers.is_some()),
            adds: self.addend.is_some(),
            quantizes: matches!(y, Output::Int8(..)),
            curve: Curve::of(self.activation).0,
        }
    }

    fn launch_of<X: Numeric, Y: Numeric>(&self, gpu: &Gpu, x: &Buffer, y: Output<'_>) {
        let elements = self.images * area(self.windows, |slide| slide.output) * self.outputs;
        let input = self.images * area(self.windows, |slide| slide.input) * self.channels;
        let taps = area(self.windows, |slide| slide.kernel);
        let aligned = x.is_aligned_to(WIDE * size_of::<X>())
            && y.buffer().is_aligned_to(WIDE * size_of::<Y>())
            && self.addend.is_none_or(|addend| addend.is_aligned_to(WIDE * size_of::<f32>()));
        let whole = self.channels.is_multiple_of(WIDE) && self.fold != Fold::Grouped;
        let wide = if whole && aligned { WIDE } else { 1 };
        let x_argument = x.argument::<X>("images: x", input);
        let y_argument = y.buffer().argument::<Y>("images: y", elements);
        // Nothing reads what is not there.
        let or_x = |name: &str, buffer: Option<&Buffer>, elements: usize| match buffer {
            Some(buffer) => buffer.argument::<f32>(name, elements),
            None => x.argument::<X>("images: x", input),
        };
        let [channels, outputs] = self.groups;
        let integers = self.filters.and_then(|filters| filters.integers);
        let weight = self.filters.map(|filters| filters.weight);
        let weight = or_x("images: weight", weight, taps * channels * self.outputs);
        let scales = or_x("images: scales", integers.map(|(_, scales)| scales), self.outputs);
        let bias = or_x("images: bias", self.filters.map(|filters| filters.bias), self.outputs);
        let addend = or_x("images: addend", self.addend, elements);
        if elements == 0 {
            return;
        }
        let (_, [alpha, beta]) = Curve::of(self.activation);
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
                scales,
                bias,
                addend,
                y_argument,
                WindowsLaunch::of(self.windows, self.channels / wide),
                GroupsLaunch::new(channels, outputs),
                self.outputs / wide,
                f32::from(integers.map_or(0, |(zero_point, _)| zero_point)),
                StepsLaunch::of(y.to()),
                alpha,
                beta,
                self.form(y),
            );
        };
    }
}
