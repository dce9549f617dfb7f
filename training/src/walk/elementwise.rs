//! Activations.

use burn::backend::flex::FlexTensor;
use graph::op;
use kernels::Cpu;

use super::floats::Floats;
use super::fused::{self, Operation};

/// The exact Gaussian error linear unit.
#[derive(Clone, Debug)]
struct Gelu;

impl Operation<1> for Gelu {
    type Saved = FlexTensor;

    fn forward(&self, [x]: &[FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
        let x = fused::contiguous(x);
        let elements = fused::elements(&x);
        let mut y = vec![0f32; elements.len()];
        kernels::gelu_forward(Cpu::best(), &elements, &mut y);
        let y = fused::tensor(&fused::shape(&x), y);
        drop(elements);
        (y, x)
    }

    fn backward(
        &self,
        x: FlexTensor,
        gradient: &FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let (elements, dy) = (fused::elements(&x), fused::elements(gradient));
        let mut dx = vec![0f32; elements.len()];
        kernels::gelu_backward(Cpu::best(), &elements, &dy, &mut dx);
        [Some(fused::tensor(&fused::shape(&x), dx))]
    }
}

/// `x·Φ(x)`.
pub(super) fn gelu(fuse: bool, op: op::Gelu, x: Floats) -> Floats {
    match op {
        op::Gelu::Erf if fuse => Floats(fused::apply(&Gelu, [x.0])),
        op::Gelu::Erf => {
            let factor = x.clone().scale(std::f32::consts::FRAC_1_SQRT_2).erf().add_scalar(1.0);
            x.mul(factor).scale(0.5)
        }
        op::Gelu::Tanh => {
            let cube = x.clone().mul(x.clone()).mul(x.clone()).scale(0.044_715);
            let root = (2.0 / std::f32::consts::PI).sqrt();
            let factor = x.clone().add(cube).scale(root).tanh().add_scalar(1.0);
            x.mul(factor).scale(0.5)
        }
    }
}
