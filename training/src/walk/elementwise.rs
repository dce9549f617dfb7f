//! Activations.

use burn::backend::flex::FlexTensor;
use graph::op;
use kernels::Cpu;
use rayon::prelude::*;

use super::floats::Floats;
use super::fused::{self, CHUNK, Operation};

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

/// A function of one element whose slope is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    Relu,
    Tanh,
    /// The approximation of [`Gelu`] by tanh.
    GeluTanh,
}

/// Factor of the cube in the approximation of GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415).
const CUBE: f32 = 0.044_715;

/// √(2/π)
const ROOT: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;

impl Curve {
    fn value(self, x: f32) -> f32 {
        match self {
            // Not `max`, which would hide that a training went wrong: it makes 0 of NaN.
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Tanh => x.tanh(),
            Self::GeluTanh => 0.5 * x * (1.0 + (ROOT * (x + CUBE * x * x * x)).tanh()),
        }
    }

    fn slope(self, x: f32) -> f32 {
        match self {
            Self::Relu => f32::from(x > 0.0),
            Self::Tanh => 1.0 - x.tanh().powi(2),
            Self::GeluTanh => {
                let tanh = (ROOT * (x + CUBE * x * x * x)).tanh();
                let inner = ROOT * (1.0 + 3.0 * CUBE * x * x);
                0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner
            }
        }
    }
}

impl Operation<1> for Curve {
    type Saved = FlexTensor;

    fn forward(&self, [x]: &[FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
        let elements = fused::elements(x);
        let mut y = vec![0f32; elements.len()];
        y.par_chunks_mut(CHUNK).zip(elements.par_chunks(CHUNK)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = self.value(x));
        });
        (fused::tensor(&fused::shape(x), y), x.clone())
    }

    fn backward(
        &self,
        x: FlexTensor,
        gradient: &FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let (elements, mut dx) = (fused::elements(&x), fused::elements(gradient).into_owned());
        dx.par_chunks_mut(CHUNK).zip(elements.par_chunks(CHUNK)).for_each(|(dx, x)| {
            dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx *= self.slope(x));
        });
        [Some(fused::tensor(&fused::shape(&x), dx))]
    }
}

/// `max(x, 0)`.
pub(super) fn relu(fuse: bool, x: Floats) -> Floats {
    if fuse { Floats(fused::apply(&Curve::Relu, [x.0])) } else { x.relu() }
}

/// The hyperbolic tangent.
pub(super) fn tanh(fuse: bool, x: Floats) -> Floats {
    if fuse { Floats(fused::apply(&Curve::Tanh, [x.0])) } else { x.tanh() }
}

/// `x·Φ(x)`.
pub(super) fn gelu(fuse: bool, op: op::Gelu, x: Floats) -> Floats {
    match op {
        op::Gelu::Erf if fuse => Floats(fused::apply(&Gelu, [x.0])),
        op::Gelu::Erf => {
            let factor = x.clone().scale(std::f32::consts::FRAC_1_SQRT_2).erf().add_scalar(1.0);
            x.mul(factor).scale(0.5)
        }
        op::Gelu::Tanh if fuse => Floats(fused::apply(&Curve::GeluTanh, [x.0])),
        op::Gelu::Tanh => {
            let cube = x.clone().mul(x.clone()).mul(x.clone()).scale(CUBE);
            let factor = x.clone().add(cube).scale(ROOT).tanh().add_scalar(1.0);
            x.mul(factor).scale(0.5)
        }
    }
}
