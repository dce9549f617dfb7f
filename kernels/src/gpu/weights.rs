//! Weights of linear layers, and filters, on a device.

use half::bf16;

use super::{Buffer, Gpu, matrix};

/// The weights of a layer on a device, in the layout that its product reads.
#[derive(Clone, Debug)]
pub struct Weights {
    pub(super) data: Buffer,
    pub(super) inner: usize,
    pub(super) columns: usize,
    pub(super) numbers: Numbers,
    /// Multiplied by matrix units, and therefore `[columns, inner]`; otherwise `[inner, columns]`.
    pub(super) on_matrix_units: bool,
}

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    F32,
    Bf16,
    Int8,
}

impl Weights {
    /// Weights as they are.
    ///
    /// # Shapes
    /// `weights`: `[inner, columns]`, row-major.
    ///
    /// # Panics
    /// When they have another length.
    pub fn f32(gpu: &Gpu, weights: &[f32], [inner, columns]: [usize; 2]) -> Self {
        check(weights, inner, columns);
        let (data, numbers) = (gpu.upload_floats(weights.iter().copied()), Numbers::F32);
        Self { data, inner, columns, numbers, on_matrix_units: false }
    }

    /// Weights rounded to bf16, halves to even. Layers round x to it as they read it; their sums
    /// are f32.
    ///
    /// # Shapes and panics
    /// As [`Weights::f32`].
    pub fn bf16(gpu: &Gpu, weights: &[f32], [inner, columns]: [usize; 2]) -> Self {
        Self::bf16_of_runs(gpu, weights, [inner, columns], inner)
    }

    /// Weights in bf16 of rows of which `run` elements lie one after another.
    fn bf16_of_runs(gpu: &Gpu, weights: &[f32], [inner, columns]: [usize; 2], run: usize) -> Self {
        check(weights, inner, columns);
        let rounded = |weight: f32| bf16::from_f32(weight).to_ne_bytes();
        let on_matrix_units = matrix::multiplies::<bf16, f32>(gpu, run);
        let bytes = match on_matrix_units {
            true => transposed(weights, columns).flat_map(rounded).collect::<Vec<u8>>(),
            false => weights.iter().copied().flat_map(rounded).collect(),
        };
        let (data, numbers) = (gpu.upload(&bytes), Numbers::Bf16);
        Self { data, inner, columns, numbers, on_matrix_units }
    }

    /// The filters of [`linear_of_windows`](super::linear_of_windows), as they are or rounded to bf16.
    ///
    /// # Shapes
    /// `filters`: `[outputs, channels, taps]`.
    ///
    /// # Panics
    /// When they have another length.
    pub fn filters(
        gpu: &Gpu,
        filters: &[f32],
        [outputs, channels, taps]: [usize; 3],
        in_bf16: bool,
    ) -> Self {
        check(filters, channels * taps, outputs);
        let weights: Vec<f32> = by_taps(filters, [outputs, channels, taps]).collect();
        let size = [channels * taps, outputs];
        match in_bf16 {
            false => Self::f32(gpu, &weights, size),
            true => Self::bf16_of_runs(gpu, &weights, size, channels),
        }
    }

    /// Weights in int8 with zero point 0.
    ///
    /// # Shapes and panics
    /// As [`Weights::f32`].
    pub fn int8(gpu: &Gpu, weights: &[i8], [inner, columns]: [usize; 2]) -> Self {
        Self::int8_of_runs(gpu, weights, [inner, columns], inner)
    }

    /// Weights in int8 of rows of which `run` elements lie one after another.
    fn int8_of_runs(gpu: &Gpu, weights: &[i8], [inner, columns]: [usize; 2], run: usize) -> Self {
        check(weights, inner, columns);
        let on_matrix_units = matrix::multiplies::<i8, i32>(gpu, run);
        let bytes: Vec<u8> = match on_matrix_units {
            true => transposed(weights, columns).map(i8::cast_unsigned).collect(),
            false => weights.iter().copied().map(i8::cast_unsigned).collect(),
        };
        let (data, numbers) = (gpu.upload(&bytes), Numbers::Int8);
        Self { data, inner, columns, numbers, on_matrix_units }
    }

    /// The filters of [`integer_linear_of_windows`](super::integer_linear_of_windows), with zero point 0.
    ///
    /// # Shapes and panics
    /// As [`Weights::filters`].
    pub fn integer_filters(
        gpu: &Gpu,
        filters: &[i8],
        [outputs, channels, taps]: [usize; 3],
    ) -> Self {
        check(filters, channels * taps, outputs);
        let weights: Vec<i8> = by_taps(filters, [outputs, channels, taps]).collect();
        Self::int8_of_runs(gpu, &weights, [channels * taps, outputs], channels)
    }

    /// Whether layers of these can read x in bf16.
    pub fn reads_bf16(&self) -> bool {
        self.on_matrix_units && self.numbers == Numbers::Bf16
    }

    /// Whether layers of these can write their result in bf16.
    pub const fn writes_bf16(&self) -> bool {
        self.on_matrix_units
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

fn check<T>(weights: &[T], inner: usize, columns: usize) {
    assert_eq!(weights.len(), inner * columns, "weights: expected {inner} rows of {columns}");
}

/// Filters `[outputs, channels, taps]` in the order `[taps, channels, outputs]`.
pub(super) fn by_taps<T: Copy>(
    filters: &[T],
    [outputs, channels, taps]: [usize; 3],
) -> impl Iterator<Item = T> {
    (0..filters.len()).map(move |place| {
        let (row, output) = (place / outputs, place % outputs);
        let (tap, channel) = (row / channels, row % channels);
        filters[(output * channels + channel) * taps + tap]
    })
}

/// The elements column by column.
fn transposed<T: Copy>(weights: &[T], columns: usize) -> impl Iterator<Item = T> {
    let column = move |first: usize| weights[first..].iter().step_by(columns).copied();
    (0..columns.min(weights.len())).flat_map(column)
}
