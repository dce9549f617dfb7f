//! Activations that stand alone.

use cubecl::prelude::*;

use super::math::activated;
use super::{Buffer, Gpu};
use crate::Activation;

#[cube(launch_unchecked)]
fn activate_kernel(x: &[f32], y: &mut [f32], #[comptime] activation: Activation) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        y[index] = activated(x[index], activation);
        index += step;
    }
}

/// `y = activation(x)`, see [`crate::activate`].
///
/// # Shapes
/// `x` and `y` are f32 of the same length.
pub fn activate(gpu: &Gpu, activation: Activation, x: &Buffer, y: &Buffer) {
    let elements = y.len() / size_of::<f32>();
    let x = x.argument::<f32>("activate: x", elements);
    let y = y.argument::<f32>("activate: y", elements);
    let (cubes, units) = gpu.spread(elements);
    // SAFETY: the kernel stays below the length of y, which is also that of x.
    unsafe { activate_kernel::launch_unchecked(&gpu.client, cubes, units, x, y, activation) };
}
