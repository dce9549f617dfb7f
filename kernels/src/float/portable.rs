//! The `f32` product in plain Rust.

use super::{Left, Line, PANEL};

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// The meaning of [`super::multiply_add`], but that products are rounded before they are added.
pub(super) fn tile(x: Left<'_>, w: &[Line], values: &mut [f32]) {
    let width = values.len() / x.count();
    for (row, values) in values.chunks_exact_mut(width).enumerate() {
        let panels = w.chunks_exact(x.k()).zip(values.as_chunks_mut::<PANEL>().0);
        for (lines, values) in panels {
            let [start] = x.range(row..row + 1).starts();
            let mut first = 0;
            while first < x.k() {
                let (data, len) = x.run(start, first);
                for (x, line) in data[start..start + len].iter().zip(&lines[first..]) {
                    for (value, w) in values.iter_mut().zip(line.0) {
                        *value += x * w;
                    }
                }
                first += len;
            }
        }
    }
}
