//! Dimensions of size 1 at places that are given as values.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::movement::{from_either_end, whole_numbers};
use super::{Argument, Operator, exactly};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Drops dimensions of size 1: `(x, axes)`. Axes below 0 count from the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqueezeBy {}

/// Adds dimensions of size 1: `(x, axes)`, where axes count in the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsqueezeBy {}

/// The length of a list of axes, which has to be known.
fn count(axes: &Argument<'_>) -> Result<usize, String> {
    axes.expect(DType::I64)?;
    match axes.shape.as_slice() {
        [] => Ok(1),
        [Dim::Fixed(count)] => Ok(*count),
        _ => Err(format!("expected a list of known length, found {axes}")),
    }
}

/// The places that `axes` name in `rank` dimensions, ascending.
fn places(axes: &Tensor, rank: usize) -> Result<BTreeSet<usize>, String> {
    let numbers = whole_numbers(axes)?;
    let place = |&axis: &i64| {
        from_either_end(axis, rank, 0).map_err(|_| format!("axis {axis} is not one of {rank}"))
    };
    let places: BTreeSet<usize> = numbers.iter().map(place).collect::<Result<_, _>>()?;
    if places.len() == numbers.len() {
        Ok(places)
    } else {
        Err(format!("expected axes that differ, found {numbers:?}"))
    }
}

impl Operator for SqueezeBy {
    fn onnx_type(&self) -> &'static str {
        "Squeeze"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, axes] = exactly(inputs)?;
        let rank = x.shape.len().checked_sub(count(&axes)?);
        let rank = rank.ok_or_else(|| format!("{axes} are more than the dimensions of {x}"))?;
        Ok(ValueType { dtype: x.dtype, shape: vec![Dim::Unknown; rank] })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, axes] = exactly(inputs)?;
        let places = places(axes, x.shape().len())?;
        let sizes = x.shape().iter().enumerate();
        let kept = sizes.filter(|(axis, _)| !places.contains(axis)).map(|(_, &size)| size);
        x.reshaped(&kept.collect::<Vec<_>>()).map_err(|error| error.to_string())
    }
}

impl Operator for UnsqueezeBy {
    fn onnx_type(&self) -> &'static str {
        "Unsqueeze"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, axes] = exactly(inputs)?;
        let shape = vec![Dim::Unknown; x.shape.len() + count(&axes)?];
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, axes] = exactly(inputs)?;
        let mut shape = x.shape().to_vec();
        for place in places(axes, x.shape().len() + axes.len())? {
            shape.insert(place, 1);
        }
        x.reshaped(&shape).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_come_and_go() {
        let x = Tensor::from_fn(&[2, 3], |index| index as u8);
        let axes = Tensor::new(&[2], vec![-1i64, 0]).unwrap();
        let y = UnsqueezeBy {}.evaluate(&[&x, &axes], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [1, 2, 3, 1]);
        assert_eq!(SqueezeBy {}.evaluate(&[&y, &axes], &Bindings::default()).unwrap(), x);
        let twice = Tensor::new(&[2], vec![-1i64, 3]).unwrap();
        assert!(UnsqueezeBy {}.evaluate(&[&x, &twice], &Bindings::default()).is_err());
        let wide = Tensor::new(&[1], vec![1i64]).unwrap();
        assert!(SqueezeBy {}.evaluate(&[&y, &wide], &Bindings::default()).is_err());
    }
}
