#![allow(unsafe_code, reason = "blocks of one row-major result are written by different threads")]
//! The `f32` linear layer: product, bias and activation while a tile is in the cache.

use std::ops::Range;

use super::rectangle::Rectangle;
use super::tile::Start;
use super::{PANEL, PackedWeights, Rows};
use crate::activation::Activation;
use crate::parallel::{self, Shared, check_len};
use crate::tier::Cpu;

/// Multiply-adds below which one thread is faster.
pub const PARALLEL_WORK: usize = 1 << 17;

/// Rows of a block at most, and of one whose weights come from beyond the
/// caches of a core, which are read once for each block.
const BLOCK_ROWS: usize = 48;
const FAR_BLOCK_ROWS: usize = 256;

/// Weights of which a core keeps a part worth the name.
const NEAR_WEIGHTS: usize = 1 << 19;

/// Weights that each thread may read for itself, and the rows of a thread for which it does.
const OWN_WEIGHTS: usize = 1 << 20;
const OWN_ROWS: usize = 8;

/// Panels that are worth a piece of work.
pub(super) const LEAST_PANELS: usize = 2;

/// A linear layer with packed weights.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// The weights, `[k, n]`.
    pub weights: &'a PackedWeights,
    /// Where the sums start, `[n]`; 0 without.
    pub bias: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

/// `y = activation(x·w + bias)`.
///
/// # Shapes
/// `x`: `[m, k]`; `y`: `[m, n]`, both row-major.
///
/// # Panics
/// When a length differs.
pub fn linear(cpu: Cpu, x: &[f32], rows: usize, layer: &Layer<'_>, y: &mut [f32]) {
    let (k, n) = (layer.weights.inputs(), layer.weights.outputs());
    check_len("linear: x", x.len(), rows * k);
    check_len("linear: y", y.len(), rows * n);
    if let Some(bias) = layer.bias {
        check_len("linear: bias", bias.len(), n);
    }
    if y.is_empty() {
        return;
    }
    let y = Shared::new(y);
    let block = |rows: Range<usize>, panels: Range<usize>| {
        let column = panels.start * PANEL;
        let columns = n.min(panels.end * PANEL) - column;
        for part in layer.weights.parts() {
            let rectangle = Rectangle {
                y,
                first: rows.start * n + column,
                stride: n,
                columns,
                start: match layer.bias {
                    _ if part.start > 0 => Start::Result,
                    Some(bias) => Start::Bias(&bias[column..column + columns]),
                    None => Start::Zeros,
                },
                addend: None,
                activation: if part.end == k { layer.activation } else { Activation::Identity },
            };
            let x = &x[rows.start * k + part.start..rows.end * k];
            let x = Rows::new(x, rows.len(), part.len(), k);
            let weights = layer.weights.tile(&part, panels.clone());
            // SAFETY: rows and columns lie in y, whose length was checked; blocks are disjoint, so
            // no other thread touches them.
            unsafe { rectangle.multiply(cpu, x, weights) };
        }
    };
    for_each_block(rows, layer.weights, block);
}

/// Runs `block` on the rows and panels of blocks of a result: on one where one thread is faster.
pub(crate) fn for_each_block(
    rows: usize,
    weights: &PackedWeights,
    block: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let (size, panels) = (weights.inputs().saturating_mul(weights.outputs()), weights.panels());
    if rows.saturating_mul(size) < PARALLEL_WORK {
        block(0..rows, 0..panels);
        return;
    }
    let most = if size > NEAR_WEIGHTS { FAR_BLOCK_ROWS } else { BLOCK_ROWS };
    let own = parallel::blocks_of_threads(rows, most, OWN_ROWS).filter(|_| size <= OWN_WEIGHTS);
    if let Some(block_rows) = own {
        parallel::for_each(rows.div_ceil(block_rows), |index| {
            block(index * block_rows..rows.min((index + 1) * block_rows), 0..panels);
        });
        return;
    }
    let block_rows = parallel::even_blocks(rows, most);
    parallel::for_each_rectangle([rows, panels], [block_rows, LEAST_PANELS], block);
}
