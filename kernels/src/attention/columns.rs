#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves them")]
//! Attention turned by a quarter, with a column for each query and a row for each key or element of a
//! head: what does not depend on how the products are made. The softmax goes down columns, without a
//! shuffle.

use std::arch::x86_64::*;
use std::ops::Range;

use super::registers::{load, store};
use super::{NoKeys, Run, floats};
use crate::float::{Line, PANEL};
use crate::wide::transposed;

impl Run<'_> {
    /// Scales and masks the first product, a line for each key. Gives the greatest of each query.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn scale(
        &self,
        scores: &mut [Line],
        (batch, head): (usize, usize),
        panel: &Range<usize>,
    ) -> __m512 {
        let scale = _mm512_set1_ps(self.sizes.scale);
        let scores = &mut scores[..self.sizes.keys];
        let Some(mask) = self.mask else {
            return scaled(scores, |_, score| _mm512_mul_ps(score, scale));
        };
        let [of_batch, of_head, of_query] = mask.strides;
        let start = batch * of_batch + head * of_head + panel.start * of_query;
        let mask = &mask.data[start..];
        if of_query == 0 {
            let mask = &mask[..scores.len()];
            return scaled(scores, |key, score| {
                _mm512_fmadd_ps(score, scale, _mm512_set1_ps(mask[key]))
            });
        }
        let mut greatest = _mm512_set1_ps(f32::NEG_INFINITY);
        for (first, lines) in (0..).step_by(PANEL).zip(scores.chunks_mut(PANEL)) {
            let added = square(mask, of_query, first, [panel.len(), lines.len()]);
            greatest = _mm512_max_ps(
                scaled(lines, |key, score| _mm512_fmadd_ps(score, scale, added[key])),
                greatest,
            );
        }
        greatest
    }

    /// Divides the second product, a line for each element of a head, and writes a row for each
    /// query.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn write(
        &self,
        (batch, head): (usize, usize),
        panel: &Range<usize>,
        results: &[Line],
        inverse: __m512,
    ) {
        let (heads, head_size) = (self.sizes.heads, self.sizes.head_size);
        let kept = match self.sizes.no_keys {
            NoKeys::NotANumber => u16::MAX,
            NoKeys::Zero => _mm512_cmp_ps_mask::<_CMP_ORD_Q>(inverse, inverse),
        };
        let row = batch * self.sizes.queries + panel.start;
        for (index, lines) in results.as_chunks::<PANEL>().0.iter().enumerate() {
            let turned = transposed(std::array::from_fn(|row| {
                _mm512_maskz_mul_ps(kept, load(&lines[row].0), inverse)
            }));
            let mut rows = [Line::default(); PANEL];
            for (row, values) in rows.iter_mut().zip(turned) {
                store(row, values);
            }
            let rows = floats(&mut rows[..panel.len()]).as_chunks().0;
            let column = index * PANEL;
            let start = (row * heads + head) * head_size + column;
            let width = PANEL.min(head_size - column);
            // SAFETY: the tokens are some of the result's, so that their heads lie in y, whose
            // length `Target::new` checked; no other job has this sequence, head and query.
            unsafe { self.y.write_tile(self.cpu, (start, heads * head_size), rows, width) };
        }
    }
}

/// The next at most `count` panels of some queries.
pub(super) fn panels(
    queries: Range<usize>,
    count: usize,
) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    let most = queries.len().div_ceil(PANEL).min(count);
    (0..most).map(move |panel| {
        let first = queries.start + panel * PANEL;
        first..queries.end.min(first + PANEL)
    })
}

/// Scales the scores of each key, and gives the greatest of each query.
#[target_feature(enable = "avx512f")]
fn scaled(scores: &mut [Line], scale: impl Fn(usize, __m512) -> __m512) -> __m512 {
    /// Chains of maxima, so that none waits for the other.
    const CHAINS: usize = 4;
    let mut greatest = [_mm512_set1_ps(f32::NEG_INFINITY); CHAINS];
    let mut step = |key: usize, line: &mut Line, chain: usize| {
        let score = scale(key, load(&line.0));
        // Where a score is not a number, the second operand is taken.
        greatest[chain] = _mm512_max_ps(score, greatest[chain]);
        store(line, score);
    };
    let (several, rest) = scores.as_chunks_mut::<CHAINS>();
    let rest_start = several.len() * CHAINS;
    for (index, lines) in several.iter_mut().enumerate() {
        for (chain, line) in lines.iter_mut().enumerate() {
            step(index * CHAINS + chain, line, chain);
        }
    }
    for (offset, line) in rest.iter_mut().enumerate() {
        step(rest_start + offset, line, 0);
    }
    let [a, b, c, d] = greatest;
    _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d))
}

/// A column for each of 16 rows at most of at most 16 elements, from element `first` on, zeros around
/// them.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn square(
    data: &[f32],
    stride: usize,
    first: usize,
    [rows, width]: [usize; 2],
) -> [__m512; PANEL] {
    let mut square = [_mm512_setzero_ps(); PANEL];
    let lanes = ((1u32 << width) - 1) as u16;
    for (row, values) in square[..rows].iter_mut().enumerate() {
        let elements = &data[row * stride + first..][..width];
        // SAFETY: no more elements are read than there are.
        *values = unsafe { _mm512_maskz_loadu_ps(lanes, elements.as_ptr()) };
    }
    transposed(square)
}
