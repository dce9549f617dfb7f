//! Products on ordinary units, with all bits of f32: a cube computes one tile of the result from
//! tiles of both operands in shared memory; each of its units keeps a block of sums in registers.
//!
//! Two steps of the inner dimension are in shared memory: the next is on its way while units
//! multiply the current one. x lies there transposed, so that a unit reads four rows of x, like
//! four columns of the weights, at a time. A block consists of squares of four rows and columns
//! that lie apart, so that neighbours read neighbouring vectors.
//!
//! Where a result has few tiles, groups of units share one: each takes its part of every step, and
//! at the end their sums are added through shared memory.

use cubecl::prelude::*;

use super::Gpu;
use super::epilogue::{Epilogue, Form, Loads, Sizes, finished, load, rounded_input, zeros};
use super::linear::{Arguments, Product};
use super::math::rounded_to_bf16;
use super::windows::{Windows, corners, load_left};

/// Elements that are read at a time, from memory where rows are whole vectors, and from shared
/// memory.
const WIDE: usize = 4;

pub(super) type Wide = Const<WIDE>;

/// How work is cut: a cube of `groups` times `units[0] × units[1]` units, each with `block[0] ×
/// block[1]` sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    groups: usize,
    units: [usize; 2],
    /// Multiples of [`WIDE`].
    block: [usize; 2],
    /// Products of each sum of a unit between two loads.
    depth: usize,
}

const LARGE: Tile = Tile { groups: 1, units: [16, 8], block: [8, 8], depth: 16 };
const MIDDLE: Tile = Tile { groups: 2, units: [8, 8], block: [8, 8], depth: 8 };
const SMALL: Tile = Tile { groups: 8, units: [4, 8], block: [8, 4], depth: 8 };
const TINY: Tile = Tile { groups: 16, units: [4, 4], block: [4, 4], depth: 8 };

impl Tile {
    /// The one with which the busiest multiprocessor is done first, of so many products.
    pub(super) fn of(gpu: &Gpu, rows: usize, columns: usize, products: usize) -> Self {
        /// Time for a sum, as measured with many tiles on an H100: smaller ones read more for each.
        const TIMES: [(Tile, usize); 4] = [(LARGE, 16), (MIDDLE, 20), (SMALL, 31), (TINY, 75)];
        let time = |&(tile, time): &(Self, usize)| {
            let tiles = rows.div_ceil(tile.rows()) * columns.div_ceil(tile.columns());
            gpu.rounds(products * tiles) * tile.rows() * tile.columns() * time
        };
        let all = TIMES.map(|(tile, time)| (tile.within(gpu.units(256) as usize), time));
        all.into_iter().min_by_key(time).expect("there are tiles").0
    }

    /// The same with at most so many units. Fewer load more each, and spare their registers by
    /// shorter steps.
    fn within(mut self, most_units: usize) -> Self {
        if self.cube_units() > most_units {
            self.depth = WIDE;
        }
        while self.cube_units() > most_units {
            let [rows, columns] = &mut self.units;
            let counts = [rows, columns, &mut self.groups];
            let most = counts.into_iter().reduce(|a, b| if *b > *a { b } else { a });
            *most.expect("there are three") /= 2;
        }
        self
    }

    const fn group_units(self) -> usize {
        self.units[0] * self.units[1]
    }

    pub(super) const fn cube_units(self) -> usize {
        self.groups * self.group_units()
    }

    pub(super) const fn rows(self) -> usize {
        self.units[0] * self.block[0]
    }

    pub(super) const fn columns(self) -> usize {
        self.units[1] * self.block[1]
    }

    /// Of the inner dimension, what is in shared memory at a time.
    pub(super) const fn inner(self) -> usize {
        self.groups * self.depth
    }

    /// Elements from one place of the inner dimension to the next, of x in shared memory: whole
    /// vectors, and stores of neighbours lie in other banks.
    const fn left_pitch(self) -> usize {
        self.rows() + WIDE
    }

    /// Where the weights of a step begin in it, in elements.
    pub(super) const fn right_start(self) -> usize {
        self.inner() * self.left_pitch()
    }

    /// Elements of a step in shared memory.
    const fn step(self) -> usize {
        self.right_start() + self.inner() * self.columns()
    }

    /// Rows whose sums the groups add at a time: one row of squares of each unit.
    const fn added_rows(self) -> usize {
        self.units[0] * WIDE
    }

    /// Squares of a unit, one below the other.
    pub(super) const fn row_squares(self) -> usize {
        self.block[0] / WIDE
    }

    /// Vectors of a unit's sums.
    pub(super) const fn sums(self) -> usize {
        self.block[0] * self.block[1] / WIDE
    }

    /// Vectors of shared memory: two steps, and later sums of all groups.
    pub(super) const fn shared(self) -> usize {
        let steps = 2 * self.step() / WIDE;
        let sums = self.groups * self.added_rows() * self.columns() / WIDE;
        if steps > sums { steps } else { sums }
    }

    /// How units share the loads of `rows` rows of `columns` elements.
    pub(super) const fn loads(self, rows: usize, columns: usize, wide: usize) -> Loads {
        let pieces = columns / wide;
        Loads { units: self.cube_units(), pieces, count: rows * pieces / self.cube_units() }
    }
}

/// An element in the type that is multiplied.
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

/// Writes pieces of rows of x to shared memory, transposed, from element `start` on.
#[cube]
pub(super) fn stage_left<X: Numeric, S: Numeric, N: Size>(
    loaded: &Array<Vector<X, N>>,
    shared: &mut [Vector<S, Const<1>>],
    start: usize,
    epilogue: &Epilogue,
    #[comptime] loads: Loads,
    #[comptime] wide: usize,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
) {
    #[unroll]
    for index in 0..loads.count {
        let place = UNIT_POS as usize + comptime!(index * loads.units);
        let (row, inner) = (place / loads.pieces, place % loads.pieces * wide);
        #[unroll]
        for element in 0..wide {
            let value = operand::<X, S>(loaded[index].extract(element), epilogue, form);
            let at = start + (inner + element) * comptime!(tile.left_pitch()) + row;
            shared[at] = Vector::new(value);
        }
    }
}

/// Writes pieces of rows of the weights to shared memory, from piece `start` on.
#[cube]
pub(super) fn stage_right<S: Numeric, N: Size>(
    loaded: &Array<Vector<S, N>>,
    shared: &mut [Vector<S, N>],
    start: usize,
    #[comptime] loads: Loads,
) {
    #[unroll]
    for index in 0..loads.count {
        let place = UNIT_POS as usize + comptime!(index * loads.units);
        shared[start + place] = loaded[index];
    }
}

/// Multiplies a unit's part of one step, from where `left` and `right` point in shared memory.
#[cube]
pub(super) fn multiply<S: Numeric>(
    shared: &Shared<[Vector<S, Wide>]>,
    left: usize,
    right: usize,
    sums: &mut Array<Vector<S, Wide>>,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
) {
    let [rows, columns] = comptime!(tile.block.map(|sums| sums / WIDE));
    let mut a = Array::<Vector<S, Wide>>::new(rows);
    let mut b = Array::<Vector<S, Wide>>::new(columns);
    #[unroll]
    for inner in 0..tile.depth {
        #[unroll]
        for index in 0..rows {
            let offset = comptime!(inner * tile.left_pitch() / WIDE + index * tile.units[0]);
            a[index] = shared[left + offset];
        }
        #[unroll]
        for index in 0..columns {
            let offset = comptime!(inner * tile.columns() / WIDE + index * tile.units[1]);
            b[index] = shared[right + offset];
        }
        #[unroll]
        for row in 0..comptime!(rows * WIDE) {
            let factor = Vector::new(a[comptime!(row / WIDE)].extract(comptime!(row % WIDE)));
            #[unroll]
            for column in 0..columns {
                let sum = comptime!(row * columns + column);
                if comptime!(form.float) {
                    sums[sum] = fma(factor, b[column], sums[sum]);
                } else {
                    sums[sum] = factor * b[column] + sums[sum];
                }
            }
        }
    }
}

/// Finishes four sums of a row and writes them.
#[cube]
fn write<S: Numeric, Y: Numeric, N: Size>(
    sums: Vector<S, Wide>,
    row: usize,
    column: usize,
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    addend: &[Vector<f32, N>],
    y: &mut [Vector<Y, N>],
    sizes: &Sizes,
    epilogue: &Epilogue,
    #[comptime] form: Form,
    #[comptime] wide: usize,
) {
    #[unroll]
    for part in 0..comptime!(WIDE / wide) {
        let first = column + comptime!(part * wide);
        // Rows are whole pieces: where one begins, all of it is.
        if row < sizes.rows && first < sizes.columns {
            let place = (row * sizes.columns + first) / wide;
            let mut values = Vector::<Y, N>::empty();
            let mut added = Vector::<f32, N>::new(0.0f32);
            if comptime!(form.adds) {
                added = addend[place];
            }
            #[unroll]
            for element in 0..wide {
                let sum = sums.extract(comptime!(part * wide + element));
                let at = if comptime!(form.bias_by_row) { row } else { first + element };
                let added = added.extract(element);
                values.insert(
                    element,
                    finished::<S, Y>(sum, at, scales, column_sums, bias, added, epilogue, form),
                );
            }
            y[place] = values;
        }
    }
}

/// Where a unit works.
#[derive(Clone, Copy, CubeType)]
pub(super) struct Place {
    group: usize,
    /// Of the unit, in its group.
    row: usize,
    column: usize,
    /// Of the cube's tile, in the result.
    pub(super) first_row: usize,
    pub(super) first_column: usize,
}

#[cube]
impl Place {
    /// Where this unit's parts of a step begin in it, in vectors.
    pub(super) fn parts(&self, #[comptime] tile: Tile) -> (usize, usize) {
        let first_inner = self.group * tile.depth;
        let left = first_inner * comptime!(tile.left_pitch() / WIDE) + self.row;
        let right = comptime!(tile.right_start() / WIDE)
            + first_inner * comptime!(tile.columns() / WIDE)
            + self.column;
        (left, right)
    }
}

/// `row` and `column` are those of the cube's tile, among tiles.
#[cube]
pub(super) fn place(row: usize, column: usize, #[comptime] tile: Tile) -> Place {
    let unit = UNIT_POS as usize;
    let in_group = unit % comptime!(tile.group_units());
    Place {
        group: unit / comptime!(tile.group_units()),
        row: in_group / tile.units[1],
        column: in_group % tile.units[1],
        first_row: row * comptime!(tile.rows()),
        first_column: column * comptime!(tile.columns()),
    }
}

/// Adds the groups' sums, finishes and writes them, one row of squares after another. Through shared
/// memory, also the sums of one group: neighbours then write to neighbouring places.
#[cube]
pub(super) fn write_sums<S: Numeric, Y: Numeric, N: Size>(
    sums: &Array<Vector<S, Wide>>,
    shared: &mut Shared<[Vector<S, Wide>]>,
    place: &Place,
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    addend: &[Vector<f32, N>],
    y: &mut [Vector<Y, N>],
    sizes: &Sizes,
    epilogue: &Epilogue,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
    #[comptime] wide: usize,
) {
    let squares = comptime!(tile.block[1] / WIDE);
    let row_vectors = comptime!(tile.columns() / WIDE);
    let group_vectors = comptime!(tile.added_rows() * row_vectors);
    #[unroll]
    for square in 0..comptime!(tile.row_squares()) {
        // Whoever still reads what lies here now has not passed.
        sync_cube();
        #[unroll]
        for row in 0..WIDE {
            #[unroll]
            for column in 0..squares {
                let at = (place.row * WIDE + row) * row_vectors + place.column;
                shared[place.group * group_vectors + at + comptime!(column * tile.units[1])] =
                    sums[comptime!((square * WIDE + row) * squares + column)];
            }
        }
        sync_cube();
        let mut index = UNIT_POS as usize;
        while index < group_vectors {
            let mut total = shared[index];
            #[unroll]
            for group in 1..tile.groups {
                total += shared[index + comptime!(group * group_vectors)];
            }
            let (row, column) = (index / row_vectors, index % row_vectors);
            write::<S, Y, N>(
                total,
                place.first_row + comptime!(square * tile.added_rows()) + row,
                place.first_column + column * WIDE,
                scales,
                column_sums,
                bias,
                addend,
                y,
                sizes,
                epilogue,
                form,
                wide,
            );
            index += comptime!(tile.cube_units());
        }
    }
}

/// Vectors in memory have `N` elements, which are `wide`.
#[cube(launch_unchecked)]
fn tiles_kernel<X: Numeric, W: Numeric, S: Numeric, Y: Numeric, N: Size>(
    x: &[Vector<X, N>],
    w: &[Vector<W, N>],
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    addend: &[Vector<f32, N>],
    y: &mut [Vector<Y, N>],
    sizes: Sizes,
    windows: Windows,
    epilogue: Epilogue,
    #[comptime] tile: Tile,
    #[comptime] form: Form,
    #[comptime] wide: usize,
) {
    let mut shared =
        Shared::<[Vector<S, Wide>]>::new_aligned_slice(comptime!(tile.shared()), 16usize);
    let across = sizes.columns.div_ceil(comptime!(tile.columns()));
    let at = place(CUBE_POS / across, CUBE_POS % across, tile);
    let left_loads = comptime!(tile.loads(tile.rows(), tile.inner(), wide));
    let right_loads = comptime!(tile.loads(tile.inner(), tile.columns(), wide));
    let (left, right) = at.parts(tile);

    let mut sums = zeros::<S, Wide>(comptime!(tile.sums()));
    let (pieces, column_pieces) = (sizes.inner / wide, sizes.columns / wide);
    let (first_row, first_piece) = (at.first_row, at.first_column / wide);
    let mut loaded_left = Array::<Vector<X, N>>::new(left_loads.count);
    let mut loaded_right = Array::<Vector<S, N>>::new(right_loads.count);
    let corners = corners(first_row, &sizes, &windows, left_loads);
    let loaded = &mut loaded_left;
    load_left(x, loaded, &corners, 0, pieces, &sizes, &windows, &epilogue, form, left_loads);
    let loaded = &mut loaded_right;
    load::<W, S, N>(w, loaded, 0, sizes.inner, first_piece, column_pieces, right_loads);
    let mut next = 0usize;
    let mut current = 0usize;
    while next < sizes.inner {
        let start = current * comptime!(tile.step());
        let elements = shared.with_vector_size_mut::<Const<1>>();
        stage_left::<X, S, N>(
            &loaded_left,
            elements,
            start,
            &epilogue,
            left_loads,
            wide,
            tile,
            form,
        );
        let vectors = shared.with_vector_size_mut::<N>();
        let right_start = (start + comptime!(tile.right_start())) / wide;
        stage_right::<S, N>(&loaded_right, vectors, right_start, right_loads);
        // Who writes a step next has passed the barrier behind the reads of it.
        sync_cube();
        next += comptime!(tile.inner());
        let (piece, loaded) = (next / wide, &mut loaded_left);
        load_left(
            x, loaded, &corners, piece, pieces, &sizes, &windows, &epilogue, form, left_loads,
        );
        let loaded = &mut loaded_right;
        load::<W, S, N>(w, loaded, next, sizes.inner, first_piece, column_pieces, right_loads);
        let start = start / WIDE;
        multiply::<S>(&shared, start + left, start + right, &mut sums, tile, form);
        current = 1usize - current;
    }

    write_sums::<S, Y, N>(
        &sums,
        &mut shared,
        &at,
        scales,
        column_sums,
        bias,
        addend,
        y,
        &sizes,
        &epilogue,
        tile,
        form,
        wide,
    );
}

/// Elements that are read and written at a time.
pub(super) fn wide<X, Y>(product: &Product<'_>) -> usize {
    let whole = [product.run(), product.weights.columns].iter().all(|n| n % WIDE == 0);
    let aligned = product.x.is_aligned_to(WIDE * size_of::<X>())
        && product.y.buffer().is_aligned_to(WIDE * size_of::<Y>())
        && product.addend.is_none_or(|addend| addend.is_aligned_to(WIDE * size_of::<f32>()));
    if whole && aligned { WIDE } else { 1 }
}

/// Launches a product of weights in `[inner, columns]`.
pub(super) fn launch<X: Numeric, W: Numeric, S: Numeric, Y: Numeric>(
    product: &Product<'_>,
    arguments: Arguments,
    wide: usize,
) {
    let Arguments { x, w, scales, column_sums, bias, addend, y, sizes, windows, epilogue, .. } =
        arguments;
    assert!(product.rounded.is_none(), "linear: expected y in one type");
    let tile = Tile::of(product.gpu, product.rows, product.weights.columns, 1);
    // SAFETY: every read and write of the kernel is behind a comparison with the sizes that
    // `Product::arguments` checked the lengths of all buffers against; rows are whole vectors.
    unsafe {
        tiles_kernel::launch_unchecked::<X, W, S, Y>(
            &product.gpu.client,
            product.cubes(tile.rows(), tile.columns()),
            CubeDim::new_1d(tile.cube_units() as u32),
            wide,
            x,
            w,
            scales,
            column_sums,
            bias,
            addend,
            y,
            sizes,
            windows,
            epilogue,
            tile,
            product.form(),
            wide,
        );
    };
}
