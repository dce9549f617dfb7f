//! Dense and grouped convolution of images: a product whose right operand is the windows of an
//! image, gathered as they are loaded (im2col, Chellapilla et al. 2006), on ordinary units.
//!
//! Rows are filters, columns positions of the output; each image of a batch and each group of its
//! channels is a product of its own.

use cubecl::prelude::*;

use super::activation::Curve;
use super::epilogue::{Epilogue, EpilogueLaunch, Form, Loads, Sizes, SizesLaunch, load, zeros};
use super::math::StepsLaunch;
use super::tiles::{Tile, Wide, multiply, place, stage_left, stage_right, write_sums};
use super::windows::{Windows, WindowsLaunch, area};
use super::{Buffer, Gpu};
use crate::int8::Quantization;
use crate::{Activation, Conv2d};

/// Loads this unit's elements of the windows, from `first_inner` of a window and from
/// `first_position` on; zeros in the padding and behind the last.
#[cube]
fn load_windows(
    images: &[Vector<f32, Const<1>>],
    loaded: &mut Array<Vector<f32, Const<1>>>,
    start: usize,
    first_inner: usize,
    first_position: usize,
    windows: &Windows,
    sizes: &Sizes,
    #[comptime] loads: Loads,
) {
    #[unroll]
    for index in 0..loads.count {
        let unit = UNIT_POS as usize + comptime!(index * loads.units);
        let inner = first_inner + unit / loads.pieces;
        let position = first_position + unit % loads.pieces;
        let mut value = Vector::<f32, Const<1>>::new(0.0f32);
        if inner < sizes.inner && position < sizes.columns {
            let (entry, x) = (inner / windows.kernel.x, inner % windows.kernel.x);
            let (channel, y) = (entry / windows.kernel.y, entry % windows.kernel.y);
            let (row, column) = (position / windows.output.x, position % windows.output.x);
            let y = row * windows.stride.y + y * windows.dilation.y;
            let x = column * windows.stride.x + x * windows.dilation.x;
            if windows.has_row(y) && windows.has_column(x) {
                let row = channel * windows.input.y + y - windows.before.y;
                value = images[start + row * windows.input.x + x - windows.before.x];
            }
        }
        loaded[index] = value;
    }
}

#[cube(launch_unchecked)]
fn conv_kernel(
    filters: &[Vector<f32, Const<1>>],
    images: &[Vector<f32, Const<1>>],
    bias: &[f32],
    // Nothing reads it: there are no integers.
    column_sums: &[i32],
    y: &mut [Vector<f32, Const<1>>],
    sizes: Sizes,
    windows: Windows,
    groups: usize,
    epilogue: Epilogue,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
) {
    let mut shared =
        Shared::<[Vector<f32, Wide>]>::new_aligned_slice(comptime!(tile.shared()), 16usize);
    let at = place(CUBE_POS_Y as usize, CUBE_POS_X as usize, tile);
    let left_loads = comptime!(tile.loads(tile.rows(), tile.inner(), 1));
    let right_loads = comptime!(tile.loads(tile.inner(), tile.columns(), 1));
    let (left, right) = at.parts(tile);
    let image = CUBE_POS_Z as usize;
    let group = image % groups;
    let filters_start = group * sizes.rows * sizes.inner;
    let filters = &filters[filters_start..filters_start + sizes.rows * sizes.inner];
    let images_start = image * windows.channels * windows.input.y * windows.input.x;

    let mut sums = zeros::<f32, Wide>(comptime!(tile.sums()));
    let mut loaded_left = Array::<Vector<f32, Const<1>>>::new(left_loads.count);
    let mut loaded_right = Array::<Vector<f32, Const<1>>>::new(right_loads.count);
    let mut first = 0usize;
    while first < sizes.inner {
        load::<f32, f32, Const<1>>(
            filters,
            &mut loaded_left,
            at.first_row,
            sizes.rows,
            first,
            sizes.inner,
            left_loads,
        );
        load_windows(
            images,
            &mut loaded_right,
            images_start,
            first,
            at.first_column,
            &windows,
            &sizes,
            right_loads,
        );
        // Whoever still multiplies the step before has not passed.
        sync_cube();
        let elements = shared.with_vector_size_mut::<Const<1>>();
        stage_left::<f32, f32, Const<1>>(
            &loaded_left,
            elements,
            0,
            &epilogue,
            left_loads,
            1usize,
            tile,
            form,
        );
        let right_start = comptime!(tile.right_start());
        stage_right::<f32, Const<1>>(&loaded_right, elements, right_start, right_loads);
        sync_cube();
        multiply::<f32>(&shared, left, right, &mut sums, tile, form);
        first += comptime!(tile.inner());
    }

    let y_start = image * sizes.rows * sizes.columns;
    let y = &mut y[y_start..y_start + sizes.rows * sizes.columns];
    let bias = &bias[group * sizes.rows..group * sizes.rows + sizes.rows];
    write_sums::<f32, f32, Const<1>>(
        &sums,
        &mut shared,
        &at,
        bias,
        column_sums,
        bias,
        images,
        y,
        &sizes,
        &epilogue,
        tile,
        form,
        1usize,
    );
}

/// What is applied to each window, on a device.
#[derive(Clone, Copy, Debug)]
pub struct Filters<'a> {
    /// f32 `[outputs, channels / groups, kernel height, kernel width]`
    pub weight: &'a Buffer,
    /// f32 `[outputs]`; zeros where there is none.
    pub bias: &'a Buffer,
    /// Applied last.
    pub activation: Activation,
}

/// Convolution of images, see [`crate::conv2d`].
///
/// # Shapes
/// `x`: f32 `[batch, channels, height, width]`; `y`: f32 `[batch, outputs, height, width]`.
///
/// # Panics
/// When a buffer has another length.
pub fn conv2d(gpu: &Gpu, sizes: &Conv2d, x: &Buffer, filters: &Filters<'_>, y: &Buffer) {
    let Conv2d { batch, channels, outputs, groups, windows } = *sizes;
    let [(input, positions), (channels_seen, rows)] = [
        (area(&windows, |slide| slide.input), area(&windows, |slide| slide.output)),
        (channels / groups, outputs / groups),
    ];
    let inner = channels_seen * area(&windows, |slide| slide.kernel);
    let x = x.argument::<f32>("conv2d: x", batch * channels * input);
    let weight = filters.weight.argument::<f32>("conv2d: weight", outputs * inner);
    let bias = || filters.bias.argument::<f32>("conv2d: bias", outputs);
    let y = y.argument::<f32>("conv2d: y", batch * outputs * positions);
    if batch * outputs * positions == 0 {
        return;
    }
    let (curve, [alpha, beta]) = Curve::of(filters.activation);
    let form = Form {
        float: true,
        rounds_input: false,
        quantizes_input: false,
        quantizes_output: false,
        bias_by_row: true,
        adds: false,
        gathers: false,
        rounds: false,
        curve,
    };
    let tile = Tile::of(gpu, rows, positions, batch * groups);
    let [columns, filters_y, images] =
        [positions.div_ceil(tile.columns()), rows.div_ceil(tile.rows()), batch * groups]
            .map(|cubes| u32::try_from(cubes).expect("fewer than 2³² cubes"));
    let [from, to] = [(); 2].map(|()| StepsLaunch::of(Quantization::symmetric(1.0)));
    // SAFETY: every read and write of the kernel is behind a comparison with the sizes that the
    // lengths of all buffers were checked against.
    unsafe {
        conv_kernel::launch_unchecked(
            &gpu.client,
            CubeCount::new_3d(columns, filters_y, images),
            CubeDim::new_1d(tile.cube_units() as u32),
            weight,
            x,
            bias(),
            bias(),
            y,
            SizesLaunch::new(rows, inner, positions),
            WindowsLaunch::of(&windows, channels_seen),
            groups,
            EpilogueLaunch::new(from, to, alpha, beta),
            tile,
            form,
        );
    };
}
