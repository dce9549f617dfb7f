#![allow(unsafe_code, reason = "blocks of one row-major result are written by different threads")]
//! The product of two matrices that are not packed beforehand, as training needs them.
//!
//! A part of the inner dimension at a time, both are laid out for the tiles, and the sums go on from
//! what the part before left in the result: still one chain in order.

use std::cell::Cell;
use std::ops::Range;

use super::linear::LEAST_PANELS;
use super::rectangle::Rectangle;
use super::row::row_product;
use super::tile::{Start, fusing};
use super::transpose::{transpose, transpose_rows};
use super::{Line, PANEL, Rows};
use crate::activation::Activation;
use crate::matrix::{Matrix, PARALLEL_WORK, Write};
use crate::parallel::{self, Shared, tiles};
use crate::scratch::lend;
use crate::tier::Cpu;

/// Inner elements of a part at most: some panels of them stay in the second-level cache while the
/// rows of a block pass by.
const DEPTH: usize = 1024;

/// Columns that are packed at once at most: 8 MiB of a part.
const COLUMNS: usize = 2048;

/// Rows of a block.
const BLOCK_ROWS: usize = 96;

/// Panels, and rows of the left side, that a thread lays out at once.
const PANELS_AT_ONCE: usize = 8;
const ROWS_AT_ONCE: usize = 32;

thread_local! {
    static LEFT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// `c = a·b`, or `c += a·b`.
///
/// # Shapes
/// `a`: `[m, k]`, `b`: `[k, n]`, any strides; `c`: `[m, n]`, row-major.
///
/// # Safety
/// `b` has as many rows as `a` has columns, at least one. The `m·n` elements of `c` are alive, and
/// initialized unless they are overwritten; nothing else accesses them meanwhile.
pub(crate) unsafe fn product(cpu: Cpu, a: Matrix<'_>, b: Matrix<'_>, c: Shared<f32>, write: Write) {
    let (m, k, n) = (a.rows(), a.cols(), b.cols());
    if n == 1 && m > 1 {
        // Columns are laid out faster than they are multiplied one by one.
        // SAFETY: the caller's promise, for one row instead of one column lies in memory the same.
        return unsafe { product(cpu, b.transposed(), a.transposed(), c, write) };
    }
    let threads = m.saturating_mul(k).saturating_mul(n) >= PARALLEL_WORK;
    if m == 1
        && let (Some(x), Some(rows), Some(cpu)) = (a.as_rows(), b.as_rows(), fusing(cpu))
    {
        // SAFETY: c has n elements, as a row of b; the rest is the caller's promise.
        return unsafe { row_product(cpu, x.row(0), rows, c, write, threads) };
    }
    for columns in tiles(0..n, COLUMNS) {
        for depth in tiles(0..k, DEPTH) {
            let first = depth.start == 0 && write == Write::Overwrite;
            let part = Part {
                cpu,
                threads,
                a: a.column_range(depth.start, depth.len()),
                b: b.row_range(depth.start, depth.len()).column_range(columns.start, columns.len()),
                c,
                first_column: columns.start,
                stride: n,
                start: if first { Start::Zeros } else { Start::Result },
            };
            // SAFETY: the columns lie in c; the rest is the caller's promise.
            unsafe { part.run() };
        }
    }
}

/// A part of the inner dimension, for some columns.
struct Part<'a> {
    cpu: Cpu,
    threads: bool,
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: Shared<f32>,
    /// Where the columns of `b` begin in `c`.
    first_column: usize,
    /// Elements of a row of `c`.
    stride: usize,
    start: Start<'static>,
}

impl Part<'_> {
    /// # Safety
    /// As for [`product`]; `c` has the columns.
    unsafe fn run(&self) {
        let depth = self.a.cols();
        let panels = self.b.cols().div_ceil(PANEL);
        lend(&RIGHT, panels * depth, |lines| {
            let pack = |group: usize, lines: &mut [Line]| {
                let columns =
                    self.b.column_range(group * PANELS_AT_ONCE * PANEL, PANELS_AT_ONCE * PANEL);
                pack_panels(self.cpu, columns, lines);
            };
            self.each_chunk(lines, PANELS_AT_ONCE * depth, pack);
            if let Some(rows) = self.a.as_rows() {
                // SAFETY: the caller's promise.
                unsafe { self.multiply(rows, lines) };
                return;
            }
            lend(&LEFT, self.a.rows() * depth, |left| {
                let copy = |group: usize, left: &mut [f32]| {
                    copy_rows(self.cpu, self.a.row_range(group * ROWS_AT_ONCE, ROWS_AT_ONCE), left);
                };
                self.each_chunk(left, ROWS_AT_ONCE * depth, copy);
                // SAFETY: the caller's promise.
                unsafe { self.multiply(Rows::new(left, self.a.rows(), depth, depth), lines) };
            });
        });
    }

    /// Lays out chunk after chunk, on all threads where the product takes long enough.
    fn each_chunk<T: Send>(&self, all: &mut [T], len: usize, job: impl Fn(usize, &mut [T]) + Sync) {
        if self.threads {
            parallel::for_each_chunk(all, len, job);
        } else {
            all.chunks_mut(len).enumerate().for_each(|(index, chunk)| job(index, chunk));
        }
    }

    /// # Safety
    /// As for [`Self::run`].
    unsafe fn multiply(&self, x: Rows<'_>, lines: &[Line]) {
        let (columns, depth) = (self.b.cols(), x.k());
        let panels = columns.div_ceil(PANEL);
        let block = |rows: Range<usize>, panels: Range<usize>| {
            let column = panels.start * PANEL;
            let rectangle = Rectangle {
                y: self.c,
                first: rows.start * self.stride + self.first_column + column,
                stride: self.stride,
                columns: columns.min(panels.end * PANEL) - column,
                start: self.start,
                addend: None,
                activation: Activation::Identity,
            };
            let lines = &lines[panels.start * depth..panels.end * depth];
            // SAFETY: rows and columns lie in c by the caller's promise; blocks are disjoint.
            unsafe { rectangle.multiply(self.cpu, x.range(rows), lines) };
        };
        if !self.threads {
            block(0..x.count(), 0..panels);
            return;
        }
        parallel::for_each_rectangle([x.count(), panels], [BLOCK_ROWS, LEAST_PANELS], block);
    }
}

/// Packs columns as panels, zeros past the last.
///
/// # Shapes
/// `b`: `[k, n]`; `lines`: panels of k.
fn pack_panels(cpu: Cpu, b: Matrix<'_>, lines: &mut [Line]) {
    let (k, n) = (b.rows(), b.cols());
    if let Some(columns) = b.transposed().as_rows() {
        transpose(cpu, columns, lines);
        return;
    }
    let rows = b.as_rows();
    for row in 0..k {
        // Whole lines are copied as arrays: for as little as a line, a call takes longer.
        let (whole, rest) = match &rows {
            Some(rows) => rows.row(row).as_chunks::<PANEL>(),
            None => (&[][..], &[][..]),
        };
        for (panel, &elements) in whole.iter().enumerate() {
            lines[panel * k + row] = Line(elements);
        }
        for panel in whole.len()..n.div_ceil(PANEL) {
            let column = panel * PANEL;
            let line = &mut lines[panel * k + row].0;
            let (kept, padding) = line.split_at_mut(PANEL.min(n - column));
            match rows {
                Some(_) => kept.copy_from_slice(rest),
                None => {
                    let places = kept.iter_mut().zip(column..);
                    places.for_each(|(place, column)| *place = b.element(row, column));
                }
            }
            padding.fill(0.0);
        }
    }
}

/// Copies rows whose elements lie apart.
///
/// # Shapes
/// `a`: `[m, k]`; `rows`: the same, row-major.
fn copy_rows(cpu: Cpu, a: Matrix<'_>, rows: &mut [f32]) {
    if let Some(columns) = a.transposed().as_rows() {
        transpose_rows(cpu, columns, rows);
        return;
    }
    for (row, elements) in rows.chunks_exact_mut(a.cols()).enumerate() {
        elements.iter_mut().enumerate().for_each(|(col, place)| *place = a.element(row, col));
    }
}
