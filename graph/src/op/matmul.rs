//! Matrix product.

use super::elementwise::{broadcast, broadcast_index, broadcast_sizes, elements};
use super::position::affordable;
use super::{Argument, Operator, exactly, floats};
use crate::{Bindings, DType, Tensor, ValueType, dim};

/// `a · b` over the last two dimensions; leading dimensions broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMul;

impl Operator for MatMul {
    fn onnx_type(&self) -> &'static str {
        "MatMul"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [a, b] = exactly(inputs)?;
        a.expect(DType::F32)?;
        b.expect(DType::F32)?;
        let ([a_batch @ .., rows, a_inner], [b_batch @ .., b_inner, columns]) =
            (a.shape.as_slice(), b.shape.as_slice())
        else {
            return Err(format!("expected two matrices, found {a} and {b}"));
        };
        if !a_inner.may_equal(b_inner) {
            let (a, b) = (dim::display(&a.shape), dim::display(&b.shape));
            let bind = dim::how_to_bind(a_inner, b_inner);
            return Err(format!(
                "inner dimensions of {a} and {b} differ: {a_inner} and {b_inner}{bind}"
            ));
        }
        let mut shape = broadcast(a_batch, b_batch)?;
        shape.extend([rows.clone(), columns.clone()]);
        Ok(ValueType { dtype: DType::F32, shape })
    }

    /// Sums in `f64`, in order of the inner index.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [a, b] = exactly(inputs)?;
        let (left, right) = (floats(a)?, floats(b)?);
        let ([a_batch @ .., rows, inner], [b_batch @ .., b_inner, columns]) =
            (a.shape(), b.shape())
        else {
            return Err("expected two matrices".to_owned());
        };
        if inner != b_inner {
            return Err(format!("inner dimensions of {:?} and {:?} differ", a.shape(), b.shape()));
        }
        let batch = broadcast_sizes(a_batch, b_batch)?;
        let shape = [batch.as_slice(), &[*rows, *columns]].concat();
        affordable(&shape)?;
        let (mut output, mut sums) = (Vec::with_capacity(elements(&shape) as usize), Vec::new());
        for (matrix, row) in
            (0..batch.iter().product()).flat_map(|matrix| (0..*rows).map(move |row| (matrix, row)))
        {
            let a_start = (broadcast_index(matrix, &batch, a_batch) * rows + row) * inner;
            let b_start = broadcast_index(matrix, &batch, b_batch) * inner * columns;
            sums.clear();
            sums.resize(*columns, 0f64);
            for (k, &a) in left[a_start..][..*inner].iter().enumerate() {
                let b = &right[b_start + k * columns..][..*columns];
                sums.iter_mut().zip(b).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
            }
            output.extend(sums.iter().map(|&sum| sum as f32));
        }
        Tensor::new(&shape, output).map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], output: &[usize]) -> u64 {
        let inner = inputs[0].last().map_or(0, |&inner| inner as u64);
        2 * inner * elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_that_no_machine_holds_is_refused() {
        let column = Tensor::from_fn(&[1 << 17, 1], |_| 0f32);
        let row = column.reshaped(&[1, 1 << 17]).unwrap();
        let product = MatMul.evaluate(&[&column, &row], &Bindings::default());
        assert!(product.unwrap_err().contains("expected at most"));
    }

    #[test]
    fn leading_dimensions_broadcast() {
        let a = Tensor::from_fn(&[2, 1, 1, 2], |index| index as f32);
        let b = Tensor::from_fn(&[3, 2, 1], |index| index as f32);
        let product = MatMul.evaluate(&[&a, &b], &Bindings::default()).unwrap();
        assert_eq!(product.shape(), [2, 3, 1, 1]);
        assert_eq!(product.elements::<f32>().unwrap(), [1.0, 3.0, 5.0, 3.0, 13.0, 23.0]);
    }
}
