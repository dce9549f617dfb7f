//! Multi-head attention as one operation (Vaswani et al. 2017, arXiv:1706.03762, §3.2).
//!
//! The backward pass computes the attention weights again, head by head, while everything of a
//! head is in the cache, instead of keeping them (Dao et al. 2022, arXiv:2205.14135, §3.1).

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use kernels::{Cpu, HeadData, Heads, Mask, Matrix, Write};
use rayon::prelude::*;

use super::floats::Floats;
use super::fused::{self, Operation};
use super::plan;
use crate::device::Device;

/// `(query, key, value)`, each `[batch, tokens, heads·size]`.
#[derive(Clone, Debug)]
struct Attention {
    sizes: plan::Attention,
    mask: Option<Added>,
}

/// What is added to the scores: element `(b, h, q, k)` is `data[b·s₀ + h·s₁ + q·s₂ + k]`.
#[derive(Clone, Debug)]
struct Added {
    data: Arc<Vec<f32>>,
    strides: [usize; 3],
}

impl Added {
    /// From a tensor whose dimensions are 1 or those of `[batch, heads, queries, keys]`; `None`
    /// when the keys are repeated.
    fn new(mask: &graph::Tensor, keys: usize) -> Option<Self> {
        let [batch, heads, queries, columns] = mask.shape()[..] else { return None };
        if columns != keys {
            return None;
        }
        let stride = |size: usize, stride: usize| if size == 1 { 0 } else { stride };
        let strides = [
            stride(batch, heads * queries * columns),
            stride(heads, queries * columns),
            stride(queries, columns),
        ];
        Some(Self { data: Arc::new(mask.elements::<f32>().ok()?.to_vec()), strides })
    }
}

/// One sequence's query, key, value and output gradient, `[tokens, heads·size]` each.
struct Sequence<'a> {
    inputs: [&'a [f32]; 3],
    gradient: &'a [f32],
    index: usize,
    tokens: usize,
    width: usize,
}

/// Working memory of one thread.
struct Scratch {
    /// `[tokens, tokens]` each: scores and their gradients, attention weights and theirs.
    squares: [Vec<f32>; 3],
    /// `[tokens, size]`: the gradient of one head.
    head: Vec<f32>,
}

impl Attention {
    fn head_gradients(
        &self,
        sequence: &Sequence<'_>,
        head: usize,
        scratch: &mut Scratch,
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let Sequence { tokens, width, .. } = *sequence;
        let size = width / self.sizes.heads;
        let view = |data| {
            let data: &[f32] = data;
            Matrix::strided(&data[head * size..], [tokens, size], [width, 1])
        };
        let [q, k, v] = sequence.inputs.map(view);
        let dy = view(sequence.gradient);
        let Scratch { squares: [scores, weights, slopes], head: result } = scratch;
        let cpu = Cpu::best();
        kernels::gemm(cpu, q, k.transposed(), scores, Write::Overwrite);
        for (query, row) in scores.chunks_exact_mut(tokens).enumerate() {
            match &self.mask {
                Some(Added { data, strides }) => {
                    let start =
                        sequence.index * strides[0] + head * strides[1] + query * strides[2];
                    for (score, &added) in row.iter_mut().zip(&data[start..start + tokens]) {
                        *score = *score * self.sizes.scale + added;
                    }
                }
                None => row.iter_mut().for_each(|score| *score *= self.sizes.scale),
            }
        }
        kernels::softmax_forward(cpu, scores, tokens, weights);
        kernels::gemm(cpu, dy, v.transposed(), slopes, Write::Overwrite);
        kernels::softmax_backward(cpu, weights, slopes, tokens, scores);
        scores.iter_mut().for_each(|slope| *slope *= self.sizes.scale);
        let weights = Matrix::row_major(weights, tokens, tokens);
        let slopes = Matrix::row_major(scores, tokens, tokens);
        let products =
            [(dq, slopes, k), (dk, slopes.transposed(), q), (dv, weights.transposed(), dy)];
        for (gradient, left, right) in products {
            kernels::gemm(cpu, left, right, result, Write::Overwrite);
            for (row, found) in gradient.chunks_exact_mut(width).zip(result.chunks_exact(size)) {
                row[head * size..(head + 1) * size].copy_from_slice(found);
            }
        }
    }
}

impl Operation<3> for Attention {
    type Saved = [FlexTensor; 3];

    fn forward(&self, inputs: &[FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        let inputs = inputs.each_ref().map(fused::contiguous);
        let [batch, tokens, width] = fused::shape(&inputs[0])[..] else {
            unreachable!("queries have rank 3")
        };
        let [q, k, v] = inputs.each_ref().map(fused::elements);
        let heads = [&q, &k, &v].map(|data| {
            Heads::in_rows(HeadData::F32(data), tokens, width / self.sizes.heads, width)
        });
        let mask = self.mask.as_ref();
        let mask = mask.map(|mask| Mask { data: &mask.data, strides: mask.strides });
        let sizes = kernels::Attention {
            batch,
            heads: self.sizes.heads,
            queries: tokens,
            keys: tokens,
            head_size: width / self.sizes.heads,
            scale: self.sizes.scale,
            no_keys: kernels::NoKeys::NotANumber,
            products: self.sizes.products,
        };
        let mut y = vec![0f32; q.len()];
        // The tier that the runtime takes, since they agree on f32 products alone.
        let cpu = Cpu::from_environment().unwrap_or_else(|_| Cpu::best());
        kernels::attention(cpu, &sizes, heads, mask, &mut y);
        drop((q, k, v));
        (fused::tensor(&[batch, tokens, width], y), inputs)
    }

    fn backward(
        &self,
        inputs: Self::Saved,
        gradient: &FlexTensor,
        _: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let shape = fused::shape(&inputs[0]);
        let [_, tokens, width] = shape[..] else { unreachable!("queries have rank 3") };
        let elements = inputs.each_ref().map(fused::elements);
        let dy = fused::elements(gradient);
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0f32; dy.len()]);
        let block = tokens * width;
        if block > 0 {
            let scratch = || Scratch {
                squares: [(); 3].map(|()| vec![0f32; tokens * tokens]),
                head: vec![0f32; tokens * (width / self.sizes.heads)],
            };
            let outputs = dq.par_chunks_mut(block).zip(dk.par_chunks_mut(block));
            let outputs = outputs.zip(dv.par_chunks_mut(block)).enumerate();
            outputs.for_each_init(scratch, |scratch, (index, ((dq, dk), dv))| {
                let range = index * block..(index + 1) * block;
                let inputs = elements.each_ref().map(|elements| &elements[range.clone()]);
                let sequence = Sequence { inputs, gradient: &dy[range], index, tokens, width };
                for head in 0..self.sizes.heads {
                    self.head_gradients(&sequence, head, scratch, [&mut *dq, dk, dv]);
                }
            });
        }
        [dq, dk, dv].map(|gradient| Some(fused::tensor(&shape, gradient)))
    }
}

/// `softmax(q·kᵀ·scale + mask)·v` in every head.
///
/// # Shapes
/// `[query, key, value]` and the output: `[batch, tokens, heads·size]`; `mask`: four dimensions
/// that broadcast to `[batch, heads, tokens, tokens]`.
pub(super) fn attention(
    fuse: bool,
    device: &Device,
    sizes: plan::Attention,
    inputs: [Floats; 3],
    mask: Option<&graph::Tensor>,
) -> Floats {
    let shape = inputs[0].shape();
    let [batch, tokens, width] = shape[..] else { unreachable!("queries have rank 3") };
    let added = mask.map(|mask| Added::new(mask, tokens));
    if fuse && !matches!(added, Some(None)) {
        let operation = Attention { sizes, mask: added.flatten() };
        return Floats(fused::apply(&operation, inputs.map(|input| input.0)));
    }
    let split = [batch, tokens, sizes.heads, width / sizes.heads];
    let [q, k, v] = inputs.map(|input| input.reshape(&split));
    let (q, v) = (q.permute(&[0, 2, 1, 3]), v.permute(&[0, 2, 1, 3]));
    let mut scores = q.matmul(k.permute(&[0, 2, 3, 1])).scale(sizes.scale);
    if let Some(mask) = mask {
        let elements = mask.elements::<f32>().expect("masks are f32").to_vec();
        scores = scores.add(Floats(device.upload(mask.shape(), elements)));
    }
    let context = super::normalize::softmax(fuse, scores).matmul(v);
    context.permute(&[0, 2, 1, 3]).reshape(&shape)
}
