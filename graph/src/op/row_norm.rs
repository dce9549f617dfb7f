//! Root-mean-square normalization, and the statistics of layer normalization.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType, dim};

/// `x / √(mean(x²) + epsilon) · scale` over the last dimension, inputs `(x, scale)` (Zhang &
/// Sennrich 2019, arXiv:1910.07467).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RmsNorm {
    /// Added to the mean of the squares, > 0.
    pub epsilon: f32,
}

/// What layer normalization of `x` over the dimensions from `axis` on divides by and subtracts,
/// inputs `(x, scale)`: the shape is that of x with those dimensions 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNormStatistic {
    /// First dimension that is normalized.
    pub axis: usize,
    /// Added to the variance, > 0.
    pub epsilon: f32,
    /// Which number.
    pub part: LayerNormPart,
}

/// A number that layer normalization uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerNormPart {
    /// The mean.
    Mean,
    /// `1 / √(variance + epsilon)`.
    InverseDeviation,
}

impl Operator for RmsNorm {
    fn onnx_type(&self) -> &'static str {
        "RMSNormalization"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("axis", OnnxAttribute::Int(-1))
            .attribute("epsilon", OnnxAttribute::Float(self.epsilon))
            .since(23)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, scale] = exactly(inputs)?;
        x.expect(DType::F32)?;
        scale.expect(DType::F32)?;
        let width = x.shape.last().ok_or("expected at least one dimension, found a scalar")?;
        if scale.shape.len() != 1 || !scale.shape[0].may_equal(width) {
            let found = dim::display(&scale.shape);
            return Err(format!("expected scale of shape [{width}], found {found}"));
        }
        Ok(x.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale] = exactly(inputs)?;
        if x.shape().last() != scale.shape().first() {
            return Err(format!("expected a scale for the rows of {x:?}, found {scale:?}"));
        }
        let scale = floats(scale)?;
        let mut output = Vec::with_capacity(x.len());
        for row in floats(x)?.chunks(scale.len().max(1)) {
            let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
            let root = (squares / row.len() as f64 + f64::from(self.epsilon)).sqrt();
            let scaled = row.iter().zip(scale);
            output.extend(scaled.map(|(&x, &s)| (f64::from(x) / root * f64::from(s)) as f32));
        }
        Tensor::new(x.shape(), output).map_err(|error| error.to_string())
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        4 * elements(output)
    }
}

impl Operator for LayerNormStatistic {
    fn onnx_type(&self) -> &'static str {
        "LayerNormalization"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .axis(self.axis)
            .attribute("epsilon", OnnxAttribute::Float(self.epsilon))
            .output(match self.part {
                LayerNormPart::Mean => 1,
                LayerNormPart::InverseDeviation => 2,
            })
            .of_outputs(1)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, _] = exactly(inputs)?;
        x.expect(DType::F32)?;
        let mut shape = x.shape.clone();
        let normalized = shape.get_mut(self.axis..).filter(|dims| !dims.is_empty());
        normalized
            .ok_or_else(|| format!("axis {} is not a dimension of {x}", self.axis))?
            .fill(Dim::Fixed(1));
        Ok(ValueType { dtype: DType::F32, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, _] = exactly(inputs)?;
        let values = floats(x)?;
        let mut shape = x.shape().to_vec();
        let normalized = shape.get_mut(self.axis..).ok_or("axis out of range")?;
        let width: usize = normalized.iter().product();
        normalized.fill(1);
        Ok(Tensor::from_fn(&shape, |index| {
            let row = values[index * width..][..width].iter().map(|&x| f64::from(x));
            let mean = row.clone().sum::<f64>() / width as f64;
            let variance = row.map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            match self.part {
                LayerNormPart::Mean => mean as f32,
                LayerNormPart::InverseDeviation => {
                    (1.0 / (variance + f64::from(self.epsilon)).sqrt()) as f32
                }
            }
        }))
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        4 * elements(&inputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_scaled_to_a_mean_square_of_one() {
        let x = Tensor::new(&[2, 2], vec![1f32, 7.0, -2.0, 14.0]).unwrap();
        let scale = Tensor::new(&[2], vec![1f32, 10.0]).unwrap();
        let norm = RmsNorm { epsilon: 0.0 };
        let y = norm.evaluate(&[&x, &scale], &Bindings::default()).unwrap();
        let expected = [0.2, 14.0, -0.2, 14.0];
        for (y, expected) in y.elements::<f32>().unwrap().iter().zip(expected) {
            assert!((y - expected).abs() < 1e-6, "{y} and {expected}");
        }
    }

    #[test]
    fn statistics_keep_the_rank() {
        let x = Tensor::new(&[2, 1, 2], vec![1f32, 3.0, 4.0, 4.0]).unwrap();
        let scale = Tensor::zeros(DType::F32, &[1, 2]);
        let statistic = |part| {
            let op = LayerNormStatistic { axis: 1, epsilon: 0.25, part };
            let y = op.evaluate(&[&x, &scale], &Bindings::default()).unwrap();
            assert_eq!(y.shape(), [2, 1, 1]);
            y.elements::<f32>().unwrap().to_vec()
        };
        assert_eq!(statistic(LayerNormPart::Mean), [2.0, 4.0]);
        let inverse = statistic(LayerNormPart::InverseDeviation);
        assert_eq!(inverse, [1.25f32.sqrt().recip(), 2.0]);
    }
}
