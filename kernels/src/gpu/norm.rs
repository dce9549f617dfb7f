//! Layer normalisation, alone or of a sum, and softmax: one cube a row.

use cubecl::prelude::*;

use super::math::exp_of_negative;
use super::{Buffer, Gpu};

/// Units of the cube that works on a row.
const UNITS: u32 = 128;

/// A step of a reduction.
#[cube]
fn reduced(a: f32, b: f32, #[comptime] greatest: bool) -> f32 {
    if comptime!(greatest) { max(a, b) } else { a + b }
}

/// The sum of one number of each unit, or the greatest; every unit gets it.
#[cube]
fn cube_reduce(own: f32, #[comptime] units: u32, #[comptime] greatest: bool) -> f32 {
    let mut parts = Shared::<[f32]>::new_slice(units as usize);
    let unit = UNIT_POS as usize;
    parts[unit] = own;
    let mut half = comptime!(units / 2).runtime();
    while half > 0u32 {
        sync_cube();
        if UNIT_POS < half {
            parts[unit] = reduced(parts[unit], parts[unit + half as usize], greatest);
        }
        half /= 2u32;
    }
    sync_cube();
    let all = parts[0];
    sync_cube();
    all
}

/// Element `column` of the sum of two rows, or of the first alone.
#[cube]
fn element(
    x: &[f32],
    residual: &[f32],
    start: usize,
    residual_start: usize,
    column: usize,
    #[comptime] summed: bool,
) -> f32 {
    let mut value = x[start + column];
    if summed {
        value += residual[residual_start + column];
    }
    value
}

#[cube(launch_unchecked)]
fn layer_norm_kernel(
    x: &[f32],
    residual: &[f32],
    gamma: &[f32],
    beta: &[f32],
    y: &mut [f32],
    columns: usize,
    repeat: usize,
    epsilon: f32,
    #[comptime] units: u32,
    #[comptime] summed: bool,
) {
    let start = CUBE_POS * columns;
    let residual_start = start % repeat;
    let step = units as usize;
    let mut own = f32::new(0.0);
    let mut column = UNIT_POS as usize;
    while column < columns {
        own += element(x, residual, start, residual_start, column, summed);
        column += step;
    }
    let mean = cube_reduce(own, units, false) / f32::cast_from(columns);
    let mut own = f32::new(0.0);
    let mut column = UNIT_POS as usize;
    while column < columns {
        let distance = element(x, residual, start, residual_start, column, summed) - mean;
        own += distance * distance;
        column += step;
    }
    let variance = cube_reduce(own, units, false) / f32::cast_from(columns);
    let inverse = 1.0f32 / (variance + epsilon).sqrt();
    let mut column = UNIT_POS as usize;
    while column < columns {
        let distance = element(x, residual, start, residual_start, column, summed) - mean;
        y[start + column] = distance * inverse * gamma[column] + beta[column];
        column += step;
    }
}

/// The parameters of a layer normalisation on a device.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Scale, f32 `[columns]`.
    pub gamma: &'a Buffer,
    /// Shift, f32 `[columns]`.
    pub beta: &'a Buffer,
    /// Added to the population variance, inside the root.
    pub epsilon: f32,
}

/// `y = (z − mean)/√(variance + ε)·γ + β` for each row of `z = x + residual`, or of x alone. A
/// residual with fewer rows repeats.
///
/// # Shapes
/// f32; `x`, `y`: `[rows, columns]`; `residual`: a number of rows that divides that of x.
pub fn layer_norm(
    gpu: &Gpu,
    x: &Buffer,
    residual: Option<&Buffer>,
    norm: &LayerNorm<'_>,
    y: &Buffer,
) {
    let columns = norm.gamma.len() / size_of::<f32>();
    let elements = x.len() / size_of::<f32>();
    let repeat = residual.map_or(1, |residual| residual.len() / size_of::<f32>());
    let x_argument = x.argument::<f32>("layer_norm: x", elements);
    let y = y.argument::<f32>("layer_norm: y", elements);
    if elements == 0 {
        return;
    }
    assert!(
        columns > 0 && elements.is_multiple_of(columns),
        "layer_norm: {elements} is no whole rows"
    );
    let repeat_whole = residual.is_none() || repeat.is_multiple_of(columns);
    let whole = repeat > 0 && elements.is_multiple_of(repeat) && repeat_whole;
    assert!(whole, "layer_norm: a residual of {repeat} elements does not repeat to {elements}");
    let summed = residual.is_some();
    let other = residual.map_or_else(|| x.slice(0..size_of::<f32>()), Clone::clone);
    let residual = other.argument::<f32>("layer_norm: residual", repeat);
    let gamma = norm.gamma.argument::<f32>("layer_norm: gamma", columns);
    let beta = norm.beta.argument::<f32>("layer_norm: beta", columns);
    let (cubes, units) = rows_grid(gpu, elements / columns);
    let (dim, client, epsilon) = (CubeDim::new_1d(units), &gpu.client, norm.epsilon);
    // SAFETY: there is a cube for each whole row, and columns are those of gamma and beta.
    unsafe {
        layer_norm_kernel::launch_unchecked(
            client, cubes, dim, x_argument, residual, gamma, beta, y, columns, repeat, epsilon,
            units, summed,
        );
    };
}

fn rows_grid(gpu: &Gpu, rows: usize) -> (CubeCount, u32) {
    let rows = u32::try_from(rows).expect("fewer than 2³² rows fit no memory of today");
    (CubeCount::new_1d(rows), gpu.units(UNITS))
}

#[cube(launch_unchecked)]
fn softmax_kernel(x: &[f32], y: &mut [f32], columns: usize, #[comptime] units: u32) {
    let start = CUBE_POS * columns;
    let step = units as usize;
    let mut own = f32::new(f32::NEG_INFINITY);
    let mut column = UNIT_POS as usize;
    while column < columns {
        own = max(own, x[start + column]);
        column += step;
    }
    let greatest = cube_reduce(own, units, true);
    let mut own = f32::new(0.0);
    let mut column = UNIT_POS as usize;
    while column < columns {
        own += exp_of_negative(x[start + column] - greatest);
        column += step;
    }
    let inverse = 1.0f32 / cube_reduce(own, units, false);
    let mut column = UNIT_POS as usize;
    while column < columns {
        y[start + column] = exp_of_negative(x[start + column] - greatest) * inverse;
        column += step;
    }
}

/// `y = softmax(x)` over each row.
///
/// # Shapes
/// f32; `x`, `y`: `[rows, columns]`.
pub fn softmax(gpu: &Gpu, x: &Buffer, columns: usize, y: &Buffer) {
    let elements = x.len() / size_of::<f32>();
    let x = x.argument::<f32>("softmax: x", elements);
    let y = y.argument::<f32>("softmax: y", elements);
    if elements == 0 {
        return;
    }
    assert!(
        columns > 0 && elements.is_multiple_of(columns),
        "softmax: {elements} is no whole rows"
    );
    let (cubes, units) = rows_grid(gpu, elements / columns);
    let (client, dim) = (&gpu.client, CubeDim::new_1d(units));
    // SAFETY: there is a cube for each whole row.
    unsafe { softmax_kernel::launch_unchecked(client, cubes, dim, x, y, columns, units) };
}
