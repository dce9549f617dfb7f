//! Linear layers: a tiled product whose epilogue adds the bias, activates and rounds.
//!
//! A cube computes one tile of the result from tiles of both operands in shared memory; each of
//! its units keeps a small block of sums in registers.

use cubecl::prelude::*;
use half::bf16;

use super::activation::{Curve, activated};
use super::math::{Steps, StepsLaunch, quantized, rounded_to_bf16};
use super::{Buffer, Gpu};
use crate::Activation;
use crate::int8::Quantization;

/// The parameters of a float layer on a device.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `[inputs, outputs]`, row-major: f32, or bf16 where `rounded`.
    pub weights: &'a Buffer,
    /// Whether weights are bf16, and x is rounded to it as it is read. Sums are f32 either way.
    pub rounded: bool,
    /// f32 `[outputs]`; zeros where the layer has none.
    pub bias: &'a Buffer,
    /// Applied to the sums.
    pub activation: Activation,
}

/// The parameters of an int8 layer on a device.
#[derive(Clone, Copy, Debug)]
pub struct IntegerLayer<'a> {
    /// i8 `[inputs, outputs]`, row-major, zero point 0.
    pub weights: &'a Buffer,
    /// Sum of each column of the weights, i32 `[outputs]`.
    pub column_sums: &'a Buffer,
    /// Scale of the input times scale of the column, f32 `[outputs]`.
    pub scales: &'a Buffer,
    /// f32 `[outputs]`; zeros where the layer has none.
    pub bias: &'a Buffer,
    /// How x is written as int8: an f32 x is rounded as it is read.
    pub input: Quantization,
    /// Whether x is f32.
    pub float_input: bool,
    /// Applied to the scaled sums.
    pub activation: Activation,
}

/// Where a result goes.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// As f32.
    F32(&'a Buffer),
    /// Rounded to int8.
    Int8(&'a Buffer, Quantization),
}

/// How work is cut: a cube of `units_y × units_x` units, each with `block × block` sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tile {
    units_y: usize,
    units_x: usize,
    block: usize,
    /// Products of each sum between two loads.
    depth: usize,
}

impl Tile {
    /// Large tiles reuse more of what they load; small ones keep more cubes busy.
    fn of(gpu: &Gpu, rows: usize, columns: usize) -> Self {
        /// Large tiles that keep a big GPU busy.
        const ENOUGH_TILES: usize = 128;
        let units = gpu.units(256) as usize;
        let units_x = units.min(16);
        let small = Self { units_y: units / units_x, units_x, block: 4, depth: 16 };
        let large = Self { block: 8, ..small };
        let tiles = rows.div_ceil(large.rows()) * columns.div_ceil(large.columns());
        if tiles >= ENOUGH_TILES { large } else { small }
    }

    const fn rows(self) -> usize {
        self.units_y * self.block
    }

    const fn columns(self) -> usize {
        self.units_x * self.block
    }
}

/// What a product is compiled for, besides its types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    tile: Tile,
    /// Sums are f32 and not i32.
    float: bool,
    /// x is rounded to bf16 as it is read.
    rounds_input: bool,
    /// x is rounded to int8 as it is read.
    quantizes_input: bool,
    /// The result is rounded to int8.
    quantizes_output: bool,
    curve: Curve,
}

/// Sizes of a product.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
struct Sizes {
    rows: usize,
    inner: usize,
    columns: usize,
}

#[cube]
fn operand<X: Numeric, S: Numeric>(x: X, from: &Steps, #[comptime] form: Form) -> S {
    if comptime!(form.quantizes_input) {
        S::cast_from(quantized(f32::cast_from(x), from))
    } else if comptime!(form.rounds_input) {
        S::cast_from(rounded_to_bf16(f32::cast_from(x)))
    } else {
        S::cast_from(x)
    }
}

/// Loads the rows of x for a tile, transposed: `[depth, rows + 1]`.
#[cube]
fn load_left<X: Numeric, S: Numeric>(
    x: &[X],
    left: &mut Shared<[S]>,
    sizes: &Sizes,
    from: &Steps,
    first_row: usize,
    first_inner: usize,
    #[comptime] form: Form,
) {
    let tile = comptime!(form.tile);
    let units = comptime!(tile.units_x * tile.units_y);
    let count = comptime!(tile.rows() * tile.depth);
    let pitch = comptime!(tile.rows() + 1);
    let mut place = UNIT_POS as usize;
    while place < count {
        let row = place / tile.depth;
        let inner = place % tile.depth;
        let mut value = S::from_int(0);
        if first_row + row < sizes.rows && first_inner + inner < sizes.inner {
            let index = (first_row + row) * sizes.inner + first_inner + inner;
            value = operand::<X, S>(x[index], from, form);
        }
        left[inner * pitch + row] = value;
        place += units;
    }
}

/// Loads the columns of w for a tile: `[depth, columns]`.
#[cube]
fn load_right<W: Numeric, S: Numeric>(
    w: &[W],
    right: &mut Shared<[S]>,
    sizes: &Sizes,
    first_column: usize,
    first_inner: usize,
    #[comptime] tile: Tile,
) {
    let units = comptime!(tile.units_x * tile.units_y);
    let width = comptime!(tile.columns());
    let count = comptime!(tile.columns() * tile.depth);
    let mut place = UNIT_POS as usize;
    while place < count {
        let inner = place / width;
        let column = place % width;
        let mut value = S::from_int(0);
        if first_inner + inner < sizes.inner && first_column + column < sizes.columns {
            value = S::cast_from(w[(first_inner + inner) * sizes.columns + first_column + column]);
        }
        right[place] = value;
        place += units;
    }
}

#[cube(launch_unchecked)]
fn product_kernel<X: Numeric, W: Numeric, S: Numeric, Y: Numeric>(
    x: &[X],
    w: &[W],
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    y: &mut [Y],
    sizes: Sizes,
    from: Steps,
    to: Steps,
    alpha: f32,
    beta: f32,
    #[comptime] form: Form,
) {
    let tile = comptime!(form.tile);
    let block = comptime!(tile.block);
    let pitch = comptime!(tile.rows() + 1);
    let width = comptime!(tile.columns());
    let mut left = Shared::<[S]>::new_slice(comptime!(pitch * tile.depth));
    let mut right = Shared::<[S]>::new_slice(comptime!(width * tile.depth));
    let unit_x = UNIT_POS_X as usize;
    let unit_y = UNIT_POS_Y as usize;
    let first_row = CUBE_POS_Y as usize * tile.rows();
    let first_column = CUBE_POS_X as usize * tile.columns();

    let mut sums = Array::<S>::new(comptime!(block * block));
    #[unroll]
    for index in 0..comptime!(block * block) {
        sums[index] = S::from_int(0);
    }
    let mut a = Array::<S>::new(block);
    let mut b = Array::<S>::new(block);
    let mut first_inner = 0usize;
    while first_inner < sizes.inner {
        load_left::<X, S>(x, &mut left, &sizes, &from, first_row, first_inner, form);
        load_right::<W, S>(w, &mut right, &sizes, first_column, first_inner, tile);
        sync_cube();
        #[unroll]
        for inner in 0..tile.depth {
            #[unroll]
            for index in 0..block {
                a[index] = left[inner * pitch + unit_y * block + index];
                b[index] = right[inner * width + unit_x + index * tile.units_x];
            }
            #[unroll]
            for row in 0..block {
                #[unroll]
                for column in 0..block {
                    let sum = row * block + column;
                    if comptime!(form.float) {
                        sums[sum] = fma(a[row], b[column], sums[sum]);
                    } else {
                        sums[sum] = a[row] * b[column] + sums[sum];
                    }
                }
            }
        }
        sync_cube();
        first_inner += tile.depth;
    }

    #[unroll]
    for row in 0..block {
        #[unroll]
        for column in 0..block {
            let row_index = first_row + unit_y * block + row;
            let column_index = first_column + unit_x + column * tile.units_x;
            if row_index < sizes.rows && column_index < sizes.columns {
                let sum = sums[row * block + column];
                let value = if comptime!(form.float) {
                    f32::cast_from(sum) + bias[column_index]
                } else {
                    let moved = from.zero_point * column_sums[column_index];
                    f32::cast_from(i32::cast_from(sum) - moved) * scales[column_index]
                        + bias[column_index]
                };
                let value = activated(value, alpha, beta, form.curve);
                let place = row_index * sizes.columns + column_index;
                if comptime!(form.quantizes_output) {
                    y[place] = Y::cast_from(quantized(value, &to));
                } else {
                    y[place] = Y::cast_from(value);
                }
            }
        }
    }
}

/// What is multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    F32,
    Bf16,
    Int8,
}

/// A product and its buffers.
struct Product<'a> {
    gpu: &'a Gpu,
    x: &'a Buffer,
    sizes: [usize; 3],
    numbers: Numbers,
    /// Scales and column sums are read for integers only.
    layer: IntegerLayer<'a>,
    y: Output<'a>,
}

impl Product<'_> {
    fn launch<X: Numeric, W: Numeric, S: Numeric, Y: Numeric>(&self) {
        let [rows, inner, columns] = self.sizes;
        let layer = &self.layer;
        let (y, to) = match self.y {
            Output::F32(y) => (y, Quantization::symmetric(1.0)),
            Output::Int8(y, to) => (y, to),
        };
        let y = y.argument::<Y>("linear: y", rows * columns);
        let x = self.x.argument::<X>("linear: x", rows * inner);
        let w = layer.weights.argument::<W>("linear: weights", inner * columns);
        let scales = layer.scales.argument::<f32>("linear: scales", columns);
        let column_sums = layer.column_sums.argument::<i32>("linear: column sums", columns);
        let bias = layer.bias.argument::<f32>("linear: bias", columns);
        if rows * columns == 0 {
            return;
        }
        let (curve, [alpha, beta]) = Curve::of(layer.activation);
        let tile = Tile::of(self.gpu, rows, columns);
        let form = Form {
            tile,
            float: self.numbers != Numbers::Int8,
            rounds_input: self.numbers == Numbers::Bf16,
            quantizes_input: layer.float_input,
            quantizes_output: matches!(self.y, Output::Int8(..)),
            curve,
        };
        let [cubes_x, cubes_y] = [columns.div_ceil(tile.columns()), rows.div_ceil(tile.rows())]
            .map(|cubes| u32::try_from(cubes).expect("fewer than 2³² cubes"));
        let dim = CubeDim::new_2d(tile.units_x as u32, tile.units_y as u32);
        let sizes = SizesLaunch::new(rows, inner, columns);
        let [from, to] = [layer.input, to].map(StepsLaunch::of);
        // SAFETY: every read and write of the kernel is behind a comparison with the sizes that
        // the lengths of all buffers were checked against.
        unsafe {
            product_kernel::launch_unchecked::<X, W, S, Y>(
                &self.gpu.client,
                CubeCount::new_2d(cubes_x, cubes_y),
                dim,
                x,
                w,
                scales,
                column_sums,
                bias,
                y,
                sizes,
                from,
                to,
                alpha,
                beta,
                form,
            );
        };
    }
}

/// `y = activation(x·w + bias)`.
///
/// # Shapes
/// `x`: f32 `[rows, inner]`; `y`: f32 `[rows, columns]`; sizes are `[rows, inner, columns]`.
pub fn linear(gpu: &Gpu, x: &Buffer, sizes: [usize; 3], layer: &Layer<'_>, y: &Buffer) {
    let Layer { weights, rounded, bias, activation } = *layer;
    let layer = IntegerLayer {
        weights,
        // Nothing reads these two of a float layer.
        column_sums: bias,
        scales: bias,
        bias,
        input: Quantization::symmetric(1.0),
        float_input: false,
        activation,
    };
    let numbers = if rounded { Numbers::Bf16 } else { Numbers::F32 };
    let product = Product { gpu, x, sizes, numbers, layer, y: Output::F32(y) };
    if rounded {
        product.launch::<f32, bf16, f32, f32>();
    } else {
        product.launch::<f32, f32, f32, f32>();
    }
}

/// `y = activation((x·w − zero_point·column_sums)·scales + bias)` with sums in integers.
///
/// # Shapes
/// `x`: i8 or f32 `[rows, inner]`; `y`: f32 or i8 `[rows, columns]`; sizes are
/// `[rows, inner, columns]`.
pub fn integer_linear(
    gpu: &Gpu,
    x: &Buffer,
    sizes: [usize; 3],
    layer: &IntegerLayer<'_>,
    y: Output<'_>,
) {
    let product = Product { gpu, x, sizes, numbers: Numbers::Int8, layer: *layer, y };
    match (layer.float_input, y) {
        (false, Output::F32(_)) => product.launch::<i8, i8, i32, f32>(),
        (false, Output::Int8(..)) => product.launch::<i8, i8, i32, i8>(),
        (true, Output::F32(_)) => product.launch::<f32, i8, i32, f32>(),
        (true, Output::Int8(..)) => product.launch::<f32, i8, i32, i8>(),
    }
}
