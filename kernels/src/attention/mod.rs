#![allow(unsafe_code, reason = "heads of one row-major result are written by different threads")]
//! Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, §3.2).

#[cfg(target_arch = "x86_64")]
mod columns;
#[cfg(target_arch = "x86_64")]
mod float;
#[cfg(target_arch = "x86_64")]
mod registers;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::cell::Cell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use self::tiles::Dot;
#[cfg(target_arch = "x86_64")]
use crate::amx::{TILE_ROWS, Tiles};
use crate::bf16::widen_piece;
use crate::float::{Line, PANEL, Panels, Rows, multiply_add, tile_rows, transpose};
use crate::int8::{Output, Target};
use crate::lanes;
use crate::math;
use crate::parallel;
use crate::scratch::lend;
use crate::team;
use crate::tier::{Cpu, Tier, tiered};

/// Most rows of a tile over all tiers: the scores of a head never exist as a whole.
const MOST_ROWS: usize = 12;

/// Heads of all sequences from which on each is a piece of work: keys and values are packed once.
const WHOLE_HEADS: usize = 8;

/// Query rows that share packed keys and values where there are fewer heads, so that many threads
/// find some.
const BLOCK_ROWS: usize = 96;

/// The same where there are so many heads: packing is little beside so many queries.
const MOST_ROWS_OF_A_HEAD: usize = 512;

/// Multiply-adds below which one thread is faster.
pub const PARALLEL_WORK: usize = 1 << 17;

/// One of query, key and value, each element of a head beside the next.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Element `(b, h, t, d)` is `data[b·strides[0] + h/sharing·strides[1] + t·strides[2] + d]`.
    pub data: HeadData<'a>,
    /// Elements from one sequence to the next, from head to head, from token to token.
    pub strides: [usize; 3],
    /// How many heads of the query share one: more than 1 for key and value of grouped queries
    /// (Ainslie et al. 2023, arXiv:2305.13245).
    pub sharing: usize,
}

impl<'a> Heads<'a> {
    /// `[batch, tokens, heads, head_size]` in rows of `row_stride`: more than `heads·head_size`
    /// where the projections of query, key and value share one matrix.
    pub const fn in_rows(
        data: HeadData<'a>,
        tokens: usize,
        head_size: usize,
        row_stride: usize,
    ) -> Self {
        Self { data, strides: [tokens * row_stride, head_size, row_stride], sharing: 1 }
    }

    /// Where a token of a head starts.
    const fn start(&self, (batch, head): (usize, usize), token: usize) -> usize {
        let [of_batch, of_head, of_token] = self.strides;
        batch * of_batch + head / self.sharing * of_head + token * of_token
    }
}

/// The elements of [`Heads`].
#[derive(Clone, Copy, Debug)]
pub enum HeadData<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// Rounded to bf16. Where nothing multiplies in bf16 they are widened first, all of them.
    Bf16(&'a [u16]),
}

impl<'a> From<&'a [f32]> for HeadData<'a> {
    fn from(data: &'a [f32]) -> Self {
        Self::F32(data)
    }
}

impl<'a> HeadData<'a> {
    const fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }

    /// The elements in f32; `widened` keeps what had to be made.
    fn widen<'w>(self, cpu: Cpu, widened: &'w mut Vec<f32>) -> &'w [f32]
    where
        'a: 'w,
    {
        match self {
            Self::F32(data) => data,
            Self::Bf16(data) => {
                widened.resize(data.len(), 0.0);
                widen_piece(cpu, data, widened);
                widened
            }
        }
    }
}

/// What is added to the scores: element `(b, h, query, key)` is
/// `data[b·strides[0] + h·strides[1] + query·strides[2] + key]`. Strides of 0 repeat.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// From batch to batch, head to head, query to query.
    pub strides: [usize; 3],
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Sequences.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Tokens of the query.
    pub queries: usize,
    /// Tokens of key and value.
    pub keys: usize,
    /// Elements of a head.
    pub head_size: usize,
    /// Factor on the scores, usually 1/√head_size.
    pub scale: f32,
    /// What a query gets whose keys are all masked by −∞.
    pub no_keys: NoKeys,
    /// How exact the two products have to be.
    pub products: Products,
}

/// How exact products have to be. What is not [`Products::F32`] is less exact only where that is
/// faster: on the tier that has tiles of bf16, and [`Products::Bf16`] where
/// [`Cpu::has_fast_bf16_dot`]. There subnormal numbers count as 0, and an infinity may become NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Products {
    /// In f32.
    #[default]
    F32,
    /// Operands may be sums of two bf16: each product is off by less than 2⁻¹⁵ of itself.
    Split,
    /// Operands may be rounded to bf16, by up to 2⁻⁹ of themselves.
    Bf16,
}

/// What a query gets that no key is left for: softmax divides 0 by 0 there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NoKeys {
    /// NaN, as softmax has it.
    #[default]
    NotANumber,
    /// Zeros, whatever made the sum of its weights no number.
    Zero,
}

/// `y = softmax(q·kᵀ·scale + mask)·v` for every sequence and head.
///
/// # Shapes
/// `q`: `queries` tokens, `k` and `v`: `keys` tokens a sequence; `y`:
/// `[batch, queries, heads·head_size]`, row-major.
///
/// # Panics
/// When a slice is too short, or `y` has another length.
pub fn attention(
    cpu: Cpu,
    sizes: &Attention,
    qkv: [Heads<'_>; 3],
    mask: Option<Mask<'_>>,
    y: &mut [f32],
) {
    attention_into(cpu, sizes, qkv, mask, Output::F32(y));
}

/// [`attention`] that may round its result to int8 or bf16.
///
/// # Shapes
/// As those of [`attention`].
///
/// # Panics
/// When a slice is too short, or `y` has another length.
pub fn attention_into(
    cpu: Cpu,
    sizes: &Attention,
    [q, k, v]: [Heads<'_>; 3],
    mask: Option<Mask<'_>>,
    y: Output<'_>,
) {
    let Attention { batch, heads, queries, keys, head_size, .. } = *sizes;
    let elements = batch * queries * heads * head_size;
    let y = Target::new(y, elements);
    if elements == 0 {
        return;
    }
    for (name, part, tokens) in [("q", q, queries), ("k", k, keys), ("v", v, keys)] {
        if let Some(last) = tokens.checked_sub(1) {
            let needed = part.start((batch - 1, heads - 1), last) + head_size;
            let found = part.data.len();
            assert!(needed <= found, "attention: {name} needs {needed} elements, found {found}");
        }
    }
    if let Some(mask) = mask {
        check_mask(mask, sizes);
    }
    let run = Run { cpu, sizes, qkv: [q, k, v], mask, y };
    if let Some(unit) = run.unit() {
        run.share(|place, queries| run.block(unit, place, queries));
        return;
    }
    let mut widened = [Vec::new(), Vec::new(), Vec::new()];
    let [for_q, for_k, for_v] = &mut widened;
    let qkv = [(q, for_q), (k, for_k), (v, for_v)];
    let qkv =
        qkv.map(|(part, widened)| Floats { data: part.data.widen(cpu, widened), heads: part });
    if run.fits_columns() {
        run.share(|place, queries| run.columns(qkv, place, queries));
    } else {
        run.share(|place, queries| run.head(qkv, place, queries));
    }
}

#[track_caller]
fn check_mask(mask: Mask<'_>, sizes: &Attention) {
    let [batch, head, query] = mask.strides;
    let last = batch * (sizes.batch - 1) + head * (sizes.heads - 1) + query * (sizes.queries - 1);
    let (needed, found) = (last + sizes.keys, mask.data.len());
    assert!(needed <= found, "attention: mask needs {needed} elements, found {found}");
}

/// [`Heads`] in f32.
#[derive(Clone, Copy)]
struct Floats<'a> {
    data: &'a [f32],
    heads: Heads<'a>,
}

impl<'a> Floats<'a> {
    /// From a token of a head on; of no tokens nothing.
    fn from(&self, place: (usize, usize), token: usize) -> &'a [f32] {
        &self.data[self.heads.start(place, token).min(self.data.len())..]
    }

    /// Elements from one token to the next.
    const fn step(&self) -> usize {
        self.heads.strides[2]
    }
}

/// What multiplies in bf16.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no such CPU has either"))]
enum Bf16Unit {
    /// The tile registers.
    Tiles,
    /// The dot product of pairs.
    Dot,
}

/// One attention with its operands.
struct Run<'a> {
    cpu: Cpu,
    sizes: &'a Attention,
    qkv: [Heads<'a>; 3],
    mask: Option<Mask<'a>>,
    y: Target,
}

impl Run<'_> {
    /// What multiplies in bf16, where that is asked for and gains.
    fn unit(&self) -> Option<Bf16Unit> {
        let Attention { products, keys, .. } = *self.sizes;
        match products {
            _ if keys == 0 => None,
            #[cfg(target_arch = "x86_64")]
            Products::Split | Products::Bf16 if self.cpu.tier() == Tier::Amx => {
                Some(Bf16Unit::Tiles)
            }
            Products::Bf16 if self.cpu.has_fast_bf16_dot() => Some(Bf16Unit::Dot),
            _ => None,
        }
    }

    /// Whether f32 has registers for a column of 16 queries, and enough queries for most of them.
    fn fits_columns(&self) -> bool {
        let Attention { queries, keys, .. } = *self.sizes;
        let columns = queries.next_multiple_of(PANEL);
        self.cpu.tier() >= Tier::Avx512 && keys > 0 && 4 * queries >= 3 * columns
    }

    /// The given queries of one head of one sequence, in f32 with a column for each query.
    fn columns(&self, qkv: [Floats<'_>; 3], place: (usize, usize), queries: Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `fits_columns` found a `Cpu` of a tier that exists only where `Tier::is_available`
        // found AVX-512.
        unsafe {
            self.head_in_columns(qkv, place, queries);
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.head(qkv, place, queries);
    }

    /// Query rows that share packed keys and values.
    fn block_rows(&self) -> usize {
        let Attention { batch, heads, .. } = *self.sizes;
        let are_few = batch * heads < WHOLE_HEADS && !team::is_alone();
        if are_few { BLOCK_ROWS } else { MOST_ROWS_OF_A_HEAD }
    }

    /// Runs `job` for some queries of a head of a sequence, until all have been.
    fn share(&self, job: impl Fn((usize, usize), Range<usize>) + Sync) {
        let Attention { batch, heads, queries, keys, head_size, .. } = *self.sizes;
        let block_rows = self.block_rows();
        let blocks = queries.div_ceil(block_rows);
        let job = |index: usize| {
            let (pair, block) = (index / blocks, index % blocks);
            let queries = block * block_rows..queries.min((block + 1) * block_rows);
            job((pair / heads, pair % heads), queries);
        };
        let jobs = batch * heads * blocks;
        let work = 2 * queries.saturating_mul(keys).saturating_mul(head_size * heads * batch);
        if work < PARALLEL_WORK {
            (0..jobs).for_each(job);
        } else {
            parallel::for_each(jobs, job);
        }
    }

    /// The given queries of one head of one sequence, in bf16.
    fn block(&self, unit: Bf16Unit, place: (usize, usize), queries: Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `unit` found a `Cpu` of tier `amx`, which exists only where `Tier::is_available`
        // found AMX, AVX-512 and AVX512-BF16, or one with the fast dot product, which has the last
        // two.
        unsafe {
            match unit {
                Bf16Unit::Tiles => {
                    self.head_in_bf16(&Tiles::configure(TILE_ROWS), place, queries);
                }
                Bf16Unit::Dot => self.head_in_bf16(&Dot::new(), place, queries),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (unit, place, queries);
    }

    /// The given queries of one head of one sequence, in f32.
    fn head(&self, [q, k, v]: [Floats<'_>; 3], place: (usize, usize), queries: Range<usize>) {
        let Attention { keys, head_size, .. } = *self.sizes;
        let (k_lines, v_lines) =
            (keys.div_ceil(PANEL) * head_size, head_size.div_ceil(PANEL) * keys);
        let score_lines = MOST_ROWS * keys.div_ceil(PANEL);
        let sum_lines = MOST_ROWS * head_size.div_ceil(PANEL);
        with_scratch(k_lines + v_lines + score_lines + sum_lines, |scratch| {
            let (packed_k, rest) = scratch.split_at_mut(k_lines);
            let (packed_v, rest) = rest.split_at_mut(v_lines);
            let (scores, weighted) = rest.split_at_mut(score_lines);
            transpose(self.cpu, Rows::new(k.from(place, 0), keys, head_size, k.step()), packed_k);
            pack_values(Rows::new(v.from(place, 0), keys, head_size, v.step()), packed_v);
            for rows in parallel::tiles(queries, tile_rows(self.cpu)) {
                let x = Rows::new(q.from(place, rows.start), rows.len(), head_size, q.step());
                let scores = &mut scores[..rows.len() * keys.div_ceil(PANEL)];
                let scores = floats(scores);
                scores.fill(0.0);
                multiply_add(self.cpu, x, Panels::new(packed_k), scores);
                let weighted = &mut weighted[..rows.len() * head_size.div_ceil(PANEL)];
                self.weigh_values(place, rows, scores, packed_v, weighted);
            }
        });
    }

    /// Turns scores into weights of the values, and writes their weighted sums.
    fn weigh_values(
        &self,
        (batch, head): (usize, usize),
        rows: Range<usize>,
        scores: &mut [f32],
        values: &[Line],
        weighted: &mut [Line],
    ) {
        let Attention { heads, queries, keys, head_size, scale, no_keys, .. } = *self.sizes;
        let mask = self.mask.map(|mask| {
            let [of_batch, of_head, of_query] = mask.strides;
            let start = batch * of_batch + head * of_head + rows.start * of_query;
            (&mask.data[start..], of_query)
        });
        let mut sums = [0.0; MOST_ROWS];
        let sums = &mut sums[..rows.len()];
        scaled_exponentials(self.cpu, scores, keys, scale, mask, sums);
        let weighted = floats(weighted);
        weighted.fill(0.0);
        let x = Rows::new(scores, rows.len(), keys, keys.next_multiple_of(PANEL));
        multiply_add(self.cpu, x, Panels::new(values), weighted);
        let width = weighted.len() / rows.len();
        divide_rows(self.cpu, weighted, width, sums);
        if no_keys == NoKeys::Zero {
            let rows = weighted.chunks_exact_mut(width).zip(&*sums);
            rows.filter(|(_, sum)| sum.is_nan()).for_each(|(row, _)| row.fill(0.0));
        }
        for (row, weighted) in rows.zip(weighted.chunks_exact(width)) {
            let start = ((batch * queries + row) * heads + head) * head_size;
            // SAFETY: the token is one of the result's, so that its head lies in y, whose length
            // `Target::new` checked; no other job has this sequence, head and query.
            unsafe { self.y.write(self.cpu, start, &weighted[..head_size]) };
        }
    }
}

/// Panels of 16 columns of the values.
fn pack_values(v: Rows<'_>, packed: &mut [Line]) {
    for (panel, lines) in packed.chunks_exact_mut(v.count().max(1)).enumerate() {
        for (index, line) in lines.iter_mut().enumerate() {
            let row = &v.row(index)[panel * PANEL..];
            match row.first_chunk() {
                Some(row) => line.0 = *row,
                None => {
                    line.0 = [0.0; PANEL];
                    line.0[..row.len()].copy_from_slice(row);
                }
            }
        }
    }
}

/// All elements of some lines.
fn floats(lines: &mut [Line]) -> &mut [f32] {
    let len = lines.len() * PANEL;
    // SAFETY: a line is 16 elements without padding.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
}

tiered! {
    /// `row = exp(row·scale + mask − max)` for each row of `keys` elements, rows padded to whole
    /// panels; `sums` gets the sum of each. The mask is where it starts and its step.
    fn scaled_exponentials(scores: &mut [f32], keys: usize, scale: f32, mask: Option<(&[f32], usize)>, sums: &mut [f32]) {
        let stride = keys.next_multiple_of(PANEL).max(1);
        // In two passes over the rows: no row waits for what is left of the one before.
        let mut greatest = [0.0; MOST_ROWS];
        for (index, (row, greatest)) in scores.chunks_exact_mut(stride).zip(&mut greatest).enumerate() {
            let (known, rest) = row.split_at_mut(keys);
            match mask {
                Some((mask, step)) => {
                    for (value, &mask) in known.iter_mut().zip(&mask[index * step..]) {
                        *value = value.mul_add(scale, mask);
                    }
                }
                None => {
                    for value in known {
                        *value *= scale;
                    }
                }
            }
            // What pads a row weighs nothing.
            rest.fill(f32::NEG_INFINITY);
            *greatest = lanes::max(row);
        }
        for ((row, greatest), sum) in scores.chunks_exact_mut(stride).zip(greatest).zip(sums) {
            *sum = lanes::sum_of_mapped(row, |value| math::exp_of_negative(value - greatest));
        }
    }
}

tiered! {
    /// Divides each row of `width` elements by its sum.
    fn divide_rows(values: &mut [f32], width: usize, sums: &[f32]) {
        for (row, &sum) in values.chunks_exact_mut(width).zip(sums) {
            // No keys have no sum, and weigh nothing.
            let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            for value in row {
                *value *= inverse;
            }
        }
    }
}

/// Lends memory of unspecified content that this thread keeps from call to call.
fn with_scratch<R>(lines: usize, run: impl FnOnce(&mut [Line]) -> R) -> R {
    thread_local! {
        static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    }
    lend(&SCRATCH, lines, run)
}
