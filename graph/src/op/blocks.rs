//! Quantization with a scale for each block of elements along one dimension.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::position::{flat, position};
use super::quantize::{integers_of, range};
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// As [`super::Quantize`] with a scale a block: `(x, scale, zero_point)`, where scale and zero point
/// have the shape of x but for `⌈size / block⌉` entries along `axis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizeBlocks {
    /// Dimension along which the blocks lie.
    pub axis: usize,
    /// Elements of a block, > 0; the last may have fewer.
    pub block: usize,
}

/// As [`super::Dequantize`] with a scale a block, as those of [`QuantizeBlocks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DequantizeBlocks {
    /// Dimension along which the blocks lie.
    pub axis: usize,
    /// Elements of a block, > 0; the last may have fewer.
    pub block: usize,
}

fn check(
    x: &ValueType,
    scale: &ValueType,
    zero_point: &ValueType,
    axis: usize,
    block: usize,
) -> Result<(), String> {
    scale.expect(DType::F32)?;
    let mut expected = x.shape.clone();
    let size = expected.get_mut(axis).filter(|_| block > 0);
    let size = size.ok_or_else(|| format!("no blocks of {block} along axis {axis} of {x}"))?;
    *size = size.fixed().map_or(Dim::Unknown, |size| Dim::Fixed(size.div_ceil(block)));
    for (name, parameter) in [("scale", scale), ("zero point", zero_point)] {
        let same = parameter.shape.len() == expected.len()
            && parameter.shape.iter().zip(&expected).all(|(found, dim)| found.may_equal(dim));
        if !same {
            let expected = crate::dim::display(&expected);
            return Err(format!("expected {name} of shape {expected}, found {parameter}"));
        }
    }
    Ok(())
}

/// Flat index of the scale for flat `index` of x.
fn block_index(index: usize, x: &[usize], scale: &[usize], axis: usize, block: usize) -> usize {
    let mut at = position(index, x);
    at[axis] /= block;
    flat(&at, scale)
}

/// Checks that there is a scale and a zero point for every element.
fn check_sizes(inputs: [&Tensor; 3], axis: usize, block: usize) -> Result<(), String> {
    let [x, scale, zero_point] = inputs
        .map(|input| ValueType { dtype: input.dtype(), shape: crate::dim::fixed(input.shape()) });
    check(&x, &scale, &zero_point, axis, block)
}

fn form(axis: usize, block: usize) -> OnnxForm {
    let block = OnnxAttribute::Int(block as i64);
    OnnxForm::default().axis(axis).attribute("block_size", block).since(21)
}

impl Operator for QuantizeBlocks {
    fn onnx_type(&self) -> &'static str {
        "QuantizeLinear"
    }

    fn onnx(&self) -> OnnxForm {
        form(self.axis, self.block)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, scale, zero_point] = exactly(inputs)?;
        x.expect(DType::F32)?;
        range(zero_point.dtype)?;
        check(&x, &scale, &zero_point, self.axis, self.block)?;
        Ok(ValueType { dtype: zero_point.dtype, shape: x.shape.clone() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, zero_point] = exactly(inputs)?;
        check_sizes([x, scale, zero_point], self.axis, self.block)?;
        let (values, scales, zeros) = (floats(x)?, floats(scale)?, integers_of(zero_point)?);
        let (low, high) = range(zero_point.dtype())?;
        let quantized = |index: usize| {
            let place = block_index(index, x.shape(), scale.shape(), self.axis, self.block);
            let steps = (values[index] / scales[place]).round_ties_even();
            (steps + zeros[place] as f32).clamp(low, high)
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

impl Operator for DequantizeBlocks {
    fn onnx_type(&self) -> &'static str {
        "DequantizeLinear"
    }

    fn onnx(&self) -> OnnxForm {
        form(self.axis, self.block)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, scale, zero_point] = exactly(inputs)?;
        x.expect(zero_point.dtype)?;
        range(x.dtype)?;
        check(&x, &scale, &zero_point, self.axis, self.block)?;
        Ok(ValueType { dtype: DType::F32, shape: x.shape.clone() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, zero_point] = exactly(inputs)?;
        check_sizes([x, scale, zero_point], self.axis, self.block)?;
        let (values, scales, zeros) = (integers_of(x)?, floats(scale)?, integers_of(zero_point)?);
        Ok(Tensor::from_fn(x.shape(), |index| {
            let place = block_index(index, x.shape(), scale.shape(), self.axis, self.block);
            (values[index] - zeros[place]) as f32 * scales[place]
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
    fn the_last_block_may_be_short() {
        let x = Tensor::new(&[2, 3], vec![2i8, 4, 6, 8, 10, 12]).unwrap();
        let scale = Tensor::new(&[2, 2], vec![0.5f32, 1.0, 2.0, 4.0]).unwrap();
        let zero = Tensor::new(&[2, 2], vec![0i8, 2, 0, 4]).unwrap();
        let evaluate = |block| {
            let op = DequantizeBlocks { axis: 1, block };
            op.evaluate(&[&x, &scale, &zero], &Bindings::default())
        };
        let y = evaluate(2).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [1.0, 2.0, 4.0, 16.0, 20.0, 32.0]);
        let op = QuantizeBlocks { axis: 1, block: 2 };
        assert_eq!(op.evaluate(&[&y, &scale, &zero], &Bindings::default()).unwrap(), x);
        assert!(evaluate(1).is_err());
        assert!(evaluate(0).is_err());
    }
}
