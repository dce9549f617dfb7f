#![allow(
    unsafe_code,
    reason = "column blocks of one row-major result are written by different threads"
)]
//! The bf16 linear layer: rounding, product, bias, sum and activation in one pass over the result.

#[cfg(target_arch = "x86_64")]
use std::array;
use std::cell::Cell;
use std::ops::Range;
use std::slice::from_ref;

use super::pack::{GROUP, Line, PANEL, PackedBf16, TILE_INPUTS};
use super::portable;
use super::round::{round_piece, widened};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, dot};
use crate::activation::{Activation, coarse_gelu_in_place};
use crate::elementwise::add_assign_piece;
use crate::float::Left;
use crate::function::Function;
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

/// Weights that each thread may read for itself, and the rows of a thread for which it does.
const OWN_WEIGHTS: usize = 1 << 20;
const OWN_ROWS: usize = 8;

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

/// Layers side by side: each multiplies elements of its own of a row, and what they make lies side by side.
#[derive(Clone, Copy)]
pub(crate) struct Groups<'a> {
    /// The weights of each, all of the same `[k, n / groups]`.
    pub(crate) weights: &'a [PackedBf16],
    /// Elements from where a row starts for one of them to where it does for the next.
    pub(crate) step: usize,
    /// Added to the products, `[n]`.
    pub(crate) bias: Option<&'a [f32]>,
    /// What is added to the sums then, laid out like the result.
    pub(crate) addend: Option<Input<'a>>,
    /// Applied last.
    pub(crate) activation: Activation,
}

impl<'a> From<&Layer<'a>> for Groups<'a> {
    fn from(&Layer { weights, bias, addend, activation }: &Layer<'a>) -> Self {
        Self { weights: from_ref(weights), step: 0, bias, addend, activation }
    }
}

impl Groups<'_> {
    /// Elements of a row of the result.
    fn outputs(&self) -> usize {
        self.weights.iter().map(PackedBf16::outputs).sum()
    }
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
    /// Rows that start so many elements further on.
    fn behind(self, elements: usize) -> Self {
        match self {
            Self::Windows(x) => Self::Windows(x.behind(elements)),
            Self::Rows(_) if elements == 0 => self,
            Self::Rows(_) => unreachable!("only windows have groups"),
        }
    }

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
    multiply(cpu, Source::Rows(x), rows, &layer.into(), y);
}

/// [`linear_bf16_into`] of windows, with several groups of those of the first.
///
/// # Panics
/// When a length differs.
pub(crate) fn linear_of_windows(cpu: Cpu, x: Left<'_, u16>, groups: &Groups<'_>, y: Output<'_>) {
    for weights in groups.weights {
        check_len("bf16 windows: k", x.k(), weights.inputs());
    }
    multiply(cpu, Source::Windows(x), x.count(), groups, y);
}

fn multiply(cpu: Cpu, x: Source<'_>, rows: usize, groups: &Groups<'_>, y: Output<'_>) {
    let (n, count) = (groups.outputs(), groups.weights.len());
    if let Some(bias) = groups.bias {
        check_len("bf16 linear: bias", bias.len(), n);
    }
    if let Some(addend) = groups.addend {
        check_len("bf16 linear: addend", addend.len(), rows * n);
    }
    let y = Target::new(y, rows * n);
    if rows * n == 0 {
        return;
    }
    let job = |group: usize| {
        let weights = &groups.weights[group];
        Job {
            cpu,
            x: x.behind(group * groups.step),
            weights,
            groups,
            column: group * weights.outputs(),
            n,
            y: &y,
        }
    };
    let k = groups.weights[0].inputs();
    // AMX takes 16 rows at once, and multiplies faster than each thread could read all weights.
    let may_read_all = cpu.tier() != Tier::Amx && n.saturating_mul(k) <= OWN_WEIGHTS;
    let own = parallel::blocks_of_threads(rows, STRIP_ROWS, OWN_ROWS).filter(|_| may_read_all);
    let strip_rows = own.unwrap_or(STRIP_ROWS);
    let strips = rows.div_ceil(strip_rows);
    let parallel =
        parallel::is_worth_sharing(rows.saturating_mul(n).saturating_mul(k), PARALLEL_WORK);
    if parallel && own.is_none() && strips * count < MANY_STRIPS {
        (0..count).map(job).for_each(|job| job.share(rows));
        return;
    }
    // The groups of some rows one after another, which write the same lines.
    let strip = |index: usize| {
        let start = index / count * strip_rows;
        job(index % count).strip(start..rows.min(start + strip_rows));
    };
    if parallel {
        parallel::for_each(strips * count, strip);
    } else {
        (0..strips * count).for_each(strip);
    }
}

/// The layer of a group, as the threads share it.
struct Job<'a> {
    cpu: Cpu,
    x: Source<'a>,
    weights: &'a PackedBf16,
    groups: &'a Groups<'a>,
    /// The column of the result where the group's begin.
    column: usize,
    /// Columns of the result.
    n: usize,
    y: &'a Target,
}

impl Job<'_> {
    /// Computes all rows on all threads.
    fn share(&self, rows: usize) {
        self.with_rounded(0..rows, |rounded| {
            let sizes = [STRIP_ROWS, tile_panels(self.cpu)];
            parallel::for_each_rectangle([rows, self.weights.panels()], sizes, |rows, panels| {
                self.run(rounded, rows, 0, panels);
            });
        });
    }

    /// Computes some rows on this thread.
    fn strip(&self, rows: Range<usize>) {
        self.with_rounded(rows.clone(), |rounded| {
            self.run(rounded, rows.clone(), rows.start, 0..self.weights.panels());
        });
    }

    /// Elements of a rounded row: whole tiles, or whole groups.
    fn stride(&self) -> usize {
        let unit = if self.cpu.tier() == Tier::Amx { TILE_INPUTS } else { GROUP };
        self.weights.inputs().next_multiple_of(unit)
    }

    /// Where a row of a panel lies in the result.
    const fn place(&self, row: usize, panel: usize) -> usize {
        row * self.n + self.column + panel * PANEL
    }

    /// Columns of a panel.
    fn width(&self, panel: usize) -> usize {
        self.weights.outputs().saturating_sub(panel * PANEL).min(PANEL)
    }

    /// Calls `work` with the rows of x, rounded and each filled up with zeros to the stride.
    fn with_rounded(&self, rows: Range<usize>, work: impl FnOnce(&[u16])) {
        let (k, stride) = (self.weights.inputs(), self.stride());
        if let Source::Rows(Input::Bf16(x)) = self.x
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
                    self.x.round(self.cpu, rows, [k, stride], rounded);
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
                amx::multiply((x, stride), self.weights, panels, prefetch, finish);
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
        let (stride, weights) = (self.stride(), self.weights);
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
        if self.is_finished_in_registers() {
            let (start, stride) = (self.place(row, panel), self.n);
            let finish = array::from_fn(|offset| self.finishing(row, panel + offset));
            // SAFETY: the CPU has the instruction, as `has_fast_bf16_dot` said. The rows and columns are
            // in y and in an addend, whose lengths were checked at the start; jobs cover disjoint
            // rectangles, so no other thread touches those of y.
            unsafe {
                match self.y {
                    Target::F32(y) => dot::finish(x, (w, count), finish, (y.at(start), stride)),
                    Target::Bf16(y) => dot::finish(x, (w, count), finish, (y.at(start), stride)),
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

    /// What becomes of sums from a row on in a panel, which may be behind the last.
    #[cfg(target_arch = "x86_64")]
    fn finishing(&self, row: usize, panel: usize) -> wide::Finish<'_> {
        let Groups { bias, addend, activation, .. } = *self.groups;
        let (width, place) = (self.width(panel), self.place(row, panel));
        if width == 0 {
            return wide::Finish::nothing(0);
        }
        let bias = bias.map(|bias| &bias[self.column + panel * PANEL..]);
        let addend = addend.map(|addend| wide::Addend::new(addend, place, self.n));
        wide::Finish::new(width, bias, addend, activation.limits())
    }

    /// Whether [`wide::Finish`] is all that becomes of sums.
    #[cfg(target_arch = "x86_64")]
    fn is_finished_in_registers(&self) -> bool {
        let activation = self.groups.activation;
        let is_plain = activation == Activation::Identity || activation.limits().is_some();
        is_plain && !matches!(self.y, Target::Int8(..))
    }

    /// The products of one tile.
    fn multiply(&self, x: &[u16], panel: usize, sums: &mut [[f32; PANEL]]) {
        let (stride, lines) = (self.stride(), self.weights.panel(panel));
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

    /// [`Self::finish`] for CPUs with AVX-512.
    #[cfg(target_arch = "x86_64")]
    fn finish_rows(&self, sums: &mut [[f32; PANEL]], row: usize, panel: usize) {
        let (start, n, width) = (self.place(row, panel), self.n, self.width(panel));
        let finish = self.finishing(row, panel);
        let is_done = self.is_finished_in_registers();
        let swish = match self.groups.activation {
            Activation::Map(Function::Swish { alpha }) => Some(alpha),
            _ => None,
        };
        // SAFETY: the rows and columns are in y and in the addend, whose lengths were checked at the
        // start; jobs cover disjoint rectangles, so no other thread touches those of y. Only tiers that
        // have AVX-512 come here, and AVX512-BF16.
        unsafe {
            match (self.y, swish) {
                (Target::F32(y), Some(alpha)) => {
                    wide::write_swish_rows(sums, &finish, alpha, y.at(start), n);
                }
                (Target::Bf16(y), Some(alpha)) => {
                    wide::write_swish_rows(sums, &finish, alpha, y.at(start), n);
                }
                (Target::F32(y), None) if is_done => {
                    wide::write_rows(sums, &finish, y.at(start), n)
                }
                (Target::Bf16(y), None) if is_done => {
                    wide::write_rows(sums, &finish, y.at(start), n)
                }
                (y, _) => {
                    let mut values = [[0.0f32; PANEL]; MOST_ROWS];
                    let values = &mut values[..sums.len()];
                    let place = values.as_flattened_mut().as_mut_ptr();
                    wide::write_rows(sums, &finish, place, PANEL);
                    self.activate(values.as_flattened_mut());
                    let finish = wide::Finish::nothing(width);
                    match y {
                        Target::F32(y) => wide::write_rows(values, &finish, y.at(start), n),
                        Target::Bf16(y) => wide::write_rows(values, &finish, y.at(start), n),
                        Target::Int8(..) => y.write_tile(self.cpu, (start, n), values, width),
                    }
                }
            }
        }
    }

    fn activate(&self, values: &mut [f32]) {
        match (self.y, self.groups.activation) {
            (Target::Bf16(_), Activation::Gelu) => coarse_gelu_in_place(self.cpu, values),
            (_, activation) => activation.apply(self.cpu, values),
        }
    }

    /// Adds the bias, activates and writes one tile, from `row` on.
    fn finish(&self, sums: &mut [[f32; PANEL]], row: usize, panel: usize) {
        let width = self.width(panel);
        if let Some(bias) = self.groups.bias {
            let mut padded = [0.0; PANEL];
            padded[..width].copy_from_slice(&bias[self.column + panel * PANEL..][..width]);
            // A row for each row of sums: one long loop, where short ones make a compiler gather.
            let padded = [padded; MOST_ROWS];
            let padded = &padded.as_flattened()[..sums.len() * PANEL];
            add_assign_piece(self.cpu, sums.as_flattened_mut(), padded);
        }
        if let Some(addend) = self.groups.addend {
            for (offset, sums) in sums.iter_mut().enumerate() {
                addend.add_to(self.place(row + offset, panel), &mut sums[..width]);
            }
        }
        self.activate(sums.as_flattened_mut());
        for (offset, sums) in sums.iter().enumerate() {
            // SAFETY: row + offset < rows and the columns lie before n, so the range lies in y, whose
            // length was checked at the start; jobs cover disjoint rectangles, so no other thread
            // touches it.
            unsafe { self.y.write(self.cpu, self.place(row + offset, panel), &sums[..width]) };
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
