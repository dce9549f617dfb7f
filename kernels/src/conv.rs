#![allow(unsafe_code, reason = "tiles of one result are written by different threads")]
//! `f32` convolution of images: bias and activation in the same pass over the result.
//!
//! The windows of a tile of the output are laid out as the columns of a matrix (Chellapilla et
//! al. 2006), which the filters are multiplied with. Windows of one pixel are their own columns.

use rayon::prelude::*;

use crate::activation::Activation;
use crate::depthwise::depthwise;
use crate::matrix::{Matrix, gemm_into};
use crate::parallel::{Shared, check_len};
use crate::tier::{Cpu, tiered};
use crate::window::Slide;

/// Multiply-adds below which one thread is faster.
pub const PARALLEL_WORK: usize = 1 << 20;

/// Pieces that run at the same time at most: each has its own columns.
const PARTS: usize = 16;

/// Elements of a tile's columns: what a core's second-level cache holds beside the filters.
const TILE: usize = 64 * 1024;

/// Positions of the output in a tile: enough to pay for packing the filters, few enough to leave
/// work for other threads.
const TILE_POSITIONS: [usize; 2] = [128, 512];

/// Filters that another thread may take, where there are fewer tiles than parts: enough to pay for
/// packing the columns again.
const BLOCK_FILTERS: usize = 128;

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
    fn depth(&self) -> usize {
        self.inner().saturating_mul(self.taps())
    }

    fn needs_columns(&self) -> bool {
        self.inner() != 1 && !self.windows.iter().all(Slide::is_identity)
    }

    /// Positions in a tile, about the same in each.
    fn tile(&self) -> usize {
        let positions = self.positions().max(1);
        let tiles = positions.div_ceil(tile_positions(self.depth()));
        positions.div_ceil(tiles)
    }

    fn tiles(&self) -> usize {
        let per_group = self.positions().div_ceil(self.tile());
        self.batch.saturating_mul(self.groups).saturating_mul(per_group)
    }

    /// Elements of scratch with which [`conv2d`] keeps all threads busy; stops growing with the
    /// batch.
    #[must_use]
    pub fn scratch_len(&self) -> usize {
        if !self.needs_columns() {
            return 0;
        }
        PARTS.min(self.tiles()).saturating_mul(self.tile()).saturating_mul(self.depth())
    }

    /// What [`Conv2d::scratch_len`] does not exceed for any number and size of images, when
    /// windows have `depth` elements.
    #[must_use]
    pub fn scratch_bound(depth: usize) -> usize {
        PARTS.saturating_mul(tile_positions(depth)).saturating_mul(depth)
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

fn tile_positions(depth: usize) -> usize {
    (TILE / depth.max(1)).clamp(TILE_POSITIONS[0], TILE_POSITIONS[1])
}

/// `y = activation(x ∗ weight + bias)`.
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
    let tile_len = if conv.needs_columns() { conv.tile() * conv.depth() } else { 0 };
    let room = scratch.len().checked_div(tile_len).unwrap_or(PARTS);
    assert!(
        room > 0,
        "conv2d: scratch: expected {tile_len} elements at least, found {}",
        scratch.len()
    );
    let work = y.len().saturating_mul(conv.depth());
    let tiles = conv.tiles();
    let parts = if work < PARALLEL_WORK { 1 } else { PARTS.min(tiles).min(room) };
    let product =
        Product { cpu, conv, x, filters, y: Shared::new(y), parallel: work >= PARALLEL_WORK };
    let scratch = Shared::new(scratch);
    let part = |part: usize| {
        // SAFETY: part < room, so that the range lies in scratch; no other part has it.
        let columns = unsafe { scratch.range(part * tile_len, tile_len) };
        (part * tiles / parts..(part + 1) * tiles / parts)
            .for_each(|index| product.tile(index, columns));
    };
    if parts == 1 {
        part(0);
    } else {
        (0..parts).into_par_iter().for_each(part);
    }
}

/// A convolution as products of filters and columns; all sizes were checked.
struct Product<'a> {
    cpu: Cpu,
    conv: &'a Conv2d,
    x: &'a [f32],
    filters: &'a Filters<'a>,
    y: Shared<f32>,
    parallel: bool,
}

/// Part of the output: some positions of the outputs of a group of an image.
#[derive(Clone, Copy)]
struct Tile {
    image: usize,
    group: usize,
    start: usize,
    len: usize,
}

impl Product<'_> {
    fn tile(&self, index: usize, columns: &mut [f32]) {
        let conv = self.conv;
        let (positions, tile_len, inner) = (conv.positions(), conv.tile(), conv.inner());
        let per_group = positions.div_ceil(tile_len);
        let (image_group, start) = (index / per_group, index % per_group * tile_len);
        let len = tile_len.min(positions - start);
        let tile =
            Tile { image: image_group / conv.groups, group: image_group % conv.groups, start, len };
        let x = &self.x[image_group * inner * conv.image()..][..inner * conv.image()];
        let columns = if conv.needs_columns() {
            let columns = &mut columns[..conv.depth() * len];
            fill_columns(conv, x, &tile, columns);
            Matrix::row_major(columns, conv.depth(), len)
        } else {
            Matrix::row_major(x, inner, positions).column_range(start, len)
        };
        let filters = conv.outputs / conv.groups;
        let block = self.block_filters(filters);
        let blocks = filters.div_ceil(block);
        let multiply = |index: usize| {
            let first = index * block;
            self.multiply(&tile, columns, first, block.min(filters - first));
        };
        if blocks == 1 {
            multiply(0);
        } else {
            (0..blocks).into_par_iter().for_each(multiply);
        }
    }

    /// Filters that one thread takes of a tile.
    fn block_filters(&self, filters: usize) -> usize {
        let tiles = self.conv.tiles();
        if !self.parallel || tiles >= PARTS {
            return filters;
        }
        filters.div_ceil(PARTS.div_ceil(tiles)).next_multiple_of(BLOCK_FILTERS)
    }

    /// `count` filters of the tile's group, from `first` on.
    fn multiply(&self, tile: &Tile, columns: Matrix<'_>, first: usize, count: usize) {
        let (conv, filters) = (self.conv, self.filters);
        let (depth, positions) = (conv.depth(), conv.positions());
        let output = tile.group * (conv.outputs / conv.groups) + first;
        let start = (tile.image * conv.outputs + output) * positions + tile.start;
        if depth > 0 {
            let weight = &filters.weight[output * depth..][..count * depth];
            let weight = Matrix::row_major(weight, count, depth);
            // SAFETY: row r of the product are the tile's positions of output + r, which lie in
            // y, whose length `Conv2d::check` compared; tiles and blocks of filters are disjoint.
            unsafe { gemm_into(weight, columns, self.y, start, positions) };
        }
        for row in 0..count {
            // SAFETY: as above; the product of this block is done.
            let y = unsafe { self.y.range(start + row * positions, tile.len) };
            if depth == 0 {
                y.fill(0.0);
            }
            if let Some(bias) = filters.bias {
                add_number(self.cpu, y, bias[output + row]);
            }
            filters.activation.apply(self.cpu, y);
        }
    }
}

tiered! {
    fn add_number(y: &mut [f32], number: f32) {
        for y in y {
            *y += number;
        }
    }
}

/// Writes the windows of a tile as columns: one line an element of the window.
fn fill_columns(conv: &Conv2d, x: &[f32], tile: &Tile, columns: &mut [f32]) {
    let [rows, across] = &conv.windows;
    for (index, line) in columns.chunks_exact_mut(tile.len).enumerate() {
        let (channel, entry) = (index / conv.taps(), index % conv.taps());
        let (row_entry, column_entry) = (entry / across.kernel, entry % across.kernel);
        let x = &x[channel * conv.image()..][..conv.image()];
        let mut rest = line;
        let mut position = tile.start;
        while !rest.is_empty() {
            let (row, column) = (position / across.output, position % across.output);
            let count = rest.len().min(across.output - column);
            let (line, after) = rest.split_at_mut(count);
            match rows.place(row, row_entry) {
                Some(row) => {
                    let x = &x[row * across.input..][..across.input];
                    copy_entries(across, column_entry, x, column, line);
                }
                None => line.fill(0.0),
            }
            (rest, position) = (after, position + count);
        }
    }
}

/// The element at `entry` of each window from `first` on, 0 in the padding.
fn copy_entries(slide: &Slide, entry: usize, x: &[f32], first: usize, y: &mut [f32]) {
    let end = first + y.len();
    let inside = slide.windows(entry);
    let start = inside.start.clamp(first, end);
    let stop = inside.end.clamp(start, end);
    y[..start - first].fill(0.0);
    y[stop - first..].fill(0.0);
    if start == stop {
        return;
    }
    let y = &mut y[start - first..stop - first];
    let x = &x[start * slide.stride + entry * slide.dilation - slide.before..];
    if slide.stride == 1 {
        y.copy_from_slice(&x[..y.len()]);
    } else {
        y.iter_mut().zip(x.iter().step_by(slide.stride)).for_each(|(y, &x)| *y = x);
    }
}
