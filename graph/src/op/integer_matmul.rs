//! Products of 8-bit matrices, and quantization whose scale follows from the values.

use serde::{Deserialize, Serialize};

use super::elementwise::{broadcast, broadcast_index, broadcast_sizes, elements};
use super::position::affordable;
use super::quantize::integers_of;
use super::{Argument, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Tensor, ValueType};

/// `(a − a_zero_point) · (b − b_zero_point)` in i32, inputs
/// `(a, b, a_zero_point, b_zero_point)`; each zero point broadcasts to its matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMulInteger;

impl Operator for MatMulInteger {
    fn onnx_type(&self) -> &'static str {
        "MatMulInteger"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [a, b, a_zero, b_zero] = exactly(inputs)?;
        for (matrix, zero) in [(a, a_zero), (b, b_zero)] {
            if !matches!(matrix.dtype, DType::I8 | DType::U8) {
                return Err(format!("expected 8-bit integers, found {matrix}"));
            }
            zero.expect(matrix.dtype)?;
            let whole = broadcast(&matrix.shape, &zero.shape)?;
            if whole.len() > matrix.shape.len() {
                return Err(format!("zero point {zero} does not broadcast to {matrix}"));
            }
        }
        let ([a_batch @ .., rows, a_inner], [b_batch @ .., b_inner, columns]) =
            (a.shape.as_slice(), b.shape.as_slice())
        else {
            return Err(format!("expected two matrices, found {a} and {b}"));
        };
        if !a_inner.may_equal(b_inner) {
            return Err(format!("inner dimensions of {a} and {b} differ"));
        }
        let mut shape = broadcast(a_batch, b_batch)?;
        shape.extend([rows.clone(), columns.clone()]);
        Ok(ValueType { dtype: DType::I32, shape })
    }

    /// Sums wrap around.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [a, b, a_zero, b_zero] = exactly(inputs)?;
        let (left, right) = (centred(a, a_zero)?, centred(b, b_zero)?);
        let ([a_batch @ .., rows, inner], [b_batch @ .., b_inner, columns]) =
            (a.shape(), b.shape())
        else {
            return Err("expected two matrices".to_owned());
        };
        if inner != b_inner {
            return Err(format!("inner dimensions of {a:?} and {b:?} differ"));
        }
        let batch = broadcast_sizes(a_batch, b_batch)?;
        let shape = [batch.as_slice(), &[*rows, *columns]].concat();
        affordable(&shape)?;
        Ok(Tensor::from_fn(&shape, |index| {
            let (matrix, row) = (index / (rows * columns), index / columns % rows);
            let a_start = (broadcast_index(matrix, &batch, a_batch) * rows + row) * inner;
            let b_start =
                broadcast_index(matrix, &batch, b_batch) * inner * columns + index % columns;
            (0..*inner)
                .map(|k| left[a_start + k] * right[b_start + k * columns])
                .fold(0, i32::wrapping_add)
        }))
    }

    fn flops(&self, inputs: &[Vec<usize>], output: &[usize]) -> u64 {
        2 * inputs[0].last().map_or(0, |&inner| inner as u64) * elements(output)
    }
}

/// The elements less their zero points.
fn centred(matrix: &Tensor, zero: &Tensor) -> Result<Vec<i32>, String> {
    let (values, zeros) = (integers_of(matrix)?, integers_of(zero)?);
    if broadcast_sizes(matrix.shape(), zero.shape())? != matrix.shape() {
        return Err(format!("zero point {zero:?} does not broadcast to {matrix:?}"));
    }
    let zero = |index| zeros[broadcast_index(index, matrix.shape(), zero.shape())];
    Ok(values.iter().enumerate().map(|(index, value)| value - zero(index)).collect())
}

/// What u8 quantization of all of x needs, so that its range and 0 are met: a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DynamicQuantization {
    /// `(max(x, 0) − min(x, 0)) / 255`, 1 / 255 when both are 0.
    Scale,
    /// `round_half_even(−min(x, 0) / scale)`.
    ZeroPoint,
}

impl Operator for DynamicQuantization {
    fn onnx_type(&self) -> &'static str {
        "DynamicQuantizeLinear"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().of_outputs(3).output(match self {
            Self::Scale => 1,
            Self::ZeroPoint => 2,
        })
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        x.expect(DType::F32)?;
        let dtype = match self {
            Self::Scale => DType::F32,
            Self::ZeroPoint => DType::U8,
        };
        Ok(ValueType { dtype, shape: Vec::new() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let values = floats(x)?.iter().copied();
        let (low, high) = (values.clone().fold(0f32, f32::min), values.fold(0f32, f32::max));
        let scale = if low == high { 1.0 } else { high - low } / 255.0;
        Ok(match self {
            Self::Scale => Tensor::scalar(scale),
            Self::ZeroPoint => {
                Tensor::scalar((-low / scale).clamp(0.0, 255.0).round_ties_even() as u8)
            }
        })
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        2 * elements(&inputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_points_may_go_by_row_and_column() {
        let a = Tensor::new(&[2, 2], vec![1u8, 2, 3, 4]).unwrap();
        let b = Tensor::new(&[2, 2], vec![5i8, 6, 7, 8]).unwrap();
        let rows = Tensor::new(&[2, 1], vec![1u8, 3]).unwrap();
        let columns = Tensor::new(&[2], vec![5i8, 8]).unwrap();
        let y = MatMulInteger.evaluate(&[&a, &b, &rows, &columns], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<i32>().unwrap(), [2, 0, 2, 0]);
    }

    #[test]
    fn nothing_but_zeros_still_has_a_scale() {
        let x = Tensor::zeros(DType::F32, &[0]);
        let part = |part: DynamicQuantization| part.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(part(DynamicQuantization::Scale), Tensor::scalar(1f32 / 255.0));
        assert_eq!(part(DynamicQuantization::ZeroPoint), Tensor::scalar(0u8));
    }
}
