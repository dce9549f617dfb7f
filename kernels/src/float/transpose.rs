#![allow(unsafe_code, reason = "calls code for detected instruction sets")]
//! Rows as the columns of packed panels.

use super::{Line, PANEL, Rows};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::parallel::check_len;
use crate::tier::Cpu;
#[cfg(target_arch = "x86_64")]
use crate::tier::Tier;

/// Side of the squares that are transposed in registers.
pub(super) const SIDE: usize = 8;

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

fn transpose_panels(cpu: Cpu, rows: Rows<'_>, packed: &mut [Line]) {
    for (panel, lines) in packed.chunks_exact_mut(rows.k()).enumerate() {
        let first = panel * PANEL;
        let done = transpose_squares(cpu, rows, first, lines);
        let lines = &mut lines[done..];
        for half in [0, SIDE] {
            let count = rows.count().saturating_sub(first + half).min(SIDE);
            let source: [&[f32]; SIDE] = std::array::from_fn(|row| {
                if row < count { &rows.row(first + half + row)[done..] } else { &[] }
            });
            if count == SIDE {
                let whole = lines.len() / SIDE * SIDE;
                let (squares, rest) = lines.split_at_mut(whole);
                for (index, lines) in squares.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
                    let places = lines.each_mut().map(|line| &mut line.0[half..]);
                    square(cpu, source.map(|row| &row[index * SIDE..]), places);
                }
                scattered(source, whole, half, rest);
            } else {
                scattered(source, 0, half, lines);
            }
        }
    }
}

/// Writes 16 rows from `first` on as the columns of as many lines as make squares, which are counted:
/// none where there are fewer rows, or no registers that wide.
fn transpose_squares(cpu: Cpu, rows: Rows<'_>, first: usize, lines: &mut [Line]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if cpu.tier() >= Tier::Avx512 && first + PANEL <= rows.count() {
        let source: [&[f32]; PANEL] = std::array::from_fn(|row| rows.row(first + row));
        let squares = lines.as_chunks_mut::<PANEL>().0;
        for (index, lines) in squares.iter_mut().enumerate() {
            let square = source.map(|row| &row.as_chunks::<PANEL>().0[index]);
            // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
            unsafe { avx512::square(square, lines) };
        }
        return squares.len() * PANEL;
    }
    let _ = (cpu, rows, first, lines);
    0
}

/// Writes the rows as the columns of `columns`: row i of these holds element i of each row.
///
/// # Shapes
/// `rows`: `[m, k]`; `columns`: `[k, m]`, row-major.
pub(crate) fn transpose_rows(cpu: Cpu, rows: Rows<'_>, columns: &mut [f32]) {
    let (m, k) = (rows.count(), rows.k());
    check_len("transpose: columns", columns.len(), m * k);
    let whole = m / SIDE * SIDE;
    for (group, places) in columns.chunks_mut(SIDE * m).enumerate() {
        let column = group * SIDE;
        let mut squares = 0;
        if places.len() == SIDE * m {
            for first in (0..whole).step_by(SIDE) {
                let mut places = places.chunks_exact_mut(m);
                let places = std::array::from_fn(|_| {
                    &mut places.next().expect("eight columns of m elements")[first..]
                });
                square(cpu, std::array::from_fn(|row| &rows.row(first + row)[column..]), places);
            }
            squares = whole;
        }
        for (offset, places) in places.chunks_exact_mut(m).enumerate() {
            for (row, place) in places.iter_mut().enumerate().skip(squares) {
                *place = rows.row(row)[column + offset];
            }
        }
    }
}

/// Eight rows as columns, from where the slices begin.
fn square(cpu: Cpu, rows: [&[f32]; SIDE], places: [&mut [f32]; SIDE]) {
    let rows: [&[f32; SIDE]; SIDE] =
        rows.map(|row| row.first_chunk().expect("a row has a side of elements"));
    let places: [&mut [f32; SIDE]; SIDE] =
        places.map(|place| place.first_chunk_mut().expect("so has a place"));
    #[cfg(target_arch = "x86_64")]
    if cpu.tier() >= Tier::Avx2 {
        // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX2.
        unsafe { avx2::square(rows, places) };
        return;
    }
    let _ = cpu;
    for (column, place) in places.into_iter().enumerate() {
        *place = rows.map(|row| row[column]);
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
