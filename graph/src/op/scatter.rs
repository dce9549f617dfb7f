//! Elements picked from, and written to, places that are given as values.

use serde::{Deserialize, Serialize};

use super::movement::{from_either_end, whole_numbers};
use super::position::{affordable, flat, position};
use super::{Argument, OnnxAttribute, OnnxForm, Operator, elements_of, exactly};
use crate::{Bindings, DType, Dim, Element, Tensor, ValueType};

/// The element of `data` for each index, which replaces the index's own position along `axis`:
/// `(data, indices)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatherElements {
    /// Dimension that the indices count along.
    pub axis: usize,
}

fn expect_indices(indices: &Argument<'_>) -> Result<(), String> {
    match indices.dtype {
        DType::I64 | DType::I32 => Ok(()),
        _ => Err(format!("expected integer indices, found {indices}")),
    }
}

/// Flat places in an array of `shape` that indices of shape `index_shape` name along `axis`.
fn places_along(axis: usize, indices: &Tensor, shape: &[usize]) -> Result<Vec<usize>, String> {
    let one = |(index, number): (usize, i64)| {
        let mut place = position(index, indices.shape());
        place[axis] = from_either_end(number, shape[axis], axis)?;
        if place.iter().zip(shape).any(|(place, size)| place >= size) {
            return Err(format!("indices of shape {:?} reach beyond {shape:?}", indices.shape()));
        }
        Ok(flat(&place, shape))
    };
    whole_numbers(indices)?.into_iter().enumerate().map(one).collect()
}

impl Operator for GatherElements {
    fn onnx_type(&self) -> &'static str {
        "GatherElements"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().axis(self.axis)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [data, indices] = exactly(inputs)?;
        expect_indices(&indices)?;
        if self.axis >= data.shape.len() || indices.shape.len() != data.shape.len() {
            return Err(format!("indices {indices} do not go along axis {} of {data}", self.axis));
        }
        Ok(ValueType { dtype: data.dtype, shape: indices.shape.clone() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [data, indices] = exactly(inputs)?;
        let places = places_along(self.axis, indices, data.shape())?;
        let y = data.rearranged(indices.shape(), None, |index| Some(places[index]));
        y.map_err(|error| error.to_string())
    }
}

/// Slices of `data`, each at the place that a row of indices names: `(data, indices)`, whose first
/// `batch_dims` dimensions are the same and go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GatherNd {
    /// Leading dimensions that data and indices share.
    pub batch_dims: usize,
}

/// Length of the rows of indices, which has to be known.
fn row_length(indices: &Argument<'_>) -> Result<usize, String> {
    expect_indices(indices)?;
    indices
        .shape
        .last()
        .and_then(Dim::fixed)
        .ok_or_else(|| format!("expected indices with a known last dimension, found {indices}"))
}

/// Flat place in an array of `shape` at which the slice of each row begins.
fn places_of_rows(
    batch_dims: usize,
    indices: &Tensor,
    shape: &[usize],
) -> Result<Vec<usize>, String> {
    let (&length, leading) = indices.shape().split_last().ok_or("expected rows of indices")?;
    let slice: usize = shape[batch_dims + length..].iter().product();
    let rows: usize = leading.iter().product();
    let rows_a_batch = leading[batch_dims..].iter().product::<usize>().max(1);
    let numbers = whole_numbers(indices)?;
    let one = |row: usize| {
        let mut place = row / rows_a_batch;
        for (offset, &number) in numbers[row * length..(row + 1) * length].iter().enumerate() {
            let axis = batch_dims + offset;
            place = place * shape[axis] + from_either_end(number, shape[axis], axis)?;
        }
        Ok(place * slice)
    };
    (0..rows).map(one).collect()
}

impl Operator for GatherNd {
    fn onnx_type(&self) -> &'static str {
        "GatherND"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().attribute("batch_dims", OnnxAttribute::Int(self.batch_dims as i64))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [data, indices] = exactly(inputs)?;
        let length = row_length(&indices)?;
        let kept = self.batch_dims.checked_add(length).and_then(|start| data.shape.get(start..));
        let (Some(kept), true) = (kept, self.batch_dims < indices.shape.len()) else {
            return Err(format!("indices {indices} have too long rows for {data}"));
        };
        let shared = indices.shape.iter().zip(&data.shape).take(self.batch_dims);
        if let Some((a, b)) = shared.clone().find(|(a, b)| !a.may_equal(b)) {
            return Err(format!("batch dimensions {a} and {b} differ"));
        }
        let shape = [&indices.shape[..indices.shape.len() - 1], kept].concat();
        Ok(ValueType { dtype: data.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [data, indices] = exactly(inputs)?;
        if indices.shape()[..self.batch_dims] != data.shape()[..self.batch_dims] {
            return Err("the batch dimensions of data and indices differ".to_owned());
        }
        let places = places_of_rows(self.batch_dims, indices, data.shape())?;
        let (length, leading) = indices.shape().split_last().ok_or("expected rows of indices")?;
        let kept = &data.shape()[self.batch_dims + length..];
        let slice: usize = kept.iter().product();
        let shape = [leading, kept].concat();
        affordable(&shape)?;
        let source = |index| Some(places[index / slice] + index % slice);
        data.rearranged(&shape, None, source).map_err(|error| error.to_string())
    }
}

/// What becomes of an element that is written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scattering {
    /// The update takes its place.
    #[default]
    Replace,
    /// The sum of both.
    Add,
    /// The product of both.
    Mul,
    /// The larger one.
    Max,
    /// The smaller one.
    Min,
}

impl Scattering {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Replace, "none"),
        (Self::Add, "add"),
        (Self::Mul, "mul"),
        (Self::Max, "max"),
        (Self::Min, "min"),
    ];

    /// The reduction of this ONNX name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    fn name(self) -> &'static str {
        let entry = Self::ALL.iter().find(|(kind, _)| *kind == self);
        entry.map_or("none", |(_, name)| name)
    }

    /// `data` after each run of `length` updates went to its place, one after another.
    fn apply(
        self,
        data: &Tensor,
        updates: &Tensor,
        places: &[usize],
        length: usize,
    ) -> Result<Tensor, String> {
        macro_rules! integers {
            ($type:ty) => {
                match self {
                    Self::Replace => write::<$type>(data, updates, places, length, |_, new| new),
                    Self::Add => {
                        write::<$type>(data, updates, places, length, <$type>::wrapping_add)
                    }
                    Self::Mul => {
                        write::<$type>(data, updates, places, length, <$type>::wrapping_mul)
                    }
                    Self::Max => write::<$type>(data, updates, places, length, Ord::max),
                    Self::Min => write::<$type>(data, updates, places, length, Ord::min),
                }
            };
        }
        match data.dtype() {
            DType::F32 => write::<f32>(data, updates, places, length, |old, new| match self {
                Self::Replace => new,
                Self::Add => old + new,
                Self::Mul => old * new,
                // A number that is none stays: the comparison is false.
                Self::Max => {
                    if old > new || old.is_nan() {
                        old
                    } else {
                        new
                    }
                }
                Self::Min => {
                    if old < new || old.is_nan() {
                        old
                    } else {
                        new
                    }
                }
            }),
            DType::I64 => integers!(i64),
            DType::I32 => integers!(i32),
            DType::I8 => integers!(i8),
            DType::U8 => integers!(u8),
            DType::Bool if self == Self::Replace => {
                write::<bool>(data, updates, places, length, |_, new| new)
            }
            DType::Bool => Err("expected numbers, found truth values".to_owned()),
        }
    }
}

fn write<T: Element>(
    data: &Tensor,
    updates: &Tensor,
    places: &[usize],
    length: usize,
    combine: impl Fn(T, T) -> T,
) -> Result<Tensor, String> {
    let mut elements = elements_of::<T>(data)?.to_vec();
    let updates = elements_of::<T>(updates)?;
    for (run, &place) in places.iter().enumerate() {
        for offset in 0..length {
            let element = &mut elements[place + offset];
            *element = combine(*element, updates[run * length + offset]);
        }
    }
    Tensor::new(data.shape(), elements).map_err(|error| error.to_string())
}

/// `data` with each update written where its index says, which replaces the update's own position
/// along `axis`: `(data, indices, updates)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScatterElements {
    /// Dimension that the indices count along.
    pub axis: usize,
    /// What becomes of what was there.
    pub reduction: Scattering,
}

impl Operator for ScatterElements {
    fn onnx_type(&self) -> &'static str {
        "ScatterElements"
    }

    fn onnx(&self) -> OnnxForm {
        let reduction = OnnxAttribute::Text(self.reduction.name());
        OnnxForm::default().axis(self.axis).attribute("reduction", reduction)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [data, indices, updates] = exactly(inputs)?;
        expect_indices(&indices)?;
        updates.expect(data.dtype)?;
        let rank = data.shape.len();
        if self.axis >= rank || indices.shape.len() != rank || updates.shape.len() != rank {
            let axis = self.axis;
            return Err(format!("{indices} and {updates} do not go along axis {axis} of {data}"));
        }
        Ok(data.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [data, indices, updates] = exactly(inputs)?;
        if indices.shape() != updates.shape() {
            return Err(format!("expected an update an index: {indices:?} and {updates:?}"));
        }
        let places = places_along(self.axis, indices, data.shape())?;
        self.reduction.apply(data, updates, &places, 1)
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        if self.reduction == Scattering::Replace {
            0
        } else {
            super::elementwise::elements(&inputs[1])
        }
    }
}

/// `data` with each slice of updates written at the place that a row of indices names:
/// `(data, indices, updates)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScatterNd {
    /// What becomes of what was there.
    pub reduction: Scattering,
}

impl Operator for ScatterNd {
    fn onnx_type(&self) -> &'static str {
        "ScatterND"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().attribute("reduction", OnnxAttribute::Text(self.reduction.name()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [data, indices, updates] = exactly(inputs)?;
        updates.expect(data.dtype)?;
        let length = row_length(&indices)?;
        let kept = data.shape.get(length..);
        let kept =
            kept.ok_or_else(|| format!("indices {indices} have too long rows for {data}"))?;
        if updates.shape.len() != indices.shape.len() - 1 + kept.len() {
            return Err(format!("updates {updates} do not go with {indices} and {data}"));
        }
        Ok(data.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [data, indices, updates] = exactly(inputs)?;
        let places = places_of_rows(0, indices, data.shape())?;
        let (length, leading) = indices.shape().split_last().ok_or("expected rows of indices")?;
        let kept = &data.shape()[*length..];
        if updates.shape() != [leading, kept].concat() {
            return Err(format!("expected an update a row: {indices:?} and {updates:?}"));
        }
        self.reduction.apply(data, updates, &places, kept.iter().product())
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        if self.reduction == Scattering::Replace {
            0
        } else {
            super::elementwise::elements(&inputs[2])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_of_one_place_follow_each_other() {
        let data = Tensor::new(&[3], vec![1i32, 2, 3]).unwrap();
        let indices = Tensor::new(&[3], vec![1i64, -2, 0]).unwrap();
        let updates = Tensor::new(&[3], vec![5i32, 7, 0]).unwrap();
        let check = |reduction, expected: [i32; 3]| {
            let inputs = [&data, &indices, &updates];
            let y = ScatterElements { axis: 0, reduction }.evaluate(&inputs, &Bindings::default());
            assert_eq!(y.unwrap().elements::<i32>().unwrap(), expected);
        };
        check(Scattering::Replace, [0, 7, 3]);
        check(Scattering::Add, [1, 14, 3]);
        check(Scattering::Mul, [0, 70, 3]);
        check(Scattering::Max, [1, 7, 3]);
        check(Scattering::Min, [0, 2, 3]);
    }

    #[test]
    fn rows_beyond_the_data_are_refused() {
        let data = Tensor::from_fn(&[2, 2], |index| index as u8);
        let gather = |indices: Vec<i64>| {
            let indices = Tensor::new(&[1, 2], indices).unwrap();
            GatherNd { batch_dims: 0 }.evaluate(&[&data, &indices], &Bindings::default())
        };
        assert_eq!(gather(vec![-1, 0]).unwrap().elements::<u8>().unwrap(), [2]);
        assert_eq!(gather(vec![0, 2]).unwrap_err(), "index 2 is outside dimension 1 of size 2");
        let far = Tensor::new(&[1, 3], vec![0i64, 0, 0]).unwrap();
        let updates = Tensor::from_fn(&[1, 3], |_| 0u8);
        let op = ScatterElements { axis: 0, reduction: Scattering::Replace };
        assert!(op.evaluate(&[&data, &far, &updates], &Bindings::default()).is_err());
    }
}
