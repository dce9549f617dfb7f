//! Determinants.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::position::affordable;
use super::{Argument, Operator, exactly, floats};
use crate::{Bindings, DType, Tensor, ValueType};

/// Determinants of square matrices `[…, n, n]`, by elimination with the largest of a column as pivot
/// (Golub and Van Loan, Matrix Computations, section 3.4) in `f64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Determinant {}

/// The determinant of a matrix of `size` rows, which is used up.
fn determinant(matrix: &mut [f64], size: usize) -> f64 {
    let mut product = 1.0;
    for column in 0..size {
        let magnitude = |row: usize| matrix[row * size + column].abs();
        let pivot = (column..size).max_by(|&a, &b| magnitude(a).total_cmp(&magnitude(b)));
        let pivot = pivot.unwrap_or(column);
        if pivot != column {
            (0..size).for_each(|k| matrix.swap(pivot * size + k, column * size + k));
            product = -product;
        }
        let head = matrix[column * size + column];
        product *= head;
        if head == 0.0 {
            return 0.0;
        }
        for row in column + 1..size {
            let factor = matrix[row * size + column] / head;
            for k in column..size {
                matrix[row * size + k] -= factor * matrix[column * size + k];
            }
        }
    }
    product
}

impl Operator for Determinant {
    fn onnx_type(&self) -> &'static str {
        "Det"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        x.expect(DType::F32)?;
        match x.shape.as_slice() {
            [outer @ .., rows, columns] if rows.may_equal(columns) => {
                Ok(ValueType { dtype: DType::F32, shape: outer.to_vec() })
            }
            _ => Err(format!("expected square matrices, found {x}")),
        }
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let [outer @ .., rows, columns] = x.shape() else {
            return Err(format!("expected square matrices, found {x:?}"));
        };
        if rows != columns {
            return Err(format!("expected square matrices, found {x:?}"));
        }
        affordable(outer)?;
        let (values, size) = (floats(x)?, rows * columns);
        let of_matrix = |index: usize| {
            let matrix = &values[index * size..(index + 1) * size];
            let mut matrix: Vec<f64> = matrix.iter().map(|&x| f64::from(x)).collect();
            determinant(&mut matrix, *rows) as f32
        };
        Ok(Tensor::from_fn(outer, of_matrix))
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        let rows = inputs[0].last().copied().unwrap_or(1);
        elements(&inputs[0]) * rows as u64 * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_swapped_where_they_have_to_be() {
        let x = vec![0f32, 2.0, 3.0, 4.0, 1.0, 2.0, 2.0, 4.0];
        let x = Tensor::new(&[2, 2, 2], x).unwrap();
        let y = Determinant {}.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [-6.0, 0.0]);
        let x = Tensor::new(&[3, 3], vec![2f32, 0.0, 1.0, 1.0, 3.0, 2.0, 1.0, 1.0, 4.0]).unwrap();
        let y = Determinant {}.evaluate(&[&x], &Bindings::default()).unwrap();
        // 2·(12 − 2) + 1·(1 − 3)
        assert!((y.elements::<f32>().unwrap()[0] - 18.0).abs() < 1e-5);
        let empty = Tensor::zeros(DType::F32, &[1, 0, 0]);
        let y = Determinant {}.evaluate(&[&empty], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [1.0]);
    }
}
