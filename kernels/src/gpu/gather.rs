//! Rows of a table, picked by index: embeddings.

use cubecl::prelude::*;

use super::{Buffer, Gpu};

/// The scales of an int8 table with zero point 0; buffers of f32.
#[derive(Clone, Copy, Debug)]
pub enum TableScales<'a> {
    /// One for all, `[1]`.
    Table(&'a Buffer),
    /// One for each row, `[rows]`.
    Rows(&'a Buffer),
    /// One for each column, `[row_len]`.
    Columns(&'a Buffer),
}

/// [`TableScales`] without its buffer: what the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scaled {
    No,
    Table,
    Rows,
    Columns,
}

#[cube(launch_unchecked)]
fn gather_kernel<T: Numeric>(
    table: &[T],
    scales: &[f32],
    indices: &[i64],
    y: &mut [f32],
    rows: usize,
    row_len: usize,
    #[comptime] scaled: Scaled,
) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut place = ABSOLUTE_POS;
    while place < y.len() {
        let index = indices[place / row_len];
        let column = place % row_len;
        let row = select(index < 0i64, index + i64::cast_from(rows), index);
        // Whoever launches checked the indices; a wrong one still must not read elsewhere.
        let row = min(usize::cast_from(max(row, 0i64)), rows - 1);
        let value = f32::cast_from(table[row * row_len + column]);
        y[place] = match scaled {
            Scaled::No => value,
            Scaled::Table => value * scales[0],
            Scaled::Rows => value * scales[row],
            Scaled::Columns => value * scales[column],
        };
        place += step;
    }
}

/// `y[i] = table[indices[i]]`; negative indices count from the end.
///
/// The device cannot say that an index is wrong: **check them before**. A wrong one reads the
/// nearest row.
///
/// # Shapes
/// `table`: f32 `[rows, row_len]`; `indices`: i64; `y`: f32 `[indices, row_len]`.
pub fn gather_rows(gpu: &Gpu, table: &Buffer, size: [usize; 2], indices: &Buffer, y: &Buffer) {
    launch::<f32>(gpu, table, size, (table.slice(0..0), 0, Scaled::No), indices, y);
}

/// `y[i] = table[indices[i]]·scale`: [`gather_rows`] of an int8 table.
///
/// # Shapes
/// `table`: i8 `[rows, row_len]`; `indices`: i64; `y`: f32 `[indices, row_len]`.
pub fn gather_rows_int8(
    gpu: &Gpu,
    table: &Buffer,
    size: [usize; 2],
    scales: TableScales<'_>,
    indices: &Buffer,
    y: &Buffer,
) {
    let scales = match scales {
        TableScales::Table(scale) => (scale.clone(), 1, Scaled::Table),
        TableScales::Rows(scales) => (scales.clone(), size[0], Scaled::Rows),
        TableScales::Columns(scales) => (scales.clone(), size[1], Scaled::Columns),
    };
    launch::<i8>(gpu, table, size, scales, indices, y);
}

fn launch<T: Numeric>(
    gpu: &Gpu,
    table: &Buffer,
    [rows, row_len]: [usize; 2],
    (scales, n_scales, scaled): (Buffer, usize, Scaled),
    indices: &Buffer,
    y: &Buffer,
) {
    let count = indices.len() / size_of::<i64>();
    let y = y.argument::<f32>("gather_rows: y", count * row_len);
    let table = table.argument::<T>("gather_rows: table", rows * row_len);
    if count * row_len == 0 {
        return;
    }
    assert!(rows > 0, "gather_rows: expected a table with rows");
    let scales = scales.argument::<f32>("gather_rows: scales", n_scales);
    let indices = indices.argument::<i64>("gather_rows: indices", count);
    let (cubes, units) = gpu.spread(count * row_len);
    let client = &gpu.client;
    // SAFETY: the kernel stays below the length of y and limits rows to those of the table.
    unsafe {
        gather_kernel::launch_unchecked::<T>(
            client, cubes, units, table, scales, indices, y, rows, row_len, scaled,
        );
    };
}
