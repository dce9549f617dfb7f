//! Sums along an axis.

use cubecl::prelude::*;

use super::{Buffer, Gpu};

#[cube(launch_unchecked)]
fn reduce_kernel(x: &[f32], y: &mut [f32], size: usize, inner: usize) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let start = index / inner * size * inner + index % inner;
        let mut sum = f32::new(0.0);
        for row in 0..size {
            sum += x[start + row * inner];
        }
        y[index] = sum;
        index += step;
    }
}

/// `y[o, i] = Σ_r x[o, r, i]`.
///
/// # Shapes
/// f32; `x`: `[outer, size, inner]`; `y`: `[outer, inner]`.
pub fn reduce_rows(gpu: &Gpu, x: &Buffer, [outer, size, inner]: [usize; 3], y: &Buffer) {
    let elements = outer * inner;
    let y = y.argument::<f32>("reduce_rows: y", elements);
    let x = x.argument::<f32>("reduce_rows: x", elements * size);
    if elements == 0 {
        return;
    }
    let (cubes, units) = gpu.spread(elements);
    // SAFETY: `index` stays below outer·inner, and what it reads below outer·size·inner, x's length.
    unsafe { reduce_kernel::launch_unchecked(&gpu.client, cubes, units, x, y, size, inner) };
}
