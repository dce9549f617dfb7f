//! Softmax and layer normalization.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Tensor, ValueType, dim};

/// `exp(xᵢ − max) / Σ exp(xⱼ − max)` along the last axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Softmax {}

impl Operator for Softmax {
    fn onnx_type(&self) -> &'static str {
        "Softmax"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().attribute("axis", OnnxAttribute::Int(-1))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        x.expect(DType::F32)?;
        if x.shape.is_empty() {
            return Err("expected at least one dimension, found a scalar".to_owned());
        }
        Ok(x.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let columns = *x.shape().last().ok_or("expected at least one dimension")?;
        let mut output = Vec::with_capacity(x.len());
        for row in floats(x)?.chunks(columns.max(1)) {
            let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let exponentials = row.iter().map(|&x| (f64::from(x) - max).exp());
            let sum: f64 = exponentials.clone().sum();
            output.extend(exponentials.map(|value| (value / sum) as f32));
        }
        Tensor::new(x.shape(), output).map_err(|error| error.to_string())
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        5 * elements(output)
    }
}

/// `(x − mean) / √(variance + epsilon) · scale + bias` over the last dimension (Ba et al. 2016,
/// arXiv:1607.06450); the variance is the population's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNorm {
    /// Added to the variance, > 0.
    pub epsilon: f32,
}

impl Operator for LayerNorm {
    fn onnx_type(&self) -> &'static str {
        "LayerNormalization"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("axis", OnnxAttribute::Int(-1))
            .attribute("epsilon", OnnxAttribute::Float(self.epsilon))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, scale, bias] = exactly(inputs)?;
        for input in [x, scale, bias] {
            input.expect(DType::F32)?;
        }
        let width = x.shape.last().ok_or("expected at least one dimension, found a scalar")?;
        for (name, parameter) in [("scale", scale), ("bias", bias)] {
            if parameter.shape.len() != 1 || !parameter.shape[0].may_equal(width) {
                let found = dim::display(&parameter.shape);
                return Err(format!("expected {name} of shape [{width}], found {found}"));
            }
        }
        Ok(x.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, bias] = exactly(inputs)?;
        if [scale, bias].iter().any(|parameter| x.shape().last() != parameter.shape().first()) {
            return Err(format!("expected a scale and a bias for the rows of {x:?}"));
        }
        let (scale, bias) = (floats(scale)?, floats(bias)?);
        let width = scale.len();
        let mut output = Vec::with_capacity(x.len());
        for row in floats(x)?.chunks(width.max(1)) {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
            let squares = row.iter().map(|&x| (f64::from(x) - mean).powi(2));
            let deviation = (squares.sum::<f64>() / width as f64 + f64::from(self.epsilon)).sqrt();
            output.extend(row.iter().zip(scale).zip(bias).map(|((&x, &scale), &bias)| {
                ((f64::from(x) - mean) / deviation * f64::from(scale) + f64::from(bias)) as f32
            }));
        }
        Tensor::new(x.shape(), output).map_err(|error| error.to_string())
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        8 * elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_rows_sum_to_one_and_survive_large_values() {
        let x = Tensor::new(&[2, 2], vec![1e9f32, 1e9, 0.0, 3f32.ln()]).unwrap();
        let y = Softmax {}.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [0.5, 0.5, 0.25, 0.75]);
    }

    #[test]
    fn layer_norm_centres_and_scales() {
        let x = Tensor::new(&[1, 4], vec![1f32, 3.0, 5.0, 7.0]).unwrap();
        let scale = Tensor::new(&[4], vec![1f32, 1.0, 1.0, 2.0]).unwrap();
        let bias = Tensor::new(&[4], vec![0f32, 0.0, 0.0, 1.0]).unwrap();
        let norm = LayerNorm { epsilon: 1e-12 };
        let y = norm.evaluate(&[&x, &scale, &bias], &Bindings::default()).unwrap();
        let root = 5f32.sqrt();
        let expected = [-3.0 / root, -1.0 / root, 1.0 / root, 6.0 / root + 1.0];
        for (y, expected) in y.elements::<f32>().unwrap().iter().zip(expected) {
            assert!((y - expected).abs() < 1e-6);
        }
    }
}
