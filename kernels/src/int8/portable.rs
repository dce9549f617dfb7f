//! The int8 product in plain Rust: the meaning that the other tiers are tested against.

use super::pack::{Columns, GROUP, PANEL, Rows};

/// Rows of a tile.
pub(crate) const ROWS: usize = 4;

/// `sums[r, c] = Σ_k x[r, k]·w[k, c]` for the columns of one panel.
///
/// # Shapes
/// `x`: at most [`ROWS`] rows; `w`: one panel; `sums`: `[rows, 16]`.
pub(crate) fn tile(x: Rows<'_>, w: Columns<'_>, sums: &mut [i32]) {
    sums.fill(0);
    for (row, sums) in x.data.chunks_exact(x.k).zip(sums.chunks_exact_mut(PANEL)) {
        for (x, line) in row.chunks(GROUP).zip(w.lines) {
            for (sum, w) in sums.iter_mut().zip(line.0.as_chunks::<GROUP>().0) {
                for (&x, &w) in x.iter().zip(w) {
                    *sum = sum.wrapping_add(i32::from(x) * i32::from(w));
                }
            }
        }
    }
}
