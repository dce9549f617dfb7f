//! The int8 product in plain Rust: the meaning that the other tiers are tested against.

use super::pack::{Columns, GROUP, PANEL};

/// Rows of a tile.
pub(crate) const ROWS: usize = 4;

/// `sums[r, c] = Σ_k x[r, k]·w[k, c]` for the columns of some panels.
///
/// # Shapes
/// `x`: `[groups, rows]` groups of four; `sums`: `[rows, 16·panels]`.
pub(crate) fn tile(x: &[[i16; GROUP]], w: Columns<'_>, sums: &mut [i32]) {
    sums.fill(0);
    let width = w.panels() * PANEL;
    let n_rows = sums.len() / width;
    for (panel, lines) in w.lines.chunks_exact(w.groups).enumerate() {
        for (fours, line) in x.chunks_exact(n_rows).zip(lines) {
            for (four, sums) in fours.iter().zip(sums.chunks_exact_mut(width)) {
                let sums = &mut sums[panel * PANEL..][..PANEL];
                for (sum, w) in sums.iter_mut().zip(line.0.as_chunks::<GROUP>().0) {
                    for (&x, &w) in four.iter().zip(w) {
                        *sum = sum.wrapping_add(i32::from(x) * i32::from(w));
                    }
                }
            }
        }
    }
}
