#![allow(unsafe_code, reason = "calls code for detected instruction sets")]
//! Products of a few rows with a few panels, by what the CPU has.

use std::ops::Range;

use super::{Left, PANEL, Panels, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::activation::Activation;
#[cfg(target_arch = "x86_64")]
use crate::function::Function;
use crate::parallel::check_len;
use crate::tier::{Cpu, Tier};

/// Rows of a left operand, `stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) count: usize,
    pub(super) k: usize,
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `k` elements.
    ///
    /// # Panics
    /// When the last row reaches out of `data`.
    pub(crate) fn new(data: &'a [f32], count: usize, k: usize, stride: usize) -> Self {
        let needed = count.checked_sub(1).map_or(0, |last| last * stride + k);
        assert!(needed <= data.len(), "rows need {needed} elements, found {}", data.len());
        Self { data, count, k, stride }
    }

    /// Some of them.
    pub(super) fn range(&self, rows: Range<usize>) -> Self {
        Self::new(&self.data[rows.start * self.stride..], rows.len(), self.k, self.stride)
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(super) const fn k(&self) -> usize {
        self.k
    }

    /// Row `index`, which is below the count.
    pub(crate) fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.k]
    }
}

/// How the product runs: the instructions are those of the tier, but that a CPU with fused
/// multiply-add uses it at every tier, so that tiers agree.
fn instructions(cpu: Cpu) -> Tier {
    match cpu.tier() {
        Tier::Portable if Tier::Avx2.is_available() => Tier::Avx2,
        tier => tier,
    }
}

/// The instructions of tiles, where they fuse multiply-adds.
pub(super) fn fusing(cpu: Cpu) -> Option<Cpu> {
    let tier = instructions(cpu);
    (tier > Tier::Portable).then(|| Cpu::with_tier(tier).ok())?
}

/// Rows that [`multiply_add`] takes at once.
pub(crate) fn tile_rows(cpu: Cpu) -> usize {
    match instructions(cpu) {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Vnni | Tier::Amx => avx512::ROWS,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::ROWS,
        _ => portable::ROWS,
    }
}

/// `values += x·w`, each element one chain over k that starts at its old value.
///
/// # Shapes
/// `x`: at most [`tile_rows`] rows of length k; `w`: panels of k lines; `values`:
/// `[rows, 16·panels]`.
///
/// # Panics
/// When a length differs.
pub(crate) fn multiply_add<'a>(
    cpu: Cpu,
    x: impl Into<Left<'a>>,
    w: Panels<'_>,
    values: &mut [f32],
) {
    let x = x.into();
    assert!(x.count() <= tile_rows(cpu), "{} rows in a tile", x.count());
    if x.count() == 0 || x.k() == 0 {
        return;
    }
    let panels = values.len() / (x.count() * PANEL);
    check_len("product: values", values.len(), x.count() * panels * PANEL);
    check_len("product: lines", w.lines.len(), panels * x.k());
    match instructions(cpu) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
        Tier::Avx512 | Tier::Vnni | Tier::Amx => unsafe { avx512::tile(x, w, values) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Tier::is_available` found AVX2 and FMA, for the `Cpu` or in `instructions`.
        Tier::Avx2 => unsafe { avx2::tile(x, w.lines, values) },
        _ => portable::tile(x, w.lines, values),
    }
}

/// Where sums start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    Zeros,
    /// An element for each column of the rectangle.
    Bias(&'a [f32]),
    /// An element for each row.
    RowBias(&'a [f32]),
    /// What the result holds.
    Result,
}

/// Some columns of the rows of a result, `stride` elements apart.
pub(super) struct Destination<'a> {
    pub(super) start: Start<'a>,
    pub(super) y: *mut f32,
    pub(super) stride: usize,
    pub(super) columns: usize,
    /// What is added to the sums, laid out like y.
    pub(super) addend: Option<*const f32>,
}

/// What of a tile is done.
pub(super) enum Done {
    /// Nothing: the CPU has no registers for it.
    Nothing,
    /// All but the activation.
    Sums,
    All,
}

/// Whether [`multiply_into`] knows the activation.
#[cfg(target_arch = "x86_64")]
fn is_done_in_registers(activation: Activation) -> bool {
    match activation {
        Activation::Identity | Activation::Relu | Activation::Gelu => true,
        Activation::Map(function) => matches!(function, Function::Clip { .. }),
        Activation::GeluTanh | Activation::Tanh => false,
    }
}

/// `y = activation(start + x·w + addend)`, as far as a tile's registers can finish it.
///
/// # Shapes
/// As for [`multiply_add`], with a row of the destination for each of x; its last panel may have fewer
/// columns.
///
/// # Safety
/// The destination's elements, a row for each of x, may be written, and nothing else accesses them
/// meanwhile; where its sums start with the result, they are initialized. An addend's may be read.
///
/// # Panics
/// When a length differs.
pub(super) unsafe fn multiply_into(
    cpu: Cpu,
    x: &Left<'_>,
    w: Panels<'_>,
    to: &Destination<'_>,
    activation: Activation,
) -> Done {
    #[cfg(target_arch = "x86_64")]
    if cpu.tier() >= Tier::Avx512 && x.k() > 0 {
        assert!((1..=avx512::ROWS).contains(&x.count()), "{} rows in a tile", x.count());
        check_len("product: lines", w.lines.len(), to.columns.div_ceil(PANEL) * x.k());
        match to.start {
            Start::Bias(bias) => check_len("product: bias", bias.len(), to.columns),
            Start::RowBias(bias) => check_len("product: bias", bias.len(), x.count()),
            Start::Zeros | Start::Result => {}
        }
        // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512; the
        // rest is the caller's promise.
        unsafe { avx512::tile_into(x, w, to, activation) };
        return if is_done_in_registers(activation) { Done::All } else { Done::Sums };
    }
    let _ = (cpu, x, w, to, activation);
    Done::Nothing
}

#[cfg(test)]
mod tests {
    use super::super::Line;
    use super::*;

    /// The twin never runs on a CPU that fuses, so it is called here.
    #[test]
    fn the_plain_twin_differs_by_rounding_only() {
        let number = |i: usize| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
        let (rows, k, panels) = (3, 29, 2);
        let x: Vec<f32> = (0..rows * k).map(number).collect();
        let line = |i: usize| Line(std::array::from_fn(|lane| number(i * PANEL + lane)));
        let w: Vec<Line> = (0..panels * k).map(line).collect();
        let x = Rows::new(&x, rows, k, k);
        let mut plain = vec![0.5; rows * panels * PANEL];
        let mut best = plain.clone();
        portable::tile(x.into(), &w, &mut plain);
        multiply_add(Cpu::best(), x, Panels::new(&w), &mut best);
        for (plain, best) in plain.iter().zip(best) {
            assert!((plain - best).abs() < 1e-5, "{plain} {best}");
        }
    }
}
