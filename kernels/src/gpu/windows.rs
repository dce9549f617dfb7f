//! Windows that slide over images, as kernels take them; those of images whose channels are last, as
//! the rows of a matrix that are gathered piece by piece as they are loaded (im2col, Chellapilla et
//! al. 2006).

use cubecl::prelude::*;

use super::epilogue::{Epilogue, Form, Loads, Sizes, load, padding};
use crate::Slide;

/// One number for height and one for width.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
pub(super) struct Pair {
    pub(super) y: usize,
    pub(super) x: usize,
}

/// How windows slide over images.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
pub(super) struct Windows {
    /// That a window sees of a pixel: channels, or pieces of channels; at least one.
    pub(super) channels: usize,
    pub(super) input: Pair,
    pub(super) kernel: Pair,
    pub(super) stride: Pair,
    pub(super) dilation: Pair,
    pub(super) before: Pair,
    pub(super) after: Pair,
    pub(super) output: Pair,
}

impl WindowsLaunch {
    pub(super) fn of(windows: &[Slide; 2], channels: usize) -> Self {
        let pair = |of: fn(&Slide) -> usize| PairLaunch::new(of(&windows[0]), of(&windows[1]));
        Self::new(
            channels.max(1),
            pair(|slide| slide.input),
            pair(|slide| slide.kernel),
            pair(|slide| slide.stride),
            pair(|slide| slide.dilation),
            pair(|slide| slide.before),
            pair(|slide| slide.after),
            pair(|slide| slide.output),
        )
    }
}

/// Entries, rows times columns, of what is counted of each window.
pub(super) fn area(windows: &[Slide; 2], of: fn(&Slide) -> usize) -> usize {
    windows.iter().map(of).product()
}

/// A place of the output.
#[derive(Clone, Copy, CubeType)]
pub(super) struct Position {
    pub(super) image: usize,
    pub(super) row: usize,
    pub(super) column: usize,
}

#[cube]
impl Windows {
    /// Where a pixel of the output lies.
    pub(super) fn position(&self, pixel: usize) -> Position {
        let (line, column) = (pixel / self.output.x, pixel % self.output.x);
        Position { image: line / self.output.y, row: line % self.output.y, column }
    }

    /// Whether a place of the padded image, down, lies in the image.
    pub(super) fn has_row(&self, y: usize) -> bool {
        y >= self.before.y && y < self.before.y + self.input.y
    }

    /// Whether a place of the padded image, across, lies in the image.
    pub(super) fn has_column(&self, x: usize) -> bool {
        x >= self.before.x && x < self.before.x + self.input.x
    }

    /// The pixel at a place of a padded image that lies in it.
    pub(super) fn pixel(&self, image: usize, y: usize, x: usize) -> usize {
        (image * self.input.y + y - self.before.y) * self.input.x + x - self.before.x
    }
}

/// Where the rows begin whose pieces a unit loads, as windows one for each load.
#[derive(CubeType)]
pub(super) struct Corners {
    /// Of the tile, among all.
    first_row: usize,
    image: Array<usize>,
    /// Places in the padded image.
    y: Array<usize>,
    x: Array<usize>,
}

#[cube]
pub(super) fn corners(
    first_row: usize,
    sizes: &Sizes,
    windows: &Windows,
    #[comptime] loads: Loads,
) -> Corners {
    let mut image = Array::<usize>::new(loads.count);
    let mut y = Array::<usize>::new(loads.count);
    let mut x = Array::<usize>::new(loads.count);
    #[unroll]
    for index in 0..loads.count {
        let place = UNIT_POS as usize + comptime!(index * loads.units);
        let row = first_row + place / loads.pieces;
        let position = windows.position(row);
        image[index] = position.image;
        // Behind the last row there are no images: nothing from here on lies in one, as long as no
        // window reaches 2³¹ places, which is for the caller to see to.
        let outside = windows.before.y + windows.input.y;
        y[index] = select(row < sizes.rows, position.row * windows.stride.y, outside);
        x[index] = position.column * windows.stride.x;
    }
    Corners { first_row, image, y, x }
}

/// Loads this unit's pieces of some windows, from `first_piece` on; `padding` around the images and behind
/// the last.
#[cube]
fn load_windows<X: Numeric, N: Size>(
    images: &[Vector<X, N>],
    loaded: &mut Array<Vector<X, N>>,
    corners: &Corners,
    first_piece: usize,
    row_pieces: usize,
    windows: &Windows,
    padding: X,
    #[comptime] loads: Loads,
) {
    #[unroll]
    for index in 0..loads.count {
        let place = UNIT_POS as usize + comptime!(index * loads.units);
        let piece = first_piece + place % loads.pieces;
        let (tap, channel) = (piece / windows.channels, piece % windows.channels);
        let y = corners.y[index] + tap / windows.kernel.x * windows.dilation.y;
        let x = corners.x[index] + tap % windows.kernel.x * windows.dilation.x;
        let mut value = Vector::<X, N>::new(padding);
        if piece < row_pieces && windows.has_row(y) && windows.has_column(x) {
            let pixel = windows.pixel(corners.image[index], y, x);
            value = images[pixel * windows.channels + channel];
        }
        loaded[index] = value;
    }
}

/// Loads this unit's pieces of x, from `first_piece` of each row on: of rows of a matrix, or of windows of
/// images. What lies behind the last piece is for weights of 0.
#[cube]
pub(super) fn load_left<X: Numeric, N: Size>(
    x: &[Vector<X, N>],
    loaded: &mut Array<Vector<X, N>>,
    corners: &Corners,
    first_piece: usize,
    row_pieces: usize,
    sizes: &Sizes,
    windows: &Windows,
    epilogue: &Epilogue,
    #[comptime] form: Form,
    #[comptime] loads: Loads,
) {
    if comptime!(form.gathers) {
        let zero = padding::<X>(epilogue, form);
        load_windows::<X, N>(x, loaded, corners, first_piece, row_pieces, windows, zero, loads);
    } else {
        let first_row = corners.first_row;
        load::<X, X, N>(x, loaded, first_row, sizes.rows, first_piece, row_pieces, loads);
    }
}
