//! Elements of another type.

use cubecl::prelude::*;

use super::{Buffer, Gpu};

/// Types that [`cast`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    /// 64-bit integer.
    I64,
    /// 32-bit float.
    F32,
}

#[cube(launch_unchecked)]
fn cast_kernel<From: Numeric, To: Numeric>(x: &[From], y: &mut [To]) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        y[index] = To::cast_from(x[index]);
        index += step;
    }
}

/// `y = x` in another type; floats lose their fraction.
///
/// # Shapes
/// `x` and `y` have the same number of elements.
pub fn cast(gpu: &Gpu, (x, from): (&Buffer, Number), (y, to): (&Buffer, Number)) {
    match (from, to) {
        (Number::I64, Number::F32) => launch::<i64, f32>(gpu, x, y),
        (Number::F32, Number::I64) => launch::<f32, i64>(gpu, x, y),
        (Number::I64, Number::I64) => launch::<i64, i64>(gpu, x, y),
        (Number::F32, Number::F32) => launch::<f32, f32>(gpu, x, y),
    }
}

fn launch<From: Numeric, To: Numeric>(gpu: &Gpu, x: &Buffer, y: &Buffer) {
    let elements = y.len() / size_of::<To>();
    let x = x.argument::<From>("cast: x", elements);
    let y = y.argument::<To>("cast: y", elements);
    if elements == 0 {
        return;
    }
    let (cubes, units) = gpu.spread(elements);
    // SAFETY: the kernel stays below the length of y, which is also that of x.
    unsafe { cast_kernel::launch_unchecked::<From, To>(&gpu.client, cubes, units, x, y) };
}
