#![allow(
    unsafe_code,
    reason = "column blocks of one row-major result are written by different threads"
)]
//! The bf16 linear layer: rounding, product, bias, sum and activation in one pass over the result.

#[cfg(target_arch = "x86_64")]
use std::array;
use std::cell::Cell;
use std::ops::Range;

use super::pack::{GROUP, Line, PANEL, PackedBf16, TILE_INPUTS};
use super::portable;
use super::round::{round_piece, widened};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, dot};
use crate::activation::{Activation, coarse_gelu_in_place};
use crate::elementwise::add_assign_piece;
use crate::float::Left;
use crate::int8::{Output, Target};
use crate::parallel::{self, check_len, for_each_chunk, rows_per_chunk};
use crate::scratch::lend;
use crate::tier::{Cpu, Tier};
#[cfg(target_arch = "x86_64")]
use crate::wide;

/// Multiply-adds below which one thread is faster.
pub const PARALLEL_WORK: usize = 1 << 21;

/// Rows that are rounded at once, and that share weights in the first cache.
const STRIP_ROWS: usize = 64;

/// Strips from which on each is a thread's work; fewer are cut into columns.
const MANY_STRIPS: usize = 8;

/// Panels that a tier takes at once, or that are worth starting on.
fn tile_panels(cpu: Cpu) -> usize {
    if cpu.tier() == Tier::Amx { 3 } else { 2 }
}

/// Most rows of a tile over all tiers.
const MOST_ROWS: usize = 16;

thread_local! {
    /// Rounded rows.
    static ROUNDED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// A linear layer with operands rounded to bf16.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// The weights, `[k, n]`.
    pub weights: &'a PackedBf16,
    /// Added to the product, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// What is added to the sums then, laid out like the result.
    pub addend: Option<Input<'a>>,
    /// Applied last.
    pub activation: Activation,
}

/// `y = activation(x·w + bias + addend)` with x and w rounded to bf16 and sums in `f32`; see [`super`] for
/// the error and for what tiers agree on.
///
/// # Shapes
/// `x`: `[rows, k]`; `y`: `[rows, n]`, both row-major.
///
/// # Panics
/// When a length differs.
pub fn linear_bf16(cpu: Cpu, x: &[f32], rows: usize, layer: &Layer<'_>, y: &mut [f32]) {
    check_len("bf16 linear: y", y.len(), rows * layer.weights.outputs());
    linear_bf16_into(cpu, Input::F32(x), rows, layer, Output::F32(y));
}

/// Numbers that a layer reads.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// As they are; rounded where they are multiplied.
    F32(&'a [f32]),
    /// As bf16.
    Bf16(&'a [u16]),
}

impl Input<'_> {
    /// Number of elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `y += self[start..]`
    fn add_to(&self, start: usize, y: &mut [f32]) {
        match self {
            Self::F32(x) => y.iter_mut().zip(&x[start..]).for_each(|(y, x)| *y += x),
            Self::Bf16(x) => y.iter_mut().zip(&x[start..]).for_each(|(y, &x)| *y += widened(x)),
        }
    }
}

/// [`Input`], and what the crate itself multiplies.
#[derive(Clone, Copy)]
enum Source<'a> {
    Rows(Input<'a>),
    /// Windows of an image.
    Windows(Left<'a, u16>),
}

impl Source<'_> {
    /// Writes the numbers of rows of `k` as bf16, each filled up with zeros to `stride`.
    fn round(&self, cpu: Cpu, rows: Range<usize>, [k, stride]: [usize; 2], to: &mut [u16]) {
        match *self {
            Self::Rows(x) => {
                for (row, to) in rows.zip(to.chunks_exact_mut(stride)) {
                    let elements = row * k..(row + 1) * k;
                    match x {
                        Input::F32(x) => round_piece(cpu, &x[elements], &mut to[..k]),
                        Input::Bf16(x) => to[..k].copy_from_slice(&x[elements]),
                    }
                    to[k..].fill(0);
                }
            }
            Self::Windows(x) => {
                for (index, start) in x.starts_of(rows).enumerate() {
                    // What is written past the end of a row is where the next one goes.
                    let to = &mut to[index * stride..];
                    match x.segment_len() {
                        ..=SHORT => x.copy_row::<SHORT, _>(start, to, |x| x),
                        _ => x.copy_row::<LONG, _>(start, to, |x| x),
                    }
                    to[k..stride].fill(0);
                }
            }
        }
    }
}

/// Elements that are moved at once of pieces of windows that have no more.
const SHORT: usize = 16;
const LONG: usize = 32;

/// [`linear_bf16`] that may read or write bf16. Where it writes such, GELU may be off by another 1.3e-4.
///
/// # Shapes
/// As those of [`linear_bf16`].
///
/// # Panics
/// When a length differs.
pub fn linear_bf16_into(cpu: Cpu, x: Input<'_>, rows: usize, layer: &Layer<'_>, y: Output<'_>) {
    check_len("bf16 linear: x", x.len(), rows * layer.weights.inputs());
    multiply(cpu, Source::Rows(x), rows, layer, y);
}

/// [`linear_bf16_into`] of windows.
///
/// # Panics
/// When a length differs.
pub(crate) fn linear_of_windows(cpu: Cpu, x: Left<'_, u16>, layer: &Layer<'_>, y: Output<'_>) {
    check_len("bf16 windows: k", x.k(), layer.weights.inputs());
    multiply(cpu, Source::Windows(x), x.count(), layer, y);
}

fn multiply(cpu: Cpu, x: Source<'_>, rows: usize, layer: &Layer<'_>, y: Output<'_>) {
    let (k, n) = (layer.weights.inputs(), layer.weights.outputs());
    if let Some(bias) = layer.bias {
        check_len("bf16 linear: bias", bias.len(), n);
    }
    if let Some(addend) = layer.addend {
        check_len("bf16 linear: addend", addend.len(), rows * n);
    }
    let job = Job { cpu, layer, y: Target::new(y, rows * n) };
    if rows * n == 0 {
        return;
    }
    let panels = layer.weights.panels();
    let strips = rows.div_ceil(STRIP_ROWS);
    let strip_rows = |strip: usize| strip * STRIP_ROWS..rows.min((strip + 1) * STRIP_ROWS);
    let parallel =
        parallel::is_worth_sharing(rows.saturating_mul(n).saturating_mul(k), PARALLEL_WORK);
    if parallel && strips < MANY_STRIPS {
        job.with_rounded(x, 0..rows, |rounded| {
            let sizes = [STRIP_ROWS, tile_panels(cpu)];
            parallel::for_each_rectangle([rows, panels], sizes, |rows, panels| {
                job.run(rounded, rows, 0, panels);
            });
        });
        return;
    }
    let strip = |strip| {
        let rows = strip_rows(strip);
        job.with_rounded(x, rows.clone(), |rounded| {
            job.run(rounded, rows.clone(), rows.start, 0..panels);
        });
    };
    if parallel {
        parallel::for_each(strips, strip);
    } else {
        (0..strips).for_each(strip);
    }
}

/// What the threads share.
struct Job<'a> {
    cpu: Cpu,
    layer: &'a Layer<'a>,
    y: Target,
}

impl Job<'_> {
    /// Elements of a rounded row: whole tiles, or whole groups.
    fn stride(&self) -> usize {
        let unit = if self.cpu.tier() == Tier::Amx { TILE_INPUTS } else { GROUP };
        self.layer.weights.inputs().next_multiple_of(unit)
    }

    /// Calls `work` with the rows of x, rounded and each filled up with zeros to the stride.
    fn with_rounded(&self, x: Source<'_>, rows: Range<usize>, work: impl FnOnce(&[u16])) {
        let (k, stride) = (self.layer.weights.inputs(), self.stride());
        if let Source::Rows(Input::Bf16(x)) = x
            && k == stride
        {
            work(&x[rows.start * k..rows.end * k]);
            return;
        }
        let len = rows.len() * stride;
        lend(&ROUNDED, len.div_ceil(PANEL * GROUP), |lines| {
            let rounded = &mut Line::elements(lines)[..len];
            if k > 0 {
                let at_once = rows_per_chunk(stride);
                for_each_chunk(rounded, at_once * stride, |piece, rounded| {
                    let first = rows.start + piece * at_once;
                    let rows = first..first + rounded.len() / stride;
                    x.round(self.cpu, rows, [k, stride], rounded);
                });
            }
            work(rounded);
        });
    }

    /// Computes a rectangle of the result from rounded rows that begin with row `first`.
    fn run(&self, rounded: &[u16], rows: Range<usize>, first: usize, panels: Range<usize>) {
        let stride = self.stride();
        if stride == 0 {
            for (row, panel) in rows.flat_map(|row| panels.clone().map(move |panel| (row, panel))) {
                self.finish(&mut [[0.0; PANEL]], row, panel);
            }
            return;
        }
        let x = &rounded[(rows.start - first) * stride..(rows.end - first) * stride];
        #[cfg(target_arch = "x86_64")]
        if self.cpu.tier() == Tier::Amx {
            let finish = |sums: &mut [[f32; PANEL]], row: usize, panel| {
                self.finish_rows(sums, rows.start + row, panel);
            };
            // SAFETY: a `Cpu` of this tier exists only where `Tier::is_available` found AMX.
            unsafe {
                let prefetch = rows.start == 0;
                amx::multiply((x, stride), self.layer.weights, panels, prefetch, finish);
            }
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if self.cpu.has_fast_bf16_dot() {
            self.run_dot(x, rows.start, panels);
            return;
        }
        let tile_rows = tile_rows(self.cpu);
        let mut sums = [[0.0; PANEL]; MOST_ROWS];
        for panel in panels {
            for (index, x) in x.chunks(tile_rows * stride).enumerate() {
                let sums = &mut sums[..x.len() / stride];
                self.multiply(x, panel, sums);
                self.finish(sums, rows.start + index * tile_rows, panel);
            }
        }
    }

    /// Computes a rectangle of the result with the dot product instruction. Panels outside, rows inside:
    /// the weights of a few panels stay in the cache, and the first rows fetch those of the next.
    #[cfg(target_arch = "x86_64")]
    fn run_dot(&self, x: &[u16], first_row: usize, panels: Range<usize>) {
        let (stride, weights) = (self.stride(), self.layer.weights);
        let panel_lines = weights.panel_lines();
        for panel in panels.clone().step_by(dot::PANELS) {
            let count = dot::PANELS.min(panels.end - panel);
            let w = dot::Panels::new(&weights.lines()[panel * panel_lines..], panel_lines);
            for rows in parallel::tiles(0..x.len() / stride, dot::ROWS) {
                let w = w.fetching(if rows.start == 0 { count * panel_lines } else { 0 });
                let x = (&x[rows.start * stride..rows.end * stride], stride);
                self.dot_tile(x, first_row + rows.start, (w, panel, count));
            }
        }
    }

    /// One tile of [`Self::run_dot`].
    #[cfg(target_arch = "x86_64")]
    fn dot_tile(
        &self,
        x: (&[u16], usize),
        row: usize,
        (w, panel, count): (dot::Panels<'_, Line>, usize, usize),
    ) {
        let (n, column) = (self.layer.weights.outputs(), panel * PANEL);
        let start = row * n + column;
        if self.is_finished_in_registers() && column + count * PANEL <= n {
            let finish = array::from_fn(|offset| self.finishing(row, column + offset * PANEL));
            // SAFETY: the CPU has the instruction, as `has_fast_bf16_dot` said. The rows and columns are
            // in y and in an addend, whose lengths were checked at the start; jobs cover disjoint
            // rectangles, so no other thread touches those of y.
            unsafe {
                match &self.y {
                    Target::F32(y) => {
                        let y = y.at(start);
                        dot::tile(x, (w, count), &dot::Finished { finish, y, stride: n });
                    }
                    Target::Bf16(y) => {
                        let y = y.at(start);
                        dot::tile(x, (w, count), &dot::Finished { finish, y, stride: n });
                    }
                    Target::Int8(..) => unreachable!("int8 is not finished in registers"),
                }
            }
            return;
        }
        let rows = x.0.len() / x.1;
        let mut sums = [[0.0; PANEL]; dot::ROWS * dot::PANELS];
        let sums = &mut sums[..rows * count];
        // SAFETY: the CPU has the instruction, as `has_fast_bf16_dot` said; the sums have a place.
        unsafe { dot::tile(x, (w, count), &dot::Sums::new(sums, rows, [rows, count])) };
        for (offset, sums) in sums.chunks_exact_mut(rows).enumerate() {
            self.finish_rows(sums, row, panel + offset);
        }
    }

    /// What becomes of sums from a row on in a panel, if it has all its columns.
    #[cfg(target_arch = "x86_64")]
    fn finishing(&self, row: usize, column: usize) -> wide::Finish<'_> {
        let Layer { weights, bias, addend, activation } = *self.layer;
        let n = weights.outputs();
        if column + PANEL > n {
            return wide::Finish::default();
        }
        wide::Finish {
            bias: bias.and_then(|bias| bias[column..].first_chunk()),
            addend: addend.map(|addend| wide::Addend::new(addend, row * n + column, n)),
            limits: activation.limits(),
        }
    }

    /// Whether [`wide::Finish`] is all that becomes of sums.
    #[cfg(target_arch = "x86_64")]
    fn is_finished_in_registers(&self) -> bool {
        let activation = self.layer.activation;
        let is_plain = activation == Activation::Identity || activation.limits().is_some();
        is_plain && !matches!(self.y, Target::Int8(..))
    }

    /// The products of one tile.
    fn multiply(&self, x: &[u16], panel: usize, sums: &mut [[f32; PANEL]]) {
        let (stride, lines) = (self.stride(), self.layer.weights.panel(panel));
        match self.cpu.tier() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
            Tier::Avx512 | Tier::Vnni | Tier::Amx => unsafe {
                avx512::tile(x, stride, lines, sums);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, AVX2 and FMA.
            Tier::Avx2 => unsafe { avx2::tile(x, stride, lines, sums) },
            _ => portable::tile(x, stride, lines, sums),
        }
    }

    /// [`Self::finish`] for CPUs with AVX-512, without copies where a tile has all its columns.
    #[cfg(target_arch = "x86_64")]
    fn finish_rows(&self, sums: &mut [[f32; PANEL]], row: usize, panel: usize) {
        let (n, column) = (self.layer.weights.outputs(), panel * PANEL);
        if column + PANEL > n {
            self.finish(sums, row, panel);
            return;
        }
        let start = row * n + column;
        let finish = self.finishing(row, column);
        let is_done = self.is_finished_in_registers();
        // SAFETY: the rows and column + 16 ≤ n are in y and in the addend, whose lengths were checked
        // at the start; jobs cover disjoint rectangles, so no other thread touches those of y. Only
        // tiers that have AVX-512 come here, and AVX512-BF16.
        unsafe {
            match &self.y {
                Target::F32(y) if is_done => wide::write_rows(sums, &finish, y.at(start), n),
                Target::Bf16(y) if is_done => {
                    wide::write_rounded_rows(sums, &finish, y.at(start), n);
                }
                y => {
                    let mut values = [[0.0; PANEL]; MOST_ROWS];
                    let values = &mut values[..sums.len()];
                    let place = values.as_flattened_mut().as_mut_ptr();
                    wide::write_rows(sums, &finish, place, PANEL);
                    self.activate(values.as_flattened_mut());
                    let finish = wide::Finish::default();
                    match y {
                        Target::F32(y) => wide::write_rows(values, &finish, y.at(start), n),
                        Target::Bf16(y) => {
                            wide::write_rounded_rows(values, &finish, y.at(start), n);
                        }
                        Target::Int8(..) => y.write_tile(self.cpu, (start, n), values, PANEL),
                    }
                }
            }
        }
    }

    fn activate(&self, values: &mut [f32]) {
        match (&self.y, self.layer.activation) {
            (Target::Bf16(_), Activation::Gelu) => coarse_gelu_in_place(self.cpu, values),
            (_, activation) => activation.apply(self.cpu, values),
        }
    }

    /// Adds the bias, activates and writes one tile, from `row` on.
    fn finish(&self, sums: &mut [[f32; PANEL]], row: usize, panel: usize) {
        let n = self.layer.weights.outputs();
        let column = panel * PANEL;
        let width = PANEL.min(n - column);
        if let Some(bias) = self.layer.bias {
            let mut padded = [0.0; PANEL];
            padded[..width].copy_from_slice(&bias[column..column + width]);
            // A row for each row of sums: one long loop, where short ones make a compiler gather.
            let padded = [padded; MOST_ROWS];
            let padded = &padded.as_flattened()[..sums.len() * PANEL];
            add_assign_piece(self.cpu, sums.as_flattened_mut(), padded);
        }
        let start = |offset: usize| (row + offset) * n + column;
        if let Some(addend) = self.layer.addend {
            for (offset, sums) in sums.iter_mut().enumerate() {
                addend.add_to(start(offset), &mut sums[..width]);
            }
        }
        self.activate(sums.as_flattened_mut());
        for (offset, sums) in sums.iter().enumerate() {
            // SAFETY: row + offset < rows and column + width ≤ n, so the range lies in y, whose
            // length was checked at the start; jobs cover disjoint rectangles, so no other thread
            // touches it.
            unsafe { self.y.write(self.cpu, start(offset), &sums[..width]) };
        }
    }
}

/// Rows of a tier's tile.
fn tile_rows(cpu: Cpu) -> usize {
    match cpu.tier() {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Vnni | Tier::Amx => avx512::ROWS,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::ROWS,
        _ => portable::ROWS,
    }
}
