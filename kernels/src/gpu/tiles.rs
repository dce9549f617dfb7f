//! Products on ordinary units: a cube computes one tile of the result from tiles of both operands
//! in shared memory; each of its units keeps a small block of sums in registers.

use cubecl::prelude::*;

use super::Gpu;
use super::linear::{Arguments, Epilogue, Form, Product, Sizes, finished, rounded_input};
use super::math::rounded_to_bf16;

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
        /// Tiles that keep a big GPU busy.
        const ENOUGH_TILES: usize = 128;
        let units = gpu.units(256) as usize;
        let units_x = units.min(16);
        let large = Self { units_y: units / units_x, units_x, block: 8, depth: 16 };
        let middle = Self { block: 4, ..large };
        let small = Self { block: 2, depth: 32, ..large };
        let tiles = |tile: Self| rows.div_ceil(tile.rows()) * columns.div_ceil(tile.columns());
        let enough = |tile: &Self| tiles(*tile) >= ENOUGH_TILES;
        [large, middle].into_iter().find(enough).unwrap_or(small)
    }

    const fn rows(self) -> usize {
        self.units_y * self.block
    }

    const fn columns(self) -> usize {
        self.units_x * self.block
    }
}

#[cube]
fn operand<X: Numeric, S: Numeric>(x: X, epilogue: &Epilogue, #[comptime] form: Form) -> S {
    if comptime!(form.quantizes_input) {
        S::cast_from(rounded_input(f32::cast_from(x), epilogue))
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
    epilogue: &Epilogue,
    first_row: usize,
    first_inner: usize,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
) {
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
            value = operand::<X, S>(x[index], epilogue, form);
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
fn tiles_kernel<X: Numeric, W: Numeric, S: Numeric, Y: Numeric>(
    x: &[X],
    w: &[W],
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    y: &mut [Y],
    sizes: Sizes,
    epilogue: Epilogue,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
) {
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
        load_left::<X, S>(x, &mut left, &sizes, &epilogue, first_row, first_inner, tile, form);
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
                y[row_index * sizes.columns + column_index] =
                    finished::<S, Y>(sum, column_index, scales, column_sums, bias, &epilogue, form);
            }
        }
    }
}

/// Launches a product of weights in `[inner, columns]`.
pub(super) fn launch<X: Numeric, W: Numeric, S: Numeric, Y: Numeric>(
    product: &Product<'_>,
    arguments: Arguments,
) {
    let Arguments { x, w, scales, column_sums, bias, y, sizes, epilogue } = arguments;
    let tile = Tile::of(product.gpu, product.rows, product.weights.columns);
    let dim = CubeDim::new_2d(tile.units_x as u32, tile.units_y as u32);
    // SAFETY: every read and write of the kernel is behind a comparison with the sizes that
    // `Product::arguments` checked the lengths of all buffers against.
    unsafe {
        tiles_kernel::launch_unchecked::<X, W, S, Y>(
            &product.gpu.client,
            product.cubes(tile.rows(), tile.columns()),
            dim,
            x,
            w,
            scales,
            column_sums,
            bias,
            y,
            sizes,
            epilogue,
            tile,
            product.form(),
        );
    };
}
