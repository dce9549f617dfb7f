#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! What follows the product of a layer, on the tiers with AVX-512: sums are scaled, activated, rounded
//! and written without leaving the registers.

use std::arch::x86_64::*;
use std::{array, mem};

use super::linear::Product;
use super::output::Target;
use super::pack::PANEL;
use crate::activation::Activation;
use crate::requantize::by_register;
use crate::wide::{self, AT_ONCE, Rounding};

/// Most rows of a tile over all tiers.
const MOST_ROWS: usize = 16;

/// Panels that are finished at once: their bytes make a line of the cache.
pub(super) const FOUR: usize = 4;

/// What is applied to sums in registers.
const IDENTITY: u8 = 0;
const GELU: u8 = 1;
const COARSE_GELU: u8 = 2;
const RELU: u8 = 3;

/// What the sums of a panel go through. Made for a few tiles only, so that it borrows: copies of so few
/// numbers were seen to take a twenty-fifth of a run.
pub(super) struct Epilogue<'a> {
    panel: usize,
    /// What each element of x was too much.
    zero: i32,
    /// The sums of the weights.
    weights: &'a [i32; PANEL],
    /// An element for each column that there is.
    scales: &'a [f32],
    bias: Option<&'a [f32]>,
    /// Where the result is int8, but for a few scales.
    rounding: Option<Rounding>,
}

/// An [`Epilogue`] in registers; zeros past the last column.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) offsets: Option<__m512i>,
    pub(super) scales: __m512,
    pub(super) bias: Option<__m512>,
}

impl<'a> Epilogue<'a> {
    /// `added`: what was added to each element of x before it was multiplied.
    pub(super) fn of(product: &Product<'a>, panel: usize, added: i32) -> Self {
        let (layer, column) = (product.layer, panel * PANEL);
        let columns = column..layer.weights.outputs().min(column + PANEL);
        let sums = layer.weights.tile(panel, 1).sums;
        Self {
            panel,
            zero: i32::from(product.x.zero_point()) + added,
            weights: sums.first_chunk().expect("a panel has so many sums"),
            scales: &layer.scales[columns.clone()],
            bias: layer.bias.map(|bias| &bias[columns]),
            rounding: match product.target {
                Target::F32(_) | Target::Bf16(_) => None,
                Target::Int8(_, to) => Rounding::new(to),
            },
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn columns(&self) -> Columns {
        let lanes = first_lanes(self.scales.len());
        // SAFETY: no more elements are read than there are: the bias has as many as the scales, and
        // the sums have the 64 bytes that are read.
        unsafe {
            let sums = _mm512_loadu_si512(self.weights.as_ptr().cast());
            let offsets = _mm512_mullo_epi32(_mm512_set1_epi32(self.zero), sums);
            Columns {
                offsets: (self.zero != 0).then_some(offsets),
                scales: _mm512_maskz_loadu_ps(lanes, self.scales.as_ptr()),
                bias: self.bias.map(|bias| _mm512_maskz_loadu_ps(lanes, bias.as_ptr())),
            }
        }
    }

    /// The panel it was made for.
    pub(super) const fn panel(&self) -> usize {
        self.panel
    }

    /// Scales, adds the bias, activates and writes one tile of at most [`MOST_ROWS`] rows, from `row`
    /// on.
    ///
    /// # Panics
    /// When the tile ends behind the last row.
    pub(super) fn finish(&self, product: &Product<'_>, sums: &[[i32; PANEL]], row: usize) {
        assert!(row + sums.len() <= product.rows, "the tile ends inside the result");
        let n = product.layer.weights.outputs();
        let column = self.panel * PANEL;
        let (start, width) = (row * n + column, PANEL.min(n - column));
        // SAFETY: only tiers that have AVX-512 come here. The rows (checked above) and column +
        // width ≤ n are in the result, whose length `Target::new` checked; jobs cover disjoint
        // rectangles, so no other thread touches them.
        unsafe {
            match (product.layer.activation, &product.target, self.rounding) {
                (Activation::Identity, Target::F32(y), _) => {
                    self.write_f32::<IDENTITY>(sums, y.at(start), n, width);
                }
                (Activation::Identity, Target::Bf16(y), _) if product.cpu.rounds_to_bf16() => {
                    self.write_bf16(sums, y.at(start), n, width);
                }
                (Activation::Gelu, Target::F32(y), _) => {
                    self.write_f32::<GELU>(sums, y.at(start), n, width);
                }
                (Activation::Relu, Target::F32(y), _) => {
                    self.write_f32::<RELU>(sums, y.at(start), n, width);
                }
                (Activation::Relu, Target::Int8(y, _), Some(rounding)) => {
                    self.write_int8::<RELU>(sums, rounding, y.at(start), n, width);
                }
                (Activation::Identity, Target::Int8(y, _), Some(rounding)) => {
                    self.write_int8::<IDENTITY>(sums, rounding, y.at(start), n, width);
                }
                (Activation::Gelu, Target::Int8(y, _), Some(rounding))
                    if product.has_coarse_gelu() =>
                {
                    self.write_int8::<COARSE_GELU>(sums, rounding, y.at(start), n, width);
                }
                (Activation::Gelu, Target::Int8(y, _), Some(rounding)) => {
                    self.write_int8::<GELU>(sums, rounding, y.at(start), n, width);
                }
                (_, target, _) => {
                    let mut values = [[0.0; PANEL]; MOST_ROWS];
                    let values = &mut values[..sums.len()];
                    let place = values.as_flattened_mut().as_mut_ptr();
                    self.write_f32::<IDENTITY>(sums, place, PANEL, PANEL);
                    product.activate(values.as_flattened_mut());
                    target.write_tile(product.cpu, (start, n), values, width);
                }
            }
        }
    }

    /// [`Self::finish`] of four neighbouring panels at once, whose sums follow each other, where the result
    /// is int8 and all their columns are there; says whether they were.
    ///
    /// # Panics
    /// When the tile ends behind the last row.
    pub(super) fn finish_four(
        panels: &[Self; FOUR],
        product: &Product<'_>,
        sums: &[[i32; PANEL]],
        row: usize,
    ) -> bool {
        let rows = sums.len() / FOUR;
        assert!(row + rows <= product.rows, "the tile ends inside the result");
        let n = product.layer.weights.outputs();
        let [first, .., last] = panels;
        let column = first.panel * PANEL;
        let are_there = last.panel + 1 == first.panel + FOUR && column + FOUR * PANEL <= n;
        let (Target::Int8(y, _), Some(rounding), true) =
            (&product.target, first.rounding, are_there)
        else {
            return false;
        };
        // SAFETY: only tiers that have AVX-512 come here. The rows and the columns (checked above) are in
        // the result, whose length `Target::new` checked; jobs cover disjoint rectangles, so no other
        // thread touches them.
        unsafe {
            let y = y.at(row * n + column);
            match product.layer.activation {
                Activation::Identity => write_rows::<IDENTITY>(panels, sums, rounding, y, n),
                Activation::Relu => write_rows::<RELU>(panels, sums, rounding, y, n),
                Activation::Gelu if product.has_coarse_gelu() => {
                    write_rows::<COARSE_GELU>(panels, sums, rounding, y, n);
                }
                Activation::Gelu => write_rows::<GELU>(panels, sums, rounding, y, n),
                _ => return false,
            }
        }
        true
    }

    /// Writes `width` elements of each row, rows `stride` elements apart.
    ///
    /// # Safety
    /// These elements can be written.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn write_f32<const ACTIVATION: u8>(
        &self,
        sums: &[[i32; PANEL]],
        y: *mut f32,
        stride: usize,
        width: usize,
    ) {
        let write = |row: usize, values: __m512| {
            // SAFETY: the caller's promise.
            unsafe { _mm512_mask_storeu_ps(y.add(row * stride), first_lanes(width), values) };
        };
        self.for_each_row::<ACTIVATION>(sums, write);
    }

    /// Writes `width` elements of each row, rows `stride` elements apart.
    ///
    /// # Safety
    /// These elements can be written.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn write_bf16(&self, sums: &[[i32; PANEL]], y: *mut u16, stride: usize, width: usize) {
        let write = |row: usize, values: __m512| {
            // SAFETY: both types have 256 bits.
            let values = unsafe { mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values)) };
            // SAFETY: the caller's promise.
            unsafe {
                _mm256_mask_storeu_epi16(y.add(row * stride).cast(), first_lanes(width), values)
            };
        };
        self.for_each_row::<IDENTITY>(sums, write);
    }

    /// Writes `width` elements of each row, rows `stride` elements apart.
    ///
    /// # Safety
    /// These elements can be written.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn write_int8<const ACTIVATION: u8>(
        &self,
        sums: &[[i32; PANEL]],
        rounding: Rounding,
        y: *mut i8,
        stride: usize,
        width: usize,
    ) {
        let write = |row: usize, values: __m512| {
            let values = rounding.round(values);
            // SAFETY: the caller's promise.
            unsafe { _mm_mask_storeu_epi8(y.add(row * stride), first_lanes(width), values) };
        };
        self.for_each_row::<ACTIVATION>(sums, write);
    }

    /// Calls `write` with the values of each row.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn for_each_row<const ACTIVATION: u8>(
        &self,
        sums: &[[i32; PANEL]],
        mut write: impl FnMut(usize, __m512),
    ) {
        // A tile of 16 rows is some fours, one of 6 is some threes.
        if sums.len().is_multiple_of(4) {
            self.for_each_of::<ACTIVATION, 4>(sums, &mut write);
        } else {
            self.for_each_of::<ACTIVATION, AT_ONCE>(sums, &mut write);
        }
    }

    /// [`Self::for_each_row`], several rows at once.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn for_each_of<const ACTIVATION: u8, const N: usize>(
        &self,
        sums: &[[i32; PANEL]],
        write: &mut impl FnMut(usize, __m512),
    ) {
        let columns = self.columns();
        let (several, rest) = sums.as_chunks::<N>();
        for (index, sums) in several.iter().enumerate() {
            for (offset, values) in columns.values::<ACTIVATION, N>(sums).into_iter().enumerate() {
                write(index * N + offset, values);
            }
        }
        for (offset, sums) in rest.iter().enumerate() {
            let [values] = columns.values::<ACTIVATION, 1>(&[*sums]);
            write(several.len() * N + offset, values);
        }
    }
}

/// Writes rows of four panels, whose sums follow each other, `stride` elements apart.
///
/// # Safety
/// The elements of these rows can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn write_rows<const ACTIVATION: u8>(
    panels: &[Epilogue<'_>; FOUR],
    sums: &[[i32; PANEL]],
    rounding: Rounding,
    y: *mut i8,
    stride: usize,
) {
    let columns = panels.each_ref().map(|panel| panel.columns());
    let rounder = rounding.rounder();
    let rows = sums.len() / FOUR;
    for row in 0..rows {
        let scaled = array::from_fn(|panel| columns[panel].scaled(&sums[panel * rows + row]));
        let values = by_register(rounder.round_four(activated::<ACTIVATION, FOUR>(scaled)));
        // SAFETY: the caller's promise; a row has 64 bytes.
        unsafe { _mm512_storeu_si512(y.add(row * stride).cast(), values) };
    }
}

/// Numbers that an activation is applied to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn activated<const ACTIVATION: u8, const N: usize>(values: [__m512; N]) -> [__m512; N] {
    match ACTIVATION {
        GELU => wide::gelu(values),
        COARSE_GELU => wide::coarse_gelu(values),
        // Where x is not a number, the second operand is taken.
        RELU => values.map(|x| _mm512_max_ps(_mm512_setzero_ps(), x)),
        _ => values,
    }
}

impl Columns {
    /// Of no columns.
    #[target_feature(enable = "avx512f")]
    pub(super) fn none() -> Self {
        Self { offsets: None, scales: _mm512_setzero_ps(), bias: None }
    }

    /// `(sums − offsets)·scales + bias` of some rows, activated.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn values<const ACTIVATION: u8, const N: usize>(self, sums: &[[i32; PANEL]; N]) -> [__m512; N] {
        activated::<ACTIVATION, N>(sums.each_ref().map(|sums| self.scaled(sums)))
    }

    /// `(sums − offsets)·scales + bias` of a row, rounded at each step as the other tiers do.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn scaled(&self, sums: &[i32; PANEL]) -> __m512 {
        let Self { offsets, scales, bias } = *self;
        // SAFETY: the array has the 64 bytes that are read.
        let sums = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        let sums = offsets.map_or(sums, |offsets| _mm512_sub_epi32(sums, offsets));
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scales);
        bias.map_or(scaled, |bias| _mm512_add_ps(scaled, bias))
    }
}

/// A mask of the first lanes.
const fn first_lanes(count: usize) -> u16 {
    ((1u32 << count) - 1) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::left::Source;
    use crate::int8::{Input, Layer, Output, PackedWeights, Quantization};
    use crate::tier::{Cpu, Tier};

    /// The last way takes the steps of other tiers.
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
        let fine = Quantization { scale: 0.0037, zero_point: 5, min: -127, max: 126 };
        let coarse = Quantization { scale: 0.037, ..fine };
        let sums: Vec<[i32; PANEL]> = (0..rows)
            .map(|row| {
                std::array::from_fn(|lane| ((row * PANEL + lane) * 7919 % 2001) as i32 - 1000)
            })
            .collect();
        for (activation, bias, to) in [
            (Activation::Identity, None, coarse),
            (Activation::Relu, Some(&bias[..]), coarse),
            (Activation::Gelu, Some(&bias[..]), coarse),
            (Activation::Gelu, Some(&bias[..]), fine),
        ] {
            let layer =
                Layer { weights: &weights, scales: &scales, bias, activation, coarse: true };
            let run = |y: Output<'_>, rounding: bool| {
                let product = Product::new(cpu, Source::Rows(x), rows, &layer, y);
                for panel in 0..2 {
                    let mut epilogue = Epilogue::of(&product, panel, 0);
                    epilogue.rounding = epilogue.rounding.filter(|_| rounding);
                    epilogue.finish(&product, &sums, 0);
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
            // Where GELU is coarse, a thirtieth of a step may decide.
            let allowed = i8::from(activation == Activation::Gelu && to == coarse);
            let near = |(a, b): (&i8, &i8)| a.abs_diff(*b) <= allowed.unsigned_abs();
            assert!(rounded.iter().zip(&expected).all(near));
            let kinds: std::collections::BTreeSet<_> = expected.iter().collect();
            assert!(kinds.len() > 30, "{} values", kinds.len());
        }
    }

    #[test]
    fn four_panels_at_once_are_what_each_is() {
        let Ok(cpu) = Cpu::with_tier(Tier::Avx512) else {
            eprintln!("skipped: this CPU has no AVX-512");
            return;
        };
        let (rows, n) = (5, 4 * PANEL + 8);
        let weights = PackedWeights::new(&vec![1; 4 * n], [4, n], [n, 1]);
        let scales: Vec<f32> = (0..n).map(|i| 0.011 + 0.0001 * i as f32).collect();
        let bias: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
        let x = Input::Int8 { x: &vec![0; 4 * rows], zero_point: 2 };
        let sums: Vec<[i32; PANEL]> = (0..FOUR * rows)
            .map(|row| {
                std::array::from_fn(|lane| ((row * PANEL + lane) * 7919 % 2001) as i32 - 1000)
            })
            .collect();
        let fine = Quantization { scale: 0.0037, zero_point: 5, min: -127, max: 126 };
        let coarse = Quantization { scale: 0.07, ..fine };
        let gelu = (Activation::Gelu, true);
        let all = [(Activation::Identity, true), (Activation::Relu, true), gelu];
        for ((activation, at_once), to) in all
            .into_iter()
            .chain([(Activation::Tanh, false)])
            .flat_map(|a| [(a, fine), (a, coarse)])
        {
            let bias = Some(bias.as_slice());
            let layer =
                Layer { weights: &weights, scales: &scales, bias, activation, coarse: true };
            let run = |y: &mut [i8], first: usize, four: bool| {
                let product = Product::new(cpu, Source::Rows(x), rows, &layer, Output::Int8(y, to));
                let panels = array::from_fn(|panel| Epilogue::of(&product, first + panel, 0));
                if four {
                    return Epilogue::finish_four(&panels, &product, &sums, 0);
                }
                for (panel, sums) in panels.iter().zip(sums.chunks_exact(rows)) {
                    panel.finish(&product, sums, 0);
                }
                true
            };
            let (mut expected, mut found) = (vec![0; rows * n], vec![0; rows * n]);
            run(&mut expected, 0, false);
            assert_eq!(run(&mut found, 0, true), at_once, "{activation:?}");
            // Columns of the last panel are not there.
            assert!(!run(&mut vec![0; rows * n], 1, true));
            if at_once {
                assert_eq!(found, expected, "{activation:?} {to:?}");
            }
        }
    }
}
