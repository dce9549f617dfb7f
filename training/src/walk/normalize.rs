//! Softmax and layer normalization.

use burn::backend::flex::FlexTensor;
use graph::op;
use kernels::{Cpu, LayerNormGradients};

use super::floats::Floats;
use super::fused::{self, Operation};

/// Softmax over the last dimension.
#[derive(Clone, Debug)]
struct Softmax;

impl Operation<1> for Softmax {
    type Saved = FlexTensor;

    fn forward(&self, [x]: &[FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
        let shape = fused::shape(x);
        let elements = fused::elements(x);
        let mut y = vec![0f32; elements.len()];
        kernels::softmax_forward(Cpu::best(), &elements, shape[shape.len() - 1], &mut y);
        let y = fused::tensor(&shape, y);
        (y.clone(), y)
    }

    fn backward(
        &self,
        y: FlexTensor,
        gradient: &FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let shape = fused::shape(&y);
        let (y, dy) = (fused::elements(&y), fused::elements(gradient));
        let mut dx = vec![0f32; y.len()];
        kernels::softmax_backward(Cpu::best(), &y, &dy, shape[shape.len() - 1], &mut dx);
        [Some(fused::tensor(&shape, dx))]
    }
}

/// Layer normalization over the last dimension: `(x, scale, bias)`.
#[derive(Clone, Debug)]
struct LayerNorm {
    epsilon: f32,
}

/// Input, scale, and mean and 1/deviation of every row.
#[derive(Clone, Debug)]
struct Normalized {
    x: FlexTensor,
    scale: FlexTensor,
    mean: FlexTensor,
    rstd: FlexTensor,
}

impl Operation<3> for LayerNorm {
    type Saved = Normalized;

    fn forward(&self, [x, scale, bias]: &[FlexTensor; 3]) -> (FlexTensor, Normalized) {
        let x = fused::contiguous(x);
        let elements = fused::elements(&x);
        let (gamma, beta) = (fused::elements(scale), fused::elements(bias));
        let rows = elements.len() / gamma.len();
        let mut y = vec![0f32; elements.len()];
        let (mut mean, mut rstd) = (vec![0f32; rows], vec![0f32; rows]);
        let norm = kernels::LayerNorm { gamma: &gamma, beta: &beta, epsilon: self.epsilon };
        kernels::layer_norm_forward(Cpu::best(), &elements, &norm, &mut y, &mut mean, &mut rstd);
        let y = fused::tensor(&fused::shape(&x), y);
        let (mean, rstd) = (fused::tensor(&[rows], mean), fused::tensor(&[rows], rstd));
        drop(elements);
        (y, Normalized { x, scale: scale.clone(), mean, rstd })
    }

    fn backward(
        &self,
        saved: Normalized,
        gradient: &FlexTensor,
        _: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let (x, gamma) = (fused::elements(&saved.x), fused::elements(&saved.scale));
        let (mean, rstd) = (fused::elements(&saved.mean), fused::elements(&saved.rstd));
        let dy = fused::elements(gradient);
        let width = gamma.len();
        let mut dx = vec![0f32; x.len()];
        let (mut dgamma, mut dbeta) = (vec![0f32; width], vec![0f32; width]);
        let out = LayerNormGradients { dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta };
        kernels::layer_norm_backward(Cpu::best(), &x, &gamma, &mean, &rstd, &dy, out);
        [
            Some(fused::tensor(&fused::shape(&saved.x), dx)),
            Some(fused::tensor(&[width], dgamma)),
            Some(fused::tensor(&[width], dbeta)),
        ]
    }
}

/// Softmax along the last dimension.
pub(super) fn softmax(fuse: bool, x: Floats) -> Floats {
    if fuse {
        return Floats(fused::apply(&Softmax, [x.0]));
    }
    let axis = x.shape().len() - 1;
    let max = x.clone().detach().max_axis(axis);
    let exponentials = x.sub(max).exp();
    let sum = exponentials.clone().sum_axis(axis);
    exponentials.div(sum)
}

/// `(x − mean)/√(variance + ε)·scale + bias` over the last dimension.
pub(super) fn layer_norm(
    fuse: bool,
    op: &op::LayerNorm,
    x: Floats,
    scale: Floats,
    bias: Floats,
) -> Floats {
    if fuse {
        let operation = LayerNorm { epsilon: op.epsilon };
        return Floats(fused::apply(&operation, [x.0, scale.0, bias.0]));
    }
    let shape = x.shape();
    let axis = shape.len() - 1;
    let width = shape[axis] as f32;
    let mean = x.clone().sum_axis(axis).divide_scalar(width);
    let centred = x.sub(mean);
    let variance = centred.clone().mul(centred.clone()).sum_axis(axis).divide_scalar(width);
    let deviation = variance.add_scalar(op.epsilon).sqrt();
    centred.div(deviation).mul(scale).add(bias)
}
