//! Along one axis: where the extremes are, the largest entries, running sums.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::movement::from_either_end;
use super::wide::{Wide, single};
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Index of the largest or smallest element along `axis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ArgExtreme {
    /// Whether the largest is meant rather than the smallest.
    pub largest: bool,
    /// Dimension that is searched.
    pub axis: usize,
    /// Whether that dimension stays, with size 1.
    pub keep_dims: bool,
    /// Whether the last of equal elements is taken rather than the first.
    pub last: bool,
}

/// The flat indices of each line of `shape` along `axis`, line by line.
fn lines(shape: &[usize], axis: usize) -> impl Iterator<Item = Vec<usize>> + use<> {
    let (size, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let outer: usize = shape[..axis].iter().product();
    // Lines without an element are none.
    let count = if size == 0 { 0 } else { outer * inner };
    (0..count).map(move |line| {
        let start = line / inner * size * inner + line % inner;
        (0..size).map(|place| start + place * inner).collect()
    })
}

/// Numbers in order, NaN above all.
fn order(values: &Wide, a: usize, b: usize) -> Ordering {
    match values {
        // Adding 0 makes the two zeros equal.
        Wide::Real(values) => {
            let (a, b) = (values[a] + 0.0, values[b] + 0.0);
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
        Wide::Whole(values) => values[a].cmp(&values[b]),
    }
}

fn axis_of(x: &Argument<'_>, axis: usize) -> Result<Dim, String> {
    let dim = x.shape.get(axis).cloned();
    dim.ok_or_else(|| format!("axis {axis} is not a dimension of {x}"))
}

fn check_axis(x: &Tensor, axis: usize) -> Result<usize, String> {
    let size = x.shape().get(axis).copied();
    size.ok_or_else(|| format!("axis {axis} is not a dimension of {x:?}"))
}

impl Operator for ArgExtreme {
    fn onnx_type(&self) -> &'static str {
        if self.largest { "ArgMax" } else { "ArgMin" }
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .axis(self.axis)
            .attribute("keepdims", OnnxAttribute::Int(self.keep_dims.into()))
            .attribute("select_last_index", OnnxAttribute::Int(self.last.into()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        axis_of(&x, self.axis)?;
        let mut shape = x.shape.clone();
        if self.keep_dims {
            shape[self.axis] = Dim::Fixed(1);
        } else {
            shape.remove(self.axis);
        }
        Ok(ValueType { dtype: DType::I64, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let size = check_axis(x, self.axis)?;
        let values = Wide::of(x)?;
        let mut shape = x.shape().to_vec();
        shape[self.axis] = 1;
        if size == 0 && !shape.contains(&0) {
            return Err(format!("dimension {} has no element to find", self.axis));
        }
        let wanted = if self.largest { Ordering::Greater } else { Ordering::Less };
        let better = |line: &[usize], place: usize, best: usize| {
            let found = order(&values, line[place], line[best]);
            found == wanted || self.last && found == Ordering::Equal
        };
        let find = |line: Vec<usize>| {
            let places = 0..line.len();
            places.fold(0, |best, place| if better(&line, place, best) { place } else { best })
        };
        let found: Vec<i64> = lines(x.shape(), self.axis).map(|line| find(line) as i64).collect();
        if !self.keep_dims {
            shape.remove(self.axis);
        }
        Tensor::new(&shape, found).map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        elements(&inputs[0])
    }
}

/// The `k` largest or smallest entries along `axis`, best first: `(x, k)`. Of equal entries the
/// one of the lower index comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TopK {
    /// Dimension that is searched.
    pub axis: usize,
    /// Whether the largest are meant rather than the smallest.
    pub largest: bool,
    /// What of them is given.
    pub part: TopKPart,
}

/// What [`TopK`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TopKPart {
    /// The entries.
    Values,
    /// Where they are along the axis, as `i64`.
    Indices,
}

impl Operator for TopK {
    fn onnx_type(&self) -> &'static str {
        "TopK"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .axis(self.axis)
            .attribute("largest", OnnxAttribute::Int(self.largest.into()))
            .output(usize::from(self.part == TopKPart::Indices))
            .of_outputs(2)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, k] = exactly(inputs)?;
        let size = axis_of(&x, self.axis)?;
        let mut shape = x.shape.clone();
        shape[self.axis] = match k.integers {
            Some([k]) => k.dim()?,
            _ => Dim::Unknown,
        };
        match (&shape[self.axis], size) {
            (Dim::Fixed(k), Dim::Fixed(size)) if *k > size => {
                return Err(format!("expected at most {size} entries, found k = {k}"));
            }
            _ => {}
        }
        let dtype = if self.part == TopKPart::Values { x.dtype } else { DType::I64 };
        Ok(ValueType { dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, k] = exactly(inputs)?;
        let size = check_axis(x, self.axis)?;
        let k = single(k)?;
        let k = usize::try_from(k).ok().filter(|&k| k <= size);
        let k = k.ok_or_else(|| format!("expected k from 0 to {size}"))?;
        let mut shape = x.shape().to_vec();
        shape[self.axis] = k;
        let inner: usize = shape[self.axis + 1..].iter().product();
        let values = Wide::of(x)?;
        // Places along the axis, best first, of each line.
        let ranked: Vec<Vec<usize>> = lines(x.shape(), self.axis)
            .map(|line| {
                let mut places: Vec<usize> = (0..line.len()).collect();
                places.sort_by(|&a, &b| {
                    let order = order(&values, line[a], line[b]);
                    if self.largest { order.reverse() } else { order }
                });
                places
            })
            .collect();
        let place = |index: usize| {
            let (block, rest) = (index / (k * inner), index % (k * inner));
            ranked[block * inner + rest % inner][rest / inner]
        };
        match self.part {
            TopKPart::Indices => Ok(Tensor::from_fn(&shape, |index| place(index) as i64)),
            TopKPart::Values => {
                let source = |index: usize| {
                    let block = index / (k * inner);
                    Some((block * size + place(index)) * inner + index % inner)
                };
                x.rearranged(&shape, None, source).map_err(|error| error.to_string())
            }
        }
    }
}

/// Sums of all entries up to each along an axis: `(x, axis)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CumulativeSum {
    /// Whether an entry is left out of its own sum.
    pub exclusive: bool,
    /// Whether sums begin at the end.
    pub reverse: bool,
}

impl Operator for CumulativeSum {
    fn onnx_type(&self) -> &'static str {
        "CumSum"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("exclusive", OnnxAttribute::Int(self.exclusive.into()))
            .attribute("reverse", OnnxAttribute::Int(self.reverse.into()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, axis] = exactly(inputs)?;
        if x.dtype == DType::Bool {
            return Err(format!("expected numbers, found {x}"));
        }
        if let Some([Integer::Known(axis)]) = axis.integers {
            from_either_end(*axis, x.shape.len(), 0)
                .map_err(|_| format!("axis {axis} is not a dimension of {x}"))?;
        }
        Ok(x.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, axis] = exactly(inputs)?;
        let axis = single(axis)?;
        let axis = from_either_end(axis, x.shape().len(), 0)
            .map_err(|_| format!("axis {axis} is not a dimension of {x:?}"))?;
        let mut values = Wide::of(x)?;
        let lines = lines(x.shape(), axis);
        match &mut values {
            Wide::Real(values) => self.run(values, lines, 0.0, |a, b| a + b),
            Wide::Whole(values) => self.run(values, lines, 0, i64::wrapping_add),
        }
        values.into_tensor(x.dtype(), x.shape())
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        elements(output)
    }
}

impl CumulativeSum {
    /// Replaces the numbers of each line by what `join` makes of all up to them.
    fn run<T: Copy>(
        self,
        values: &mut [T],
        lines: impl Iterator<Item = Vec<usize>>,
        start: T,
        join: fn(T, T) -> T,
    ) {
        for mut line in lines {
            if self.reverse {
                line.reverse();
            }
            let mut so_far = start;
            for index in line {
                let before = so_far;
                so_far = join(so_far, values[index]);
                values[index] = if self.exclusive { before } else { so_far };
            }
        }
    }
}

/// Products of all entries up to each along an axis: `(x, axis)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CumulativeProduct {
    /// Whether an entry is left out of its own product.
    pub exclusive: bool,
    /// Whether products begin at the end.
    pub reverse: bool,
}

impl CumulativeProduct {
    /// What goes along the axis in the same way.
    fn sum(self) -> CumulativeSum {
        CumulativeSum { exclusive: self.exclusive, reverse: self.reverse }
    }
}

impl Operator for CumulativeProduct {
    fn onnx_type(&self) -> &'static str {
        "CumProd"
    }

    fn onnx(&self) -> OnnxForm {
        self.sum().onnx().since(26)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        self.sum().infer(inputs)
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, axis] = exactly(inputs)?;
        let axis = from_either_end(single(axis)?, x.shape().len(), 0)
            .map_err(|_| format!("the axis is not a dimension of {x:?}"))?;
        let mut values = Wide::of(x)?;
        let lines = lines(x.shape(), axis);
        match &mut values {
            Wide::Real(values) => self.sum().run(values, lines, 1.0, |a, b| a * b),
            Wide::Whole(values) => self.sum().run(values, lines, 1, i64::wrapping_mul),
        }
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
    fn sums_run_both_ways() {
        let x = Tensor::new(&[3], vec![1f32, 2.0, 4.0]).unwrap();
        let axis = Tensor::scalar(-1i32);
        let check = |exclusive, reverse, expected: [f32; 3]| {
            let op = CumulativeSum { exclusive, reverse };
            let y = op.evaluate(&[&x, &axis], &Bindings::default()).unwrap();
            assert_eq!(y.elements::<f32>().unwrap(), expected);
        };
        check(false, false, [1.0, 3.0, 7.0]);
        check(true, false, [0.0, 1.0, 3.0]);
        check(false, true, [7.0, 6.0, 4.0]);
        check(true, true, [6.0, 4.0, 0.0]);
    }

    #[test]
    fn products_run_both_ways() {
        let x = Tensor::new(&[3], vec![3i32, 5, 7]).unwrap();
        let axis = Tensor::scalar(0i64);
        let check = |exclusive, reverse, expected: [i32; 3]| {
            let op = CumulativeProduct { exclusive, reverse };
            let y = op.evaluate(&[&x, &axis], &Bindings::default()).unwrap();
            assert_eq!(y.elements::<i32>().unwrap(), expected);
        };
        check(false, false, [3, 15, 105]);
        check(true, false, [1, 3, 15]);
        check(false, true, [105, 35, 7]);
        check(true, true, [35, 7, 1]);
    }

    #[test]
    fn ties_and_nan_have_an_order() {
        let x = Tensor::new(&[4], vec![0f32, f32::NAN, -0.0, 1.0]).unwrap();
        let k = Tensor::new(&[1], vec![4i64]).unwrap();
        let op = TopK { axis: 0, largest: true, part: TopKPart::Indices };
        let y = op.evaluate(&[&x, &k], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<i64>().unwrap(), [1, 3, 0, 2]);
        let five = Tensor::new(&[1], vec![5i64]).unwrap();
        assert!(op.evaluate(&[&x, &five], &Bindings::default()).is_err());
    }

    #[test]
    fn an_empty_dimension_has_no_extreme() {
        let op = ArgExtreme { largest: true, axis: 1, keep_dims: true, last: false };
        let empty = |shape: &[usize]| Tensor::from_fn(shape, |_| 0f32);
        assert!(op.evaluate(&[&empty(&[2, 0])], &Bindings::default()).is_err());
        let none = op.evaluate(&[&empty(&[0, 2])], &Bindings::default()).unwrap();
        assert_eq!(none.shape(), [0, 1]);
    }
}
