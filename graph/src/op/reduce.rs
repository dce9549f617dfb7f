//! Reductions along axes.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Sum along `axis`, which is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReduceSum {
    /// Dimension to sum over, from the outermost.
    pub axis: usize,
}

impl Operator for ReduceSum {
    fn onnx_type(&self) -> &'static str {
        "ReduceSum"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("keepdims", OnnxAttribute::Int(0))
            .integers("axes", vec![self.axis as i64])
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        x.expect(DType::F32)?;
        let mut shape: Vec<Dim> = x.shape.clone();
        if self.axis >= shape.len() {
            return Err(format!("axis {} is not a dimension of {x}", self.axis));
        }
        shape.remove(self.axis);
        Ok(ValueType { dtype: DType::F32, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let values = floats(x)?;
        let size = x.shape()[self.axis];
        let inner: usize = x.shape()[self.axis + 1..].iter().product();
        let mut shape = x.shape().to_vec();
        shape.remove(self.axis);
        Ok(Tensor::from_fn(&shape, |index| {
            let start = index / inner * size * inner + index % inner;
            (0..size).map(|k| f64::from(values[start + k * inner])).sum::<f64>() as f32
        }))
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        elements(&inputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_middle_axis() {
        let x = Tensor::from_fn(&[2, 3, 2], |index| index as f32);
        let y = ReduceSum { axis: 1 }.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [2, 2]);
        assert_eq!(y.elements::<f32>().unwrap(), [6.0, 9.0, 24.0, 27.0]);
    }
}
