//! Reductions of every kind along any axes.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::movement::{from_either_end, whole_numbers};
use super::position::affordable;
use super::wide::Wide;
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, DType, Dim, Shape, Tensor, ValueType};

/// Many elements to one: `(x)`, or `(x, axes)` when the axes are not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reduce {
    /// How.
    pub kind: ReduceKind,
    /// Dimensions that are reduced, ascending; read from a second input where it is `None`.
    pub axes: Option<Vec<usize>>,
    /// Whether reduced dimensions stay, with size 1.
    pub keep_dims: bool,
    /// Whether an empty second input stands for no dimension rather than for all.
    pub empty_means_none: bool,
}

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReduceKind {
    /// `Σ x`
    Sum,
    /// `Σ x / n`
    Mean,
    /// The largest; the least number of the type where there is none.
    Max,
    /// The smallest; the greatest number of the type where there is none.
    Min,
    /// `Π x`
    Product,
    /// `Σ |x|`
    L1,
    /// `√Σ x²`
    L2,
    /// `ln Σ x`
    LogSum,
    /// `ln Σ eˣ`
    LogSumExp,
    /// `Σ x²`
    SumSquare,
}

impl ReduceKind {
    fn real(self, x: &[f64]) -> f64 {
        // Adding 0 because the empty sum of floats is −0.
        let sum = |function: fn(f64) -> f64| x.iter().map(|&x| function(x)).sum::<f64>() + 0.0;
        let extreme = |start: f64, better: fn(f64, f64) -> bool| {
            let pick = |a: f64, &b: &f64| if a.is_nan() || better(a, b) { a } else { b };
            x.iter().fold(start, pick)
        };
        match self {
            Self::Sum => sum(|x| x),
            Self::Mean => sum(|x| x) / x.len() as f64,
            Self::Max => extreme(f64::NEG_INFINITY, |a, b| a > b),
            Self::Min => extreme(f64::INFINITY, |a, b| a < b),
            Self::Product => x.iter().product(),
            Self::L1 => sum(f64::abs),
            Self::L2 => sum(|x| x * x).sqrt(),
            Self::LogSum => sum(|x| x).ln(),
            Self::LogSumExp => {
                let max = Self::Max.real(x);
                if !max.is_finite() {
                    return max;
                }
                max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
            }
            Self::SumSquare => sum(|x| x * x),
        }
    }

    fn whole(self, x: &[i64], dtype: DType) -> Result<i64, String> {
        let sum =
            |function: fn(i64) -> i64| x.iter().fold(0i64, |sum, &x| sum.wrapping_add(function(x)));
        let (least, greatest) = limits(dtype);
        Ok(match self {
            Self::Sum => sum(|x| x),
            Self::Mean => sum(|x| x)
                .checked_div(x.len() as i64)
                .ok_or("the mean of no integers is not defined")?,
            Self::Max => x.iter().copied().max().unwrap_or(least),
            Self::Min => x.iter().copied().min().unwrap_or(greatest),
            Self::Product => x.iter().fold(1i64, |product, &x| product.wrapping_mul(x)),
            Self::L1 => sum(i64::wrapping_abs),
            Self::SumSquare => sum(|x| x.wrapping_mul(x)),
            Self::L2 | Self::LogSum | Self::LogSumExp => {
                self.real(&x.iter().map(|&x| x as f64).collect::<Vec<_>>()) as i64
            }
        })
    }
}

/// The least and the greatest number of an integer type.
fn limits(dtype: DType) -> (i64, i64) {
    match dtype {
        DType::I32 => (i32::MIN.into(), i32::MAX.into()),
        DType::I8 => (i8::MIN.into(), i8::MAX.into()),
        DType::U8 => (0, u8::MAX.into()),
        DType::Bool => (0, 1),
        DType::I64 | DType::F32 => (i64::MIN, i64::MAX),
    }
}

impl Reduce {
    /// What `axes` of the second input stand for.
    fn resolved(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, String> {
        if axes.is_empty() && !self.empty_means_none {
            return Ok((0..rank).collect());
        }
        let mut places = axes
            .iter()
            .map(|&axis| from_either_end(axis, rank, 0).map_err(|_| no_axis(axis, rank)))
            .collect::<Result<Vec<usize>, _>>()?;
        places.sort_unstable();
        if places.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(format!("an axis stands twice in {axes:?}"));
        }
        Ok(places)
    }

    fn shape<D: Clone>(&self, x: &[D], axes: &[usize], one: D) -> Result<Vec<D>, String> {
        if let Some(&axis) = axes.iter().find(|&&axis| axis >= x.len()) {
            return Err(no_axis(axis as i64, x.len()));
        }
        let dims = x.iter().enumerate().filter_map(|(axis, dim)| {
            match (axes.contains(&axis), self.keep_dims) {
                (false, _) => Some(dim.clone()),
                (true, true) => Some(one.clone()),
                (true, false) => None,
            }
        });
        Ok(dims.collect())
    }

    /// The shape when only the number of axes is known.
    fn shape_without_axes(&self, x: &[Dim], axes: &[Dim]) -> Result<Shape, String> {
        let rank = match axes {
            _ if self.keep_dims => x.len(),
            [Dim::Fixed(0)] if self.empty_means_none => return Ok(x.to_vec()),
            [Dim::Fixed(0)] => 0,
            [Dim::Fixed(count)] => {
                x.len().checked_sub(*count).ok_or_else(|| format!("{count} axes of {}", x.len()))?
            }
            _ => return Err("expected a known number of axes".to_owned()),
        };
        Ok(vec![Dim::Unknown; rank])
    }
}

fn no_axis(axis: i64, rank: usize) -> String {
    format!("axis {axis} is not one of {rank} dimensions")
}

impl Operator for Reduce {
    fn onnx_type(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "ReduceSum",
            ReduceKind::Mean => "ReduceMean",
            ReduceKind::Max => "ReduceMax",
            ReduceKind::Min => "ReduceMin",
            ReduceKind::Product => "ReduceProd",
            ReduceKind::L1 => "ReduceL1",
            ReduceKind::L2 => "ReduceL2",
            ReduceKind::LogSum => "ReduceLogSum",
            ReduceKind::LogSumExp => "ReduceLogSumExp",
            ReduceKind::SumSquare => "ReduceSumSquare",
        }
    }

    fn onnx(&self) -> OnnxForm {
        let none = self.axes.as_ref().map_or(self.empty_means_none, Vec::is_empty);
        let form = OnnxForm::default()
            .attribute("keepdims", OnnxAttribute::Int(self.keep_dims.into()))
            .attribute("noop_with_empty_axes", OnnxAttribute::Int(none.into()));
        match &self.axes {
            Some(axes) => form.integers("axes", axes.iter().map(|&axis| axis as i64).collect()),
            None => form,
        }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let (x, axes) = match (&self.axes, inputs) {
            (Some(axes), [x]) => (x, Some(axes.clone())),
            (None, [x, axes]) => {
                let known = axes
                    .integers
                    .and_then(|list| list.iter().map(Integer::known).collect::<Option<Vec<i64>>>());
                (x, known.map(|known| self.resolved(&known, x.shape.len())).transpose()?)
            }
            _ => return Err(format!("unexpected number of inputs, {}", inputs.len())),
        };
        let ordered = matches!(self.kind, ReduceKind::Max | ReduceKind::Min);
        if x.dtype == DType::Bool && !ordered {
            return Err(format!("expected numbers, found {x}"));
        }
        let shape = match (&axes, inputs) {
            (Some(axes), _) => self.shape(&x.shape, axes, Dim::Fixed(1))?,
            (None, [_, axes]) => self.shape_without_axes(&x.shape, &axes.shape)?,
            (None, _) => return Err("expected axes".to_owned()),
        };
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        if self.axes.as_deref() != Some(&[0]) || x.shape.len() != 1 {
            return None;
        }
        let known: Option<Vec<i64>> = x.integers?.iter().map(Integer::known).collect();
        Some(vec![Integer::Known(self.kind.whole(&known?, x.dtype).ok()?)])
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let (x, axes) = match (&self.axes, inputs) {
            (Some(axes), [x]) => (x, axes.clone()),
            (None, [x, axes]) => (x, self.resolved(&whole_numbers(axes)?, x.shape().len())?),
            _ => return Err(format!("unexpected number of inputs, {}", inputs.len())),
        };
        let shape = self.shape(x.shape(), &axes, 1)?;
        let count = affordable(&shape)?;
        let group = |index| reduced_index(index, x.shape(), &axes);
        let values = match Wide::of(x)? {
            Wide::Real(values) => {
                let groups = grouped(&values, count, group);
                Wide::Real(groups.iter().map(|group| self.kind.real(group)).collect())
            }
            Wide::Whole(values) => {
                let groups = grouped(&values, count, group);
                let reduced = groups.iter().map(|group| self.kind.whole(group, x.dtype()));
                Wide::Whole(reduced.collect::<Result<_, _>>()?)
            }
        };
        values.into_tensor(x.dtype(), &shape)
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        elements(&inputs[0])
    }
}

fn grouped<T: Copy>(values: &[T], count: usize, group: impl Fn(usize) -> usize) -> Vec<Vec<T>> {
    let mut groups = vec![Vec::new(); count];
    for (index, &value) in values.iter().enumerate() {
        groups[group(index)].push(value);
    }
    groups
}

/// Flat index among the outputs of what stands at flat `index` of `shape`.
fn reduced_index(index: usize, shape: &[usize], axes: &[usize]) -> usize {
    let (mut rest, mut flat, mut stride) = (index, 0, 1);
    for axis in (0..shape.len()).rev() {
        if !axes.contains(&axis) {
            flat += rest % shape[axis] * stride;
            stride *= shape[axis];
        }
        rest /= shape[axis];
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduce(kind: ReduceKind, axes: &[usize], x: &Tensor) -> Result<Tensor, String> {
        let op =
            Reduce { kind, axes: Some(axes.to_vec()), keep_dims: false, empty_means_none: true };
        op.evaluate(&[x], &Bindings::default())
    }

    #[test]
    fn integers_are_reduced_in_their_own_type() {
        let x = Tensor::new(&[2, 2], vec![100i8, 100, -3, 2]).unwrap();
        let sums = reduce(ReduceKind::Sum, &[1], &x).unwrap();
        assert_eq!(sums.elements::<i8>().unwrap(), [-56, -1]);
        let means = reduce(ReduceKind::Mean, &[0], &x).unwrap();
        assert_eq!(means.elements::<i8>().unwrap(), [48, 51]);
    }

    #[test]
    fn nothing_has_the_neutral_element() {
        let x = Tensor::new(&[0], Vec::<u8>::new()).unwrap();
        let of = |kind| reduce(kind, &[0], &x).map(|y| y.elements::<u8>().unwrap()[0]);
        assert_eq!(of(ReduceKind::Max), Ok(0));
        assert_eq!(of(ReduceKind::Min), Ok(255));
        assert_eq!(of(ReduceKind::Product), Ok(1));
        assert!(of(ReduceKind::Mean).is_err());
    }

    #[test]
    fn no_axis_reduces_each_element_by_itself() {
        let x = Tensor::new(&[2], vec![-3f32, 2.0]).unwrap();
        let y = reduce(ReduceKind::SumSquare, &[], &x).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [9.0, 4.0]);
        assert!(reduce(ReduceKind::Sum, &[1], &x).is_err());
    }
}
