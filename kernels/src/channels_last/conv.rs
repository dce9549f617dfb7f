#![allow(unsafe_code, reason = "blocks of one row-major result are written by different threads")]
//! Convolution: every output position is a row of a product whose left side is the image.

use std::cell::Cell;
use std::ops::Range;

use super::depthwise::{Depthwise, depthwise};
use super::few;
use crate::activation::Activation;
use crate::bf16::Input;
use crate::conv::{Conv2d, PARALLEL_WORK};
use crate::float::{Grid, Left, PANEL, PackedWeights, Rectangle, Start, for_each_block};
use crate::parallel::{self, Shared, check_len, check_shape, rows_per_chunk};
use crate::scratch::{Kept, lend};
use crate::tier::Cpu;
use crate::window::Slide;

/// Filters `[outputs, inner, taps]` as `[taps, outputs]`, where every output sees one channel of its own.
///
/// # Panics
/// When the length differs, or `groups` does not divide the outputs.
pub(super) fn by_tap(
    weight: &[f32],
    [outputs, inner, taps]: [usize; 3],
    groups: usize,
) -> Option<Vec<f32>> {
    check_len("filters: weight", weight.len(), outputs * inner * taps);
    assert!(
        groups > 0 && outputs.is_multiple_of(groups),
        "expected outputs in {groups} groups, found {outputs}"
    );
    let tap_of = |place: usize| weight[place % outputs * taps + place / outputs];
    (inner == 1 && outputs == groups).then(|| (0..taps * outputs).map(tap_of).collect())
}

/// Filters, laid out for [`conv2d`].
#[derive(Clone, Debug, PartialEq)]
pub struct PackedFilters {
    outputs: usize,
    inner: usize,
    taps: usize,
    groups: usize,
    layout: Layout,
}

#[derive(Clone, Debug, PartialEq)]
enum Layout {
    /// For each group the weights `[taps·inner, outputs / groups]`.
    Products(Vec<PackedWeights>),
    /// `[taps, outputs]`, where every output sees one channel of its own.
    Depthwise(Vec<f32>),
    /// `[outputs, taps·inner]`, where there is one group of few outputs.
    Few(Vec<f32>),
}

impl PackedFilters {
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
        } else if groups == 1 && few::are_few(outputs, inner * taps) {
            Layout::Few(turned(weight, inner, taps))
        } else {
            let (outputs, k) = (outputs / groups, inner * taps);
            let pack = |group: usize| {
                let filters = &weight[group * outputs * k..][..outputs * k];
                let turned = turned(filters, inner, taps);
                PackedWeights::new(&turned, [k, outputs], [1, k])
            };
            Layout::Products((0..groups).map(pack).collect())
        };
        Self { outputs, inner, taps, groups, layout }
    }

    /// Bytes held.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match &self.layout {
            Layout::Products(groups) => groups.iter().map(PackedWeights::size_bytes).sum(),
            Layout::Depthwise(weights) | Layout::Few(weights) => size_of_val(weights.as_slice()),
        }
    }
}

/// Filters of channels that each have taps, as filters of taps that each have channels.
pub(super) fn turned<T: Copy>(filters: &[T], channels: usize, taps: usize) -> Vec<T> {
    let k = channels * taps;
    let element = |place: usize| {
        let (filter, tap, channel) = (place / k, place % k / channels, place % channels);
        filters[filter * k + channel * taps + tap]
    };
    (0..filters.len()).map(element).collect()
}

/// What is applied to each window.
#[derive(Clone, Copy, Debug)]
pub struct Filters<'a> {
    /// The filters.
    pub weight: &'a PackedFilters,
    /// Added to the products, `[outputs]`.
    pub bias: Option<&'a [f32]>,
    /// What is added to the sums, laid out like the result.
    pub addend: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

/// Whether windows reach into padding.
fn is_padded(slide: &Slide) -> bool {
    slide.before > 0 || slide.reached() > slide.input
}

/// Whether windows read a copy of an image that has its padding around it.
pub(super) fn needs_copy(conv: &Conv2d) -> bool {
    conv.windows.iter().any(is_padded)
}

/// Pixels of a row that windows read, of an image or of its copy.
fn width(conv: &Conv2d) -> usize {
    let columns = &conv.windows[1];
    if needs_copy(conv) { columns.reached() } else { columns.input }
}

/// Where windows start.
pub(super) fn places(conv: &Conv2d) -> Grid {
    let [rows, columns] = &conv.windows;
    let steps = [rows.stride * width(conv), columns.stride].map(|pixels| pixels * conv.channels);
    Grid { across: columns.output, steps }
}

/// Where the segments of a window start that sees `inner` channels, and how long they are.
pub(super) fn segments(conv: &Conv2d, inner: usize) -> (Grid, usize) {
    let Conv2d { channels, windows: [rows, columns], .. } = *conv;
    let line = rows.dilation * width(conv);
    if inner == channels && columns.dilation == 1 {
        return (Grid::line(line * channels), columns.kernel * channels);
    }
    let steps = [line, columns.dilation].map(|pixels| pixels * channels);
    (Grid { across: columns.kernel, steps }, inner)
}

/// Whether windows are the pixels of an image, one after another.
pub(super) fn is_every_pixel(conv: &Conv2d) -> bool {
    let [rows, columns] = &conv.windows;
    let places = [rows, columns].map(|slide| (slide.stride, slide.output, slide.before));
    conv.taps() == 1 && places == [(1, rows.input, 0), (1, columns.input, 0)]
}

/// Elements of scratch that [`conv2d`] needs: an image with the padding around it, where there is
/// some. Does not depend on the batch.
#[must_use]
pub fn scratch_len(conv: &Conv2d) -> usize {
    if !needs_copy(conv) || conv.channels == conv.groups && conv.outputs == conv.groups {
        return 0;
    }
    padded_len(conv)
}

/// Elements of an image with the padding around it, as far as windows reach.
pub(super) fn padded_len(conv: &Conv2d) -> usize {
    let [rows, columns] = conv.windows.each_ref().map(Slide::reached);
    rows.saturating_mul(columns).saturating_mul(conv.channels)
}

fn check(conv: &Conv2d, x: &[f32], filters: &Filters<'_>, y: &[f32]) {
    conv.windows.iter().for_each(Slide::check);
    let weight = filters.weight;
    assert!(
        [conv.outputs, conv.channels, conv.groups, conv.taps()]
            == [weight.outputs, weight.inner * weight.groups, weight.groups, weight.taps],
        "expected the sizes of {conv:?}, found {} filters in {} groups of {} channels and {} taps",
        weight.outputs,
        weight.groups,
        weight.inner,
        weight.taps
    );
    let [rows, columns] = &conv.windows;
    check_shape("conv2d: x", x.len(), &[conv.batch, rows.input, columns.input, conv.channels]);
    check_shape("conv2d: y", y.len(), &[conv.batch, rows.output, columns.output, conv.outputs]);
    if let Some(bias) = filters.bias {
        check_len("conv2d: bias", bias.len(), conv.outputs);
    }
    if let Some(addend) = filters.addend {
        check_len("conv2d: addend", addend.len(), y.len());
    }
}

/// `y = activation(x ∗ weight + bias + addend)`.
///
/// Every element is one chain of fused multiply-adds that starts at the bias, over rows and columns
/// of its window and the channels there; where a filter sees one channel, and no other filter does, it
/// is a sum of rounded products to which bias and addend are added last. Of few filters it is 16 such
/// chains, which are added up before the bias is.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels]`
/// - `y`: `[batch, windows[0].output, windows[1].output, outputs]`
/// - `scratch`: [`scratch_len`], of which any content is left
///
/// # Panics
/// When a size differs.
pub fn conv2d(
    cpu: Cpu,
    conv: &Conv2d,
    x: &[f32],
    filters: &Filters<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    check(conv, x, filters, y);
    check_len("conv2d: scratch", scratch.len(), scratch_len(conv));
    if y.is_empty() {
        return;
    }
    if let Layout::Depthwise(weights) = &filters.weight.layout {
        let Filters { bias, addend, activation, .. } = *filters;
        let addend = addend.map(Input::F32);
        depthwise(cpu, conv, x, &Depthwise { weights, bias, addend, activation }, y);
        return;
    }
    let product = Products { cpu, conv, filters, y: Shared::new(y) };
    if is_every_pixel(conv) {
        // The pixels of all images, one after another.
        product.run(x, Grid::line(conv.channels), 0, conv.batch * conv.positions());
        return;
    }
    let image_len = conv.image() * conv.channels;
    let image_of = |index: usize| &x[index * image_len..][..image_len];
    let of_image = conv.positions().saturating_mul(conv.outputs).saturating_mul(conv.depth());
    if of_image >= PARALLEL_WORK || of_image.saturating_mul(conv.batch) < PARALLEL_WORK {
        (0..conv.batch).for_each(|index| product.image(image_of(index), index, scratch));
        return;
    }
    // Each is too small for many threads: they take images.
    let at_once = PARALLEL_WORK.div_ceil(of_image.max(1));
    parallel::for_each(conv.batch.div_ceil(at_once), |piece| {
        lend(&PADDED, scratch_len(conv), |scratch| {
            for index in piece * at_once..conv.batch.min((piece + 1) * at_once) {
                product.image(image_of(index), index, scratch);
            }
        });
    });
}

thread_local! {
    static PADDED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs `image` with the index of each image, its result of `len` elements, and scratch. An image takes
/// `work` multiply-adds: from `least` on it finds threads itself. Where only all of them together reach
/// that, threads take images, with scratch of their own.
pub(super) fn for_each_image<T: Send, S: Copy + Default>(
    y: &mut [T],
    len: usize,
    [work, least]: [usize; 2],
    (scratch, kept): (&mut [S], &'static Kept<S>),
    image: impl Fn(usize, &mut [T], &mut [S]) + Sync,
) {
    if work >= least || work.saturating_mul(y.len() / len) < least {
        for (index, y) in y.chunks_mut(len).enumerate() {
            image(index, y, scratch);
        }
        return;
    }
    let (at_once, scratch_len) = (least.div_ceil(work.max(1)), scratch.len());
    parallel::for_each_chunk(y, at_once * len, |piece, y| {
        lend(kept, scratch_len, |scratch| {
            for (index, y) in y.chunks_mut(len).enumerate() {
                image(piece * at_once + index, y, scratch);
            }
        });
    });
}

/// Copies an image with its padding, elements `fill`, as far as windows reach.
pub(super) fn pad<T: Copy + Send + Sync>(conv: &Conv2d, image: &[T], fill: T, padded: &mut [T]) {
    let [rows, columns] = &conv.windows;
    let (channels, width) = (conv.channels, columns.reached());
    let copied = columns.input.min(width.saturating_sub(columns.before)) * channels;
    let before = columns.before.min(width) * channels;
    let len = (width * channels).max(1);
    parallel::for_each_row(padded, len, rows_per_chunk(len), |row, padded| {
        let row = row.checked_sub(rows.before).filter(|&row| row < rows.input);
        let Some(row) = row else {
            padded.fill(fill);
            return;
        };
        let (left, inside) = padded.split_at_mut(before);
        let (inside, right) = inside.split_at_mut(copied);
        left.fill(fill);
        inside.copy_from_slice(&image[row * columns.input * channels..][..copied]);
        right.fill(fill);
    });
}

/// The products of windows and the filters of each group; all sizes were checked.
struct Products<'a> {
    cpu: Cpu,
    conv: &'a Conv2d,
    filters: &'a Filters<'a>,
    y: Shared<f32>,
}

impl Products<'_> {
    /// The windows of one image.
    fn image(&self, image: &[f32], index: usize, scratch: &mut [f32]) {
        let (conv, positions) = (self.conv, self.conv.positions());
        if needs_copy(conv) {
            pad(conv, image, 0.0, scratch);
            self.run(scratch, places(conv), index * positions, positions);
        } else {
            self.run(image, places(conv), index * positions, positions);
        }
    }

    /// `count` windows, which start at these places of an image and are rows of y from `first` on.
    fn run(&self, image: &[f32], places: Grid, first: usize, count: usize) {
        let groups = match &self.filters.weight.layout {
            Layout::Products(groups) => groups.as_slice(),
            Layout::Few(weights) => return self.few(image, places, first..first + count, weights),
            Layout::Depthwise(_) => unreachable!("they are no products"),
        };
        let work = |weights: &PackedWeights| {
            count.saturating_mul(weights.inputs()).saturating_mul(weights.outputs())
        };
        let group = |group: usize| {
            self.group(image, places, first..first + count, (group, &groups[group]));
        };
        let of_group = groups.first().map_or(0, work);
        let are_many = of_group.saturating_mul(groups.len()) >= PARALLEL_WORK;
        if of_group < PARALLEL_WORK && are_many {
            parallel::for_each(groups.len(), group);
        } else {
            (0..groups.len()).for_each(group);
        }
    }

    /// The same with few filters.
    fn few(&self, image: &[f32], places: Grid, y_rows: Range<usize>, weights: &[f32]) {
        let Filters { weight, bias, addend, activation } = *self.filters;
        let (outputs, k) = (weight.outputs, weight.inner * weight.taps);
        let segments = segments(self.conv, weight.inner);
        let windows = Left::new(image, places, y_rows.len(), segments, k);
        let at_once = rows_per_chunk(few::steps(outputs, k));
        parallel::for_each(y_rows.len().div_ceil(at_once), |piece| {
            let rows = piece * at_once..y_rows.len().min((piece + 1) * at_once);
            let start = (y_rows.start + rows.start) * outputs;
            // SAFETY: the rows lie in y, whose length `check` compared; pieces are disjoint, so no
            // other thread touches them.
            let y = unsafe { self.y.range(start, rows.len() * outputs) };
            few::multiply(self.cpu, &windows.range(rows), weights, y);
            if let Some(bias) = bias {
                let rows = y.chunks_exact_mut(outputs);
                rows.for_each(|y| y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
            }
            if let Some(addend) = addend {
                y.iter_mut().zip(&addend[start..]).for_each(|(y, addend)| *y += addend);
            }
            activation.apply(self.cpu, y);
        });
    }

    fn group(
        &self,
        image: &[f32],
        places: Grid,
        y_rows: Range<usize>,
        (group, weights): (usize, &PackedWeights),
    ) {
        let inner = self.filters.weight.inner;
        let segments = segments(self.conv, inner);
        let image = image.get(group * inner..).unwrap_or_default();
        let windows = Left::new(image, places, y_rows.len(), segments, weights.inputs());
        for_each_block(y_rows.len(), weights, |rows, panels| {
            self.block(windows, y_rows.start, rows, (group, weights), panels);
        });
    }

    /// Some windows and outputs of a group.
    fn block(
        &self,
        windows: Left<'_>,
        first: usize,
        rows: Range<usize>,
        (group, weights): (usize, &PackedWeights),
        panels: Range<usize>,
    ) {
        let outputs = self.conv.outputs;
        let column = panels.start * PANEL;
        let columns = weights.outputs().min(panels.end * PANEL) - column;
        let output = group * weights.outputs() + column;
        for part in weights.parts() {
            let is_last = part.end == weights.inputs();
            let Filters { bias, addend, activation, .. } = *self.filters;
            let rectangle = Rectangle {
                y: self.y,
                first: (first + rows.start) * outputs + output,
                stride: outputs,
                columns,
                start: match bias {
                    _ if part.start > 0 => Start::Result,
                    Some(bias) => Start::Bias(&bias[output..output + columns]),
                    None => Start::Zeros,
                },
                addend: addend.filter(|_| is_last),
                activation: if is_last { activation } else { Activation::Identity },
            };
            let x = windows.part(&part).range(rows.clone());
            // SAFETY: rows and columns lie in y, whose length `check` compared; blocks are
            // disjoint, so no other thread touches them.
            unsafe { rectangle.multiply(self.cpu, x, weights.tile(&part, panels.clone())) };
        }
    }
}
