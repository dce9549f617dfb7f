//! Repetition: the same elements more often.

use serde::{Deserialize, Serialize};

use super::elementwise::{broadcast, broadcast_index, broadcast_sizes};
use super::movement::whole_numbers;
use super::position::{affordable, flat, position};
use super::{Argument, Integer, Operator, exactly};
use crate::{Bindings, DType, Dim, Shape, Tensor, ValueType};

/// `x` broadcast with a shape that is given as a value: `(x, shape)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expand {}

/// The length of a list, which has to be known.
fn list_length(list: &Argument<'_>) -> Result<usize, String> {
    list.expect(DType::I64)?;
    match list.shape.as_slice() {
        [Dim::Fixed(length)] => Ok(*length),
        _ => Err(format!("expected a list of known length, found {list}")),
    }
}

impl Operator for Expand {
    fn onnx_type(&self) -> &'static str {
        "Expand"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, sizes] = exactly(inputs)?;
        let length = list_length(&sizes)?;
        let asked: Shape = match sizes.integers {
            Some(numbers) => numbers.iter().map(Integer::dim).collect::<Result<_, _>>()?,
            None => vec![Dim::Unknown; length],
        };
        Ok(ValueType { dtype: x.dtype, shape: broadcast(&x.shape, &asked)? })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x, sizes] = exactly(inputs).ok()?;
        let numbers = x.integers?;
        match (numbers, sizes.integers?) {
            (numbers, [] | [Integer::Known(1)]) => Some(numbers.to_vec()),
            ([number], [Integer::Known(length @ 0..=64)]) => {
                Some(vec![number.clone(); *length as usize])
            }
            (numbers, [Integer::Known(length)]) if *length == numbers.len() as i64 => {
                Some(numbers.to_vec())
            }
            _ => None,
        }
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, sizes] = exactly(inputs)?;
        let asked = whole_numbers(sizes)?;
        let asked: Result<Vec<usize>, _> = asked.into_iter().map(usize::try_from).collect();
        let asked = asked.map_err(|_| "expected sizes of at least 0".to_owned())?;
        let shape = broadcast_sizes(x.shape(), &asked)?;
        let source = |index| Some(broadcast_index(index, &shape, x.shape()));
        x.rearranged(&shape, None, source).map_err(|error| error.to_string())
    }
}

/// `x` one copy after another along each dimension: `(x, repeats)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {}

impl Operator for Tile {
    fn onnx_type(&self) -> &'static str {
        "Tile"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, repeats] = exactly(inputs)?;
        if list_length(&repeats)? != x.shape.len() {
            return Err(format!("expected one number for each dimension of {x}, found {repeats}"));
        }
        let unknown = vec![Integer::Unknown; x.shape.len()];
        let repeats = repeats.integers.unwrap_or(&unknown);
        let repeat = |(dim, repeat): (&Dim, &Integer)| match (dim, repeat) {
            (dim, Integer::Known(1)) => Ok(dim.clone()),
            (_, Integer::Known(count @ ..=-1)) => {
                Err(format!("expected counts of at least 0, found {count}"))
            }
            (Dim::Fixed(1), count) => count.dim(),
            (Dim::Fixed(size), Integer::Known(count)) => {
                let size = size.checked_mul(*count as usize);
                size.map(Dim::Fixed).ok_or_else(|| "the sizes are too large".to_owned())
            }
            _ => Ok(Dim::Unknown),
        };
        let shape = x.shape.iter().zip(repeats).map(repeat).collect::<Result<_, String>>()?;
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, repeats] = exactly(inputs)?;
        let repeats = whole_numbers(repeats)?;
        if repeats.len() != x.shape().len() {
            return Err(format!("expected {} counts, found {repeats:?}", x.shape().len()));
        }
        let repeat =
            |(&size, &count): (&usize, &i64)| usize::try_from(count).ok()?.checked_mul(size);
        let shape: Option<Vec<usize>> = x.shape().iter().zip(&repeats).map(repeat).collect();
        let shape = shape.ok_or_else(|| format!("cannot repeat {repeats:?} times"))?;
        affordable(&shape)?;
        let source = |index| {
            let mut place = position(index, &shape);
            place.iter_mut().zip(x.shape()).for_each(|(place, size)| *place %= size);
            Some(flat(&place, x.shape()))
        };
        x.rearranged(&shape, None, source).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_sizes_are_refused_before_anything_is_allocated() {
        let x = Tensor::from_fn(&[1, 1], |_| 0u8);
        for sizes in [[i64::MAX, i64::MAX], [1 << 30, 1 << 30], [-1, 2]] {
            let sizes = Tensor::new(&[2], sizes.to_vec()).unwrap();
            assert!(Tile {}.evaluate(&[&x, &sizes], &Bindings::default()).is_err());
            assert!(Expand {}.evaluate(&[&x, &sizes], &Bindings::default()).is_err());
        }
    }

    #[test]
    fn tiles_stand_side_by_side() {
        let x = Tensor::new(&[1, 2], vec![true, false]).unwrap();
        let repeats = Tensor::new(&[2], vec![2i64, 2]).unwrap();
        let y = Tile {}.evaluate(&[&x, &repeats], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [2, 4]);
        assert_eq!(y.elements::<bool>().unwrap()[..4], [true, false, true, false]);
    }
}
