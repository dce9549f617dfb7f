#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Many numbers to one, in doubles: neither how many there are nor their order shows.

use crate::parallel::{check_shape, for_each_chunk, rows_per_chunk};
use crate::tier::{Cpu, tiered};

/// What is made of many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// `Σ x`
    Sum,
    /// `Σ x / n`; NaN of none.
    Mean,
    /// `Π x`
    Product,
    /// `Σ x²`
    SumSquare,
    /// `Σ |x|`
    L1,
    /// `√Σ x²`
    L2,
    /// The greatest, NaN where one is; −∞ of none.
    Max,
    /// The least, NaN where one is; ∞ of none.
    Min,
}

/// Running values of a row, and of columns that are folded at once.
const LANES: usize = 8;
const COLUMNS: usize = 64;

/// Rows of so many elements at most are folded side by side.
const SHORT: usize = 16;

/// Folds `x`, `[outer, count, inner]`, into `y`, `[outer, inner]`, which has elements.
#[allow(clippy::inline_always, reason = "it must be compiled again inside each tier")]
#[inline(always)]
fn fold(
    x: &[f32],
    inner: usize,
    y: &mut [f32],
    start: f64,
    map: impl Fn(f64) -> f64 + Copy,
    combine: impl Fn(f64, f64) -> f64 + Copy,
    finish: impl Fn(f64, f64) -> f64,
) {
    let len = x.len() / y.len();
    let finish = |value| finish(value, len as f64) as f32;
    if len == 0 {
        y.fill(finish(start));
    } else if inner > 1 {
        let blocks = x.chunks_exact(len * inner).zip(y.chunks_exact_mut(inner));
        blocks.for_each(|(x, y)| fold_columns(x, y, start, map, combine, finish));
    } else if len <= SHORT {
        let (blocks, rest) = y.as_chunks_mut::<LANES>();
        let (x, x_rest) = x.split_at(blocks.len() * LANES * len);
        for (x, y) in x.chunks_exact(LANES * len).zip(blocks) {
            let rows: [&[f32]; LANES] = std::array::from_fn(|row| &x[row * len..][..len]);
            let mut values = [start; LANES];
            for place in 0..len {
                for (value, row) in values.iter_mut().zip(rows) {
                    *value = combine(*value, map(f64::from(row[place])));
                }
            }
            *y = values.map(finish);
        }
        for (x, y) in x_rest.chunks_exact(len).zip(rest) {
            *y = finish(x.iter().fold(start, |value, &x| combine(value, map(f64::from(x)))));
        }
    } else {
        for (x, y) in x.chunks_exact(len).zip(y) {
            *y = finish(fold_row(x, start, map, combine));
        }
    }
}

#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn fold_row(
    x: &[f32],
    start: f64,
    map: impl Fn(f64) -> f64,
    combine: impl Fn(f64, f64) -> f64,
) -> f64 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, map(f64::from(x)));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = combine(*lane, map(f64::from(x)));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Folds `x`, `[count, y.len()]`, over its rows.
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn fold_columns(
    x: &[f32],
    y: &mut [f32],
    start: f64,
    map: impl Fn(f64) -> f64,
    combine: impl Fn(f64, f64) -> f64,
    finish: impl Fn(f64) -> f32,
) {
    let columns = y.len();
    for (block, y) in y.chunks_mut(COLUMNS).enumerate() {
        let first = block * COLUMNS;
        let mut values = [start; COLUMNS];
        for row in x.chunks_exact(columns) {
            let row = &row[first..];
            // As many as fit registers stay there.
            match row.first_chunk::<COLUMNS>() {
                Some(row) => {
                    for (value, &x) in values.iter_mut().zip(row) {
                        *value = combine(*value, map(f64::from(x)));
                    }
                }
                None => {
                    for (value, &x) in values.iter_mut().zip(row) {
                        *value = combine(*value, map(f64::from(x)));
                    }
                }
            }
        }
        for (y, &value) in y.iter_mut().zip(&values) {
            *y = finish(value);
        }
    }
}

/// Defines `name(cpu, x, inner, y)`, a [`fold`].
macro_rules! folds {
    ($($name:ident($start:expr, |$x:ident| $map:expr, $combine:expr, |$value:ident, $count:ident| $finish:expr);)*) => {
        $(tiered! {
            fn $name(x: &[f32], inner: usize, y: &mut [f32]) {
                fold(x, inner, y, $start, |$x| $map, $combine, |$value, $count| $finish);
            }
        })*
    };
}

folds! {
    sum(0.0, |x| x, |a, b| a + b, |sum, _count| sum);
    product(1.0, |x| x, |a, b| a * b, |product, _count| product);
    mean(0.0, |x| x, |a, b| a + b, |sum, count| sum / count);
    sum_square(0.0, |x| x * x, |a, b| a + b, |sum, _count| sum);
    l1(0.0, |x| x.abs(), |a, b| a + b, |sum, _count| sum);
    l2(0.0, |x| x * x, |a, b| a + b, |sum, _count| sum.sqrt());
    max(f64::NEG_INFINITY, |x| x, |a, b| if a.is_nan() || a > b { a } else { b }, |x, _count| x);
    min(f64::INFINITY, |x| x, |a, b| if a.is_nan() || a < b { a } else { b }, |x, _count| x);
}

/// `y[o, i] = reduction(x[o, 0, i], x[o, 1, i], …)`.
///
/// # Shapes
/// `x`: `[outer, count, inner]`; `y`: `[outer, inner]`
///
/// # Panics
/// When a length differs.
pub fn reduce(
    cpu: Cpu,
    reduction: Reduction,
    x: &[f32],
    [outer, count, inner]: [usize; 3],
    y: &mut [f32],
) {
    check_shape("reduce: x", x.len(), &[outer, count, inner]);
    check_shape("reduce: y", y.len(), &[outer, inner]);
    if y.is_empty() {
        return;
    }
    let len = count * inner;
    let rows = rows_per_chunk(len);
    for_each_chunk(y, rows * inner, |piece, y| {
        let x = &x[piece * rows * len..][..y.len() / inner * len];
        match reduction {
            Reduction::Sum => sum(cpu, x, inner, y),
            Reduction::Product => product(cpu, x, inner, y),
            Reduction::Mean => mean(cpu, x, inner, y),
            Reduction::SumSquare => sum_square(cpu, x, inner, y),
            Reduction::L1 => l1(cpu, x, inner, y),
            Reduction::L2 => l2(cpu, x, inner, y),
            Reduction::Max => max(cpu, x, inner, y),
            Reduction::Min => min(cpu, x, inner, y),
        }
    });
}
