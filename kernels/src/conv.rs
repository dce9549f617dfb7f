#![allow(unsafe_code, reason = "tiles of one result are written by different threads")]
//! `f32` convolution of images: bias and activation in the same pass over the result.
//!
//! The windows of some positions of the output are laid out as the columns of a matrix (Chellapilla
//! et al. 2006), in the panels that the products of [`crate::float`] read, and the filters are
//! multiplied with them as they are.

use std::ops::Range;

use crate::activation::Activation;
use crate::depthwise::depthwise;
use crate::float::{DEPTH, Line, PANEL, Rectangle, Rows, Start};
use crate::parallel::{self, Shared, check_len};
use crate::tier::Cpu;
use crate::window::Slide;

/// Multiply-adds below which one thread is faster.
pub const PARALLEL_WORK: usize = 1 << 17;

/// Pieces that run at the same time at most: each has its own columns.
const PARTS: usize = 16;

/// Elements of a tile's columns: what a core's second-level cache holds beside the filters.
const TILE: usize = 64 * 1024;

/// Panels of a tile: enough to pay for reading the filters, few enough to leave work for other
/// threads.
const TILE_PANELS: [usize; 2] = [8, 32];

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Number of images.
    pub batch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Parts of the channels and outputs that do not see each other, > 0; divides both.
    pub groups: usize,
    /// How windows slide along height and width.
    pub windows: [Slide; 2],
}

/// What is applied to each window.
#[derive(Clone, Copy, Debug)]
pub struct Filters<'a> {
    /// `[outputs, channels / groups, kernel height, kernel width]`
    pub weight: &'a [f32],
    /// `[outputs]`
    pub bias: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

impl Conv2d {
    /// Elements of a channel of the input.
    pub(crate) fn image(&self) -> usize {
        self.windows[0].input.saturating_mul(self.windows[1].input)
    }

    /// Elements of a channel of the output.
    pub(crate) fn positions(&self) -> usize {
        self.windows[0].output.saturating_mul(self.windows[1].output)
    }

    /// Elements of a window in one channel.
    pub(crate) fn taps(&self) -> usize {
        self.windows[0].kernel.saturating_mul(self.windows[1].kernel)
    }

    /// Channels that an output sees.
    fn inner(&self) -> usize {
        self.channels / self.groups
    }

    /// Elements of a window in all channels that an output sees.
    pub(crate) fn depth(&self) -> usize {
        self.inner().saturating_mul(self.taps())
    }

    /// The parts of the channels that an output sees, in order: the windows in one have about
    /// [`DEPTH`] elements at most.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let inner = self.inner();
        let count = self.depth().div_ceil(DEPTH).min(inner).max(1);
        (0..count).map(move |part| part * inner / count..(part + 1) * inner / count)
    }

    /// Panels of a tile, about the same in each.
    fn tile_panels(&self) -> usize {
        let panels = self.positions().div_ceil(PANEL).max(1);
        panels.div_ceil(panels.div_ceil(most_panels(self.depth())))
    }

    /// Lines of a tile's columns.
    fn tile_lines(&self) -> usize {
        self.tile_panels().saturating_mul(self.depth())
    }

    fn tiles(&self) -> usize {
        let per_group = self.positions().div_ceil(self.tile_panels() * PANEL);
        self.batch.saturating_mul(self.groups).saturating_mul(per_group)
    }

    /// Elements of scratch with which [`conv2d`] keeps all threads busy; stops growing with the
    /// batch.
    #[must_use]
    pub fn scratch_len(&self) -> usize {
        if self.inner() == 1 {
            return 0;
        }
        scratch_elements(PARTS.min(self.tiles()).saturating_mul(self.tile_lines()))
    }

    /// What [`Conv2d::scratch_len`] does not exceed for any number and size of images, when
    /// windows have `depth` elements.
    #[must_use]
    pub fn scratch_bound(depth: usize) -> usize {
        scratch_elements(PARTS.saturating_mul(most_panels(depth)).saturating_mul(depth))
    }

    #[track_caller]
    fn check(&self, x: &[f32], filters: &Filters<'_>, y: &[f32]) {
        self.windows.iter().for_each(Slide::check);
        assert!(
            self.groups > 0
                && self.channels.is_multiple_of(self.groups)
                && self.outputs.is_multiple_of(self.groups),
            "expected channels and outputs in {} groups, found {} and {}",
            self.groups,
            self.channels,
            self.outputs
        );
        check_len("conv2d: x", x.len(), self.batch * self.channels * self.image());
        check_len("conv2d: weight", filters.weight.len(), self.outputs * self.depth());
        check_len("conv2d: y", y.len(), self.batch * self.outputs * self.positions());
        if let Some(bias) = filters.bias {
            check_len("conv2d: bias", bias.len(), self.outputs);
        }
    }
}

fn most_panels(depth: usize) -> usize {
    (TILE / depth.max(1) / PANEL).clamp(TILE_PANELS[0], TILE_PANELS[1])
}

/// Elements in which so many lines can be found, wherever they start.
fn scratch_elements(lines: usize) -> usize {
    if lines == 0 { 0 } else { lines.saturating_mul(PANEL).saturating_add(PANEL - 1) }
}

/// The whole lines of a slice.
fn lines(elements: &mut [f32]) -> &mut [Line] {
    // SAFETY: a line is 16 elements without padding, and any bits are one.
    unsafe { elements.align_to_mut().1 }
}

/// `y = activation(x ∗ weight + bias)`.
///
/// Every element is one chain of fused multiply-adds that starts at the bias, over channels, rows
/// and columns of its window, as those of [`crate::float`]; where a filter sees one channel, it is
/// a sum of rounded products to which the bias is added last.
///
/// `scratch` holds whatever on return; its length sets how many threads can work at once, and
/// changes no result.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - `y`: `[batch, outputs, windows[0].output, windows[1].output]`
/// - `scratch`: [`Conv2d::scratch_len`] or less
///
/// # Panics
/// When a size differs, or `scratch` is too short for a single tile.
pub fn conv2d(
    cpu: Cpu,
    conv: &Conv2d,
    x: &[f32],
    filters: &Filters<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    conv.check(x, filters, y);
    if y.is_empty() {
        return;
    }
    if conv.inner() == 1 {
        depthwise(cpu, conv, x, filters, y);
        return;
    }
    let (found, scratch) = (scratch.len(), lines(scratch));
    let (tiles, tile_lines) = (conv.tiles(), conv.tile_lines());
    let room = scratch.len().checked_div(tile_lines).unwrap_or(PARTS);
    let needed = scratch_elements(tile_lines);
    assert!(room > 0, "conv2d: scratch: expected {needed} elements at least, found {found}");
    let (shared, scratch) = (Shared::new(y), Shared::new(scratch));
    let product = Product { cpu, conv, x, filters, y: shared, columns: scratch };
    let filters = conv.outputs / conv.groups;
    let parallel = y.len().saturating_mul(conv.depth()) >= PARALLEL_WORK;
    if parallel && tiles < PARTS && tiles <= room {
        // Too few tiles for many threads, which share columns then, and take filters of each.
        let cuts = PARTS.div_ceil(tiles);
        let cut = |all: usize, part: usize| part * all / cuts..(part + 1) * all / cuts;
        parallel::for_each(tiles * cuts, |index| {
            let (tile, part) = (index / cuts, index % cuts);
            product.fill(tile, tile, cut(conv.tile_panels(), part));
        });
        parallel::for_each(tiles * cuts, |index| {
            let (tile, part) = (index / cuts, index % cuts);
            product.multiply(tile, tile, cut(filters, part));
        });
        return;
    }
    let parts = if parallel { PARTS.min(tiles).min(room) } else { 1 };
    parallel::for_each(parts, |part| {
        for tile in part * tiles / parts..(part + 1) * tiles / parts {
            product.fill(tile, part, 0..conv.tile_panels());
            product.multiply(tile, part, 0..filters);
        }
    });
}

/// A convolution as products of filters and columns; all sizes were checked.
struct Product<'a> {
    cpu: Cpu,
    conv: &'a Conv2d,
    x: &'a [f32],
    filters: &'a Filters<'a>,
    y: Shared<f32>,
    /// Room for the columns of some tiles.
    columns: Shared<Line>,
}

/// Some positions of the outputs of a group of an image.
#[derive(Clone, Copy)]
struct Tile {
    image: usize,
    group: usize,
    start: usize,
    len: usize,
}

impl Tile {
    fn new(conv: &Conv2d, index: usize) -> Self {
        let most = conv.tile_panels() * PANEL;
        let per_group = conv.positions().div_ceil(most);
        let (image_group, start) = (index / per_group, index % per_group * most);
        let len = most.min(conv.positions() - start);
        Self { image: image_group / conv.groups, group: image_group % conv.groups, start, len }
    }

    fn panels(&self) -> usize {
        self.len.div_ceil(PANEL)
    }

    /// Where the lines of a part of the channels start, of a tile at place `place`.
    fn lines(&self, place: usize, conv: &Conv2d, part: &Range<usize>) -> usize {
        place * conv.tile_lines() + part.start * conv.taps() * self.panels()
    }
}

impl Product<'_> {
    /// Lays out the windows of some panels of a tile, at place `place` of the columns: part of the
    /// channels after part, each in panels.
    fn fill(&self, tile: usize, place: usize, panels: Range<usize>) {
        let conv = self.conv;
        let tile = Tile::new(conv, tile);
        let (image, taps) = (conv.image(), conv.taps());
        let group = tile.image * conv.groups + tile.group;
        let x = &self.x[group * conv.inner() * image..][..conv.inner() * image];
        for part in conv.parts() {
            let x = &x[part.start * image..part.end * image];
            for panel in panels.start..panels.end.min(tile.panels()) {
                let start = tile.lines(place, conv, &part) + panel * part.len() * taps;
                // SAFETY: place < room and panel < the tile's, so that the range lies in the
                // columns; nobody else has this panel at this place.
                let lines = unsafe { self.columns.range(start, part.len() * taps) };
                let first = tile.start + panel * PANEL;
                fill_panel(conv, x, first..(first + PANEL).min(tile.start + tile.len), lines);
            }
        }
    }

    /// Some filters of the tile's group, on the columns at place `place`.
    fn multiply(&self, tile: usize, place: usize, filters: Range<usize>) {
        let conv = self.conv;
        let tile = Tile::new(conv, tile);
        let (depth, taps, positions) = (conv.depth(), conv.taps(), conv.positions());
        let first = tile.group * (conv.outputs / conv.groups);
        let outputs = first + filters.start..first + filters.end;
        if outputs.is_empty() {
            return;
        }
        let Filters { weight, bias, activation } = *self.filters;
        for part in conv.parts() {
            let is_last = part.end == conv.inner();
            let rectangle = Rectangle {
                y: self.y,
                first: (tile.image * conv.outputs + outputs.start) * positions + tile.start,
                stride: positions,
                columns: tile.len,
                start: match bias {
                    _ if part.start > 0 => Start::Result,
                    Some(bias) => Start::RowBias(&bias[outputs.clone()]),
                    None => Start::Zeros,
                },
                addend: None,
                activation: if is_last { activation } else { Activation::Identity },
            };
            let weight = &weight[outputs.start * depth + part.start * taps..outputs.end * depth];
            let weight = Rows::new(weight, outputs.len(), part.len() * taps, depth);
            let start = tile.lines(place, conv, &part);
            // SAFETY: as in `fill`, which is done with the columns at this place.
            let columns = unsafe { self.columns.read(start, tile.panels() * part.len() * taps) };
            // SAFETY: the columns are positions of the tile in planes of y, whose length
            // `Conv2d::check` compared; nobody else has these outputs of this tile.
            unsafe { rectangle.multiply(self.cpu, weight, columns) };
        }
    }
}

/// Writes the windows at some positions, at most [`PANEL`], as columns: one line an element of the
/// window, zeros behind the last position.
///
/// # Shapes
/// `x`: `[inner, height, width]`; `lines`: `[inner, kernel height, kernel width]`.
fn fill_panel(conv: &Conv2d, x: &[f32], positions: Range<usize>, lines: &mut [Line]) {
    let [rows, across] = &conv.windows;
    if positions.len() < PANEL || x.is_empty() {
        lines.fill(Line::default());
    }
    if x.is_empty() {
        return;
    }
    let mut position = positions.start;
    while position < positions.end {
        let (row, column) = (position / across.output, position % across.output);
        let count = (positions.end - position).min(across.output - column);
        let lane = position - positions.start;
        for entry in 0..conv.taps() {
            let (row_entry, column_entry) = (entry / across.kernel, entry % across.kernel);
            let lines = lines[entry..].iter_mut().step_by(conv.taps());
            let Some(row) = rows.place(row, row_entry) else {
                lines.for_each(|line| line.0[lane..lane + count].fill(0.0));
                continue;
            };
            let inside = across.windows(column_entry);
            let start = inside.start.clamp(column, column + count);
            let end = inside.end.clamp(start, column + count);
            let first = row * across.input
                + (start * across.stride + column_entry * across.dilation)
                    .saturating_sub(across.before);
            let segment = Segment {
                lanes: lane..lane + count,
                inside: lane + start - column..lane + end - column,
                stride: across.stride,
            };
            let channels = x.chunks_exact(conv.image()).map(|x| &x[first.min(x.len())..]);
            lines.zip(channels).for_each(|(line, x)| segment.copy(x, line));
        }
        position += count;
    }
}

/// Where a row of the input goes in a line.
struct Segment {
    /// The lanes that belong to the row.
    lanes: Range<usize>,
    /// Those of them that lie in the input; the others are padding.
    inside: Range<usize>,
    /// Distance in the input from lane to lane.
    stride: usize,
}

impl Segment {
    /// Copies from `x`, which starts at the first lane inside.
    fn copy(&self, x: &[f32], line: &mut Line) {
        let Self { lanes, inside, stride } = self;
        match (*stride, inside.len()) {
            (1, PANEL) => {
                if let Some(x) = x.first_chunk() {
                    line.0 = *x;
                    return;
                }
            }
            (2, PANEL) => {
                if let Some(x) = x.first_chunk::<{ 2 * PANEL - 1 }>() {
                    line.0 = std::array::from_fn(|lane| x[2 * lane]);
                    return;
                }
            }
            _ => {}
        }
        line.0[lanes.start..inside.start].fill(0.0);
        line.0[inside.end..lanes.end].fill(0.0);
        let line = &mut line.0[inside.clone()];
        if *stride == 1 {
            line.iter_mut().zip(x).for_each(|(line, &x)| *line = x);
        } else {
            line.iter_mut().zip(x.iter().step_by(*stride)).for_each(|(line, &x)| *line = x);
        }
    }
}
