//! Sums over rows, in an order that no thread count changes.

use rayon::prelude::*;

use crate::elementwise::add_assign_piece;
use crate::parallel::check_len;
use crate::tier::Cpu;

/// Rows that are summed together before the blocks are.
pub(crate) const BLOCK_ROWS: usize = 64;

/// `out[c] = Σ_r x[r, c]`: the gradient of a bias.
///
/// # Shapes
/// `x` is `[rows, cols]` for any number of rows; `out` is `[cols]` and is overwritten.
pub fn column_sum(cpu: Cpu, x: &[f32], cols: usize, out: &mut [f32]) {
    check_len("column_sum: out", out.len(), cols);
    out.fill(0.0);
    if cols == 0 {
        check_len("column_sum: x", x.len(), 0);
        return;
    }
    check_len("column_sum: x", x.len(), x.len() / cols * cols);
    let block = BLOCK_ROWS * cols;
    let sum_block = |rows: &[f32], out: &mut [f32]| {
        for row in rows.chunks_exact(cols) {
            add_assign_piece(cpu, out, row);
        }
    };
    if x.len() <= block {
        sum_block(x, out);
        return;
    }
    let mut partial = vec![0.0; x.len().div_ceil(block) * cols];
    partial
        .par_chunks_mut(cols)
        .zip(x.par_chunks(block))
        .for_each(|(out, rows)| sum_block(rows, out));
    sum_block(&partial, out);
}
