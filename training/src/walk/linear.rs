//! Matrix products: the linear layer in one kernel, anything else through Burn.

use burn::backend::flex::FlexTensor;
use kernels::{Cpu, Matrix, Write};

use super::floats::Floats;
use super::fused::{self, Operation};

/// `x·weight`, and `+ bias` with three inputs.
///
/// # Shapes
/// `x`: `[…, k]`; `weight`: `[k, n]`, any strides; `bias`: `[n]`; output: `[…, n]`.
#[derive(Clone, Debug)]
struct Linear;

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
    let x_elements = fused::elements(x);
    let weights = fused::matrix(weight);
    let (k, n) = (weights.rows(), weights.cols());
    let mut shape = fused::shape(x);
    *shape.last_mut().expect("a matrix has columns") = n;
    let m = shape[..shape.len() - 1].iter().product();
    let mut y = vec![0f32; m * n];
    kernels::gemm(Matrix::row_major(&x_elements, m, k), weights, &mut y, Write::Overwrite);
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
    let dx = wanted[0].then(|| {
        let mut dx = vec![0f32; m * k];
        kernels::gemm(dy, weights.transposed(), &mut dx, Write::Overwrite);
        fused::tensor(&shape, dx)
    });
    let dweight = wanted[1].then(|| {
        let x_elements = fused::elements(x);
        let x = Matrix::row_major(&x_elements, m, k);
        let mut dweight = vec![0f32; k * n];
        kernels::gemm(x.transposed(), dy, &mut dweight, Write::Overwrite);
        fused::tensor(&[k, n], dweight)
    });
    let dbias = wanted[2].then(|| {
        let mut dbias = vec![0f32; n];
        kernels::column_sum(Cpu::best(), &dy_elements, n, &mut dbias);
        fused::tensor(&[n], dbias)
    });
    [dx, dweight, dbias]
}

impl Operation<3> for Linear {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, weight, bias]: &[FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        let x = fused::contiguous(x);
        (forward(&x, weight, Some(bias)), [x, weight.clone()])
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
        (forward(&x, weight, None), [x, weight.clone()])
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

/// `x·weight + bias`.
pub(super) fn linear(fuse: bool, x: Floats, weight: Floats, bias: Option<Floats>) -> Floats {
    if fuse {
        return Floats(match bias {
            Some(bias) => fused::apply(&Linear, [x.0, weight.0, bias.0]),
            None => fused::apply(&Linear, [x.0, weight.0]),
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
    if b.shape().len() == 2 { linear(fuse, a, b, None) } else { a.matmul(b) }
}
