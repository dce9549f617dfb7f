//! Products on the matrix units of a GPU: bf16 with sums in f32, int8 with sums in i32.
//!
//! A cube computes one tile of the result. Its units load both operands 16 bytes at a time, round
//! x where it is not yet bf16 or int8, and keep two steps of the inner dimension in shared memory:
//! the next is on its way while the planes (warps) multiply the current one. Rows in shared memory
//! are 16 bytes further apart than they are long, so that the eight rows that one instruction
//! reads lie in different banks.
//!
//! x is `[rows, inner]` and the weights are `[columns, inner]`: the instruction wants both along
//! the inner dimension.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::features::MmaConfig;
use cubecl::prelude::*;

use super::Gpu;
use super::linear::{Arguments, Epilogue, Form, Product, Sizes, finished, rounded_input};

/// Units of a plane: the instruction is one of 32.
const PLANE: usize = 32;
/// Bytes that a unit loads at a time.
const WIDE: usize = 16;
/// Rows, columns and bytes of the inner dimension of one instruction.
const ROWS: usize = 16;
const COLUMNS: usize = 8;
const DEPTH: usize = 32;

/// Whether the device multiplies `E` with sums in `S`, and rows of `inner` can be read 16 bytes at
/// a time.
pub(super) fn multiplies<E: CubeElement, S: CubeElement>(gpu: &Gpu, inner: usize) -> bool {
    let size = size_of::<E>();
    let config = MmaConfig {
        a_type: E::cube_type(),
        b_type: E::cube_type(),
        cd_type: S::cube_type(),
        m: ROWS as u32,
        n: COLUMNS as u32,
        k: (DEPTH / size) as u32,
    };
    let properties = gpu.client.properties();
    let matmul = &properties.features.matmul;
    let hardware = &properties.hardware;
    let planes = [hardware.plane_size_min, hardware.plane_size_max];
    matmul.mma.contains(&config)
        && !matmul.ldmatrix.is_empty()
        && planes == [PLANE as u32; 2]
        && gpu.units(LARGE.units() as u32) == LARGE.units() as u32
        && inner > 0
        && (inner * size).is_multiple_of(WIDE)
}

/// How work is cut: a cube of `planes[0] × planes[1]` planes, each with `blocks[0] × blocks[1]`
/// results of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cut {
    planes: [usize; 2],
    /// The second is even: columns are read from shared memory for two instructions at once.
    blocks: [usize; 2],
    /// Bytes of the inner dimension in shared memory at a time.
    depth: usize,
}

/// For results that smaller tiles would read too often.
const LARGE: Cut = Cut { planes: [2, 4], blocks: [4, 4], depth: 64 };
const MIDDLE: Cut = Cut { planes: [2, 2], blocks: [2, 4], depth: 128 };
/// For results of few tiles: many cubes, few steps.
const SMALL: Cut = Cut { planes: [2, 2], blocks: [1, 2], depth: 256 };

impl Cut {
    /// The largest that keeps a big GPU busy.
    fn of(rows: usize, columns: usize) -> Self {
        const ENOUGH_TILES: usize = 128;
        let tiles = |cut: Self| rows.div_ceil(cut.rows()) * columns.div_ceil(cut.columns());
        let large_enough = |cut: &Self| tiles(*cut) >= ENOUGH_TILES;
        [LARGE, MIDDLE].into_iter().find(large_enough).unwrap_or(SMALL)
    }

    const fn units(self) -> usize {
        self.planes[0] * self.planes[1] * PLANE
    }

    const fn rows(self) -> usize {
        self.planes[0] * self.blocks[0] * ROWS
    }

    const fn columns(self) -> usize {
        self.planes[1] * self.blocks[1] * COLUMNS
    }

    /// 16-byte pieces of a row in shared memory.
    const fn pieces(self) -> usize {
        self.depth / WIDE
    }

    /// Pieces from one row in shared memory to the next.
    const fn pitch(self) -> usize {
        self.pieces() + 1
    }

    /// Pieces of `rows` rows that each unit loads.
    const fn loads(self, rows: usize) -> usize {
        rows * self.pieces() / self.units()
    }
}

/// Loads this unit's pieces of some rows, from `first_piece` of the inner dimension on; zeros
/// outside of the matrix.
#[cube]
fn load<X: Numeric, N: Size>(
    matrix: &[Vector<X, N>],
    loaded: &mut Array<Vector<X, N>>,
    first_row: usize,
    rows: usize,
    first_piece: usize,
    row_pieces: usize,
    #[comptime] count: usize,
    #[comptime] cut: Cut,
) {
    let unit = UNIT_POS as usize;
    #[unroll]
    for index in 0..count {
        let place = unit + comptime!(index * cut.units());
        let row = first_row + place / comptime!(cut.pieces());
        let piece = first_piece + place % comptime!(cut.pieces());
        let mut value = Vector::<X, N>::new(X::from_int(0));
        if row < rows && piece < row_pieces {
            value = matrix[row * row_pieces + piece];
        }
        loaded[index] = value;
    }
}

/// Rounds pieces to the type that is multiplied.
#[cube]
fn rounded<X: Numeric, E: Numeric, N: Size>(
    x: Vector<X, N>,
    epilogue: &Epilogue,
    #[comptime] form: Form,
) -> Vector<E, N> {
    if comptime!(form.quantizes_input) {
        let mut value = Vector::<E, N>::empty();
        #[unroll]
        for index in 0..x.vector_size() {
            let integer = rounded_input(f32::cast_from(x.extract(index)), epilogue);
            value.insert(index, E::cast_from(integer));
        }
        value
    } else {
        Vector::<E, N>::cast_from(x)
    }
}

/// Where the first piece of each row of a step lies in shared memory.
#[cube]
fn place(#[comptime] index: usize, #[comptime] cut: Cut) -> usize {
    let place = UNIT_POS as usize + comptime!(index * cut.units());
    place / comptime!(cut.pieces()) * comptime!(cut.pitch()) + place % comptime!(cut.pieces())
}

/// `N` elements are 16 bytes of `E`.
#[cube(launch_unchecked)]
fn matrix_kernel<X: Numeric, E: Numeric, S: Numeric, Y: Numeric, N: Size>(
    x: &[Vector<X, N>],
    w: &[Vector<E, N>],
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    y: &mut [Y],
    sizes: Sizes,
    epilogue: Epilogue,
    #[comptime] cut: Cut,
    #[comptime] form: Form,
    #[comptime] wide: usize,
) {
    let [blocks_y, blocks_x] = comptime!(cut.blocks);
    let pitch = comptime!(cut.pitch());
    let left_loads = comptime!(cut.loads(cut.rows()));
    let right_loads = comptime!(cut.loads(cut.columns()));
    // Two steps of each operand.
    let left_step = comptime!(cut.rows() * cut.pitch());
    let right_step = comptime!(cut.columns() * cut.pitch());
    let mut left = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * left_step), WIDE);
    let mut right = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(2 * right_step), WIDE);

    let product = MmaDefinition::<E, E, S>::new(ROWS, COLUMNS, comptime!(DEPTH / (WIDE / wide)));
    let size!(NA) = product.vector_size(MatrixIdent::A);
    let size!(NB) = product.vector_size(MatrixIdent::B);
    let size!(NS) = product.vector_size(MatrixIdent::Accumulator);
    let sum_vectors = product.vectors_per_lane(MatrixIdent::Accumulator);
    let sum_width = product.vector_size(MatrixIdent::Accumulator);

    let lane = UNIT_POS_X as usize;
    let plane = UNIT_POS_Y as usize;
    let plane_row = plane / comptime!(cut.planes[1]) * comptime!(blocks_y * ROWS);
    let plane_column = plane % comptime!(cut.planes[1]) * comptime!(blocks_x * COLUMNS);
    let first_row = CUBE_POS_Y as usize * comptime!(cut.rows());
    let first_column = CUBE_POS_X as usize * comptime!(cut.columns());
    // Which row and which half of 32 bytes this unit points to when its plane reads 16 rows of x,
    // and 16 of the weights: the first as four quarters down and then across, the second across
    // and then down.
    let left_place = (plane_row + lane % 16) * pitch + lane / 16;
    let right_place = (plane_column + lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2;

    let mut sums = Sequence::<Array<Vector<S, NS>>>::new();
    #[unroll]
    for _ in 0..comptime!(blocks_y * blocks_x) {
        let mut block = Array::<Vector<S, NS>>::new(sum_vectors);
        #[unroll]
        for index in 0..sum_vectors {
            block[index] = Vector::<S, NS>::new(S::from_int(0));
        }
        sums.push(block);
    }

    let row_pieces = sizes.inner / wide;
    let mut loaded_left = Array::<Vector<X, N>>::new(left_loads);
    let mut loaded_right = Array::<Vector<E, N>>::new(right_loads);
    load::<X, N>(x, &mut loaded_left, first_row, sizes.rows, 0, row_pieces, left_loads, cut);
    load::<E, N>(
        w,
        &mut loaded_right,
        first_column,
        sizes.columns,
        0,
        row_pieces,
        right_loads,
        cut,
    );
    let mut first_piece = 0usize;
    let mut current = 0usize;
    while first_piece < row_pieces {
        #[unroll]
        for index in 0..left_loads {
            let value = rounded::<X, E, N>(loaded_left[index], &epilogue, form);
            left[current * left_step + place(index, cut)] = value;
        }
        #[unroll]
        for index in 0..right_loads {
            right[current * right_step + place(index, cut)] = loaded_right[index];
        }
        // Who writes a step next has passed the barrier behind the reads of it.
        sync_cube();
        first_piece += comptime!(cut.pieces());
        load::<X, N>(
            x,
            &mut loaded_left,
            first_row,
            sizes.rows,
            first_piece,
            row_pieces,
            left_loads,
            cut,
        );
        load::<E, N>(
            w,
            &mut loaded_right,
            first_column,
            sizes.columns,
            first_piece,
            row_pieces,
            right_loads,
            cut,
        );
        #[unroll]
        for step in 0..comptime!(cut.depth / DEPTH) {
            let mut operands = Sequence::<Array<Vector<E, NA>>>::new();
            #[unroll]
            for block in 0..blocks_y {
                let at = current * left_step
                    + left_place
                    + comptime!(block * ROWS * pitch + step * (DEPTH / WIDE));
                operands.push(product.load_matrix::<Vector<E, N>, NA>(
                    &left[at..at + 1],
                    MatrixIdent::A,
                    4usize,
                    false,
                ));
            }
            #[unroll]
            for pair in 0..comptime!(blocks_x / 2) {
                let at = current * right_step
                    + right_place
                    + comptime!(pair * 2 * COLUMNS * pitch + step * (DEPTH / WIDE));
                let both = product.load_matrix::<Vector<E, N>, NB>(
                    &right[at..at + 1],
                    MatrixIdent::B,
                    4usize,
                    false,
                );
                #[unroll]
                for half in 0..2usize {
                    let mut operand = Array::<Vector<E, NB>>::new(2usize);
                    operand[0] = both[comptime!(2 * half)];
                    operand[1] = both[comptime!(2 * half + 1)];
                    #[unroll]
                    for block in 0..blocks_y {
                        product.execute_inplace(
                            operands.index(block),
                            &operand,
                            sums.index_mut(comptime!(block * blocks_x + pair * 2 + half)),
                        );
                    }
                }
            }
        }
        current = 1usize - current;
    }

    #[unroll]
    for block in 0..comptime!(blocks_y * blocks_x) {
        let block_row = first_row + plane_row + comptime!(block / blocks_x * ROWS);
        let block_column = first_column + plane_column + comptime!(block % blocks_x * COLUMNS);
        #[unroll]
        for index in 0..sum_vectors {
            #[unroll]
            for part in 0..sum_width {
                let nth = comptime!((index * sum_width + part) as u32).runtime();
                let (row, column) =
                    product.position_of_nth(lane as u32, nth, MatrixIdent::Accumulator);
                let row = block_row + row as usize;
                let column = block_column + column as usize;
                if row < sizes.rows && column < sizes.columns {
                    let sum = sums.index(block)[index].extract(part);
                    y[row * sizes.columns + column] =
                        finished::<S, Y>(sum, column, scales, column_sums, bias, &epilogue, form);
                }
            }
        }
    }
}

/// Launches a product of weights in `[columns, inner]`, after [`multiplies`] said yes.
pub(super) fn launch<X: Numeric, E: Numeric, S: Numeric, Y: Numeric>(product: &Product<'_>) {
    let (rows, columns) = (product.rows, product.weights.columns);
    let Arguments { x, w, scales, column_sums, bias, y, sizes, epilogue } =
        product.arguments::<X, E, Y>();
    if rows * columns == 0 {
        return;
    }
    let cut = Cut::of(rows, columns);
    let wide = WIDE / size_of::<E>();
    let [cubes_x, cubes_y] = [columns.div_ceil(cut.columns()), rows.div_ceil(cut.rows())]
        .map(|cubes| u32::try_from(cubes).expect("fewer than 2³² cubes"));
    let dim = CubeDim::new_2d(PLANE as u32, (cut.units() / PLANE) as u32);
    // SAFETY: every read and write of the kernel is behind a comparison with the sizes that
    // `arguments` checked the lengths of all buffers against; `multiplies` found rows that are
    // whole pieces.
    unsafe {
        matrix_kernel::launch_unchecked::<X, E, S, Y>(
            &product.gpu.client,
            CubeCount::new_2d(cubes_x, cubes_y),
            dim,
            wide,
            x,
            w,
            scales,
            column_sums,
            bias,
            y,
            sizes,
            epilogue,
            cut,
            product.form(),
            wide,
        );
    };
}
