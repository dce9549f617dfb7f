//! Attention with both products on matrix units (FlashAttention-2, Dao 2023, arXiv:2307.08691):
//! query, key, value and the weights of values are rounded to bf16; scores, softmax and all sums are
//! f32, in registers.
//!
//! Each plane (warp) has 16 queries; all planes of a cube share the keys and values in its memory.
//! Rows lie there 16 bytes further apart than they are long, as in `matrix`. What one product
//! leaves in the registers of a plane is what the next one takes: sums lie in them as the left
//! operand does, but for their type.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;
use half::bf16;

use super::Gpu;
use super::attention::{Arguments, Rows, Walk};
use super::epilogue::zeros;
use super::math::{Steps, exp_of_negative, quantized};
use super::matrix::{COLUMNS, PLANE, ROWS, multiplies};
use crate::Attention;

/// Elements that are read at a time: 16 bytes of bf16.
pub(super) const WIDE: usize = 8;
/// Of the inner dimension of one instruction.
const DEPTH: usize = 16;
/// Keys that a cube holds in shared memory at a time.
const KEYS: usize = 64;
/// Most elements of a head: a unit holds part of a query and of its sums in registers.
const MOST_HEAD: usize = 128;
/// Most planes of a cube.
const MOST_PLANES: usize = 4;

/// Two neighbours, as the instruction takes and leaves them.
type Pair = Const<2>;

/// What an attention is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    head_size: usize,
    /// Of a cube.
    planes: usize,
    masked: bool,
    quantizes_output: bool,
}

impl Form {
    /// Of a head, each of [`WIDE`] elements.
    const fn pieces(self) -> usize {
        self.head_size / WIDE
    }

    /// Pieces from one row in shared memory to the next.
    const fn pitch(self) -> usize {
        self.pieces() + 1
    }

    const fn units(self) -> usize {
        self.planes * PLANE
    }

    const fn queries(self) -> usize {
        self.planes * ROWS
    }
}

/// Whether the device multiplies heads of this size.
pub(super) fn multiplies_heads(gpu: &Gpu, head_size: usize) -> bool {
    head_size <= MOST_HEAD
        && head_size.is_multiple_of(DEPTH)
        && multiplies::<bf16, f32>(gpu, head_size)
}

/// Loads `count` rows of one head, from row `first` on, behind `place`; zeros behind the last.
#[cube]
fn load<X: Numeric, N: Size>(
    data: &[Vector<X, N>],
    tile: &mut Shared<[Vector<bf16, N>]>,
    start: usize,
    rows: &Rows,
    first: usize,
    end: usize,
    #[comptime] place: usize,
    #[comptime] count: usize,
    #[comptime] form: Form,
) {
    #[unroll]
    for index in 0..comptime!(count * form.pieces() / form.units()) {
        let at = UNIT_POS as usize + comptime!(index * form.units());
        let (row, piece) = (at / comptime!(form.pieces()), at % comptime!(form.pieces()));
        let mut value = Vector::<bf16, N>::new(bf16::from_int(0));
        if first + row < end {
            value = Vector::cast_from(data[start + (first + row) * rows.stride + piece]);
        }
        tile[place + row * comptime!(form.pitch()) + piece] = value;
    }
}

/// Blocks of sums from zero.
#[cube]
fn blocks(#[comptime] count: usize) -> Sequence<Array<Vector<f32, Pair>>> {
    let mut all = Sequence::<Array<Vector<f32, Pair>>>::new();
    #[unroll]
    for _ in 0..count {
        all.push(zeros::<f32, Pair>(2usize));
    }
    all
}

/// The queries of this plane, as left operands, from where `place` points in shared memory.
#[cube]
fn left_operands<N: Size>(
    tile: &Shared<[Vector<bf16, N>]>,
    place: usize,
    #[comptime] form: Form,
) -> Sequence<Array<Vector<bf16, Pair>>> {
    let product = MmaDefinition::<bf16, bf16, f32>::new(ROWS, COLUMNS, DEPTH);
    let mut operands = Sequence::<Array<Vector<bf16, Pair>>>::new();
    #[unroll]
    for step in 0..comptime!(form.head_size / DEPTH) {
        let at = place + comptime!(step * (DEPTH / WIDE));
        let row = &tile[at..at + 1];
        operands.push(product.load_matrix::<Vector<bf16, N>, Pair>(
            row,
            MatrixIdent::A,
            4usize,
            false,
        ));
    }
    operands
}

/// Adds the product of one left operand and two right ones, which lie in shared memory from where
/// `place` points, to two blocks of sums.
#[cube]
fn multiply<N: Size>(
    left: &Array<Vector<bf16, Pair>>,
    tile: &Shared<[Vector<bf16, N>]>,
    place: usize,
    sums: &mut Sequence<Array<Vector<f32, Pair>>>,
    #[comptime] first_block: usize,
    #[comptime] transposed: bool,
) {
    let product = MmaDefinition::<bf16, bf16, f32>::new(ROWS, COLUMNS, DEPTH);
    let both = product.load_matrix::<Vector<bf16, N>, Pair>(
        &tile[place..place + 1],
        MatrixIdent::B,
        4usize,
        transposed,
    );
    #[unroll]
    for half in 0..2usize {
        let mut right = Array::<Vector<bf16, Pair>>::new(2usize);
        right[0] = both[comptime!(2 * half)];
        right[1] = both[comptime!(2 * half + 1)];
        product.execute_inplace(left, &right, sums.index_mut(comptime!(first_block + half)));
    }
}

/// What a unit knows of the two queries that it has a part of, 8 apart.
#[derive(CubeType)]
struct Softmax {
    /// Greatest score so far, the same in all units of a query.
    greatest: Array<f32>,
    /// Sum of this unit's weights so far.
    total: Array<f32>,
    /// Where their masks begin.
    mask: Array<usize>,
}

/// Turns the scores of keys `first..` into weights, and corrects the sums so far to the new
/// greatest scores.
#[cube]
fn weigh(
    scores: &mut Sequence<Array<Vector<f32, Pair>>>,
    sums: &mut Sequence<Array<Vector<f32, Pair>>>,
    softmax: &mut Softmax,
    mask: &[f32],
    first: usize,
    walk: &Walk,
    #[comptime] form: Form,
) {
    let first_key = first + UNIT_POS_X as usize % 4 * 2;
    #[unroll]
    for half in 0..2usize {
        let mut newest = softmax.greatest[half];
        #[unroll]
        for block in 0..comptime!(KEYS / COLUMNS) {
            let mut values = scores.index(block)[half] * Vector::new(walk.scale);
            #[unroll]
            for part in 0..2usize {
                let key = first_key + comptime!(block * COLUMNS + part);
                let mut score = values.extract(part);
                if key < walk.keys {
                    if comptime!(form.masked) {
                        score += mask[softmax.mask[half] + key];
                    }
                } else {
                    score = f32::new(f32::NEG_INFINITY);
                }
                newest = max(newest, score);
                values.insert(part, score);
            }
            scores.index_mut(block)[half] = values;
        }
        // Four neighbours have the scores of a query.
        newest = max(newest, plane_shuffle_xor(newest, 1u32));
        newest = max(newest, plane_shuffle_xor(newest, 2u32));
        let correction = exp_of_negative(softmax.greatest[half] - newest);
        softmax.greatest[half] = newest;
        let mut total = softmax.total[half] * correction;
        #[unroll]
        for block in 0..comptime!(KEYS / COLUMNS) {
            let mut values = scores.index(block)[half];
            #[unroll]
            for part in 0..2usize {
                let weight = exp_of_negative(values.extract(part) - newest);
                total += weight;
                values.insert(part, weight);
            }
            scores.index_mut(block)[half] = values;
        }
        softmax.total[half] = total;
        #[unroll]
        for block in 0..comptime!(form.head_size / COLUMNS) {
            let corrected = sums.index(block)[half] * Vector::new(correction);
            sums.index_mut(block)[half] = corrected;
        }
    }
}

/// Two blocks of weights as a left operand.
#[cube]
fn left_operand(
    weights: &Sequence<Array<Vector<f32, Pair>>>,
    #[comptime] first_block: usize,
) -> Array<Vector<bf16, Pair>> {
    let mut left = Array::<Vector<bf16, Pair>>::new(4usize);
    #[unroll]
    for index in 0..4usize {
        let block = weights.index(comptime!(first_block + index / 2));
        left[index] = Vector::cast_from(block[comptime!(index % 2)]);
    }
    left
}

/// Divides this unit's sums by the totals and writes them; `row` is the first of its two queries.
#[cube]
fn write<Y: Numeric>(
    sums: &Sequence<Array<Vector<f32, Pair>>>,
    softmax: &Softmax,
    y: &mut [Vector<Y, Pair>],
    row: usize,
    walk: &Walk,
    to: &Steps,
    #[comptime] form: Form,
) {
    #[unroll]
    for half in 0..2usize {
        let mut total = softmax.total[half];
        total += plane_shuffle_xor(total, 1u32);
        total += plane_shuffle_xor(total, 2u32);
        // The total is 0 where all keys are masked by −∞, and may be NaN.
        let weighs = total > 0.0f32;
        let inverse = 1.0f32 / total;
        let query = row + comptime!(half * ROWS / 2);
        if query < walk.queries {
            let query = CUBE_POS_Z as usize * walk.queries + query;
            let head = query * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize;
            let start = head * comptime!(form.head_size / 2) + UNIT_POS_X as usize % 4;
            #[unroll]
            for block in 0..comptime!(form.head_size / COLUMNS) {
                let sum = sums.index(block)[half];
                let mut values = Vector::<Y, Pair>::empty();
                #[unroll]
                for part in 0..2usize {
                    let value = select(weighs, sum.extract(part) * inverse, walk.without_keys);
                    if comptime!(form.quantizes_output) {
                        values.insert(part, Y::cast_from(quantized(value, to)));
                    } else {
                        values.insert(part, Y::cast_from(value));
                    }
                }
                y[start + comptime!(block * COLUMNS / 2)] = values;
            }
        }
    }
}

/// Vectors of q, k and v have [`WIDE`] elements.
#[cube(launch_unchecked)]
fn matrix_attention_kernel<X: Numeric, Y: Numeric, N: Size>(
    q: &[Vector<X, N>],
    k: &[Vector<X, N>],
    v: &[Vector<X, N>],
    mask: &[f32],
    y: &mut [Vector<Y, Pair>],
    walk: Walk,
    to: Steps,
    #[comptime] form: Form,
) {
    let pitch = comptime!(form.pitch());
    let values = comptime!(KEYS * form.pitch());
    let mut tile = Shared::<[Vector<bf16, N>]>::new_aligned_slice(comptime!(2 * values), 16usize);
    let (batch, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let (lane, plane) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let pieces = comptime!(form.pieces());
    let query_start = walk.q.start + batch * walk.queries * walk.q.stride + head * pieces;
    let key_start = walk.k.start + batch * walk.keys * walk.k.stride + head * pieces;
    let value_start = walk.v.start + batch * walk.keys * walk.v.stride + head * pieces;
    let first_query = CUBE_POS_X as usize * comptime!(form.queries());
    // Which row and which half of 32 bytes this unit points to: for queries and, transposed,
    // values, four quarters down and then across; for keys across and then down.
    let down = lane % 16 * pitch + lane / 16;
    let across = (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2;

    // Queries lie where keys come later.
    let queries = comptime!(form.queries());
    load(q, &mut tile, query_start, &walk.q, first_query, walk.queries, 0usize, queries, form);
    sync_cube();
    let queries = left_operands::<N>(&tile, plane * comptime!(ROWS * form.pitch()) + down, form);
    sync_cube();

    let row = first_query + plane * ROWS + lane / 4;
    let mut softmax = Softmax {
        greatest: Array::<f32>::new(2usize),
        total: Array::<f32>::new(2usize),
        mask: Array::<usize>::new(2usize),
    };
    #[unroll]
    for half in 0..2usize {
        softmax.greatest[half] = f32::new(f32::MIN);
        softmax.total[half] = f32::new(0.0);
        // Queries behind the last have the mask of the last.
        let query = min(row + comptime!(half * ROWS / 2), walk.queries - 1);
        softmax.mask[half] =
            batch * walk.mask_batch + head * walk.mask_head + query * walk.mask_query;
    }
    let mut sums = blocks(comptime!(form.head_size / COLUMNS));
    let mut first = 0usize;
    while first < walk.keys {
        load(k, &mut tile, key_start, &walk.k, first, walk.keys, 0usize, KEYS, form);
        load(v, &mut tile, value_start, &walk.v, first, walk.keys, values, KEYS, form);
        sync_cube();
        let mut scores = blocks(comptime!(KEYS / COLUMNS));
        #[unroll]
        for step in 0..comptime!(form.head_size / DEPTH) {
            #[unroll]
            for pair in 0..comptime!(KEYS / DEPTH) {
                let at = across + comptime!(pair * DEPTH * pitch + step * (DEPTH / WIDE));
                let block = comptime!(2 * pair);
                multiply::<N>(queries.index(step), &tile, at, &mut scores, block, false);
            }
        }
        weigh(&mut scores, &mut sums, &mut softmax, mask, first, &walk, form);
        #[unroll]
        for step in 0..comptime!(KEYS / DEPTH) {
            let left = left_operand(&scores, comptime!(2 * step));
            #[unroll]
            for pair in 0..comptime!(form.head_size / DEPTH) {
                let at = down + comptime!(values + step * DEPTH * pitch + pair * (DEPTH / WIDE));
                multiply::<N>(&left, &tile, at, &mut sums, comptime!(2 * pair), true);
            }
        }
        sync_cube();
        first += KEYS;
    }
    write::<Y>(&sums, &softmax, y, row, &walk, &to, form);
}

/// Launches an attention whose rows are whole vectors of [`WIDE`], after [`multiplies_heads`] said
/// yes.
pub(super) fn launch<X: Numeric, Y: Numeric>(gpu: &Gpu, sizes: &Attention, arguments: Arguments) {
    let Arguments { q, k, v, mask, masked, y, walk, to, quantizes_output } = arguments;
    let planes = sizes.queries.div_ceil(ROWS).next_power_of_two().min(MOST_PLANES);
    let form = Form { head_size: sizes.head_size, planes, masked, quantizes_output };
    let cubes = super::attention::cubes(sizes, form.queries());
    let dim = CubeDim::new_2d(PLANE as u32, planes as u32);
    // SAFETY: `Arguments` were checked: all reads lie in their buffers, and y has an element for
    // each query, head and place; queries behind the last are not written.
    unsafe {
        matrix_attention_kernel::launch_unchecked::<X, Y>(
            &gpu.client,
            cubes,
            dim,
            WIDE,
            q,
            k,
            v,
            mask,
            y,
            walk,
            to,
            form,
        );
    };
}
