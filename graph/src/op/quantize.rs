//! Between real numbers and 8-bit integers, with the semantics of ONNX's QuantizeLinear and
//! DequantizeLinear. This is the one definition of quantization: the training walk imitates it and
//! the runtime executes it in integers.

use serde::{Deserialize, Serialize};

use super::depth_space::type_of;
use super::elementwise::elements;
use super::{Argument, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Tensor, ValueType, dim};

/// `saturate(round_half_even(x / scale) + zero_point)`, inputs `(x, scale, zero_point)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantize {
    /// Dimension that has one scale an entry; `None` for one scale in all.
    pub axis: Option<usize>,
}

/// `(x − zero_point) · scale`, inputs `(x, scale, zero_point)`; x may also be i32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dequantize {
    /// Dimension that has one scale an entry; `None` for one scale in all.
    pub axis: Option<usize>,
}

/// Least and greatest value of an 8-bit type.
pub(super) fn range(dtype: DType) -> Result<(f32, f32), String> {
    match dtype {
        DType::I8 => Ok((-128.0, 127.0)),
        DType::U8 => Ok((0.0, 255.0)),
        other => Err(format!("expected a zero point of type i8 or u8, found {other}")),
    }
}

fn check_parameters(
    x: &ValueType,
    scale: &ValueType,
    zero_point: &ValueType,
    axis: Option<usize>,
) -> Result<(), String> {
    scale.expect(DType::F32)?;
    let expected = match axis {
        None => vec![],
        Some(axis) if axis < x.shape.len() => vec![x.shape[axis].clone()],
        Some(axis) => return Err(format!("axis {axis} is not a dimension of {x}")),
    };
    for (name, parameter) in [("scale", scale), ("zero point", zero_point)] {
        let mut dims = parameter.shape.iter().zip(&expected);
        if parameter.shape.len() != expected.len() || !dims.all(|(a, b)| a.may_equal(b)) {
            let (expected, found) = (dim::display(&expected), dim::display(&parameter.shape));
            return Err(format!("expected {name} of shape {expected}, found {found}"));
        }
    }
    Ok(())
}

/// Index of the scale for flat `index` of `shape`.
fn channel(index: usize, shape: &[usize], axis: Option<usize>) -> usize {
    axis.map_or(0, |axis| index / shape[axis + 1..].iter().product::<usize>() % shape[axis])
}

/// Zero points, or any integers of up to 32 bits, as `i32`.
pub(super) fn integers_of(tensor: &Tensor) -> Result<Vec<i32>, String> {
    match tensor.dtype() {
        DType::I32 => tensor.elements::<i32>().map(<[_]>::to_vec),
        DType::U8 => tensor.elements::<u8>().map(|x| x.iter().map(|&x| i32::from(x)).collect()),
        _ => tensor.elements::<i8>().map(|x| x.iter().map(|&x| i32::from(x)).collect()),
    }
    .map_err(|error| error.to_string())
}

impl Operator for Quantize {
    fn onnx_type(&self) -> &'static str {
        "QuantizeLinear"
    }

    fn onnx(&self) -> OnnxForm {
        self.axis.map_or_else(OnnxForm::default, |axis| OnnxForm::default().axis(axis))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, scale, zero_point] = exactly(inputs)?;
        x.expect(DType::F32)?;
        range(zero_point.dtype)?;
        check_parameters(&x, &scale, &zero_point, self.axis)?;
        Ok(ValueType { dtype: zero_point.dtype, shape: x.shape.clone() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, zero_point] = exactly(inputs)?;
        check_parameters(&type_of(x), &type_of(scale), &type_of(zero_point), self.axis)?;
        let (values, scales, zeros) = (floats(x)?, floats(scale)?, integers_of(zero_point)?);
        let (low, high) = range(zero_point.dtype())?;
        let quantized = |index: usize| {
            let channel = channel(index, x.shape(), self.axis);
            let steps = (values[index] / scales[channel]).round_ties_even();
            (steps + zeros[channel] as f32).clamp(low, high)
        };
        Ok(match zero_point.dtype() {
            DType::U8 => Tensor::from_fn(x.shape(), |index| quantized(index) as u8),
            _ => Tensor::from_fn(x.shape(), |index| quantized(index) as i8),
        })
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        2 * elements(output)
    }
}

impl Operator for Dequantize {
    fn onnx_type(&self) -> &'static str {
        "DequantizeLinear"
    }

    fn onnx(&self) -> OnnxForm {
        self.axis.map_or_else(OnnxForm::default, |axis| OnnxForm::default().axis(axis))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, scale, zero_point] = exactly(inputs)?;
        x.expect(zero_point.dtype)?;
        if x.dtype != DType::I32 {
            range(x.dtype)?;
        }
        check_parameters(&x, &scale, &zero_point, self.axis)?;
        Ok(ValueType { dtype: DType::F32, shape: x.shape.clone() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, zero_point] = exactly(inputs)?;
        check_parameters(&type_of(x), &type_of(scale), &type_of(zero_point), self.axis)?;
        let (values, scales, zeros) = (integers_of(x)?, floats(scale)?, integers_of(zero_point)?);
        Ok(Tensor::from_fn(x.shape(), |index| {
            let channel = channel(index, x.shape(), self.axis);
            values[index].wrapping_sub(zeros[channel]) as f32 * scales[channel]
        }))
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_to_even_and_saturates() {
        let x = Tensor::new(&[6], vec![0.5f32, 1.5, -0.5, 2.6, 1e9, -1e9]).unwrap();
        let (scale, zero) = (Tensor::scalar(1f32), Tensor::scalar(0i8));
        let q = Quantize::default().evaluate(&[&x, &scale, &zero], &Bindings::default()).unwrap();
        assert_eq!(q.elements::<i8>().unwrap(), [0, 2, 0, 3, 127, -128]);
    }

    #[test]
    fn sums_of_products_are_dequantized_too() {
        let x = Tensor::new(&[2], vec![100_000i32, -3]).unwrap();
        let (scale, zero) = (Tensor::scalar(0.5f32), Tensor::scalar(0i32));
        let y = Dequantize::default().evaluate(&[&x, &scale, &zero], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [50_000.0, -1.5]);
    }

    #[test]
    fn scales_go_by_channel() {
        let x = Tensor::new(&[2, 2], vec![4i8, 4, -2, -2]).unwrap();
        let scale = Tensor::new(&[2], vec![0.5f32, 2.0]).unwrap();
        let zero = Tensor::new(&[2], vec![0i8, 1]).unwrap();
        let evaluate = |axis| {
            let op = Dequantize { axis: Some(axis) };
            let y = op.evaluate(&[&x, &scale, &zero], &Bindings::default()).unwrap();
            y.elements::<f32>().unwrap().to_vec()
        };
        assert_eq!(evaluate(0), [2.0, 2.0, -6.0, -6.0]);
        assert_eq!(evaluate(1), [2.0, 6.0, -1.0, -6.0]);
        let row = Tensor::new(&[1, 3], vec![4i8, 4, 4]).unwrap();
        let op = Dequantize { axis: Some(1) };
        let error = op.evaluate(&[&row, &scale, &zero], &Bindings::default()).unwrap_err();
        assert_eq!(error, "expected scale of shape [3], found [2]");
    }
}
