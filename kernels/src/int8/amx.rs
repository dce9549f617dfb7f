#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AMX")]
//! The int8 linear layer on the tile registers: both operands signed, as they are stored.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;
use std::slice;

use super::left::Input;
use super::linear::Product;
use super::output::Target;
use super::pack::{GROUP, PANEL};
use super::quantize::quantize_piece;
use crate::activation::Activation;
use crate::amx::{self, Int8, TILE_BYTES, TILE_LINES, TilePanels, TileRows};
use crate::parallel;
use crate::wide::{self, Rounding};

/// Rows that pass by a panel before the next: 512 inputs of theirs take 32 of the 48 KiB of the first
/// cache.
const ROWS: usize = 64;

/// Multiply-adds below which one thread is faster. Tiles multiply some seven times faster than VNNI
/// and the sums are finished no faster: an estimate between the two, not a measurement.
const PARALLEL_WORK: usize = 1 << 21;

/// Elements of the left side below which one thread writes them faster.
const PARALLEL_PACKING: usize = 1 << 15;

/// Panels that are worth a configuration of the tiles.
const LEAST_PANELS: usize = 3;

thread_local! {
    /// Rows as int8, with zeros up to a whole tile. It is taken while in use, so that work which a
    /// waiting thread takes on finds another.
    static PADDED: Cell<Vec<Segment>> = const { Cell::new(Vec::new()) };
}

/// A row of a tile of x, which is loaded twice as fast where it is a line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Segment([i8; TILE_BYTES]);

/// Computes the whole result.
pub(super) fn run(product: &Product<'_>) {
    let k = product.layer.weights.inputs();
    let stride = k.next_multiple_of(TILE_BYTES);
    match product.x {
        Input::Int8 { x, .. } if stride == k => blocks(product, x),
        _ => {
            let mut padded = PADDED.take();
            pad(product, stride, &mut padded);
            let len = padded.len() * TILE_BYTES;
            // SAFETY: a segment is so many bytes without padding.
            blocks(product, unsafe { slice::from_raw_parts(padded.as_ptr().cast(), len) });
            PADDED.set(padded);
        }
    }
}

/// Writes the left side as rows of `stride` int8, with zeros behind the `k` of a row.
fn pad(product: &Product<'_>, stride: usize, padded: &mut Vec<Segment>) {
    /// Rows that a thread takes at a time.
    const PIECE: usize = 16;
    let k = product.layer.weights.inputs();
    let segments = stride / TILE_BYTES;
    padded.resize(product.rows * segments, Segment([0; TILE_BYTES]));
    let piece = |first: usize, padded: &mut [Segment]| {
        for (offset, padded) in padded.chunks_exact_mut(segments).enumerate() {
            let row = first + offset;
            // SAFETY: as in `run`.
            let padded = unsafe { slice::from_raw_parts_mut(padded.as_mut_ptr().cast(), stride) };
            let (range, (padded, rest)) = (row * k..(row + 1) * k, padded.split_at_mut(k));
            match product.x {
                Input::Int8 { x, .. } => padded.copy_from_slice(&x[range]),
                Input::F32 { x, to } => quantize_piece(product.cpu, &x[range], to, padded),
            }
            rest.fill(0);
        }
    };
    if product.rows * k < PARALLEL_PACKING {
        piece(0, padded);
    } else {
        parallel::for_each_chunk(padded, PIECE * segments, |index, padded| {
            piece(index * PIECE, padded);
        });
    }
}

/// Cuts the result into rectangles and computes each from `x`, rows of whole tiles.
fn blocks(product: &Product<'_>, x: &[i8]) {
    let panels = product.layer.weights.panels();
    if product.work() < PARALLEL_WORK {
        for start in (0..product.rows).step_by(ROWS) {
            strip(product, start..product.rows.min(start + ROWS), 0..panels, x);
        }
        return;
    }
    parallel::for_each_rectangle([product.rows, panels], [ROWS, LEAST_PANELS], |rows, panels| {
        strip(product, rows, panels, x);
    });
}

/// Computes the columns of some panels for at most [`ROWS`] rows.
fn strip(product: &Product<'_>, rows: Range<usize>, panels: Range<usize>, x: &[i8]) {
    let weights = product.layer.weights;
    let steps = weights.inputs().div_ceil(TILE_BYTES);
    let stride = steps * TILE_BYTES;
    let x = TileRows::new(&x[rows.start * stride..rows.end * stride], stride, steps);
    let lines = TilePanels::new(weights.lines_for_tiles(), weights.inputs().div_ceil(GROUP));
    let mut columns = Columns::of(product, panels.start);
    let rounding = match product.target {
        Target::F32(_) => None,
        Target::Int8(_, to) => Rounding::new(to),
    };
    let finish = |sums: &mut [[i32; PANEL]], row: usize, panel: usize| {
        if columns.panel != panel {
            columns = Columns::of(product, panel);
        }
        columns.finish(product, rounding, sums, rows.start + row);
    };
    // SAFETY: `linear` comes here only where a `Cpu` of tier `amx` exists.
    unsafe { amx::multiply::<Int8, _>((x, rows.len()), (lines, panels), rows.start == 0, finish) };
}

/// What the columns of a panel are scaled with; zeros past the last.
struct Columns {
    panel: usize,
    /// Zero point of x times the sum of the weights.
    offsets: [i32; PANEL],
    scales: [f32; PANEL],
    bias: Option<[f32; PANEL]>,
}

impl Columns {
    fn of(product: &Product<'_>, panel: usize) -> Self {
        let column = panel * PANEL;
        let of_panel = |numbers: &[f32]| {
            let mut panel = [0.0; PANEL];
            let numbers = &numbers[column..numbers.len().min(column + PANEL)];
            panel[..numbers.len()].copy_from_slice(numbers);
            panel
        };
        let zero_point = i32::from(product.x.zero_point());
        let sums = product.layer.weights.tile(panel, 1).sums;
        Self {
            panel,
            offsets: std::array::from_fn(|column| zero_point.wrapping_mul(sums[column])),
            scales: of_panel(product.layer.scales),
            bias: product.layer.bias.map(of_panel),
        }
    }

    /// Scales, adds the bias, activates and writes one tile, from `row` on.
    fn finish(
        &self,
        product: &Product<'_>,
        rounding: Option<Rounding>,
        sums: &[[i32; PANEL]],
        row: usize,
    ) {
        let n = product.layer.weights.outputs();
        let column = self.panel * PANEL;
        let (start, width) = (row * n + column, PANEL.min(n - column));
        // SAFETY: jobs come here only where a `Cpu` of tier `amx` exists, which has AVX-512. The
        // rows and column + width ≤ n are in the result, whose length `Target::new` checked; strips
        // cover disjoint rectangles, so no other thread touches them.
        unsafe {
            match (product.layer.activation, &product.target, rounding) {
                (Activation::Identity, Target::F32(y), _) => {
                    self.write_f32::<false>(sums, y.at(start), n, width);
                }
                (Activation::Gelu, Target::F32(y), _) => {
                    self.write_f32::<true>(sums, y.at(start), n, width);
                }
                (Activation::Identity, Target::Int8(y, _), Some(rounding)) => {
                    self.write_int8::<false>(sums, rounding, y.at(start), n, width);
                }
                (Activation::Gelu, Target::Int8(y, _), Some(rounding)) => {
                    self.write_int8::<true>(sums, rounding, y.at(start), n, width);
                }
                (activation, target, _) => {
                    let mut values = [[0.0; PANEL]; amx::TILE_ROWS];
                    let values = &mut values[..sums.len()];
                    let place = values.as_flattened_mut().as_mut_ptr();
                    self.write_f32::<false>(sums, place, PANEL, PANEL);
                    activation.apply(product.cpu, values.as_flattened_mut());
                    target.write_tile(product.cpu, (start, n), values, width);
                }
            }
        }
    }

    /// Writes `width` elements of each row, rows `stride` elements apart.
    ///
    /// # Safety
    /// These elements can be written.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn write_f32<const GELU: bool>(
        &self,
        sums: &[[i32; PANEL]],
        y: *mut f32,
        stride: usize,
        width: usize,
    ) {
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let y = y.add(row * stride);
                _mm512_mask_storeu_ps(y, first_lanes(width), self.values::<GELU>(sums));
            }
        }
    }

    /// Writes `width` elements of each row, rows `stride` elements apart.
    ///
    /// # Safety
    /// These elements can be written.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn write_int8<const GELU: bool>(
        &self,
        sums: &[[i32; PANEL]],
        rounding: Rounding,
        y: *mut i8,
        stride: usize,
        width: usize,
    ) {
        for (row, sums) in sums.iter().enumerate() {
            let values = rounding.round(self.values::<GELU>(sums));
            // SAFETY: the caller's promise.
            unsafe { _mm_mask_storeu_epi8(y.add(row * stride), first_lanes(width), values) };
        }
    }

    /// `(sums − offsets)·scales + bias` of a row, rounded at each step as the other tiers do, and
    /// activated.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn values<const GELU: bool>(&self, sums: &[i32; PANEL]) -> __m512 {
        // SAFETY: each array has the 64 bytes that are read.
        let (sums, offsets, scales, bias) = unsafe {
            (
                _mm512_loadu_si512(sums.as_ptr().cast()),
                _mm512_loadu_si512(self.offsets.as_ptr().cast()),
                _mm512_loadu_ps(self.scales.as_ptr()),
                self.bias.as_ref().map(|bias| _mm512_loadu_ps(bias.as_ptr())),
            )
        };
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums, offsets)), scales);
        let value = bias.map_or(scaled, |bias| _mm512_add_ps(scaled, bias));
        if GELU { wide::gelu(value) } else { value }
    }
}

/// A mask of the first lanes.
const fn first_lanes(count: usize) -> u16 {
    u16::MAX >> (PANEL - count)
}

/// The last panel's tiles may read past its lines, but not past the allocation.
const _: () = assert!(super::pack::SPARE_LINES + 1 == TILE_LINES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::{Layer, Output, PackedWeights, Quantization};
    use crate::tier::{Cpu, Tier};

    /// Tiles of sums are finished with AVX-512 alone, so that a CPU without tiles can tell whether
    /// each way does what the last, which takes the steps of other tiers, does.
    #[test]
    fn every_way_to_finish_a_tile_gives_the_same() {
        let Ok(cpu) = Cpu::with_tier(Tier::Avx512) else {
            eprintln!("skipped: this CPU has no AVX-512");
            return;
        };
        let (rows, n) = (13, 24);
        let weights = PackedWeights::new(&vec![1; 4 * n], [4, n], [n, 1]);
        let number = |i: usize| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
        let scales: Vec<f32> = (0..n).map(|i| 0.011 + 0.001 * number(i)).collect();
        let bias: Vec<f32> = (0..n).map(number).collect();
        let x = Input::Int8 { x: &vec![0; 4 * rows], zero_point: -3 };
        let to = Quantization { scale: 0.037, zero_point: 5, min: -127, max: 126 };
        let sums: Vec<[i32; PANEL]> = (0..rows)
            .map(|row| {
                std::array::from_fn(|lane| ((row * PANEL + lane) * 7919 % 2001) as i32 - 1000)
            })
            .collect();
        for (activation, bias) in
            [(Activation::Identity, None), (Activation::Gelu, Some(&bias[..]))]
        {
            let layer = Layer { weights: &weights, scales: &scales, bias, activation };
            let run = |y: Output<'_>, rounding: bool| {
                let product =
                    Product { cpu, x, rows, layer: &layer, target: Target::new(y, rows * n) };
                let rounding = if rounding { Rounding::new(to) } else { None };
                for panel in 0..2 {
                    Columns::of(&product, panel).finish(&product, rounding, &sums, 0);
                }
            };
            let mut floats = vec![f32::NAN; rows * n];
            run(Output::F32(&mut floats), false);
            let mut expected = vec![0; rows * n];
            run(Output::Int8(&mut expected, to), false);
            let mut found = vec![0; rows * n];
            run(Output::Int8(&mut found, to), true);
            assert_eq!(found, expected);
            let mut rounded = vec![0; rows * n];
            crate::int8::quantize(cpu, &floats, to, &mut rounded);
            assert_eq!(rounded, expected);
            let kinds: std::collections::BTreeSet<_> = expected.iter().collect();
            assert!(kinds.len() > 50, "{} values", kinds.len());
        }
    }
}
