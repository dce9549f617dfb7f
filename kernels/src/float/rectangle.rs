#![allow(
    unsafe_code,
    reason = "rectangles of one row-major result are written by different threads"
)]
//! Rows times panels, into a rectangle of a row-major result.

use std::ops::Range;

use super::tile::{Destination, Done, Start, multiply_into};
use super::{Left, Line, PANEL, Panels, multiply_add, tile_rows};
use crate::activation::Activation;
use crate::parallel::{Shared, check_len, tiles};
use crate::tier::Cpu;

/// Most rows of a tile over all tiers.
const MOST_ROWS: usize = 12;

/// Most panels that are finished together.
const TILE_PANELS: usize = 4;

/// Weights that stay in the second-level cache while the rows of a rectangle pass by.
const CACHED_LINES: usize = 4096;

/// A rectangle of a row-major result.
pub(crate) struct Rectangle<'a> {
    /// The whole result.
    pub(crate) y: Shared<f32>,
    /// Its first element in the rectangle.
    pub(crate) first: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    /// Columns of the rectangle.
    pub(crate) columns: usize,
    pub(crate) start: Start<'a>,
    /// What is added to the sums, as many elements as the whole result has.
    pub(crate) addend: Option<&'a [f32]>,
    /// Applied last.
    pub(crate) activation: Activation,
}

impl Rectangle<'_> {
    /// `y = activation(start + x·w + addend)`. Panels outside, rows inside: the weights of a few panels stay
    /// in the cache, and the first rows fetch those of the next.
    ///
    /// # Shapes
    /// `w`: panels of as many lines as a row of x has elements, for all columns.
    ///
    /// # Safety
    /// The elements `first + row·stride + 0..columns` of all rows of x lie in `y`, whose borrow is
    /// alive, and nothing else accesses them meanwhile, an addend included.
    pub(crate) unsafe fn multiply<'x>(&self, cpu: Cpu, x: impl Into<Left<'x>>, w: &[Line]) {
        let x = x.into();
        let (k, panels) = (x.k(), self.columns.div_ceil(PANEL));
        check_len("rectangle: lines", w.len(), panels * k);
        match self.start {
            Start::Bias(bias) => check_len("rectangle: bias", bias.len(), self.columns),
            Start::RowBias(bias) => check_len("rectangle: bias", bias.len(), x.count()),
            Start::Zeros | Start::Result => {}
        }
        let mut values = [0.0; MOST_ROWS * TILE_PANELS * PANEL];
        let at_once = (CACHED_LINES / k.max(1)).clamp(1, TILE_PANELS);
        for panel in (0..panels).step_by(at_once) {
            let count = at_once.min(panels - panel);
            let lines = &w[panel * k..(panel + count) * k];
            for rows in tiles(0..x.count(), tile_rows(cpu)) {
                // SAFETY: rows lie below x's count, and the panel below the columns; the rest is
                // the caller's promise.
                unsafe {
                    let columns = panel * PANEL..(panel + count) * PANEL;
                    self.tile(cpu, &x, rows, lines, columns, &mut values);
                }
            }
        }
    }

    /// One tile: some rows of x times the panels of `columns`, of which the last may reach past the
    /// rectangle.
    ///
    /// # Safety
    /// As for [`Self::multiply`]; `rows` are rows of x, and `columns` begin inside the rectangle.
    unsafe fn tile(
        &self,
        cpu: Cpu,
        x: &Left<'_>,
        rows: Range<usize>,
        lines: &[Line],
        columns: Range<usize>,
        values: &mut [f32; MOST_ROWS * TILE_PANELS * PANEL],
    ) {
        let (column, width) = (columns.start, columns.len());
        let kept = width.min(self.columns - column);
        let place = |row: usize| self.first + row * self.stride + column;
        rows.clone().for_each(|row| self.y.prefetch(place(row), kept));
        let lines = if rows.start == 0 { Panels::fetching_next(lines) } else { Panels::new(lines) };
        let x = x.range(rows.clone());
        let start = match self.start {
            Start::Bias(bias) => Start::Bias(&bias[column..column + kept]),
            Start::RowBias(bias) => Start::RowBias(&bias[rows.clone()]),
            other => other,
        };
        let addend = |row: usize| self.addend.map(|addend| &addend[place(row)..][..kept]);
        rows.clone().filter_map(addend).for_each(fetch);
        // SAFETY: the caller's promise: rows of x, and column + kept at most the columns of the
        // rectangle.
        let done = unsafe {
            let y = self.y.at(place(rows.start));
            // It has the last row, so that it has all.
            let last = rows.end.checked_sub(1).and_then(addend);
            let addend = self.addend.filter(|_| last.is_some());
            let addend = addend.map(|addend| addend.as_ptr().wrapping_add(place(rows.start)));
            let to = Destination { start, y, stride: self.stride, columns: kept, addend };
            multiply_into(cpu, &x, lines, &to, self.activation)
        };
        match done {
            Done::All => return,
            Done::Sums => {
                for row in rows {
                    // SAFETY: as above.
                    let y = unsafe { self.y.range(place(row), kept) };
                    self.activation.apply(cpu, y);
                }
                return;
            }
            Done::Nothing => {}
        }
        let values = &mut values[..rows.len() * width];
        for (index, (row, values)) in rows.clone().zip(values.chunks_exact_mut(width)).enumerate() {
            let (kept, padding) = values.split_at_mut(kept);
            match start {
                Start::Zeros => kept.fill(0.0),
                Start::Bias(bias) => copy(bias, kept),
                Start::RowBias(bias) => kept.fill(bias[index]),
                // SAFETY: as above.
                Start::Result => copy(unsafe { self.y.read(place(row), kept.len()) }, kept),
            }
            padding.fill(0.0);
        }
        multiply_add(cpu, x, lines, values);
        for (row, values) in rows.clone().zip(values.chunks_exact_mut(width)) {
            let addend = addend(row).unwrap_or_default();
            values.iter_mut().zip(addend).for_each(|(value, addend)| *value += addend);
        }
        self.activation.apply(cpu, values);
        for (row, values) in rows.zip(values.chunks_exact(width)) {
            let (lines, rest) = values[..kept].as_chunks::<PANEL>();
            for (index, line) in lines.iter().enumerate() {
                // SAFETY: as above.
                unsafe { self.y.write(place(row) + index * PANEL, line) };
            }
            // SAFETY: as above.
            unsafe { self.y.write(place(row) + lines.len() * PANEL, rest) };
        }
    }
}

/// Starts to fetch what will be read.
fn fetch(elements: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in elements.chunks(PANEL) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 CPU has SSE, and fetching ahead is no access.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = elements;
}

/// Copies lines as arrays: for some lines, a call takes longer.
fn copy(from: &[f32], to: &mut [f32]) {
    let ((from, from_rest), (to, to_rest)) =
        (from.as_chunks::<PANEL>(), to.as_chunks_mut::<PANEL>());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    to_rest.copy_from_slice(from_rest);
}
