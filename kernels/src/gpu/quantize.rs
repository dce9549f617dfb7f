//! Between f32 and int8, see `crate::int8`.

use cubecl::prelude::*;

use super::activation::{Curve, activated};
use super::math::{Steps, StepsLaunch, dequantized, quantized};
use super::{Buffer, Gpu};
use crate::Activation;
use crate::int8::Quantization;

#[cube(launch_unchecked)]
fn quantize_kernel(x: &[f32], y: &mut [i8], to: Steps) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        y[index] = i8::cast_from(quantized(x[index], &to));
        index += step;
    }
}

/// `y = limit(round(x / scale) + zero_point)`, halves to even; NaN becomes 0.
///
/// # Shapes
/// `x` is f32 and `y` i8, of the same number of elements.
pub fn quantize(gpu: &Gpu, x: &Buffer, to: Quantization, y: &Buffer) {
    let elements = y.len();
    let x = x.argument::<f32>("quantize: x", elements);
    let y = y.argument::<i8>("quantize: y", elements);
    if elements == 0 {
        return;
    }
    let (cubes, units) = gpu.spread(elements);
    let to = StepsLaunch::of(to);
    // SAFETY: the kernel stays below the length of y, which is also that of x.
    unsafe { quantize_kernel::launch_unchecked(&gpu.client, cubes, units, x, y, to) };
}

#[cube(launch_unchecked)]
fn dequantize_kernel(x: &[i8], scales: &[f32], y: &mut [f32], zero_point: i32, columns: usize) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let integer = i32::cast_from(x[index]) - zero_point;
        y[index] = f32::cast_from(integer) * scales[index % columns];
        index += step;
    }
}

/// `y = (x − zero_point)·scale`.
///
/// # Shapes
/// `x` is i8 and `y` f32, of the same number of elements; `scale` is f32 `[1]`.
pub fn dequantize(gpu: &Gpu, x: &Buffer, (scale, zero_point): (&Buffer, i8), y: &Buffer) {
    launch_dequantize(gpu, x, (scale, 1), zero_point, y);
}

/// `y[r, c] = x[r, c]·scales[c]`.
///
/// # Shapes
/// `x` is i8 and `y` f32, `[rows, columns]`; `scales` is f32 `[columns]`.
pub fn dequantize_columns(gpu: &Gpu, x: &Buffer, scales: &Buffer, y: &Buffer) {
    launch_dequantize(gpu, x, (scales, scales.len() / size_of::<f32>()), 0, y);
}

fn launch_dequantize(
    gpu: &Gpu,
    x: &Buffer,
    (scales, columns): (&Buffer, usize),
    zero_point: i8,
    y: &Buffer,
) {
    let elements = x.len();
    let x = x.argument::<i8>("dequantize: x", elements);
    let y = y.argument::<f32>("dequantize: y", elements);
    if elements == 0 {
        return;
    }
    let scales = scales.argument::<f32>("dequantize: scales", columns);
    let (cubes, units) = gpu.spread(elements);
    let (client, zero_point) = (&gpu.client, i32::from(zero_point));
    // SAFETY: the kernel stays below the length of y, which is also that of x, and below `columns`.
    unsafe {
        dequantize_kernel::launch_unchecked(
            client, cubes, units, x, scales, y, zero_point, columns,
        );
    };
}

#[cube(launch_unchecked)]
fn sum_kernel<N: Size>(
    a: &[Vector<i8, N>],
    b: &[Vector<i8, N>],
    y: &mut [Vector<i8, N>],
    of_a: Steps,
    of_b: Steps,
    to: Steps,
    alpha: f32,
    beta: f32,
    #[comptime] curve: Curve,
) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let (a, b) = (a[index], b[index]);
        let mut sums = Vector::<i8, N>::empty();
        #[unroll]
        for element in 0..a.vector_size() {
            let a = dequantized(a.extract(element), &of_a);
            let b = dequantized(b.extract(element), &of_b);
            let sum = activated(a + b, alpha, beta, curve);
            sums.insert(element, i8::cast_from(quantized(sum, &to)));
        }
        y[index] = sums;
        index += step;
    }
}

/// `y = quantize(activation(dequantize(a) + dequantize(b)))`, see [`crate::int8::quantized_sum`].
///
/// # Shapes
/// i8, all of the same number of elements.
///
/// # Panics
/// When a length differs.
pub fn quantized_sum(
    gpu: &Gpu,
    [(a, of_a), (b, of_b)]: [(&Buffer, Quantization); 2],
    activation: Activation,
    (y, to): (&Buffer, Quantization),
) {
    /// Elements that a unit adds at a time, where they are all in such pieces.
    const WIDE: usize = 4;
    let elements = y.len();
    let is_whole = elements.is_multiple_of(WIDE) && [a, b, y].iter().all(|x| x.is_aligned_to(WIDE));
    let wide = if is_whole { WIDE } else { 1 };
    let [a, b] = [("quantized_sum: a", a), ("quantized_sum: b", b)]
        .map(|(name, x)| x.argument::<i8>(name, elements));
    let y = y.argument::<i8>("quantized_sum: y", elements);
    if elements == 0 {
        return;
    }
    let (cubes, units) = gpu.spread(elements / wide);
    let (curve, [alpha, beta]) = Curve::of(activation);
    let [of_a, of_b, to] = [of_a, of_b, to].map(StepsLaunch::of);
    let client = &gpu.client;
    // SAFETY: the kernel stays below the length of y, which is also that of a and b.
    unsafe {
        sum_kernel::launch_unchecked(
            client, cubes, units, wide, a, b, y, of_a, of_b, to, alpha, beta, curve,
        );
    };
}
