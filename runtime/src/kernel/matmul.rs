//! f32 products of two values, with leading dimensions that broadcast.

use graph::Dim;
use kernels::peaks::Numbers;
use kernels::{Batch, Cpu, GEMM_PARALLEL_WORK, Matrix, Write, batched_gemm, gemm};

use super::{Call, Kernel, KernelEntry, Scratch, elements_mut, floats, run};
use crate::cost::{Parallel, Rate};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "matmul.f32",
    operation: "MatMul",
    tier: None,
    cost: 1,
    accepts: floats,
    prepare: |_, _, cpu| run(MatMul { cpu }),
}];

struct MatMul {
    cpu: Cpu,
}

impl Kernel for MatMul {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let ([a_batch @ .., m, k], [b_batch @ .., _, n]) =
            (call.inputs[0].shape, call.inputs[1].shape)
        else {
            return Err("expected two matrices".to_owned());
        };
        let (m, k, n) = (*m, *k, *n);
        let (left, right) = (call.f32(0), call.f32(1));
        let output = elements_mut(call.output);
        if b_batch.iter().all(|&size| size == 1) && a_batch.len() >= b_batch.len() {
            let rows = a_batch.iter().product::<usize>() * m;
            let (a, b) = (Matrix::row_major(left, rows, k), Matrix::row_major(right, k, n));
            gemm(self.cpu, a, b, output, Write::Overwrite);
            return Ok(());
        }
        let batch = &call.shape[..call.shape.len() - 2];
        let products = batch.iter().product();
        let (a_offsets, b_offsets) = elements_mut(call.scratch).split_at_mut(products);
        fill_offsets(a_offsets, batch, a_batch, m * k);
        fill_offsets(b_offsets, batch, b_batch, k * n);
        let a = Batch { data: left, shape: [m, k], strides: [k, 1], offsets: a_offsets };
        let b = Batch { data: right, shape: [k, n], strides: [n, 1], offsets: b_offsets };
        batched_gemm(self.cpu, &a, &b, output, Write::Overwrite);
        Ok(())
    }

    fn rate(&self) -> Rate {
        Rate {
            numbers: Numbers::F32,
            share: 0.6,
            parallel: Parallel::MultiplyAdds(GEMM_PARALLEL_WORK),
        }
    }

    /// Where the two matrices of each product start.
    fn scratch(&self, _: &[&[Dim]], output: &[Dim]) -> Option<Scratch> {
        let [batch @ .., _, _] = output else { return None };
        let shape = [&[Dim::Fixed(2)], batch].concat();
        Some(Scratch { element_bytes: size_of::<usize>(), shape })
    }
}

/// Where the matrix for each product starts, when `own` leading dimensions broadcast to `batch`.
fn fill_offsets(offsets: &mut [usize], batch: &[usize], own: &[usize], matrix_len: usize) {
    let start = |product: usize| {
        let (mut rest, mut start, mut stride) = (product, 0, matrix_len);
        for axis in (0..batch.len()).rev() {
            let position = rest % batch[axis];
            rest /= batch[axis];
            if let Some(axis) = (axis + own.len()).checked_sub(batch.len()) {
                if own[axis] != 1 {
                    start += position * stride;
                }
                stride *= own[axis];
            }
        }
        start
    };
    offsets.iter_mut().enumerate().for_each(|(product, offset)| *offset = start(product));
}
