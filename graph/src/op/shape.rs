//! Shapes as values, and shapes that are values: what models compute sizes with.

use serde::{Deserialize, Serialize};

use super::movement::whole_numbers;
use super::position::affordable;
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, DType, Dim, Shape, Tensor, ValueType, dim};

/// The sizes of the dimensions `start..end` as an `i64` list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeOf {
    /// First dimension.
    pub start: usize,
    /// Dimension after the last.
    pub end: usize,
}

impl Operator for ShapeOf {
    fn onnx_type(&self) -> &'static str {
        "Shape"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("start", OnnxAttribute::Int(self.start as i64))
            .attribute("end", OnnxAttribute::Int(self.end as i64))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        if self.start > self.end || self.end > x.shape.len() {
            return Err(format!("{}..{} are no dimensions of {x}", self.start, self.end));
        }
        Ok(ValueType { dtype: DType::I64, shape: dim::fixed(&[self.end - self.start]) })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        Some(x.shape.get(self.start..self.end)?.iter().map(Integer::from).collect())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let sizes = x.shape().get(self.start..self.end).ok_or("no such dimensions")?;
        Ok(Tensor::from_fn(&[sizes.len()], |index| sizes[index] as i64))
    }
}

/// The number of elements as an `i64` scalar.
#[derive(Debug)]
pub(super) struct SizeOf;

impl Operator for SizeOf {
    fn onnx_type(&self) -> &'static str {
        "Size"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [_] = exactly(inputs)?;
        Ok(ValueType { dtype: DType::I64, shape: Vec::new() })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        let sizes: Option<Vec<usize>> = x.shape.iter().map(Dim::fixed).collect();
        let elements = crate::weights::checked_elements(&sizes?)?;
        Some(vec![Integer::Known(elements as i64)])
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        Ok(Tensor::scalar(x.len() as i64))
    }
}

/// The input itself.
#[derive(Debug)]
pub(super) struct Identity;

impl Operator for Identity {
    fn onnx_type(&self) -> &'static str {
        "Identity"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        Ok(x.value_type.clone())
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        x.integers.map(<[_]>::to_vec)
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        Ok(x.clone())
    }
}

/// Another shape for the same elements, given as a value: `(x, shape)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReshapeTo {
    /// Whether 0 stands for an empty dimension; otherwise it copies the input's.
    pub allow_zero: bool,
}

impl ReshapeTo {
    /// The sizes asked for, with 0 and −1 resolved against the input's shape where that is known.
    fn target(&self, input: &[Dim], sizes: &[Integer]) -> Result<Shape, String> {
        let mut shape = Shape::new();
        let mut rest = None;
        for (position, size) in sizes.iter().enumerate() {
            shape.push(match size {
                Integer::Known(-1) if rest.is_none() => {
                    rest = Some(position);
                    Dim::Unknown
                }
                Integer::Known(0) if !self.allow_zero => input
                    .get(position)
                    .cloned()
                    .ok_or_else(|| format!("size 0 at {position} has no dimension to copy"))?,
                size => size.dim()?,
            });
        }
        if let Some(position) = rest {
            let others = [&shape[..position], &shape[position + 1..]].concat();
            shape[position] = quotient(input, &others)?;
        }
        Ok(shape)
    }
}

/// The dimension that `others` lack to have as many elements as `input`.
fn quotient(input: &[Dim], others: &[Dim]) -> Result<Dim, String> {
    let mut symbols: Vec<&Dim> = input.iter().filter(|dim| dim.fixed().is_none()).collect();
    for other in others.iter().filter(|dim| dim.fixed().is_none()) {
        match symbols.iter().position(|&dim| dim == other && !dim.is_unknown()) {
            Some(place) => drop(symbols.swap_remove(place)),
            None => return Ok(Dim::Unknown),
        }
    }
    let product =
        |dims: &[Dim]| dims.iter().filter_map(Dim::fixed).try_fold(1usize, usize::checked_mul);
    let (Some(all), Some(taken)) = (product(input), product(others)) else {
        return Err("the sizes are too large".to_owned());
    };
    match symbols.as_slice() {
        [] if taken > 0 && all.is_multiple_of(taken) => Ok(Dim::Fixed(all / taken)),
        [] => Err(format!("{} does not divide into {}", dim::display(input), dim::display(others))),
        [symbol] if taken == all && taken > 0 => Ok((*symbol).clone()),
        _ => Ok(Dim::Unknown),
    }
}

impl Operator for ReshapeTo {
    fn onnx_type(&self) -> &'static str {
        "Reshape"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().attribute("allowzero", OnnxAttribute::Int(self.allow_zero.into()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, sizes] = exactly(inputs)?;
        sizes.expect(DType::I64)?;
        let shape = match (sizes.integers, sizes.shape.as_slice()) {
            (Some(numbers), _) => self.target(&x.shape, numbers)?,
            (None, [Dim::Fixed(rank)]) => vec![Dim::Unknown; *rank],
            _ => return Err(format!("expected a list of known length, found {sizes}")),
        };
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x, sizes] = exactly(inputs).ok()?;
        (sizes.integers?.len() <= 1).then(|| x.integers.map(<[_]>::to_vec))?
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, sizes] = exactly(inputs)?;
        let sizes: Vec<Integer> = whole_numbers(sizes)?.into_iter().map(Integer::Known).collect();
        let shape = self.target(&dim::fixed(x.shape()), &sizes)?;
        let shape = Bindings::default().sizes(&shape)?;
        x.reshaped(&shape).map_err(|error| error.to_string())
    }
}

/// Drops dimensions of size 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Squeeze {
    /// Dimensions to drop, ascending.
    pub axes: Vec<usize>,
}

impl Operator for Squeeze {
    fn onnx_type(&self) -> &'static str {
        "Squeeze"
    }

    fn onnx(&self) -> OnnxForm {
        let axes = self.axes.iter().map(|&axis| axis as i64).collect();
        OnnxForm::default().integers("axes", axes)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        let mut shape = x.shape.clone();
        for &axis in self.axes.iter().rev() {
            if !shape.get(axis).is_some_and(|dim| dim.may_equal(&Dim::Fixed(1))) {
                return Err(format!("expected dimension {axis} of {x} to have size 1"));
            }
            shape.remove(axis);
        }
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        x.integers.map(<[_]>::to_vec)
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let kept = x.shape().iter().enumerate().filter(|(axis, _)| !self.axes.contains(axis));
        let shape: Vec<usize> = kept.map(|(_, &size)| size).collect();
        x.reshaped(&shape).map_err(|error| error.to_string())
    }
}

/// Inputs one after another along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concat {
    /// The dimension that grows.
    pub axis: usize,
}

impl Operator for Concat {
    fn onnx_type(&self) -> &'static str {
        "Concat"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().axis(self.axis)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [first, rest @ ..] = inputs else { return Err("expected an input".to_owned()) };
        let mut shape = first.shape.clone();
        if self.axis >= shape.len() {
            return Err(format!("axis {} is not a dimension of {first}", self.axis));
        }
        for part in rest {
            part.expect(first.dtype)?;
            let fits = part.shape.len() == shape.len()
                && part
                    .shape
                    .iter()
                    .zip(&shape)
                    .enumerate()
                    .all(|(axis, (part, dim))| axis == self.axis || part.may_equal(dim));
            if !fits {
                return Err(format!("{part} does not go with {first} along axis {}", self.axis));
            }
            shape[self.axis] = match (&shape[self.axis], &part.shape[self.axis]) {
                (Dim::Fixed(a), Dim::Fixed(b)) => {
                    Dim::Fixed(a.checked_add(*b).ok_or("the sizes are too large")?)
                }
                (dim, Dim::Fixed(0)) => dim.clone(),
                _ => Dim::Unknown,
            };
        }
        Ok(ValueType { dtype: first.dtype, shape })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let parts: Option<Vec<&[Integer]>> = inputs.iter().map(|part| part.integers).collect();
        Some(parts?.concat())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [first, ..] = inputs else { return Err("expected an input".to_owned()) };
        let mut shape = first.shape().to_vec();
        shape[self.axis] = inputs.iter().map(|part| part.shape()[self.axis]).sum();
        affordable(&shape)?;
        let outer: usize = shape[..self.axis].iter().product();
        let inner: usize = shape[self.axis + 1..].iter().product();
        let width = first.dtype().size_bytes();
        let mut bytes = Vec::new();
        for block in 0..outer {
            for part in inputs {
                let length = part.shape()[self.axis] * inner * width;
                let part = part.bytes().get(block * length..(block + 1) * length);
                bytes.extend_from_slice(part.ok_or("the parts' other dimensions differ")?);
            }
        }
        Tensor::from_bytes(first.dtype(), &shape, &bytes).map_err(|error| error.to_string())
    }
}
