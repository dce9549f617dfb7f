//! Elements chosen by a condition or kept inside bounds.

use serde::{Deserialize, Serialize};

use super::elementwise::{broadcast, broadcast_index, broadcast_sizes, elements};
use super::position::affordable;
use super::wide::Wide;
use super::{Argument, Integer, OnnxForm, Operator, elements_of, exactly};
use crate::{Bindings, DType, Tensor, ValueType};

/// `a` where the condition holds, `b` elsewhere, all broadcast.
#[derive(Debug)]
pub(super) struct Where;

impl Operator for Where {
    fn onnx_type(&self) -> &'static str {
        "Where"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [condition, a, b] = exactly(inputs)?;
        condition.expect(DType::Bool)?;
        b.expect(a.dtype)?;
        let shape = broadcast(&condition.shape, &broadcast(&a.shape, &b.shape)?)?;
        Ok(ValueType { dtype: a.dtype, shape })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [condition, a, b] = exactly(inputs).ok()?;
        let holds: Vec<Integer> = match (condition.integers, condition.constant) {
            (Some(known), _) => known.to_vec(),
            (None, Some(constant)) if constant.shape().len() <= 1 => {
                let holds = constant.elements::<bool>().ok()?;
                holds.iter().map(|&holds| Integer::Known(holds.into())).collect()
            }
            _ => return None,
        };
        let (a, b) = (a.integers?, b.integers?);
        let lists = [holds.as_slice(), a, b];
        let length = lists.iter().map(|list| list.len()).find(|&length| length != 1).unwrap_or(1);
        let at = |list: &[Integer], index: usize| {
            list.get(if list.len() == 1 { 0 } else { index }).cloned()
        };
        let pick = |index| {
            Some(match at(&holds, index)?.known() {
                Some(0) => at(b, index)?,
                Some(_) => at(a, index)?,
                None => Integer::Unknown,
            })
        };
        (0..length).map(pick).collect()
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [condition, a, b] = exactly(inputs)?;
        let holds = elements_of::<bool>(condition)?;
        let shape = broadcast_sizes(condition.shape(), &broadcast_sizes(a.shape(), b.shape())?)?;
        if a.dtype() != b.dtype() {
            return Err(format!("expected one type, found {a:?} and {b:?}"));
        }
        let width = a.dtype().size_bytes();
        let mut bytes = Vec::new();
        for index in 0..affordable(&shape)? {
            let source =
                if holds[broadcast_index(index, &shape, condition.shape())] { a } else { b };
            let start = broadcast_index(index, &shape, source.shape()) * width;
            bytes.extend_from_slice(&source.bytes()[start..start + width]);
        }
        Tensor::from_bytes(a.dtype(), &shape, &bytes).map_err(|error| error.to_string())
    }
}

/// `min(max(x, low), high)`: `(x, low, high)` without the bounds that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// Whether there is a lower bound.
    pub low: bool,
    /// Whether there is an upper bound.
    pub high: bool,
}

impl Clip {
    /// The bounds among the inputs after `x`.
    fn bounds<T>(self, inputs: &[T]) -> Result<(&T, Option<&T>, Option<&T>), String> {
        match (self.low, self.high, inputs) {
            (false, false, [x]) => Ok((x, None, None)),
            (true, false, [x, low]) => Ok((x, Some(low), None)),
            (false, true, [x, high]) => Ok((x, None, Some(high))),
            (true, true, [x, low, high]) => Ok((x, Some(low), Some(high))),
            _ => Err(format!("unexpected number of inputs, {}", inputs.len())),
        }
    }
}

impl Operator for Clip {
    fn onnx_type(&self) -> &'static str {
        "Clip"
    }

    fn onnx(&self) -> OnnxForm {
        let form = OnnxForm::default();
        if self.high && !self.low { form.places(vec![0, 2]) } else { form }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let (x, low, high) = self.bounds(inputs)?;
        if x.dtype == DType::Bool {
            return Err(format!("expected numbers, found {x}"));
        }
        for bound in [low, high].into_iter().flatten() {
            bound.expect(x.dtype)?;
        }
        Ok(x.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        fn clip<T: Copy + PartialOrd>(x: Vec<T>, low: Option<T>, high: Option<T>) -> Vec<T> {
            let clip = |x: T| {
                let x = low.filter(|&low| x < low).unwrap_or(x);
                high.filter(|&high| x > high).unwrap_or(x)
            };
            x.into_iter().map(clip).collect()
        }
        let (x, low, high) = self.bounds(inputs)?;
        let bound = |bound: Option<&&Tensor>| bound.map(|bound| Wide::of(bound)).transpose();
        let (low, high) = (bound(low)?, bound(high)?);
        if [&low, &high].into_iter().flatten().any(|bound| bound.len() != 1) {
            return Err("expected bounds of one element".to_owned());
        }
        let values = match Wide::of(x)? {
            Wide::Real(values) => {
                let one = |bound: Option<Wide>| match bound {
                    Some(Wide::Real(bound)) => Some(bound[0]),
                    _ => None,
                };
                Wide::Real(clip(values, one(low), one(high)))
            }
            Wide::Whole(values) => {
                let one = |bound: Option<Wide>| match bound {
                    Some(Wide::Whole(bound)) => Some(bound[0]),
                    _ => None,
                };
                Wide::Whole(clip(values, one(low), one(high)))
            }
        };
        values.into_tensor(x.dtype(), x.shape())
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_broadcasts_all_three() {
        let condition = Tensor::new(&[2, 1], vec![true, false]).unwrap();
        let (a, b) = (Tensor::from_fn(&[3], |index| index as u8), Tensor::scalar(9u8));
        let y = Where.evaluate(&[&condition, &a, &b], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [2, 3]);
        assert_eq!(y.elements::<u8>().unwrap(), [0, 1, 2, 9, 9, 9]);
    }

    #[test]
    fn the_upper_bound_wins_over_the_lower() {
        let x = Tensor::new(&[2], vec![f32::NAN, 0.0]).unwrap();
        let (low, high) = (Tensor::scalar(2f32), Tensor::scalar(1f32));
        let clip = Clip { low: true, high: true };
        let y = clip.evaluate(&[&x, &low, &high], &Bindings::default()).unwrap();
        assert!(y.elements::<f32>().unwrap()[0].is_nan());
        assert_eq!(y.elements::<f32>().unwrap()[1], 1.0);
        let many = Tensor::new(&[2], vec![0f32, 1.0]).unwrap();
        assert!(clip.evaluate(&[&x, &many, &high], &Bindings::default()).is_err());
    }
}
