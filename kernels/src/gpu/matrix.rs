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
use half::bf16;

use super::Gpu;
use super::epilogue::{Epilogue, Form, Loads, Sizes, finished, load, rounded_input, zeros};
use super::linear::{Arguments, Product};
use super::windows::{Windows, corners, load_left};

/// Units of a plane: the instruction is one of 32.
pub(super) const PLANE: usize = 32;
/// Bytes that a unit loads at a time.
const WIDE: usize = 16;
/// Rows, columns and bytes of the inner dimension of one instruction.
pub(super) const ROWS: usize = 16;
pub(super) const COLUMNS: usize = 8;
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
        && LARGE.fits(gpu)
        && inner > 0
        && (inner * size).is_multiple_of(WIDE)
}

/// How work is cut: a cube of `groups` times `planes[0] × planes[1]` planes, each with `blocks[0] ×
/// blocks[1]` results of the instruction. Each group multiplies its part of every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cut {
    groups: usize,
    planes: [usize; 2],
    /// The second is even: columns are read from shared memory for two instructions at once.
    blocks: [usize; 2],
    /// Bytes of the inner dimension in shared memory at a time, of all groups.
    depth: usize,
}

const LARGE: Cut = Cut { groups: 1, planes: [2, 2], blocks: [4, 4], depth: 128 };
const MIDDLE: Cut = Cut { groups: 1, planes: [2, 2], blocks: [2, 4], depth: 128 };
const SMALL: Cut = Cut { groups: 1, planes: [2, 2], blocks: [2, 2], depth: 128 };
/// For results of few tiles: many cubes, few steps.
const TINY: Cut = Cut { groups: 1, planes: [2, 2], blocks: [1, 2], depth: 256 };

/// What a product takes with one way to cut it, in nanoseconds: `launch`, and for each cube that the
/// busiest multiprocessor gets `cube`, and `kilobyte` for 1024 bytes of the inner dimension.
#[derive(Clone, Copy)]
struct Time {
    launch: usize,
    cube: usize,
    kilobyte: usize,
}

impl Time {
    const fn of([launch, cube, kilobyte]: [usize; 3]) -> Self {
        Self { launch, cube, kilobyte }
    }
}

/// Ways to cut products of bf16 and of int8 with their times, least squares of 23 products on an H200
/// (docs/performance.md, *GPU*).
const CUTS: [(Cut, [Time; 2]); 7] = [
    (LARGE, [Time::of([2542, 1382, 3997]), Time::of([8250, 1591, 5045])]),
    (MIDDLE, [Time::of([3593, 523, 2933]), Time::of([5636, 803, 3382])]),
    (SMALL, [Time::of([3708, 196, 2075]), Time::of([4137, 353, 2095])]),
    (TINY, [Time::of([2920, 213, 1296]), Time::of([3467, 369, 1223])]),
    (MIDDLE.in_groups(2), [Time::of([2264, 1236, 2455]), Time::of([4017, 2667, 2317])]),
    (TINY.in_groups(2), [Time::of([2485, 581, 1197]), Time::of([2772, 821, 1227])]),
    (SMALL.in_groups(4), [Time::of([1277, 1721, 1790]), Time::of([1365, 3016, 2213])]),
];

impl Cut {
    /// The fastest for these sizes.
    fn of<E>(gpu: &Gpu, rows: usize, inner: usize, columns: usize) -> Self {
        let time = |&(cut, [bf16, int8]): &(Self, [Time; 2])| {
            let Time { launch, cube, kilobyte } = if size_of::<E>() == 1 { int8 } else { bf16 };
            let cubes = rows.div_ceil(cut.rows()) * columns.div_ceil(cut.columns());
            launch + gpu.rounds(cubes) * (cube + kilobyte * inner * size_of::<E>() / 1024)
        };
        let fitting = CUTS.into_iter().filter(|(cut, _)| cut.fits(gpu));
        fitting.min_by_key(time).expect("`multiplies` found that the large one fits").0
    }

    /// The same tile with more planes, each group of which takes its part of longer steps: where few
    /// cubes share the device, more loads are under way.
    const fn in_groups(self, groups: usize) -> Self {
        Self { groups, depth: groups * self.depth, ..self }
    }

    /// Whether the device has the units and the shared memory.
    fn fits(self, gpu: &Gpu) -> bool {
        let steps = 2 * (self.rows() + self.columns()) * self.pitch() * WIDE;
        let sums = (self.groups - 1) * self.rows() * self.columns() * size_of::<f32>();
        let units = self.units() as u32;
        let available = gpu.client.properties().hardware.max_shared_memory_size;
        gpu.units(units) == units && steps + sums <= available
    }

    /// Planes of a group.
    const fn group_planes(self) -> usize {
        self.planes[0] * self.planes[1]
    }

    const fn units(self) -> usize {
        self.groups * self.group_planes() * PLANE
    }

    /// Blocks of a plane.
    const fn plane_blocks(self) -> usize {
        self.blocks[0] * self.blocks[1]
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

    /// How units share the loads of `rows` rows.
    const fn loads(self, rows: usize) -> Loads {
        let (units, pieces) = (self.units(), self.pieces());
        Loads { units, pieces, count: rows * pieces / units }
    }
}

/// Rounds pieces to the type that is multiplied.
#[cube]
fn rounded<X: Numeric, E: Numeric, N: Size>(
    x: Vector<X, N>,
    epilogue: &Epilogue,
    #[comptime] quantizes: bool,
) -> Vector<E, N> {
    if quantizes {
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

/// Where this unit's piece of this index lies in its step in shared memory.
#[cube]
fn place(#[comptime] index: usize, #[comptime] cut: Cut) -> usize {
    let place = UNIT_POS as usize + comptime!(index * cut.units());
    place / comptime!(cut.pieces()) * comptime!(cut.pitch()) + place % comptime!(cut.pieces())
}

/// Writes pieces to their step in shared memory, which begins at `start`, in the type that is
/// multiplied.
#[cube]
fn stage<X: Numeric, E: Numeric, N: Size>(
    loaded: &Array<Vector<X, N>>,
    shared: &mut Shared<[Vector<E, N>]>,
    start: usize,
    epilogue: &Epilogue,
    #[comptime] count: usize,
    #[comptime] quantizes: bool,
    #[comptime] cut: Cut,
) {
    #[unroll]
    for index in 0..count {
        let value = rounded::<X, E, N>(loaded[index], epilogue, quantizes);
        shared[start + place(index, cut)] = value;
    }
}

/// Multiplies one step of the inner dimension, from where `left` and `right` point in shared memory.
#[cube]
fn multiply<E: Numeric, S: Numeric, N: Size, NS: Size>(
    left: &Shared<[Vector<E, N>]>,
    right: &Shared<[Vector<E, N>]>,
    left_place: usize,
    right_place: usize,
    sums: &mut Sequence<Array<Vector<S, NS>>>,
    #[comptime] cut: Cut,
    #[comptime] wide: usize,
) {
    let [blocks_y, blocks_x] = comptime!(cut.blocks);
    let pitch = comptime!(cut.pitch());
    let product = MmaDefinition::<E, E, S>::new(ROWS, COLUMNS, comptime!(DEPTH / (WIDE / wide)));
    let size!(NA) = product.vector_size(MatrixIdent::A);
    let size!(NB) = product.vector_size(MatrixIdent::B);
    #[unroll]
    for step in 0..comptime!(cut.depth / DEPTH / cut.groups) {
        let mut operands = Sequence::<Array<Vector<E, NA>>>::new();
        #[unroll]
        for block in 0..blocks_y {
            let at = left_place + comptime!(block * ROWS * pitch + step * (DEPTH / WIDE));
            operands.push(product.load_matrix::<Vector<E, N>, NA>(
                &left[at..at + 1],
                MatrixIdent::A,
                4usize,
                false,
            ));
        }
        #[unroll]
        for pair in 0..comptime!(blocks_x / 2) {
            let at = right_place + comptime!(pair * 2 * COLUMNS * pitch + step * (DEPTH / WIDE));
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
}

/// Finishes and writes what this unit has of one block of sums, which begins at `row` and `column`:
/// neighbours in two rows, `wide_y` at a time.
#[cube]
fn write<S: Numeric, Y: Numeric, NS: Size, NY: Size>(
    sums: &Array<Vector<S, NS>>,
    row: usize,
    column: usize,
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    addend: &[Vector<f32, NY>],
    y: &mut [Vector<Y, NY>],
    rounded: &mut [Vector<bf16, NY>],
    sizes: &Sizes,
    epilogue: &Epilogue,
    #[comptime] form: Form,
    #[comptime] wide_y: usize,
) {
    let lane = UNIT_POS_X as usize;
    #[unroll]
    for half in 0..2usize {
        let row = row + lane / 4 + comptime!(half * ROWS / 2);
        #[unroll]
        for part in 0..comptime!(2 / wide_y) {
            let column = column + lane % 4 * 2 + part;
            // Rows are whole vectors: where one begins, all of it is.
            if row < sizes.rows && column < sizes.columns {
                let place = (row * sizes.columns + column) / wide_y;
                let mut values = Vector::<Y, NY>::empty();
                let mut added = Vector::<f32, NY>::new(0.0f32);
                if comptime!(form.adds) {
                    added = addend[place];
                }
                #[unroll]
                for element in 0..wide_y {
                    let sum = sums[half].extract(comptime!(part * wide_y + element));
                    let at = column + element;
                    let added = added.extract(element);
                    values.insert(
                        element,
                        finished::<S, Y>(sum, at, scales, column_sums, bias, added, epilogue, form),
                    );
                }
                y[place] = values;
                if comptime!(form.rounds) {
                    rounded[place] = Vector::cast_from(values);
                }
            }
        }
    }
}

/// `N` elements are 16 bytes of `E`; the result is written `NY` at a time.
#[cube(launch_unchecked)]
fn matrix_kernel<X: Numeric, E: Numeric, S: Numeric, Y: Numeric, N: Size, NY: Size>(
    x: &[Vector<X, N>],
    w: &[Vector<E, N>],
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    addend: &[Vector<f32, NY>],
    y: &mut [Vector<Y, NY>],
    rounded: &mut [Vector<bf16, NY>],
    sizes: Sizes,
    windows: Windows,
    epilogue: Epilogue,
    #[comptime] cut: Cut,
    #[comptime] form: Form,
    #[comptime] wide: usize,
    #[comptime] wide_y: usize,
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
    let size!(NS) = product.vector_size(MatrixIdent::Accumulator);
    let sum_vectors = product.vectors_per_lane(MatrixIdent::Accumulator);

    let lane = UNIT_POS_X as usize;
    let group = UNIT_POS_Y as usize / comptime!(cut.group_planes());
    let plane = UNIT_POS_Y as usize % comptime!(cut.group_planes());
    // Where the group's part of a step begins.
    let group_start = group * comptime!(cut.pieces() / cut.groups);
    let plane_row = plane / comptime!(cut.planes[1]) * comptime!(blocks_y * ROWS);
    let plane_column = plane % comptime!(cut.planes[1]) * comptime!(blocks_x * COLUMNS);
    let across = sizes.columns.div_ceil(comptime!(cut.columns()));
    let first_row = CUBE_POS / across * comptime!(cut.rows());
    let first_column = CUBE_POS % across * comptime!(cut.columns());
    // Which row and which half of 32 bytes this unit points to when its plane reads 16 rows of x,
    // and 16 of the weights: the first as four quarters down and then across, the second across
    // and then down.
    let left_place = (plane_row + lane % 16) * pitch + lane / 16 + group_start;
    let right_place =
        (plane_column + lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 + group_start;

    let mut sums = Sequence::<Array<Vector<S, NS>>>::new();
    #[unroll]
    for _ in 0..comptime!(blocks_y * blocks_x) {
        sums.push(zeros::<S, NS>(sum_vectors));
    }

    let row_pieces = sizes.inner / wide;
    let columns = sizes.columns;
    let mut loaded_left = Array::<Vector<X, N>>::new(left_loads.count);
    let mut loaded_right = Array::<Vector<E, N>>::new(right_loads.count);
    let corners = corners(first_row, &sizes, &windows, left_loads);
    let loaded = &mut loaded_left;
    load_left(x, loaded, &corners, 0, row_pieces, &sizes, &windows, &epilogue, form, left_loads);
    load::<E, E, N>(w, &mut loaded_right, first_column, columns, 0, row_pieces, right_loads);
    let mut next = 0usize;
    let mut current = 0usize;
    while next < row_pieces {
        let (left_at, right_at) = (current * left_step, current * right_step);
        let quantizes = comptime!(form.quantizes_input);
        stage(&loaded_left, &mut left, left_at, &epilogue, left_loads.count, quantizes, cut);
        stage(&loaded_right, &mut right, right_at, &epilogue, right_loads.count, false, cut);
        // Who writes a step next has passed the barrier behind the reads of it.
        sync_cube();
        next += comptime!(cut.pieces());
        let loaded = &mut loaded_left;
        load_left(
            x, loaded, &corners, next, row_pieces, &sizes, &windows, &epilogue, form, left_loads,
        );
        load::<E, E, N>(w, &mut loaded_right, first_column, columns, next, row_pieces, right_loads);
        let (left_at, right_at) = (left_at + left_place, right_at + right_place);
        multiply::<E, S, N, NS>(&left, &right, left_at, right_at, &mut sums, cut, wide);
        current = 1usize - current;
    }

    if comptime!(cut.groups > 1) {
        add_groups(&mut sums, group, plane, sum_vectors, cut);
    }
    // Only the first group has whole sums; with one group this is known when the kernel is compiled.
    if comptime!(cut.groups == 1) || group == 0 {
        #[unroll]
        for block in 0..comptime!(blocks_y * blocks_x) {
            let row = first_row + plane_row + comptime!(block / blocks_x * ROWS);
            let column = first_column + plane_column + comptime!(block % blocks_x * COLUMNS);
            write::<S, Y, NS, NY>(
                sums.index(block),
                row,
                column,
                scales,
                column_sums,
                bias,
                addend,
                y,
                rounded,
                &sizes,
                &epilogue,
                form,
                wide_y,
            );
        }
    }
}

/// Adds the sums of all groups to those of the first, through shared memory.
#[cube]
fn add_groups<S: Numeric, NS: Size>(
    sums: &mut Sequence<Array<Vector<S, NS>>>,
    group: usize,
    plane: usize,
    #[comptime] vectors: usize,
    #[comptime] cut: Cut,
) {
    let blocks = comptime!(cut.plane_blocks());
    let group_units = comptime!(cut.group_planes() * PLANE);
    let unit = plane * PLANE + UNIT_POS_X as usize;
    let left = comptime!(blocks * vectors * group_units * (cut.groups - 1));
    let mut shared = Shared::<[Vector<S, NS>]>::new_aligned_slice(left, WIDE);
    if group > 0 {
        #[unroll]
        for block in 0..blocks {
            #[unroll]
            for vector in 0..vectors {
                let place = comptime!(block * vectors + vector);
                let at = ((group - 1) * comptime!(blocks * vectors) + place) * group_units + unit;
                shared[at] = sums.index(block)[vector];
            }
        }
    }
    sync_cube();
    if group == 0 {
        #[unroll]
        for block in 0..blocks {
            #[unroll]
            for vector in 0..vectors {
                let place = comptime!(block * vectors + vector);
                #[unroll]
                for other in 1..cut.groups {
                    let start = comptime!(((other - 1) * blocks * vectors + place) * group_units);
                    let sum = sums.index(block)[vector] + shared[start + unit];
                    sums.index_mut(block)[vector] = sum;
                }
            }
        }
    }
}

/// Elements that are read at a time.
pub(super) const fn wide<E>() -> usize {
    WIDE / size_of::<E>()
}

/// Launches a product of weights in `[columns, inner]`, after [`multiplies`] said yes.
pub(super) fn launch<X: Numeric, E: Numeric, S: Numeric, Y: Numeric>(
    product: &Product<'_>,
    arguments: Arguments,
    wide: usize,
) {
    let Arguments { x, w, scales, column_sums, bias, addend, y, rounded, sizes, windows, epilogue } =
        arguments;
    let cut =
        Cut::of::<E>(product.gpu, product.rows, product.weights.inner, product.weights.columns);
    let aligned = product.y.buffer().is_aligned_to(2 * size_of::<Y>())
        && product.addend.is_none_or(|addend| addend.is_aligned_to(2 * size_of::<f32>()))
        && product.rounded.is_none_or(|rounded| rounded.is_aligned_to(2 * size_of::<bf16>()));
    let wide_y = if aligned && product.weights.columns.is_multiple_of(2) { 2 } else { 1 };
    let dim = CubeDim::new_2d(PLANE as u32, (cut.units() / PLANE) as u32);
    // SAFETY: every read and write of the kernel is behind a comparison with the sizes that
    // `Product::arguments` checked the lengths of all buffers against; `multiplies` found rows that are
    // whole pieces.
    unsafe {
        matrix_kernel::launch_unchecked::<X, E, S, Y>(
            &product.gpu.client,
            product.cubes(cut.rows(), cut.columns()),
            dim,
            wide,
            wide_y,
            x,
            w,
            scales,
            column_sums,
            bias,
            addend,
            y,
            rounded,
            sizes,
            windows,
            epilogue,
            cut,
            product.form(),
            wide,
            wide_y,
        );
    };
}
