//! Convolution with images and filters rounded to bf16: the linear layer of [`crate::bf16`] on windows.

use std::borrow::Cow;
use std::cell::Cell;

use super::conv::{
    by_tap, for_each_image, is_every_pixel, needs_copy, pad, padded_len, places, segments, turned,
};
use super::depthwise::{Depthwise, depthwise};
use crate::activation::Activation;
use crate::bf16::{
    Groups, Input, Layer, PARALLEL_WORK, PackedBf16, linear_bf16_into, linear_of_windows,
    round_piece,
};
use crate::conv::Conv2d;
use crate::float::Left;
use crate::int8::Output;
use crate::parallel::{self, LINE, check_len, check_shape};
use crate::scratch::lend;
use crate::tier::Cpu;
use crate::window::Slide;

thread_local! {
    /// An image with its padding.
    static PADDED: Cell<Vec<u16>> = const { Cell::new(Vec::new()) };
    /// One that is rounded before it gets it.
    static ROUNDED: Cell<Vec<u16>> = const { Cell::new(Vec::new()) };
}

/// Filters, laid out for [`bf16_conv2d`].
#[derive(Clone, Debug, PartialEq)]
pub struct Bf16Filters {
    outputs: usize,
    inner: usize,
    taps: usize,
    groups: usize,
    layout: Layout,
}

#[derive(Clone, Debug, PartialEq)]
enum Layout {
    /// For each group, or several that are taken for one, the weights `[taps·inner, outputs]`.
    Products(Vec<PackedBf16>),
    /// `[taps, outputs]`, where every output sees one channel of its own. In `f32`: they are few.
    Depthwise(Vec<f32>),
}

impl Bf16Filters {
    /// Packs filters.
    ///
    /// # Shapes
    /// `weight`: `[outputs, inner, taps]`: so many channels that an output sees, and elements of a
    /// window in one of them.
    ///
    /// # Panics
    /// When the length differs, or `groups` does not divide the outputs.
    #[must_use]
    pub fn new(weight: &[f32], [outputs, inner, taps]: [usize; 3], groups: usize) -> Self {
        let layout = if let Some(weights) = by_tap(weight, [outputs, inner, taps], groups) {
            Layout::Depthwise(weights)
        } else {
            let of_group = outputs / groups;
            let together = together(groups, of_group);
            let (outputs, inner) = (of_group * together, inner * together);
            let k = inner * taps;
            let len = of_group * k;
            let pack = |index: usize| {
                let filters = &weight[index * len..][..len];
                let filters = side_by_side(filters, [of_group, k / together], together);
                PackedBf16::new(&turned(&filters, inner, taps), [k, outputs], [1, k])
            };
            Layout::Products((0..groups / together).map(pack).collect())
        };
        Self { outputs, inner, taps, groups, layout }
    }

    /// Channels that a row of products has from each tap, where groups of so many channels and outputs are
    /// many.
    #[must_use]
    pub fn channels_of_row(groups: usize, [inner, outputs]: [usize; 2]) -> usize {
        inner * together(groups, outputs)
    }

    /// Bytes held.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match &self.layout {
            Layout::Products(groups) => groups.iter().map(PackedBf16::size_bytes).sum(),
            Layout::Depthwise(weights) => size_of_val(weights.as_slice()),
        }
    }
}

/// Outputs from which on a group has panels of weights of its own.
const PANEL: usize = 16;

/// How many groups are taken for one, whose filters are 0 where they see channels of others: a panel of
/// products takes as long with fewer outputs. What is infinite or no number in one of them, is no number in the
/// results of all.
fn together(groups: usize, outputs: usize) -> usize {
    let fit = |&count: &usize| groups.is_multiple_of(count) && count * outputs <= PANEL;
    (1..=groups.min(PANEL)).filter(fit).max().unwrap_or(1)
}

/// The filters of several groups, so many of so many elements, as filters of all their channels.
fn side_by_side(filters: &[f32], [outputs, len]: [usize; 2], groups: usize) -> Cow<'_, [f32]> {
    if groups == 1 {
        return filters.into();
    }
    let mut all = vec![0.0; filters.len() * groups];
    for (index, filter) in filters.chunks_exact(len.max(1)).enumerate() {
        all[(index * groups + index / outputs) * len..][..len].copy_from_slice(filter);
    }
    all.into()
}

/// What [`bf16_conv2d`] applies to each window.
#[derive(Clone, Copy, Debug)]
pub struct Bf16Conv<'a> {
    /// The filters.
    pub weight: &'a Bf16Filters,
    /// Added to the products, `[outputs]`.
    pub bias: Option<&'a [f32]>,
    /// What is added to the sums, laid out like the result.
    pub addend: Option<Input<'a>>,
    /// Applied last.
    pub activation: Activation,
}

/// Elements of scratch that [`bf16_conv2d`] needs: an image with the padding around it, where it has to be
/// rounded or padded before it is multiplied. Does not depend on the batch.
#[must_use]
pub fn bf16_scratch_len(conv: &Conv2d, is_rounded: bool) -> usize {
    let is_depthwise = conv.channels == conv.groups && conv.outputs == conv.groups;
    if is_depthwise || conv.groups == 1 && is_every_pixel(conv) {
        0
    } else if needs_copy(conv) {
        padded_len(conv)
    } else if is_rounded {
        0
    } else {
        conv.image().saturating_mul(conv.channels)
    }
}

/// `y = activation(x ∗ weight + bias + addend)` with x and weight rounded to bf16 and sums in `f32`; where
/// a filter sees one channel, and no other filter does, nothing is rounded but the result, if it is bf16.
/// See [`crate::bf16`] for the error and for what tiers agree on.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels]`
/// - `y`: `[batch, windows[0].output, windows[1].output, outputs]`
/// - `scratch`: [`bf16_scratch_len`], of which any content is left
///
/// # Panics
/// When a size differs, or y is to be int8 and the filters see a channel each.
pub fn bf16_conv2d(
    cpu: Cpu,
    conv: &Conv2d,
    x: Input<'_>,
    filters: &Bf16Conv<'_>,
    y: Output<'_>,
    scratch: &mut [u16],
) {
    conv.windows.iter().for_each(Slide::check);
    let weight = filters.weight;
    assert_eq!(
        [conv.outputs, conv.channels, conv.groups, conv.taps()],
        [weight.outputs, weight.inner * weight.groups, weight.groups, weight.taps],
        "bf16_conv2d: outputs, channels, groups and taps"
    );
    let [rows, columns] = &conv.windows;
    check_shape("bf16_conv2d: x", x.len(), &[conv.batch, rows.input, columns.input, conv.channels]);
    let is_rounded = matches!(x, Input::Bf16(_));
    check_len("bf16_conv2d: scratch", scratch.len(), bf16_scratch_len(conv, is_rounded));
    let outputs = [conv.batch, rows.output, columns.output, conv.outputs];
    let len = match &y {
        Output::F32(y) => y.len(),
        Output::Bf16(y) => y.len(),
        Output::Int8(y, _) => y.len(),
    };
    check_shape("bf16_conv2d: y", len, &outputs);
    if let Some(addend) = filters.addend {
        check_len("bf16_conv2d: addend", addend.len(), len);
    }
    if let Some(bias) = filters.bias {
        check_len("bf16_conv2d: bias", bias.len(), conv.outputs);
    }
    if len == 0 {
        return;
    }
    match &weight.layout {
        Layout::Products(weights) => {
            let products = Products { cpu, conv, x, weights, filters };
            match y {
                Output::F32(y) => products.images(y, |y| Output::F32(y), scratch),
                Output::Bf16(y) => products.images(y, |y| Output::Bf16(y), scratch),
                Output::Int8(y, to) => products.images(y, |y| Output::Int8(y, to), scratch),
            }
        }
        Layout::Depthwise(weights) => {
            let Bf16Conv { bias, addend, activation, .. } = *filters;
            let filters = Depthwise { weights, bias, addend, activation };
            match (x, y) {
                (Input::F32(x), Output::F32(y)) => depthwise(cpu, conv, x, &filters, y),
                (Input::F32(x), Output::Bf16(y)) => depthwise(cpu, conv, x, &filters, y),
                (Input::Bf16(x), Output::F32(y)) => depthwise(cpu, conv, x, &filters, y),
                (Input::Bf16(x), Output::Bf16(y)) => depthwise(cpu, conv, x, &filters, y),
                (_, Output::Int8(..)) => panic!("filters of a channel each write no int8"),
            }
        }
    }
}

/// A convolution with its operands, whose sizes were checked.
struct Products<'a> {
    cpu: Cpu,
    conv: &'a Conv2d,
    x: Input<'a>,
    /// Of one group after another.
    weights: &'a [PackedBf16],
    filters: &'a Bf16Conv<'a>,
}

impl Products<'_> {
    /// Elements of a window that a filter sees.
    fn k(&self) -> usize {
        self.weights.first().map_or(0, PackedBf16::inputs)
    }

    fn images<T: Send>(
        &self,
        y: &mut [T],
        output: impl for<'o> Fn(&'o mut [T]) -> Output<'o> + Sync,
        scratch: &mut [u16],
    ) {
        let Conv2d { batch, outputs, .. } = *self.conv;
        let positions = self.conv.positions();
        if let [weights] = self.weights
            && is_every_pixel(self.conv)
        {
            // The pixels of all images, one after another.
            let Bf16Conv { bias, addend, activation, .. } = *self.filters;
            let layer = Layer { weights, bias, addend, activation };
            linear_bf16_into(self.cpu, self.x, batch * positions, &layer, output(y));
            return;
        }
        let of_image = positions.saturating_mul(outputs).saturating_mul(self.k());
        let (len, work) = (positions * outputs, [of_image, PARALLEL_WORK]);
        for_each_image(y, len, work, (scratch, &PADDED), |image, y, scratch| {
            self.image(image, y, &output, scratch);
        });
    }

    fn image<T>(
        &self,
        index: usize,
        y: &mut [T],
        output: &impl for<'o> Fn(&'o mut [T]) -> Output<'o>,
        scratch: &mut [u16],
    ) {
        let conv = self.conv;
        let len = conv.image() * conv.channels;
        let image = match (part(self.x, index * len, len), needs_copy(conv)) {
            (Input::Bf16(image), false) => image,
            (Input::Bf16(image), true) => {
                pad(conv, image, 0, scratch);
                scratch
            }
            (Input::F32(image), false) => {
                parallel::map(image, scratch, LINE, |x, y| round_piece(self.cpu, x, y));
                scratch
            }
            (Input::F32(image), true) => {
                lend(&ROUNDED, len, |rounded| {
                    parallel::map(image, rounded, LINE, |x, y| round_piece(self.cpu, x, y));
                    pad(conv, rounded, 0, scratch);
                });
                scratch
            }
        };
        let inner = conv.channels / self.weights.len().max(1);
        let segments = segments(conv, inner);
        let windows = Left::new(image, places(conv), conv.positions(), segments, self.k());
        let Bf16Conv { bias, addend, activation, .. } = *self.filters;
        let addend = addend.map(|addend| part(addend, index * y.len(), y.len()));
        let groups = Groups { weights: self.weights, step: inner, bias, addend, activation };
        linear_of_windows(self.cpu, windows, &groups, output(y));
    }
}

fn part(numbers: Input<'_>, start: usize, len: usize) -> Input<'_> {
    match numbers {
        Input::F32(numbers) => Input::F32(&numbers[start..][..len]),
        Input::Bf16(numbers) => Input::Bf16(&numbers[start..][..len]),
    }
}
