#![allow(unsafe_code, reason = "blocks of one row-major result are written by different threads")]
//! The `f32` linear layer: product, bias and activation while a tile is in the cache.

use std::ops::Range;

use super::{PANEL, PackedWeights, Rows, multiply_add, tile_rows};
use crate::activation::Activation;
use crate::parallel::{self, Shared, check_len, tiles};
use crate::tier::Cpu;

/// Multiply-adds below which one thread is faster.
pub const PARALLEL_WORK: usize = 1 << 17;

/// Most rows of a tile over all tiers.
const MOST_ROWS: usize = 12;

/// Most panels that are finished together.
const TILE_PANELS: usize = 4;

/// Weights that stay in the second-level cache while the rows of a block pass by.
const CACHED_LINES: usize = 4096;

/// Rows of a block, a multiple of every tier's tile.
const BLOCK_ROWS: usize = 48;

/// Pieces that a layer is cut into where it has the work, so that many threads find some.
const PIECES: usize = 16;

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
    let product = Product { cpu, x, layer, y: Shared::new(y) };
    let panels = layer.weights.panels();
    if rows.saturating_mul(n).saturating_mul(k) < PARALLEL_WORK {
        product.block(0..rows, 0..panels);
        return;
    }
    let blocks = rows.div_ceil(BLOCK_ROWS);
    let column_blocks = PIECES.div_ceil(blocks).min(panels.div_ceil(2));
    parallel::for_each(blocks * column_blocks, |index| {
        let (block, column) = (index / column_blocks, index % column_blocks);
        let rows = block * BLOCK_ROWS..rows.min((block + 1) * BLOCK_ROWS);
        let edge = |column: usize| column * panels / column_blocks;
        product.block(rows, edge(column)..edge(column + 1));
    });
}

/// A layer with its operands.
struct Product<'a> {
    cpu: Cpu,
    x: &'a [f32],
    layer: &'a Layer<'a>,
    y: Shared<f32>,
}

impl Product<'_> {
    /// One rectangle of the result. Panels outside, rows inside: the weights of a few panels stay
    /// in the cache.
    fn block(&self, rows: Range<usize>, panels: Range<usize>) {
        let k = self.layer.weights.inputs();
        let at_once = (CACHED_LINES / k.max(1)).clamp(1, TILE_PANELS);
        for panel in panels.clone().step_by(at_once) {
            let count = at_once.min(panels.end - panel);
            for rows in tiles(rows.clone(), tile_rows(self.cpu)) {
                self.tile(rows, panel, count);
            }
        }
    }

    /// One tile: started at the bias, multiplied, activated and written.
    fn tile(&self, rows: Range<usize>, panel: usize, count: usize) {
        let Layer { weights, bias, activation } = *self.layer;
        let (k, n) = (weights.inputs(), weights.outputs());
        let (column, width) = (panel * PANEL, count * PANEL);
        let kept = width.min(n - column);
        let mut values = [0.0; MOST_ROWS * TILE_PANELS * PANEL];
        let values = &mut values[..rows.len() * width];
        if let Some(bias) = bias {
            for values in values.chunks_exact_mut(width) {
                values[..kept].copy_from_slice(&bias[column..column + kept]);
            }
        }
        let x = Rows::new(&self.x[rows.start * k..rows.end * k], rows.len(), k, k);
        multiply_add(self.cpu, x, weights.tile(panel, count), values);
        activation.apply(self.cpu, values);
        for (row, values) in rows.zip(values.chunks_exact(width)) {
            // SAFETY: row < rows and column + kept ≤ n, so the range lies in y, whose length
            // `linear` checked; blocks are disjoint, so no other thread touches it.
            let y = unsafe { self.y.range(row * n + column, kept) };
            y.copy_from_slice(&values[..kept]);
        }
    }
}
