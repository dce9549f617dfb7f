//! Layer normalisation, alone or of a sum, and softmax: one cube a row.

use cubecl::prelude::*;
use half::bf16;

use super::math::exp_of_negative;
use super::{Buffer, Floats, Gpu};

/// Most units of the cube that works on a row.
const UNITS: u32 = 128;

/// Units that a cube has at least, where the device has as many: a plane.
const LEAST_UNITS: usize = 32;

/// Elements that are read at a time, where rows are whole vectors.
const WIDE: usize = 4;

/// Vectors of a row that a unit keeps in registers.
const KEPT: usize = 4;

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

/// What a layer normalisation is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NormForm {
    /// A residual is added.
    summed: bool,
    /// The result is written in f32.
    writes: bool,
    /// It is written in bf16.
    rounds: bool,
    /// Units keep a whole row.
    whole: bool,
}

/// The sum of all elements that a unit keeps.
#[cube]
fn sum_of<N: Size>(kept: &Array<Vector<f32, N>>, #[comptime] wide: usize) -> f32 {
    let mut sum = f32::new(0.0);
    #[unroll]
    for index in 0..KEPT {
        #[unroll]
        for element in 0..wide {
            sum += kept[index].extract(element);
        }
    }
    sum
}

/// The sum of the squared distances from the mean; what lies behind the row has none.
#[cube]
fn squares_of<N: Size>(
    kept: &Array<Vector<f32, N>>,
    mean: f32,
    row: &Row,
    #[comptime] units: u32,
    #[comptime] wide: usize,
) -> f32 {
    let mut sum = f32::new(0.0);
    #[unroll]
    for index in 0..KEPT {
        let column = row.first + UNIT_POS as usize + comptime!(index * units as usize);
        let inside = column < row.columns;
        #[unroll]
        for element in 0..wide {
            let distance = kept[index].extract(element) - mean;
            sum += select(inside, distance * distance, 0.0f32);
        }
    }
    sum
}

/// A part of a row, in vectors.
#[derive(Clone, Copy, CubeType)]
struct Row {
    start: usize,
    residual_start: usize,
    columns: usize,
    /// Where the part begins.
    first: usize,
}

/// A cube normalizes a row, whose vectors its units keep in registers, each every so many; at most
/// [`KEPT`] at a time, so that longer rows are read again for each part.
#[cube(launch_unchecked)]
fn layer_norm_kernel<N: Size>(
    x: &[Vector<f32, N>],
    residual: &[Vector<f32, N>],
    gamma: &[Vector<f32, N>],
    beta: &[Vector<f32, N>],
    y: &mut [Vector<f32, N>],
    rounded: &mut [Vector<bf16, N>],
    columns: usize,
    repeat: usize,
    epsilon: f32,
    #[comptime] units: u32,
    #[comptime] wide: usize,
    #[comptime] form: NormForm,
) {
    let start = CUBE_POS * columns;
    let part = comptime!(units as usize * KEPT);
    let elements = f32::cast_from(columns * wide);
    let mut row = Row { start, residual_start: start % repeat, columns, first: 0usize };
    let mut kept = keep(x, residual, &row, units, form.summed);
    let mut own = sum_of(&kept, wide);
    if comptime!(!form.whole) {
        row.first += part;
        while row.first < columns {
            kept = keep(x, residual, &row, units, form.summed);
            own += sum_of(&kept, wide);
            row.first += part;
        }
        row.first = 0usize;
        kept = keep(x, residual, &row, units, form.summed);
    }
    let mean = cube_reduce(own, units, false) / elements;
    let mut own = squares_of(&kept, mean, &row, units, wide);
    if comptime!(!form.whole) {
        row.first += part;
        while row.first < columns {
            kept = keep(x, residual, &row, units, form.summed);
            own += squares_of(&kept, mean, &row, units, wide);
            row.first += part;
        }
        row.first = 0usize;
        kept = keep(x, residual, &row, units, form.summed);
    }
    let variance = cube_reduce(own, units, false) / elements;
    let inverse = 1.0f32 / (variance + epsilon).sqrt();
    finish(&kept, mean, inverse, gamma, beta, y, rounded, &row, units, form);
    if comptime!(!form.whole) {
        row.first += part;
        while row.first < columns {
            kept = keep(x, residual, &row, units, form.summed);
            finish(&kept, mean, inverse, gamma, beta, y, rounded, &row, units, form);
            row.first += part;
        }
    }
}

/// Normalizes what this unit keeps and writes it.
#[cube]
fn finish<N: Size>(
    kept: &Array<Vector<f32, N>>,
    mean: f32,
    inverse: f32,
    gamma: &[Vector<f32, N>],
    beta: &[Vector<f32, N>],
    y: &mut [Vector<f32, N>],
    rounded: &mut [Vector<bf16, N>],
    row: &Row,
    #[comptime] units: u32,
    #[comptime] form: NormForm,
) {
    #[unroll]
    for index in 0..KEPT {
        let column = row.first + UNIT_POS as usize + comptime!(index * units as usize);
        if column < row.columns {
            let distance = kept[index] - Vector::new(mean);
            let value = distance * Vector::new(inverse) * gamma[column] + beta[column];
            if comptime!(form.writes) {
                y[row.start + column] = value;
            }
            if comptime!(form.rounds) {
                rounded[row.start + column] = Vector::cast_from(value);
            }
        }
    }
}

/// The vectors of a part of a row, or of a sum of two, that this unit works on; zeros behind its end.
#[cube]
fn keep<N: Size>(
    x: &[Vector<f32, N>],
    residual: &[Vector<f32, N>],
    row: &Row,
    #[comptime] units: u32,
    #[comptime] summed: bool,
) -> Array<Vector<f32, N>> {
    let mut kept = Array::<Vector<f32, N>>::new(KEPT);
    #[unroll]
    for index in 0..KEPT {
        let column = row.first + UNIT_POS as usize + comptime!(index * units as usize);
        let mut value = Vector::<f32, N>::new(0.0f32);
        if column < row.columns {
            value = x[row.start + column];
            if comptime!(summed) {
                value += residual[row.residual_start + column];
            }
        }
        kept[index] = value;
    }
    kept
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
/// `x`: f32 `[rows, columns]`; `residual`: f32, a number of rows that divides that of x; `y`: `[rows,
/// columns]`.
pub fn layer_norm(
    gpu: &Gpu,
    x: &Buffer,
    residual: Option<&Buffer>,
    norm: &LayerNorm<'_>,
    y: Floats<'_>,
) {
    let (y, rounded) = match y {
        Floats::F32(y) => (Some(y), None),
        Floats::Bf16(rounded) => (None, Some(rounded)),
        Floats::Both { exact, rounded } => (Some(exact), Some(rounded)),
    };
    let float = size_of::<f32>();
    let (columns, elements) = (norm.gamma.len() / float, x.len() / float);
    let repeat = residual.map_or(columns, |residual| residual.len() / float);
    let form = |whole| NormForm {
        summed: residual.is_some(),
        writes: y.is_some(),
        rounds: rounded.is_some(),
        whole,
    };
    // Nothing reads or writes what is not there.
    let or_x = |name: &str, buffer: Option<&Buffer>, elements| {
        buffer.unwrap_or(x).argument::<f32>(name, elements)
    };
    let x_argument = x.argument::<f32>("layer_norm: x", elements);
    let y_argument = or_x("layer_norm: y", y, elements);
    let rounded_argument = match rounded {
        Some(rounded) => rounded.argument::<bf16>("layer_norm: rounded", elements),
        None => x.argument::<f32>("layer_norm: x", elements),
    };
    if elements == 0 {
        return;
    }
    assert!(
        columns > 0 && elements.is_multiple_of(columns),
        "layer_norm: {elements} is no whole rows"
    );
    let whole = repeat > 0 && elements.is_multiple_of(repeat) && repeat.is_multiple_of(columns);
    assert!(
        residual.is_none() || whole,
        "layer_norm: a residual of {repeat} elements does not repeat to {elements}"
    );
    let in_f32 = [Some(x), residual, Some(norm.gamma), Some(norm.beta), y];
    let aligned = in_f32.into_iter().flatten().all(|buffer| buffer.is_aligned_to(WIDE * float))
        && rounded.is_none_or(|rounded| rounded.is_aligned_to(WIDE * size_of::<bf16>()));
    let wide = if aligned && columns.is_multiple_of(WIDE) { WIDE } else { 1 };
    let residual = match residual {
        Some(residual) => residual.argument::<f32>("layer_norm: residual", repeat),
        None => x.argument::<f32>("layer_norm: x", elements),
    };
    let [gamma, beta] = [("layer_norm: gamma", norm.gamma), ("layer_norm: beta", norm.beta)]
        .map(|(name, buffer)| buffer.argument::<f32>(name, columns));
    let (vectors, rows) = (columns / wide, elements / columns);
    let rows = u32::try_from(rows).expect("fewer than 2³² rows fit no memory of today");
    let wanted = vectors.div_ceil(KEPT).next_power_of_two().clamp(LEAST_UNITS, UNITS as usize);
    let units = gpu.units(wanted as u32);
    let form = form(vectors <= units as usize * KEPT);
    let (cubes, dim) = (CubeCount::new_1d(rows), CubeDim::new_1d(units));
    // SAFETY: there is a cube for each whole row, and columns are those of gamma and beta.
    unsafe {
        layer_norm_kernel::launch_unchecked(
            &gpu.client,
            cubes,
            dim,
            wide,
            x_argument,
            residual,
            gamma,
            beta,
            y_argument,
            rounded_argument,
            vectors,
            repeat / wide,
            norm.epsilon,
            units,
            wide,
            form,
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
