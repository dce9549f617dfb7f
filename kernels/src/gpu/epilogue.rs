//! What products on ordinary and on matrix units share: how they load their operands, and what becomes of sums.

use cubecl::prelude::*;

use super::activation::{Curve, activated};
use super::math::{Steps, quantized, rounded_product};

/// Sizes of a product.
#[derive(Clone, Copy, CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) columns: usize,
}

/// What a product's reads and its epilogue are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Sums are f32 and not i32.
    pub(super) float: bool,
    /// x is rounded to bf16 as it is read.
    pub(super) rounds_input: bool,
    /// x is rounded to int8 as it is read.
    pub(super) quantizes_input: bool,
    /// The result is rounded to int8.
    pub(super) quantizes_output: bool,
    /// There is a bias for each row and not for each column.
    pub(super) bias_by_row: bool,
    /// Something of the result's shape is added before the activation.
    pub(super) adds: bool,
    /// Rows of x are windows of images.
    pub(super) gathers: bool,
    /// The result is also written in bf16.
    pub(super) rounds: bool,
    pub(super) curve: Curve,
}

/// What becomes of sums, by column: slices of `columns` elements.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Epilogue {
    from: Steps,
    to: Steps,
    alpha: f32,
    beta: f32,
}

/// How the units of a cube share the loads of some rows of pieces: each takes every `units`-th.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Loads {
    pub(super) units: usize,
    /// Of each row.
    pub(super) pieces: usize,
    /// That each unit loads.
    pub(super) count: usize,
}

/// Loads this unit's pieces of some rows as numbers of type `L`, from `first_row` and
/// `first_piece` on; zeros outside of the matrix.
#[cube]
pub(super) fn load<X: Numeric, L: Numeric, N: Size>(
    matrix: &[Vector<X, N>],
    loaded: &mut Array<Vector<L, N>>,
    first_row: usize,
    rows: usize,
    first_piece: usize,
    row_pieces: usize,
    #[comptime] loads: Loads,
) {
    #[unroll]
    for index in 0..loads.count {
        let place = UNIT_POS as usize + comptime!(index * loads.units);
        let row = first_row + place / loads.pieces;
        let piece = first_piece + place % loads.pieces;
        let mut value = Vector::<L, N>::new(L::from_int(0));
        if row < rows && piece < row_pieces {
            value = Vector::cast_from(matrix[row * row_pieces + piece]);
        }
        loaded[index] = value;
    }
}

/// Sums from zero.
#[cube]
pub(super) fn zeros<S: Numeric, N: Size>(#[comptime] vectors: usize) -> Array<Vector<S, N>> {
    let mut sums = Array::<Vector<S, N>>::new(vectors);
    #[unroll]
    for index in 0..vectors {
        sums[index] = Vector::<S, N>::new(S::from_int(0));
    }
    sums
}

/// The input of a product that it rounds as it reads.
#[cube]
pub(super) fn rounded_input(x: f32, epilogue: &Epilogue) -> i32 {
    quantized(x, &epilogue.from)
}

/// What lies around images whose windows are multiplied: 0, as x is written.
#[cube]
pub(super) fn padding<X: Numeric>(epilogue: &Epilogue, #[comptime] form: Form) -> X {
    if comptime!(form.float || form.quantizes_input) {
        X::from_int(0)
    } else {
        X::cast_from(epilogue.from.zero_point)
    }
}

/// The result that a sum becomes; of integers, rounded step by step as on CPUs.
#[cube]
pub(super) fn finished<S: Numeric, Y: Numeric>(
    sum: S,
    column: usize,
    scales: &[f32],
    column_sums: &[i32],
    bias: &[f32],
    addend: f32,
    epilogue: &Epilogue,
    #[comptime] form: Form,
) -> Y {
    let mut value = if comptime!(form.float) {
        f32::cast_from(sum) + bias[column]
    } else {
        let moved = epilogue.from.zero_point * column_sums[column];
        let scaled = f32::cast_from(i32::cast_from(sum) - moved);
        rounded_product(scaled, scales[column]) + bias[column]
    };
    if comptime!(form.adds) {
        value += addend;
    }
    let value = activated(value, epilogue.alpha, epilogue.beta, form.curve);
    if comptime!(form.quantizes_output) {
        Y::cast_from(quantized(value, &epilogue.to))
    } else {
        Y::cast_from(value)
    }
}
