//! Tensors made from numbers and places: ranges, one-hot vectors, triangles, diagonals.

use serde::{Deserialize, Serialize};

use super::movement::from_either_end;
use super::position::affordable;
use super::wide::{Wide, single};
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// `start`, `start + delta`, … before `limit`: `(start, limit, delta)`.
#[derive(Debug)]
pub(super) struct Range;

/// Most numbers of a range that are followed before a run.
const KNOWN_LIMIT: u64 = 64;

/// Number of numbers in an integer range.
fn whole_range(start: i64, limit: i64, delta: i64) -> Result<u64, String> {
    if delta == 0 {
        return Err("a range never ends with a delta of 0".to_owned());
    }
    let distance = i128::from(limit) - i128::from(start);
    let step = i128::from(delta);
    let count = (distance + step - step.signum()) / step;
    Ok(u64::try_from(count.max(0)).unwrap_or(u64::MAX))
}

impl Operator for Range {
    fn onnx_type(&self) -> &'static str {
        "Range"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [start, limit, delta] = exactly(inputs)?;
        if !matches!(start.dtype, DType::F32 | DType::I64 | DType::I32) {
            return Err(format!("expected numbers, found {start}"));
        }
        for other in [limit, delta] {
            other.expect(start.dtype)?;
        }
        let dim = match [start, limit, delta].map(|argument| argument.integers) {
            [
                Some([Integer::Known(start)]),
                Some([Integer::Known(limit)]),
                Some([Integer::Known(delta)]),
            ] => {
                let count = usize::try_from(whole_range(*start, *limit, *delta)?);
                Dim::Fixed(count.map_err(|_| "the range is too long")?)
            }
            // `0, 1, … n` of a named size has that size.
            [Some([Integer::Known(0)]), Some([limit]), Some([Integer::Known(1)])] => limit.dim()?,
            _ => Dim::Unknown,
        };
        Ok(ValueType { dtype: start.dtype, shape: vec![dim] })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [start, limit, delta] = exactly(inputs).ok()?;
        let one = |argument: Argument<'_>| match argument.integers? {
            [number] => number.known(),
            _ => None,
        };
        let (start, limit, delta) = (one(start)?, one(limit)?, one(delta)?);
        let count = whole_range(start, limit, delta).ok().filter(|&count| count <= KNOWN_LIMIT)?;
        Some((0..count as i64).map(|index| Integer::Known(start + index * delta)).collect())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [start, limit, delta] = exactly(inputs)?;
        let dtype = start.dtype();
        let too_long = |_| "the range is too long".to_owned();
        let numbers = [Wide::of(start)?, Wide::of(limit)?, Wide::of(delta)?];
        let (count, values) = match &numbers.each_ref().map(Wide::alone) {
            [Some(Wide::Real(start)), Some(Wide::Real(limit)), Some(Wide::Real(delta))] => {
                let (start, limit, delta) = (start[0], limit[0], delta[0]);
                let count = ((limit - start) / delta).ceil().max(0.0);
                if !count.is_finite() {
                    return Err(format!("{start} to {limit} by {delta} is no range"));
                }
                let count = affordable(&[count as usize])?;
                (count, Wide::Real((0..count).map(|index| start + index as f64 * delta).collect()))
            }
            [Some(Wide::Whole(start)), Some(Wide::Whole(limit)), Some(Wide::Whole(delta))] => {
                let (start, delta) = (start[0], delta[0]);
                let count =
                    usize::try_from(whole_range(start, limit[0], delta)?).map_err(too_long)?;
                let count = affordable(&[count])?;
                let number = |index: usize| start.wrapping_add(delta.wrapping_mul(index as i64));
                (count, Wide::Whole((0..count).map(number).collect()))
            }
            _ => return Err("expected three numbers of one type".to_owned()),
        };
        values.into_tensor(dtype, &[count])
    }
}

/// A new dimension with `on` at each index and `off` elsewhere: `(indices, depth, [off, on])`.
/// Negative indices count from the end; one that is outside is nowhere on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneHot {
    /// Where the new dimension stands in the output.
    pub axis: usize,
}

impl Operator for OneHot {
    fn onnx_type(&self) -> &'static str {
        "OneHot"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().axis(self.axis)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [indices, depth, values] = exactly(inputs)?;
        if indices.dtype == DType::Bool || depth.dtype == DType::Bool {
            return Err("expected numbers, found truth values".to_owned());
        }
        if self.axis > indices.shape.len() {
            return Err(format!("axis {} lies beyond the dimensions of {indices}", self.axis));
        }
        let mut shape = indices.shape.clone();
        let dim = match depth.integers {
            Some([depth]) => depth.dim()?,
            _ => Dim::Unknown,
        };
        shape.insert(self.axis, dim);
        Ok(ValueType { dtype: values.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [indices, depth, values] = exactly(inputs)?;
        let depth = match whole_or_cut(depth)?.as_slice() {
            &[depth] => usize::try_from(depth).map_err(|_| format!("depth {depth} is negative"))?,
            _ => return Err("expected one depth".to_owned()),
        };
        if values.len() != 2 {
            return Err(format!("expected two values, found {values:?}"));
        }
        let indices_shape = indices.shape();
        let indices = whole_or_cut(indices)?;
        let mut shape = indices_shape.to_vec();
        shape.insert(self.axis, depth);
        affordable(&shape)?;
        let inner: usize = indices_shape[self.axis..].iter().product();
        let source = |index: usize| {
            let (block, rest) = (index / (depth * inner), index % (depth * inner));
            let wanted = from_either_end(indices[block * inner + rest % inner], depth, 0);
            Some(usize::from(wanted == Ok(rest / inner)))
        };
        values.rearranged(&shape, None, source).map_err(|error| error.to_string())
    }
}

/// The elements as integers, fractions cut off.
fn whole_or_cut(tensor: &Tensor) -> Result<Vec<i64>, String> {
    Ok(match Wide::of(tensor)? {
        Wide::Real(values) => values.into_iter().map(|x| x as i64).collect(),
        Wide::Whole(values) => values,
    })
}

/// The places of all elements that are not 0, one column each: `[rank, count]` of `i64`.
#[derive(Debug)]
pub(super) struct NonZero;

impl Operator for NonZero {
    fn onnx_type(&self) -> &'static str {
        "NonZero"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        let shape = vec![Dim::Fixed(x.shape.len()), Dim::Unknown];
        Ok(ValueType { dtype: DType::I64, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let places: Vec<usize> = match Wide::of(x)? {
            Wide::Real(values) => (0..x.len()).filter(|&index| values[index] != 0.0).collect(),
            Wide::Whole(values) => (0..x.len()).filter(|&index| values[index] != 0).collect(),
        };
        let mut positions = Vec::new();
        for axis in 0..x.shape().len() {
            let stride: usize = x.shape()[axis + 1..].iter().product();
            positions.extend(places.iter().map(|place| (place / stride % x.shape()[axis]) as i64));
        }
        Tensor::new(&[x.shape().len(), places.len()], positions).map_err(|error| error.to_string())
    }
}

/// One triangle of each matrix, 0 elsewhere: `(x)`, or `(x, k)` with the diagonal's distance above
/// the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Triangle {
    /// Whether what is on and above the diagonal is kept, rather than on and below.
    pub upper: bool,
}

impl Operator for Triangle {
    fn onnx_type(&self) -> &'static str {
        "Trilu"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().attribute("upper", OnnxAttribute::Int(self.upper.into()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, rest @ ..] = inputs else { return Err("expected an input".to_owned()) };
        if let Some(k) = rest.first() {
            k.expect(DType::I64)?;
        }
        if rest.len() > 1 || x.shape.len() < 2 {
            return Err(format!("expected matrices and a diagonal, found {x}"));
        }
        Ok(x.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, rest @ ..] = inputs else { return Err("expected an input".to_owned()) };
        let diagonal = i128::from(rest.first().map_or(Ok(0), |k| single(k))?);
        let [.., rows, columns] = x.shape() else {
            return Err(format!("expected matrices, found {x:?}"));
        };
        let source = |index: usize| {
            let above = (index % columns) as i128 - (index / columns % rows) as i128 - diagonal;
            let kept = if self.upper { above >= 0 } else { above <= 0 };
            kept.then_some(index)
        };
        x.rearranged(x.shape(), None, source).map_err(|error| error.to_string())
    }
}

/// Ones on a diagonal of a matrix of the input's shape, 0 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EyeLike {
    /// Distance of the diagonal above the main one.
    pub diagonal: i64,
    /// Element type of the output.
    pub to: DType,
}

impl Operator for EyeLike {
    fn onnx_type(&self) -> &'static str {
        "EyeLike"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("k", OnnxAttribute::Int(self.diagonal))
            .attribute("dtype", OnnxAttribute::Type(self.to))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        if x.shape.len() != 2 {
            return Err(format!("expected a matrix, found {x}"));
        }
        Ok(ValueType { dtype: self.to, shape: x.shape.clone() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let &[rows, columns] = x.shape() else {
            return Err(format!("expected a matrix, found {x:?}"));
        };
        let on = |index: usize| {
            (index % columns) as i128 - (index / columns) as i128 == i128::from(self.diagonal)
        };
        let places = 0..rows * columns;
        let values = if self.to == DType::F32 {
            Wide::Real(places.map(|index| f64::from(u8::from(on(index)))).collect())
        } else {
            Wide::Whole(places.map(|index| on(index).into()).collect())
        };
        values.into_tensor(self.to, x.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range<T: crate::Element>(start: T, limit: T, delta: T) -> Result<Tensor, String> {
        let inputs = [start, limit, delta].map(Tensor::scalar);
        Range.evaluate(&inputs.each_ref(), &Bindings::default())
    }

    #[test]
    fn ranges_stop_before_their_limit() {
        assert_eq!(range(1i64, 8, 3).unwrap().elements::<i64>().unwrap(), [1, 4, 7]);
        assert_eq!(range(10i32, 4, -2).unwrap().elements::<i32>().unwrap(), [10, 8, 6]);
        assert_eq!(range(1f32, 1.5, 0.25).unwrap().elements::<f32>().unwrap(), [1.0, 1.25]);
        assert!(range(3i64, 1, 1).unwrap().is_empty());
    }

    #[test]
    fn endless_and_huge_ranges_are_refused() {
        assert!(range(0i64, 1, 0).is_err());
        assert!(range(i64::MIN, i64::MAX, 1).is_err());
        assert!(range(0f32, 1.0, 0.0).is_err());
        assert!(range(0f32, f32::MAX, 1.0).is_err());
    }

    #[test]
    fn an_index_outside_is_nowhere_on() {
        let indices = Tensor::new(&[3], vec![-1i64, 0, 7]).unwrap();
        let values = Tensor::new(&[2], vec![0u8, 1]).unwrap();
        let op = OneHot { axis: 1 };
        let depth = Tensor::scalar(2i64);
        let y = op.evaluate(&[&indices, &depth, &values], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<u8>().unwrap(), [0, 1, 1, 0, 0, 0]);
        let negative = Tensor::scalar(-2i64);
        assert!(op.evaluate(&[&indices, &negative, &values], &Bindings::default()).is_err());
    }

    #[test]
    fn the_diagonal_may_lie_beside_the_main_one() {
        let x = Tensor::from_fn(&[2, 3], |_| 0u8);
        let eye = EyeLike { diagonal: 1, to: DType::F32 };
        let y = eye.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
