#![allow(unsafe_code, reason = "heads of one row-major result are written by different threads")]
//! Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, §3.2).

use std::cell::RefCell;

use rayon::prelude::*;

use crate::lanes;
use crate::math;
use crate::matrix::{Matrix, Write, gemm_here, gemm_into};
use crate::parallel::{Shared, check_len};
use crate::tier::{Cpu, tiered};

/// Query rows whose scores are held at once: the scores of a head never exist as a whole.
const TILE: usize = 32;

/// Multiply-adds below which one thread is faster.
const PARALLEL_WORK: usize = 1 << 19;

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One of query, key and value: `[batch, tokens, heads, head_size]` in rows of `row_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Element `(b, t, h, d)` is `data[(b·tokens + t)·row_stride + h·head_size + d]`.
    pub data: &'a [f32],
    /// Elements from one token to the next; more than `heads·head_size` where the projections of
    /// query, key and value share one matrix.
    pub row_stride: usize,
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
    [q, k, v]: [Heads<'_>; 3],
    mask: Option<Mask<'_>>,
    y: &mut [f32],
) {
    let width = sizes.heads * sizes.head_size;
    check_len("attention: y", y.len(), sizes.batch * sizes.queries * width);
    if y.is_empty() {
        return;
    }
    if sizes.keys == 0 {
        y.fill(0.0);
        return;
    }
    if let Some(mask) = mask {
        let last = mask.strides[0] * (sizes.batch - 1)
            + mask.strides[1] * (sizes.heads - 1)
            + mask.strides[2] * (sizes.queries - 1)
            + sizes.keys;
        assert!(
            last <= mask.data.len(),
            "attention: mask needs {last} elements, found {}",
            mask.data.len()
        );
    }
    let target = Shared::new(y);
    let one = |index: usize| {
        let head = Head { cpu, sizes, batch: index / sizes.heads, head: index % sizes.heads };
        head.run([q, k, v], mask, target);
    };
    let pairs = sizes.batch * sizes.heads;
    let work = 2 * sizes.queries * sizes.keys * sizes.head_size;
    if work.saturating_mul(pairs) < PARALLEL_WORK {
        (0..pairs).for_each(one);
    } else {
        let at_once = (PARALLEL_WORK / 4 / work.max(1)).max(1);
        (0..pairs).into_par_iter().with_min_len(at_once).for_each(one);
    }
}

/// One head of one sequence.
struct Head<'a> {
    cpu: Cpu,
    sizes: &'a Attention,
    batch: usize,
    head: usize,
}

impl Head<'_> {
    fn matrix<'a>(&self, heads: Heads<'a>, tokens: usize) -> Matrix<'a> {
        let start = self.batch * tokens * heads.row_stride + self.head * self.sizes.head_size;
        let data = &heads.data[start.min(heads.data.len())..];
        Matrix::strided(data, [tokens, self.sizes.head_size], [heads.row_stride, 1])
    }

    fn run(&self, [q, k, v]: [Heads<'_>; 3], mask: Option<Mask<'_>>, y: Shared<f32>) {
        let Attention { heads, queries, keys, head_size, .. } = *self.sizes;
        let width = heads * head_size;
        let q = self.matrix(q, queries);
        let k = self.matrix(k, keys).transposed();
        let v = self.matrix(v, keys);
        SCORES.with_borrow_mut(|scores| {
            let needed = TILE.min(queries) * keys;
            if scores.len() < needed {
                scores.resize(needed, 0.0);
            }
            for query in (0..queries).step_by(TILE) {
                let rows = TILE.min(queries - query);
                let scores = &mut scores[..rows * keys];
                gemm_here(q.row_range(query, rows), k, scores, Write::Overwrite);
                self.weigh(scores, query, mask);
                let start = (self.batch * queries + query) * width + self.head * head_size;
                // SAFETY: rows query..query + rows of this sequence, columns of this head: inside
                // y, whose length `attention` checked; no other (sequence, head) writes there.
                unsafe { gemm_into(Matrix::row_major(scores, rows, keys), v, y, start, width) };
            }
        });
    }

    /// Turns scores into attention weights.
    fn weigh(&self, scores: &mut [f32], query: usize, mask: Option<Mask<'_>>) {
        let keys = self.sizes.keys;
        for (offset, row) in scores.chunks_exact_mut(keys).enumerate() {
            let mask = mask.map_or(&[][..], |mask| {
                let [batch, head, step] = mask.strides;
                let start = self.batch * batch + self.head * head + (query + offset) * step;
                &mask.data[start..start + keys]
            });
            scaled_softmax(self.cpu, row, self.sizes.scale, mask);
        }
    }
}

tiered! {
    /// `row = softmax(row·scale + mask)`; an empty mask adds nothing.
    fn scaled_softmax(row: &mut [f32], scale: f32, mask: &[f32]) {
        for value in row.iter_mut() {
            *value *= scale;
        }
        for (value, &mask) in row.iter_mut().zip(mask) {
            *value += mask;
        }
        let max = lanes::max(row);
        for value in row.iter_mut() {
            *value = math::exp(*value - max);
        }
        let inverse = 1.0 / lanes::sum(row, |value| value);
        for value in row.iter_mut() {
            *value *= inverse;
        }
    }
}
