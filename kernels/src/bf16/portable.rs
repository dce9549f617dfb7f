//! The bf16 product in plain Rust: the meaning that the other tiers are tested against.

use super::pack::{GROUP, Line, PANEL};

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// `sums[r, c] = Σ_k x[r, k]·w[k, c]` for the columns of one panel, in the order of k.
///
/// # Shapes
/// `x`: a row of bf16 for each row of `sums`, `stride` elements apart; `lines`: one panel.
pub(super) fn tile(x: &[u16], stride: usize, lines: &[Line], sums: &mut [[f32; PANEL]]) {
    for (x, sums) in x.chunks(stride).zip(sums) {
        *sums = [0.0; PANEL];
        for (x, line) in x.as_chunks::<GROUP>().0.iter().zip(lines) {
            for (offset, &x) in x.iter().enumerate() {
                for (sum, w) in sums.iter_mut().zip(line.0.as_chunks::<GROUP>().0) {
                    *sum += widen(x) * widen(w[offset]);
                }
            }
        }
    }
}

fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}
