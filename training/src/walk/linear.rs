//! Matrix products: the linear layer in one kernel, anything else through Burn.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use kernels::{Cpu, Matrix, Write};
use rayon::prelude::*;

use super::floats::Floats;
use super::fused::{self, CHUNK, Operation};

/// `x·weight`, and `+ bias` with three inputs.
///
/// # Shapes
/// `x`: `[…, k]`; `weight`: `[k, n]`, any strides; `bias`: `[n]`; output: `[…, n]`.
#[derive(Clone, Debug)]
struct Linear {
    steps: Option<Steps>,
}

/// Quantization steps of a product whose factors are both whole numbers of steps.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    /// Step of every element of `x`.
    pub(super) x: f32,
    /// Step of each column of `weight`.
    pub(super) weight: Arc<Vec<f32>>,
}

/// Terms of one sum of products of 8-bit numbers that a float holds exactly: 1024·128·127 < 2²⁴.
const EXACT_TERMS: usize = 1024;

impl Steps {
    /// `x·weight` as integers do it: the sums of whole numbers are exact, in whatever order they are
    /// taken, and are scaled once, as the integer kernels scale theirs.
    ///
    /// # Shapes
    /// `x`: `[m, k]`, `weight`: `[k, n]`, output: `[m, n]`, all row-major.
    fn product(&self, x: &[f32], weight: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
        let mut whole_x = vec![0f32; x.len()];
        let pieces = whole_x.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
        pieces.for_each(|(whole, x)| {
            whole.iter_mut().zip(x).for_each(|(whole, x)| *whole = (x / self.x).round());
        });
        let mut whole_weight = vec![0f32; weight.len()];
        let rows = whole_weight.par_chunks_mut(n.max(1)).zip(weight.par_chunks(n.max(1)));
        rows.for_each(|(whole, weight)| {
            let columns = weight.iter().zip(self.weight.iter());
            whole
                .iter_mut()
                .zip(columns)
                .for_each(|(whole, (w, step))| *whole = (w / step).round());
        });
        let mut y = vec![0f32; m * n];
        let mut part = vec![0f32; if k > EXACT_TERMS { m * n } else { 0 }];
        let mut sums = vec![0i32; part.len()];
        for start in (0..k).step_by(EXACT_TERMS) {
            let end = (start + EXACT_TERMS).min(k);
            let left = Matrix::strided(&whole_x[start..], [m, end - start], [k, 1]);
            let right = Matrix::row_major(&whole_weight[start * n..end * n], end - start, n);
            let target = if part.is_empty() { &mut y } else { &mut part };
            kernels::gemm(Cpu::best(), left, right, target, Write::Overwrite);
            sums.iter_mut().zip(&part).for_each(|(sum, part)| *sum += *part as i32);
        }
        y.iter_mut().zip(&sums).for_each(|(y, sum)| *y = *sum as f32);
        for row in y.chunks_exact_mut(n.max(1)) {
            for (y, step) in row.iter_mut().zip(self.weight.iter()) {
                *y *= self.x * step;
            }
        }
        y
    }
}

fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    steps: Option<&Steps>,
) -> FlexTensor {
    let x_elements = fused::elements(x);
    let weights = fused::matrix(weight);
    let (k, n) = (weights.rows(), weights.cols());
    let mut shape = fused::shape(x);
    *shape.last_mut().expect("a matrix has columns") = n;
    let m = shape[..shape.len() - 1].iter().product();
    let mut y = match steps.filter(|steps| steps.weight.len() == n) {
        Some(steps) => {
            let weight = fused::contiguous(weight);
            steps.product(&x_elements, &fused::elements(&weight), [m, k, n])
        }
        None => kernels::product(Cpu::best(), Matrix::row_major(&x_elements, m, k), weights),
    };
    if let Some(bias) = bias {
        kernels::add_row(Cpu::best(), &mut y, &fused::elements(bias));
    }
    fused::tensor(&shape, y)
}

/// Gradients of `x`, `weight` and `bias`.
fn backward(
    x: &FlexTensor,
    weight: &FlexTensor,
    gradient: &FlexTensor,
    wanted: [bool; 3],
) -> [Option<FlexTensor>; 3] {
    let dy_elements = fused::elements(gradient);
    let weights = fused::matrix(weight);
    let (k, n) = (weights.rows(), weights.cols());
    let shape = fused::shape(x);
    let m = shape[..shape.len() - 1].iter().product();
    let dy = Matrix::row_major(&dy_elements, m, n);
    let cpu = Cpu::best();
    let dx =
        wanted[0].then(|| fused::tensor(&shape, kernels::product(cpu, dy, weights.transposed())));
    let dweight = wanted[1].then(|| {
        let x_elements = fused::elements(x);
        let x = Matrix::row_major(&x_elements, m, k);
        fused::tensor(&[k, n], kernels::product(cpu, x.transposed(), dy))
    });
    let dbias = wanted[2].then(|| {
        let mut dbias = vec![0f32; n];
        kernels::column_sum(cpu, &dy_elements, n, &mut dbias);
        fused::tensor(&[n], dbias)
    });
    [dx, dweight, dbias]
}

impl Operation<3> for Linear {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, weight, bias]: &[FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        let x = fused::contiguous(x);
        (forward(&x, weight, Some(bias), self.steps.as_ref()), [x, weight.clone()])
    }

    fn backward(
        &self,
        [x, weight]: Self::Saved,
        gradient: &FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        backward(&x, &weight, gradient, wanted)
    }
}

impl Operation<2> for Linear {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, weight]: &[FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        let x = fused::contiguous(x);
        (forward(&x, weight, None, self.steps.as_ref()), [x, weight.clone()])
    }

    fn backward(
        &self,
        [x, weight]: Self::Saved,
        gradient: &FlexTensor,
        wanted: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let [dx, dweight, _] = backward(&x, &weight, gradient, [wanted[0], wanted[1], false]);
        [dx, dweight]
    }
}

/// `x·weight + bias`; `steps` where both factors were quantized, which the CPU then multiplies
/// exactly.
pub(super) fn linear(
    fuse: bool,
    x: Floats,
    weight: Floats,
    bias: Option<Floats>,
    steps: Option<Steps>,
) -> Floats {
    if fuse {
        let operation = Linear { steps };
        return Floats(match bias {
            Some(bias) => fused::apply(&operation, [x.0, weight.0, bias.0]),
            None => fused::apply(&operation, [x.0, weight.0]),
        });
    }
    let mut shape = x.shape();
    let [k, n] = weight.shape()[..] else { unreachable!("linear weights have rank 2") };
    let rows = shape[..shape.len() - 1].iter().product();
    *shape.last_mut().expect("x has columns") = n;
    let product = x.reshape(&[rows, k]).matmul(weight);
    let sum = match bias {
        Some(bias) => product.add(bias),
        None => product,
    };
    sum.reshape(&shape)
}

/// `a·b` over the last two dimensions, the others broadcast.
pub(super) fn matmul(fuse: bool, a: Floats, b: Floats) -> Floats {
    if b.shape().len() == 2 { linear(fuse, a, b, None, None) } else { a.matmul(b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against sums of integers, with more terms than a float holds and the greatest factors.
    #[test]
    fn quantized_factors_are_multiplied_exactly() {
        let (m, k, n) = (3, 2 * EXACT_TERMS + 5, 4);
        let steps = Steps { x: 0.037, weight: Arc::new(vec![0.1, 0.003, 1.7, 0.05]) };
        let whole = |index: usize| {
            [127, -127, 126, -3, 127][index % 5] - i64::from(index.is_multiple_of(7))
        };
        let x: Vec<f32> = (0..m * k).map(|index| whole(index) as f32 * steps.x).collect();
        let weight: Vec<f32> =
            (0..k * n).map(|index| whole(index / n) as f32 * steps.weight[index % n]).collect();
        let y = steps.product(&x, &weight, [m, k, n]);
        for (index, y) in y.into_iter().enumerate() {
            let (row, column) = (index / n, index % n);
            let sum: i64 = (0..k).map(|term| whole(row * k + term) * whole(term)).sum();
            assert_eq!(y, sum as i32 as f32 * (steps.x * steps.weight[column]), "{row} {column}");
        }
    }
}
