//! Rows of a table, picked by index: embeddings.

use crate::int8::dequantize_one;
use crate::parallel::{check_len, for_each_row, rows_per_chunk};
use crate::tier::Cpu;

/// An index that names no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("index {index} at position {position} is not in a table of {rows} rows")]
pub struct IndexError {
    /// Where in the list of indices.
    pub position: usize,
    /// What was found.
    pub index: i64,
    /// Rows of the table.
    pub rows: usize,
}

/// The row that an index names: from the end of the table when it is negative.
fn resolve(index: i64, rows: usize) -> Option<usize> {
    let row = if index < 0 { index.checked_add_unsigned(rows as u64)? } else { index };
    usize::try_from(row).ok().filter(|&row| row < rows)
}

/// Copies through `copy(row, y)` for each index, in parallel when large.
fn gather(
    rows: usize,
    row_len: usize,
    indices: &[i64],
    y: &mut [f32],
    copy: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<(), IndexError> {
    check_len("gather_rows: y", y.len(), indices.len() * row_len);
    let bad = indices.iter().position(|&index| resolve(index, rows).is_none());
    if let Some(position) = bad {
        let index = indices[position];
        return Err(IndexError { position, index, rows });
    }
    if row_len == 0 {
        return Ok(());
    }
    for_each_row(y, row_len, rows_per_chunk(row_len), |row, y| {
        copy(resolve(indices[row], rows).expect("every index was checked"), y);
    });
    Ok(())
}

/// `y[i] = table[indices[i]]`.
///
/// # Shapes
/// `table`: `[rows, row_len]`; `y`: `[indices, row_len]`.
///
/// # Errors
/// When an index lies outside `-rows..rows`.
pub fn gather_rows(
    table: &[f32],
    [rows, row_len]: [usize; 2],
    indices: &[i64],
    y: &mut [f32],
) -> Result<(), IndexError> {
    check_len("gather_rows: table", table.len(), rows * row_len);
    gather(rows, row_len, indices, y, |row, y| {
        y.copy_from_slice(&table[row * row_len..(row + 1) * row_len]);
    })
}

/// The scales of an int8 table with zero point 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TableScales<'a> {
    /// One for all.
    Table(f32),
    /// One for each row, `[rows]`.
    Rows(&'a [f32]),
    /// One for each column, `[row_len]`.
    Columns(&'a [f32]),
}

/// `y[i] = table[indices[i]]·scale`: [`gather_rows`] of an int8 table.
///
/// # Shapes
/// `table`: `[rows, row_len]`; `y`: `[indices, row_len]`.
///
/// # Errors
/// When an index lies outside `-rows..rows`.
pub fn gather_rows_int8(
    cpu: Cpu,
    table: &[i8],
    [rows, row_len]: [usize; 2],
    scales: TableScales<'_>,
    indices: &[i64],
    y: &mut [f32],
) -> Result<(), IndexError> {
    check_len("gather_rows_int8: table", table.len(), rows * row_len);
    match scales {
        TableScales::Table(_) => {}
        TableScales::Rows(scales) => check_len("gather_rows_int8: scales", scales.len(), rows),
        TableScales::Columns(scales) => {
            check_len("gather_rows_int8: scales", scales.len(), row_len)
        }
    }
    gather(rows, row_len, indices, y, |row, y| {
        let x = &table[row * row_len..(row + 1) * row_len];
        match scales {
            TableScales::Table(scale) => dequantize_one(cpu, x, &[scale], y),
            TableScales::Rows(scales) => dequantize_one(cpu, x, &scales[row..=row], y),
            TableScales::Columns(scales) => dequantize_one(cpu, x, scales, y),
        }
    })
}
