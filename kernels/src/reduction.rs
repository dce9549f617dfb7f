#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Many numbers to one, in doubles: neither how many there are nor their order shows.

use crate::parallel::{check_shape, for_each_row, rows_per_chunk};
use crate::tier::{Cpu, tiered};

/// What is made of many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// `Σ x`
    Sum,
    /// `Σ x / n`; NaN of none.
    Mean,
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

/// Folds `x`, `[count, y.len()]`, over its rows.
#[allow(clippy::inline_always, reason = "it must be compiled again inside each tier")]
#[inline(always)]
fn fold(
    x: &[f32],
    y: &mut [f32],
    start: f64,
    map: impl Fn(f64) -> f64,
    combine: impl Fn(f64, f64) -> f64,
    finish: impl Fn(f64, f64) -> f64,
) {
    let columns = y.len();
    let count = (x.len() / columns) as f64;
    if let [y] = y {
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
        *y = finish(lanes.into_iter().fold(start, combine), count) as f32;
        return;
    }
    for (block, y) in y.chunks_mut(COLUMNS).enumerate() {
        let first = block * COLUMNS;
        let mut values = [start; COLUMNS];
        let values = &mut values[..y.len()];
        for row in x.chunks_exact(columns) {
            for (value, &x) in values.iter_mut().zip(&row[first..]) {
                *value = combine(*value, map(f64::from(x)));
            }
        }
        for (y, &value) in y.iter_mut().zip(&*values) {
            *y = finish(value, count) as f32;
        }
    }
}

/// Defines `name(cpu, x, y)`, a [`fold`].
macro_rules! folds {
    ($($name:ident($start:expr, |$x:ident| $map:expr, $combine:expr, |$value:ident, $count:ident| $finish:expr);)*) => {
        $(tiered! {
            fn $name(x: &[f32], y: &mut [f32]) {
                fold(x, y, $start, |$x| $map, $combine, |$value, $count| $finish);
            }
        })*
    };
}

folds! {
    sum(0.0, |x| x, |a, b| a + b, |sum, _count| sum);
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
    for_each_row(y, inner, rows_per_chunk(len), |row, y| {
        let x = &x[row * len..][..len];
        match reduction {
            Reduction::Sum => sum(cpu, x, y),
            Reduction::Mean => mean(cpu, x, y),
            Reduction::SumSquare => sum_square(cpu, x, y),
            Reduction::L1 => l1(cpu, x, y),
            Reduction::L2 => l2(cpu, x, y),
            Reduction::Max => max(cpu, x, y),
            Reduction::Min => min(cpu, x, y),
        }
    });
}
