//! Pools of whole images whose channels are last.

use cubecl::prelude::*;

use super::{Buffer, Gpu};
use crate::Pooling;

/// Columns of units that share a cube, each with a channel.
const CHANNELS: usize = 32;

/// A cube reduces some channels of one image: rows of its units take every so many pixels.
#[cube(launch_unchecked)]
fn global_kernel(
    x: &[f32],
    y: &mut [f32],
    pixels: usize,
    channels: usize,
    #[comptime] rows: usize,
    #[comptime] columns: usize,
    #[comptime] is_max: bool,
) {
    let mut parts = Shared::<[f32]>::new_slice(comptime!(rows * columns));
    let (row, lane) = (UNIT_POS as usize / columns, UNIT_POS as usize % columns);
    let channel = CUBE_POS_Y as usize * columns + lane;
    let image = CUBE_POS_X as usize;
    let mut value = f32::new(0.0);
    if comptime!(is_max) {
        value = f32::NEG_INFINITY;
    }
    if channel < channels {
        let mut pixel = row;
        while pixel < pixels {
            let element = x[(image * pixels + pixel) * channels + channel];
            if comptime!(is_max) {
                value = select(element > value, element, value);
            } else {
                value += element;
            }
            pixel += rows;
        }
    }
    parts[UNIT_POS as usize] = value;
    sync_cube();
    if row == 0 && channel < channels {
        let mut total = parts[lane];
        #[unroll]
        for other in 1..rows {
            let part = parts[comptime!(other * columns) + lane];
            if comptime!(is_max) {
                total = select(part > total, part, total);
            } else {
                total += part;
            }
        }
        if comptime!(!is_max) {
            total /= f32::cast_from(pixels);
        }
        y[image * channels + channel] = total;
    }
}

/// The mean of each channel of an image, or the greatest of it; NaN is passed over.
///
/// # Shapes
/// f32; `x`: `[batch, pixels, channels]`; `y`: `[batch, channels]`.
///
/// # Panics
/// When a length differs.
pub fn global_pool(
    gpu: &Gpu,
    pooling: Pooling,
    [batch, pixels, channels]: [usize; 3],
    x: &Buffer,
    y: &Buffer,
) {
    let x = x.argument::<f32>("global_pool: x", batch * pixels * channels);
    let y = y.argument::<f32>("global_pool: y", batch * channels);
    if batch * channels == 0 {
        return;
    }
    let units = gpu.units(256) as usize;
    let columns = units.min(CHANNELS);
    let rows = units / columns;
    // Devices allow fewer in the second direction.
    let [cubes_x, cubes_y] = [batch, channels.div_ceil(columns)]
        .map(|cubes| u32::try_from(cubes).expect("fewer than 2³² cubes"));
    // SAFETY: units write below batch·channels, the length of y, and read below the length of x.
    unsafe {
        global_kernel::launch_unchecked(
            &gpu.client,
            CubeCount::new_2d(cubes_x, cubes_y),
            CubeDim::new_1d(units as u32),
            x,
            y,
            pixels,
            channels,
            rows,
            columns,
            pooling == Pooling::Max,
        );
    };
}
