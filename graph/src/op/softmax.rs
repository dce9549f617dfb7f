//! What is computed along the last axis as softmax is.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Tensor, ValueType};

/// A relative of softmax along the last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SoftmaxRelative {
    /// `xᵢ − max − ln Σ exp(xⱼ − max)`
    LogSoftmax,
    /// 1 at the first of the largest elements, 0 elsewhere.
    Hardmax,
}

impl SoftmaxRelative {
    fn row(self, row: &[f32], output: &mut Vec<f32>) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        match self {
            Self::LogSoftmax => {
                let from_max = |x: f32| f64::from(x) - f64::from(max);
                let sum: f64 = row.iter().map(|&x| from_max(x).exp()).sum();
                output.extend(row.iter().map(|&x| (from_max(x) - sum.ln()) as f32));
            }
            Self::Hardmax => {
                let place = row.iter().position(|&x| x == max);
                output
                    .extend((0..row.len()).map(|index| f32::from(u8::from(Some(index) == place))));
            }
        }
    }
}

impl Operator for SoftmaxRelative {
    fn onnx_type(&self) -> &'static str {
        match self {
            Self::LogSoftmax => "LogSoftmax",
            Self::Hardmax => "Hardmax",
        }
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
            self.row(row, &mut output);
        }
        Tensor::new(x.shape(), output).map_err(|error| error.to_string())
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        5 * elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_independent_and_ties_go_to_the_first() {
        let x = Tensor::new(&[2, 3], vec![1f32, 3.0, 3.0, 1e9, 0.0, 0.0]).unwrap();
        let y = SoftmaxRelative::Hardmax.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        let y = SoftmaxRelative::LogSoftmax.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap()[3..], [0.0, -1e9, -1e9]);
    }
}
