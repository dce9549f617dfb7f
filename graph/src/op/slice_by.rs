//! Ranges along dimensions that are given as values.

use serde::{Deserialize, Serialize};

use super::movement::{from_either_end, whole_numbers};
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Ranges given as values: `(x, starts, ends, axes, steps)`, integer lists of one length. Numbers
/// below 0 count from the end, and ranges are cut to the dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceBy {}

/// The entries `start`, `start + step`, … of a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// The first.
    pub start: usize,
    /// From one to the next.
    pub step: i64,
    /// How many there are.
    pub length: usize,
}

impl Entries {
    /// The entries of a dimension of `size`, as ONNX's Slice cuts them.
    ///
    /// # Errors
    ///
    /// When the step is 0.
    pub fn new(size: usize, start: i64, end: i64, step: i64) -> Result<Self, String> {
        let size = i64::try_from(size).map_err(|_| "the sizes are too large".to_owned())?;
        let place = |number: i64| if number < 0 { number.saturating_add(size) } else { number };
        let (start, span) = match step {
            0 => return Err("expected a step other than 0".to_owned()),
            1.. => {
                let start = place(start).clamp(0, size);
                (start, place(end).clamp(0, size) - start)
            }
            _ => {
                let start = place(start).min(size - 1).max(0);
                (start, start - place(end).min(size - 1).max(-1))
            }
        };
        let span = if size == 0 { 0 } else { span.max(0) as u64 };
        let length = span.div_ceil(step.unsigned_abs()) as usize;
        Ok(Self { start: start as usize, step, length })
    }

    fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.length as i64).map(move |index| (self.start as i64 + index * self.step) as usize)
    }
}

impl SliceBy {
    /// Size of a dimension that is cut.
    fn dim(size: &Dim, [start, end, step]: [&Integer; 3]) -> Result<Dim, String> {
        // "To the end" is written as a very large number.
        const FAR: i64 = i32::MAX as i64;
        match (size, start.known(), end, step.known()) {
            (Dim::Fixed(size), Some(start), Integer::Known(end), Some(step)) => {
                Ok(Dim::Fixed(Entries::new(*size, start, *end, step)?.length))
            }
            (size, Some(0), Integer::Known(FAR..), Some(1)) => Ok(size.clone()),
            (Dim::Symbol(size), Some(0), Integer::Symbol(end), Some(1)) if size == end => {
                Ok(Dim::Symbol(size.clone()))
            }
            _ => Ok(Dim::Unknown),
        }
    }
}

impl Operator for SliceBy {
    fn onnx_type(&self) -> &'static str {
        "Slice"
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, starts, ends, axes, steps] = exactly(inputs)?;
        for list in [starts, ends, axes, steps] {
            if !matches!(list.dtype, DType::I64 | DType::I32) || list.shape.len() != 1 {
                return Err(format!("expected a list of integers, found {list}"));
            }
        }
        let Some(axes) = axes.integers else {
            let shape = vec![Dim::Unknown; x.shape.len()];
            return Ok(ValueType { dtype: x.dtype, shape });
        };
        let mut shape = x.shape.clone();
        for (index, axis) in axes.iter().enumerate() {
            let axis = axis.known().ok_or("expected axes that are numbers")?;
            let axis = from_either_end(axis, shape.len(), 0)
                .map_err(|_| format!("axis {axis} is not a dimension of {x}"))?;
            let at = |list: Argument<'_>| {
                list.integers.map_or(Some(Integer::Unknown), |list| list.get(index).cloned())
            };
            let (Some(start), Some(end), Some(step)) = (at(starts), at(ends), at(steps)) else {
                return Err("expected starts, ends, axes and steps of one length".to_owned());
            };
            shape[axis] = Self::dim(&shape[axis], [&start, &end, &step])?;
        }
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x, starts, ends, _, steps] = exactly(inputs).ok()?;
        let one = |list: Argument<'_>| match list.integers? {
            [number] => number.known(),
            _ => None,
        };
        let numbers = x.integers?;
        let entries = Entries::new(numbers.len(), one(starts)?, one(ends)?, one(steps)?).ok()?;
        Some(entries.indices().map(|index| numbers[index].clone()).collect())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, lists @ ..] = exactly::<_, 5>(inputs)?;
        let lists = lists.map(whole_numbers);
        let [starts, ends, axes, steps] = lists;
        let (starts, ends, axes, steps) = (starts?, ends?, axes?, steps?);
        if [&starts, &ends, &steps].iter().any(|list| list.len() != axes.len()) {
            return Err("expected starts, ends, axes and steps of one length".to_owned());
        }
        let mut y = x.clone();
        for (index, &axis) in axes.iter().enumerate() {
            let rank = y.shape().len();
            let axis = from_either_end(axis, rank, 0)
                .map_err(|_| format!("axis {axis} is not one of {rank} dimensions"))?;
            let size = y.shape()[axis];
            let entries = Entries::new(size, starts[index], ends[index], steps[index])?;
            y = y.select(axis, &entries.indices().collect::<Vec<_>>());
        }
        Ok(y)
    }
}

/// One part of a tensor cut along one axis: of `(x)`, into parts of one size but for a smaller last
/// one, or of `(x, sizes)`, into parts of these sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Dimension that is cut.
    pub axis: usize,
    /// Number of parts.
    pub parts: usize,
    /// Which part, from 0.
    pub part: usize,
    /// Whether the sizes are an input.
    pub listed: bool,
}

impl Split {
    /// Where the part begins and how long it is in a dimension of `size`.
    fn range(&self, size: usize, sizes: Option<&[i64]>) -> Result<(usize, usize), String> {
        let Some(sizes) = sizes else {
            let length = size.div_ceil(self.parts);
            let start = length.saturating_mul(self.part).min(size);
            return Ok((start, length.min(size - start)));
        };
        let sizes = sizes.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
        let sizes = sizes.map_err(|_| "expected sizes of at least 0".to_owned())?;
        let total = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        if sizes.len() != self.parts || total != Some(size) {
            let parts = self.parts;
            return Err(format!("expected {parts} sizes with sum {size}, found {sizes:?}"));
        }
        Ok((sizes[..self.part].iter().sum(), sizes[self.part]))
    }
}

impl Operator for Split {
    fn onnx_type(&self) -> &'static str {
        "Split"
    }

    fn onnx(&self) -> OnnxForm {
        let form = OnnxForm::default().axis(self.axis).output(self.part).of_outputs(self.parts);
        let parts = OnnxAttribute::Int(self.parts as i64);
        if self.listed { form } else { form.attribute("num_outputs", parts) }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let (x, sizes) = match (inputs, self.listed) {
            ([x], false) => (x, None),
            ([x, sizes], true) => (x, Some(sizes)),
            _ => return Err(format!("expected 1 or 2 inputs, found {}", inputs.len())),
        };
        if self.axis >= x.shape.len() || self.part >= self.parts {
            return Err(format!(
                "part {} of {} along axis {} of {x}",
                self.part, self.parts, self.axis
            ));
        }
        let mut shape = x.shape.clone();
        let known = |sizes: &Argument<'_>| -> Option<Vec<i64>> {
            sizes.integers?.iter().map(Integer::known).collect()
        };
        shape[self.axis] = match (shape[self.axis].fixed(), sizes.map(known)) {
            (Some(size), None) => Dim::Fixed(self.range(size, None)?.1),
            (Some(size), Some(Some(sizes))) => Dim::Fixed(self.range(size, Some(&sizes))?.1),
            (None, None) if self.parts == 1 => shape[self.axis].clone(),
            _ => Dim::Unknown,
        };
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, sizes @ ..] = inputs else { return Err("expected an input".to_owned()) };
        let sizes = sizes.first().map(|sizes| whole_numbers(sizes)).transpose()?;
        let (start, length) = self.range(x.shape()[self.axis], sizes.as_deref())?;
        Ok(x.select(self.axis, &(start..start + length).collect::<Vec<_>>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python's own rule for `range(*slice(start, end, step).indices(size))`.
    #[test]
    fn entries_are_cut_to_the_dimension() {
        let check = |size: usize, start: i64, end: i64, step: i64, expected: &[usize]| {
            let entries = Entries::new(size, start, end, step).unwrap();
            assert_eq!(entries.indices().collect::<Vec<_>>(), expected);
        };
        check(5, 1, 4, 1, &[1, 2, 3]);
        check(5, -2, i64::MAX, 1, &[3, 4]);
        check(5, 0, i64::MAX, 3, &[0, 3]);
        check(5, 10, 20, 1, &[]);
        check(5, 4, i64::MIN, -2, &[4, 2, 0]);
        check(5, 20, 0, -1, &[4, 3, 2, 1]);
        check(5, 0, 5, i64::MAX, &[0]);
        check(5, -1, i64::MIN, i64::MIN, &[4]);
        check(0, 0, 5, 1, &[]);
        check(0, -1, i64::MIN, -1, &[]);
        assert!(Entries::new(5, 0, 1, 0).is_err());
    }

    #[test]
    fn parts_cover_the_dimension() {
        let x = Tensor::from_fn(&[7], |index| index as i32);
        let part = |part, inputs: &[&Tensor]| {
            let split = Split { axis: 0, parts: 3, part, listed: inputs.len() > 1 };
            let y = split.evaluate(inputs, &Bindings::default());
            y.map(|y| y.elements::<i32>().unwrap().to_vec())
        };
        assert_eq!(part(1, &[&x]).unwrap(), [3, 4, 5]);
        assert_eq!(part(2, &[&x]).unwrap(), [6]);
        let sizes = Tensor::new(&[3], vec![0i64, 2, 5]).unwrap();
        assert_eq!(part(2, &[&x, &sizes]).unwrap(), [2, 3, 4, 5, 6]);
        let wrong = Tensor::new(&[3], vec![0i64, 2, 6]).unwrap();
        assert!(part(2, &[&x, &wrong]).unwrap_err().contains("sum 7"));
    }
}
