#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Rows as the columns of packed panels.

use super::{Line, PANEL, Rows};
use crate::parallel::check_len;
use crate::tier::{Cpu, tiered};

/// Side of the squares that are transposed in registers.
const SIDE: usize = 8;

/// Packs the rows as columns: panels of 16 rows, zeros past the last.
///
/// # Shapes
/// `packed`: `[panels, k]` lines for rows of length k.
pub(crate) fn transpose(cpu: Cpu, rows: Rows<'_>, packed: &mut [Line]) {
    check_len("transpose: packed", packed.len(), rows.count().div_ceil(PANEL) * rows.k());
    if rows.k() > 0 {
        transpose_panels(cpu, rows, packed);
    }
}

tiered! {
    fn transpose_panels(rows: Rows<'_>, packed: &mut [Line]) {
        for (panel, lines) in packed.chunks_exact_mut(rows.k()).enumerate() {
            let first = panel * PANEL;
            for half in [0, SIDE] {
                let count = rows.count().saturating_sub(first + half).min(SIDE);
                let source: [&[f32]; SIDE] = std::array::from_fn(|row| {
                    if row < count { rows.row(first + half + row) } else { &[] }
                });
                if count == SIDE {
                    let whole = rows.k() / SIDE * SIDE;
                    let (squares, rest) = lines.split_at_mut(whole);
                    for (index, lines) in squares.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
                        square(source, index * SIDE, half, lines);
                    }
                    scattered(source, whole, half, rest);
                } else {
                    scattered(source, 0, half, lines);
                }
            }
        }
    }
}

/// Eight rows and columns, in a form that compiles to shuffles.
#[allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
#[inline(always)]
fn square(source: [&[f32]; SIDE], start: usize, half: usize, lines: &mut [Line; SIDE]) {
    let rows: [[f32; SIDE]; SIDE] = std::array::from_fn(|row| {
        let row = &source[row][start..start + SIDE];
        std::array::from_fn(|column| row[column])
    });
    for (column, line) in lines.iter_mut().enumerate() {
        for (row, values) in rows.iter().enumerate() {
            line.0[half + row] = values[column];
        }
    }
}

/// One element after another; rows that are missing are zeros.
fn scattered(source: [&[f32]; SIDE], start: usize, half: usize, lines: &mut [Line]) {
    for (index, line) in lines.iter_mut().enumerate() {
        for (place, row) in line.0[half..half + SIDE].iter_mut().zip(source) {
            *place = row.get(start + index).copied().unwrap_or(0.0);
        }
    }
}
