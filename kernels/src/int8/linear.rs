#![allow(
    unsafe_code,
    reason = "column blocks of one row-major result are written by different threads"
)]
//! The int8 linear layer: product, scales, bias, activation and rounding in one pass.

use std::ops::Range;

use super::finish::{Finish, rescale};
use super::left::{Input, Source, Unit, with_scratch};
use super::output::{Output, Target};
use super::pack::{Columns, GROUP, PANEL, PackedWeights};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, vnni};
use crate::activation::Activation;
use crate::float::Left;
use crate::parallel::{self, PIECES, check_len, tiles};
use crate::tier::{Cpu, Tier};

/// Multiply-adds below which one thread is faster: some 5 µs on VNNI.
pub const PARALLEL_WORK: usize = 1 << 19;

/// Elements of the left side below which one thread packs them faster than two that have to be
/// woken for it: 1–2 ns each.
const PARALLEL_PACKING: usize = 1 << 13;

/// Most rows of a tile over all tiers.
const MOST_ROWS: usize = 6;

/// Panels that are finished together.
const TILE_PANELS: usize = 4;
const TILE_COLUMNS: usize = TILE_PANELS * PANEL;

/// Rows of a block, a multiple of every tier's tile that fits the second-level cache when packed, and
/// of one whose weights come from beyond that cache, which are read once for each block.
const BLOCK_ROWS: usize = 48;
const FAR_BLOCK_ROWS: usize = 96;

/// Bytes of a block of short rows: what is made ready for one serves more tiles, and it still fits the
/// caches of a core.
const BLOCK_BYTES: usize = 1 << 15;

/// Bytes of weights of which a core keeps a part worth the name.
const NEAR_WEIGHTS: usize = 1 << 20;

/// Rows of a thread for which it reads all weights: of near weights, and of others.
const OWN_ROWS: usize = 4;
const OWN_FAR_ROWS: usize = 12;

/// A layer with int8 operands: linear, `[k, n]`, or a convolution of single channels, whose weights are
/// [packed](crate::channels_last::PackedDepthwise) in another way.
#[derive(Debug)]
pub struct Layer<'a, W = PackedWeights> {
    /// The weights, zero point 0.
    pub weights: &'a W,
    /// Scale of the input times scale of the column, `[n]`.
    pub scales: &'a [f32],
    /// Added after scaling, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
    /// Whether GELU may be off by a thirtieth of a step of the result, which takes half the time. Where
    /// what was trained and what runs have to agree it may not: one number in some hundreds is rounded to
    /// another step, and layers behind multiply that.
    pub coarse: bool,
}

// References are copied whatever they refer to.
impl<W> Clone for Layer<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Layer<'_, W> {}

/// `y = activation((x − zero_point)·w · scales + bias)`, summed in `i32` without error.
///
/// # Shapes
/// `x`: `[m, k]`; `y`: `[m, n]`, both row-major.
///
/// # Panics
/// When a length differs.
pub fn linear(cpu: Cpu, x: Input<'_>, rows: usize, layer: &Layer<'_>, y: Output<'_>) {
    x.check(rows * layer.weights.inputs());
    Product::new(cpu, Source::Rows(x), rows, layer, y).multiply();
}

/// [`linear`] of the windows of an image, whose padding has the zero point.
///
/// # Panics
/// As [`linear`], or when a window reaches out of the image.
pub(crate) fn linear_of_windows(
    cpu: Cpu,
    (x, zero_point): (Left<'_, i8>, i8),
    layer: &Layer<'_>,
    y: Output<'_>,
) {
    assert_eq!(x.k(), layer.weights.inputs(), "int8 linear: inputs");
    Product::new(cpu, Source::Windows { x, zero_point }, x.count(), layer, y).multiply();
}

/// A layer with its operands; every tier runs it in the same steps.
pub(super) struct Product<'a> {
    pub(super) cpu: Cpu,
    pub(super) x: Source<'a>,
    pub(super) rows: usize,
    pub(super) layer: &'a Layer<'a>,
    pub(super) target: Target,
}

impl<'a> Product<'a> {
    /// # Panics
    /// When the result has another length.
    pub(super) fn new(
        cpu: Cpu,
        x: Source<'a>,
        rows: usize,
        layer: &'a Layer<'a>,
        y: Output<'_>,
    ) -> Self {
        Self { cpu, x, rows, layer, target: Target::new(y, rows * layer.weights.outputs()) }
    }

    /// Computes the result.
    ///
    /// # Panics
    /// When there are not as many scales and biases as columns.
    fn multiply(&self) {
        let (k, n) = (self.layer.weights.inputs(), self.layer.weights.outputs());
        check_len("int8 linear: scales", self.layer.scales.len(), n);
        if let Some(bias) = self.layer.bias {
            check_len("int8 linear: bias", bias.len(), n);
        }
        if self.rows == 0 || n == 0 {
            return;
        }
        match self.cpu.tier() {
            #[cfg(target_arch = "x86_64")]
            Tier::Amx if k > 0 => amx::run(self),
            #[cfg(target_arch = "x86_64")]
            Tier::Vnni | Tier::Amx => self.run(vnni::ROWS, |x, rows, panels| {
                vnni::block(self, x, rows, panels);
            }),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => self.run_tiles(avx512::ROWS, |x, w, sums| {
                // SAFETY: a `Cpu` of this tier exists only where `Tier::is_available` found its
                // features.
                unsafe { avx512::tile(x, w, sums) }
            }),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => self.run_tiles(avx2::ROWS, |x, w, sums| {
                // SAFETY: as above.
                unsafe { avx2::tile(x, w, sums) }
            }),
            _ => self.run_tiles(portable::ROWS, portable::tile),
        }
    }

    /// Whether GELU may be coarse, and the result is rounded coarsely enough.
    pub(super) fn has_coarse_gelu(&self) -> bool {
        match self.target {
            Target::Int8(_, to) => self.ending().has_coarse_gelu(to),
            Target::F32(_) | Target::Bf16(_) => false,
        }
    }

    /// Activates some results.
    pub(super) fn activate(&self, values: &mut [f32]) {
        self.ending().activate(self.has_coarse_gelu(), values);
    }

    pub(super) const fn ending(&self) -> Finish {
        let Layer { activation, coarse, .. } = *self.layer;
        Finish { cpu: self.cpu, activation, coarse }
    }

    /// Multiplies with `tile`, which takes up to `tile_rows` packed rows and [`TILE_PANELS`] panels.
    fn run_tiles<T: Unit>(
        &self,
        tile_rows: usize,
        tile: impl Fn(&[[T; GROUP]], Columns<'_>, &mut [i32]) + Sync,
    ) {
        self.run(tile_rows, |packed: &[[T; GROUP]], rows, panels| {
            self.block(packed, rows, panels, tile_rows, &tile);
        });
    }

    /// Packs x in tiles of up to `tile_rows` rows, and has `job` compute rectangles of the result,
    /// given by the packed rows, rows and panels.
    fn run<T: Unit>(
        &self,
        tile_rows: usize,
        job: impl Fn(&[[T; GROUP]], Range<usize>, Range<usize>) + Sync,
    ) {
        let weights = self.layer.weights;
        let (panels, groups) = (weights.panels(), weights.groups());
        let work = self.work();
        let are_far = weights.inputs() * weights.outputs() > NEAR_WEIGHTS;
        // Of short rows as many as fit, as long as there are pieces for all threads.
        let short = (BLOCK_BYTES / weights.inputs().max(1)).min(self.rows / PIECES);
        let most = if are_far { FAR_BLOCK_ROWS } else { BLOCK_ROWS.max(short) };
        let least = if are_far { OWN_FAR_ROWS } else { OWN_ROWS };
        let own = parallel::blocks_of_threads(self.rows, most, least);
        let block_rows = own.unwrap_or_else(|| parallel::even_blocks(self.rows, most));
        let blocks = self.rows.div_ceil(block_rows);
        let rows_of = |block: usize| block * block_rows..self.rows.min((block + 1) * block_rows);
        let whole = |block: usize| {
            let rows = rows_of(block);
            with_scratch(rows.len() * groups, |packed| {
                self.pack(rows.clone(), tile_rows, packed);
                job(packed, rows, 0..panels);
            });
        };
        if !parallel::is_worth_sharing(work, PARALLEL_WORK) {
            (0..blocks).for_each(whole);
            return;
        }
        if own.is_some() || blocks >= PIECES {
            parallel::for_each(blocks, whole);
            return;
        }
        // Blocks of columns too, which share the packed rows.
        with_scratch(self.rows * groups, |packed| {
            let pack = |block: usize, packed: &mut [[T; GROUP]]| {
                self.pack(rows_of(block), tile_rows, packed);
            };
            let block_len = block_rows * groups.max(1);
            if self.rows * groups * GROUP < PARALLEL_PACKING {
                let blocks = packed.chunks_mut(block_len).enumerate();
                blocks.for_each(|(block, packed)| pack(block, packed));
            } else {
                parallel::for_each_chunk(packed, block_len, pack);
            }
            let sizes = [block_rows, TILE_PANELS];
            parallel::for_each_rectangle([self.rows, panels], sizes, |rows, panels| {
                job(&packed[rows.start * groups..rows.end * groups], rows, panels);
            });
        });
    }

    /// Multiply-adds.
    pub(super) fn work(&self) -> usize {
        let weights = self.layer.weights;
        self.rows.saturating_mul(weights.outputs()).saturating_mul(weights.inputs())
    }

    fn pack<T: Unit>(&self, rows: Range<usize>, tile_rows: usize, packed: &mut [[T; GROUP]]) {
        let (k, groups) = (self.layer.weights.inputs(), self.layer.weights.groups());
        let mut rest = packed;
        // Rows that stay whole follow each other in whatever tiles.
        let most = if T::INTERLEAVES { tile_rows } else { rows.len().max(1) };
        for rows in tiles(rows, most) {
            let (packed, after) = rest.split_at_mut(rows.len() * groups);
            self.x.pack(self.cpu, rows, k, packed);
            rest = after;
        }
    }

    /// One rectangle of the result. Panels outside, rows inside: the weights of a few panels stay
    /// in the cache.
    fn block<T: Unit>(
        &self,
        packed: &[[T; GROUP]],
        rows: Range<usize>,
        panels: Range<usize>,
        tile_rows: usize,
        tile: impl Fn(&[[T; GROUP]], Columns<'_>, &mut [i32]),
    ) {
        let weights = self.layer.weights;
        let groups = weights.groups();
        let mut sums = [0; MOST_ROWS * TILE_COLUMNS];
        let mut values = [0.0; MOST_ROWS * TILE_COLUMNS];
        for panel in panels.clone().step_by(TILE_PANELS) {
            let columns = weights.tile(panel, TILE_PANELS.min(panels.end - panel));
            for tile_rows in tiles(rows.clone(), tile_rows) {
                let sums = &mut sums[..tile_rows.len() * columns.panels() * PANEL];
                let first = tile_rows.start - rows.start;
                if groups > 0 {
                    tile(&packed[first * groups..][..tile_rows.len() * groups], columns, sums);
                }
                self.finish(sums, columns, tile_rows.start, panel * PANEL, &mut values);
            }
        }
    }

    /// Scales, adds the bias, activates and writes one tile.
    fn finish(
        &self,
        sums: &[i32],
        columns: Columns<'_>,
        row: usize,
        col: usize,
        values: &mut [f32; MOST_ROWS * TILE_COLUMNS],
    ) {
        let n = self.layer.weights.outputs();
        let width = (columns.panels() * PANEL).min(n - col);
        let n_rows = sums.len() / (columns.panels() * PANEL);
        let values = &mut values[..n_rows * width];
        let scales = &self.layer.scales[col..col + width];
        let bias = self.layer.bias.map_or(&[][..], |bias| &bias[col..col + width]);
        let zero_point = i32::from(self.x.zero_point());
        rescale(self.cpu, sums, columns.sums, zero_point, scales, bias, values);
        self.activate(values);
        for (offset, values) in values.chunks_exact(width).enumerate() {
            // SAFETY: row + offset < rows and col + width ≤ n, so the range lies in the result,
            // whose length `Target::new` checked; jobs cover disjoint rectangles, so no other
            // thread touches it.
            unsafe { self.target.write(self.cpu, (row + offset) * n + col, values) };
        }
    }
}
