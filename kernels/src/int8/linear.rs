#![allow(
    unsafe_code,
    reason = "column blocks of one row-major result are written by different threads"
)]
//! The int8 linear layer: product, scales, bias, activation and rounding in one pass.

use rayon::prelude::*;

use super::pack::{Columns, PANEL, PackedWeights, Rows};
use super::portable;
use super::quantize::{Quantization, quantize_piece};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, vnni};
use crate::activation::Activation;
use crate::parallel::{Shared, check_len};
use crate::tier::{Cpu, Tier, tiered};

/// Multiply-adds below which one thread is faster: some 5 µs on VNNI.
const PARALLEL_WORK: usize = 1 << 21;

/// Most rows and columns of a tile over all tiers.
const MOST_ROWS: usize = 6;
const MOST_COLUMNS: usize = 4 * PANEL;

/// A multiple of every tier's rows.
const BLOCK_ROWS: usize = 48;

/// Panels that make a column block where there are too few rows to go round.
const BLOCK_PANELS: usize = 8;

/// A linear layer with int8 operands.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// The weights, `[k, n]`, zero point 0.
    pub weights: &'a PackedWeights,
    /// Zero point of the input.
    pub zero_point: i8,
    /// Scale of the input times scale of the column, `[n]`.
    pub scales: &'a [f32],
    /// Added after scaling, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

/// Where the result goes, `[m, n]`.
#[derive(Debug)]
pub enum Output<'a> {
    /// As it is.
    F32(&'a mut [f32]),
    /// Rounded, as [`super::quantize()`] would.
    Int8(&'a mut [i8], Quantization),
}

/// `y = activation((x − zero_point)·w · scales + bias)`, summed in `i32` without error.
///
/// # Shapes
/// `x`: `[m, k]`; `y`: `[m, n]`, both row-major.
///
/// # Panics
/// When a length differs.
pub fn linear(cpu: Cpu, x: &[i8], rows: usize, layer: &Layer<'_>, y: Output<'_>) {
    let (k, n) = (layer.weights.inputs(), layer.weights.outputs());
    check_len("int8 linear: x", x.len(), rows * k);
    check_len("int8 linear: scales", layer.scales.len(), n);
    if let Some(bias) = layer.bias {
        check_len("int8 linear: bias", bias.len(), n);
    }
    let target = Target::new(y, rows * n);
    if rows == 0 || n == 0 {
        return;
    }
    let work = rows.saturating_mul(n).saturating_mul(k);
    let panels = layer.weights.panels();
    let job = |rows: std::ops::Range<usize>, panels: std::ops::Range<usize>| Job {
        cpu,
        x,
        layer,
        rows,
        panels,
    };
    let (parallel_work, block_rows) = match cpu.tier() {
        #[cfg(target_arch = "x86_64")]
        Tier::Amx => (amx::PARALLEL_WORK, amx::ROWS),
        _ => (PARALLEL_WORK, BLOCK_ROWS),
    };
    if work < parallel_work {
        job(0..rows, 0..panels).run(&target);
        return;
    }
    let row_blocks = rows.div_ceil(block_rows);
    let block_panels = if row_blocks < 8 { BLOCK_PANELS } else { panels };
    let column_blocks = panels.div_ceil(block_panels);
    (0..row_blocks * column_blocks).into_par_iter().for_each(|index| {
        let row = index / column_blocks * block_rows;
        let panel = index % column_blocks * block_panels;
        let rows = row..(row + block_rows).min(rows);
        job(rows, panel..(panel + block_panels).min(panels)).run(&target);
    });
}

/// One thread's share: a rectangle of the result.
pub(super) struct Job<'a> {
    pub(super) cpu: Cpu,
    pub(super) x: &'a [i8],
    pub(super) layer: &'a Layer<'a>,
    pub(super) rows: std::ops::Range<usize>,
    pub(super) panels: std::ops::Range<usize>,
}

impl Job<'_> {
    /// Column blocks outside, rows inside: the weights of a block stay in the cache.
    fn run(&self, target: &Target) {
        let weights = self.layer.weights;
        let k = weights.inputs();
        #[cfg(target_arch = "x86_64")]
        if self.cpu.tier() == Tier::Amx && k > 0 {
            amx::run(self, target);
            return;
        }
        let (tile_rows, tile_panels) = tile_size(self.cpu);
        for panel in self.panels.clone().step_by(tile_panels) {
            let columns = weights.tile(panel, tile_panels.min(self.panels.end - panel));
            for row in self.rows.clone().step_by(tile_rows) {
                let n_rows = tile_rows.min(self.rows.end - row);
                let x = Rows::new(&self.x[row * k..(row + n_rows) * k], n_rows, k);
                let mut sums = [0; MOST_ROWS * MOST_COLUMNS];
                let sums = &mut sums[..n_rows * columns.panels() * PANEL];
                multiply(self.cpu, x, columns, sums);
                self.finish(sums, columns, row, panel * PANEL, target);
            }
        }
    }

    /// Scales, adds the bias, activates and writes one tile.
    fn finish(&self, sums: &[i32], columns: Columns<'_>, row: usize, col: usize, target: &Target) {
        let n = self.layer.weights.outputs();
        let width = (columns.panels() * PANEL).min(n - col);
        let n_rows = sums.len() / (columns.panels() * PANEL);
        let mut values = [0.0; MOST_ROWS * MOST_COLUMNS];
        let values = &mut values[..n_rows * width];
        let scales = &self.layer.scales[col..col + width];
        let bias = self.layer.bias.map_or(&[][..], |bias| &bias[col..col + width]);
        let zero_point = i32::from(self.layer.zero_point);
        rescale(self.cpu, sums, columns.sums, zero_point, scales, bias, values);
        self.layer.activation.apply(self.cpu, values);
        for (offset, values) in values.chunks_exact(width).enumerate() {
            let start = (row + offset) * n + col;
            match *target {
                Target::F32(y) => {
                    // SAFETY: row < rows and col + width ≤ n, so the range lies in y, whose length
                    // `Target::new` checked; jobs cover disjoint rectangles, so no other thread
                    // touches it.
                    let y = unsafe { y.range(start, width) };
                    y.copy_from_slice(values);
                }
                Target::Int8(y, to) => {
                    // SAFETY: as above.
                    let y = unsafe { y.range(start, width) };
                    quantize_piece(self.cpu, values, to, y);
                }
            }
        }
    }
}

tiered! {
    /// `values[r, c] = (sums[r, c] − zero_point·column_sums[c])·scales[c] + bias[c]`.
    fn rescale(sums: &[i32], column_sums: &[i32], zero_point: i32, scales: &[f32], bias: &[f32], values: &mut [f32]) {
        let width = scales.len();
        let rows = sums.chunks_exact(column_sums.len()).zip(values.chunks_exact_mut(width));
        for (sums, values) in rows {
            let columns = sums[..width].iter().zip(&column_sums[..width]);
            for ((value, (&sum, &column_sum)), &scale) in values.iter_mut().zip(columns).zip(scales) {
                *value = sum.wrapping_sub(zero_point.wrapping_mul(column_sum)) as f32 * scale;
            }
            for (value, &bias) in values.iter_mut().zip(bias) {
                *value += bias;
            }
        }
    }
}

/// Rows and panels of a tier's tile.
fn tile_size(cpu: Cpu) -> (usize, usize) {
    match cpu.tier() {
        #[cfg(target_arch = "x86_64")]
        Tier::Vnni | Tier::Amx => (vnni::ROWS, vnni::PANELS),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => (avx512::ROWS, 1),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => (avx2::ROWS, 1),
        _ => (portable::ROWS, 1),
    }
}

/// The exact products of one tile.
pub(crate) fn multiply(cpu: Cpu, x: Rows<'_>, w: Columns<'_>, sums: &mut [i32]) {
    if x.k == 0 {
        sums.fill(0);
        return;
    }
    match cpu.tier() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Cpu` of this tier exists only where `Tier::is_available` found its features.
        Tier::Vnni | Tier::Amx => unsafe { vnni::tile(x, w, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 => unsafe { avx512::tile(x, w, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx2 => unsafe { avx2::tile(x, w, sums) },
        _ => portable::tile(x, w, sums),
    }
}

/// A result that threads fill in disjoint rectangles.
pub(super) enum Target {
    F32(Shared<f32>),
    Int8(Shared<i8>, Quantization),
}

impl Target {
    #[track_caller]
    fn new(output: Output<'_>, len: usize) -> Self {
        match output {
            Output::F32(y) => {
                check_len("int8 linear: y", y.len(), len);
                Self::F32(Shared::new(y))
            }
            Output::Int8(y, to) => {
                check_len("int8 linear: y", y.len(), len);
                Self::Int8(Shared::new(y), to)
            }
        }
    }
}
