//! Entries picked or reordered by their values.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::movement::whole_numbers;
use super::position::{flat, position};
use super::{Argument, OnnxAttribute, OnnxForm, Operator, elements_of, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Entries along `axis`, or of the flattened tensor, where a condition holds: `(x, condition)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compress {
    /// Dimension that is cut; `None` for the flattened tensor.
    pub axis: Option<usize>,
}

fn check_axis(axis: Option<usize>, x: &Argument<'_>) -> Result<(), String> {
    match axis {
        Some(axis) if axis >= x.shape.len() => {
            Err(format!("axis {axis} is not a dimension of {x}"))
        }
        _ => Ok(()),
    }
}

/// `x` and the axis to go along: a flat tensor's only one where none is given.
fn along(axis: Option<usize>, x: &Tensor) -> Result<(Tensor, usize), String> {
    match axis {
        Some(axis) => Ok((x.clone(), axis)),
        None => Ok((x.reshaped(&[x.len()]).map_err(|error| error.to_string())?, 0)),
    }
}

impl Operator for Compress {
    fn onnx_type(&self) -> &'static str {
        "Compress"
    }

    fn onnx(&self) -> OnnxForm {
        self.axis.map_or_else(OnnxForm::default, |axis| OnnxForm::default().axis(axis))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, condition] = exactly(inputs)?;
        condition.expect(DType::Bool)?;
        check_axis(self.axis, &x)?;
        if condition.shape.len() != 1 {
            return Err(format!("expected a list of truth values, found {condition}"));
        }
        let mut shape = if self.axis.is_some() { x.shape.clone() } else { vec![Dim::Unknown] };
        shape[self.axis.unwrap_or(0)] = Dim::Unknown;
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, condition] = exactly(inputs)?;
        let condition = elements_of::<bool>(condition)?;
        let (x, axis) = along(self.axis, x)?;
        if condition.len() > x.shape()[axis] {
            let (expected, found) = (x.shape()[axis], condition.len());
            return Err(format!("expected at most {expected} truth values, found {found}"));
        }
        let kept: Vec<usize> = (0..condition.len()).filter(|&index| condition[index]).collect();
        Ok(x.select(axis, &kept))
    }
}

/// What ONNX's Unique tells of the entries that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UniquePart {
    /// The entries themselves.
    Entries,
    /// Where each is first.
    First,
    /// Which of them each entry of the input is.
    Inverse,
    /// How often each is there.
    Counts,
}

/// The different entries along `axis`, or of the flattened tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unique {
    /// Dimension whose entries are compared; `None` for the flattened tensor.
    pub axis: Option<usize>,
    /// Whether they are sorted; otherwise they stand in the order of their first places.
    pub sorted: bool,
    /// What the output is.
    pub part: UniquePart,
}

/// Order of the entries `a` and `b` along `axis`, element by element.
fn compare(x: &Tensor, axis: usize, a: usize, b: usize) -> Result<Ordering, String> {
    let outer: usize = x.shape()[..axis].iter().product();
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let size = x.shape()[axis];
    macro_rules! order {
        ($elements:expr, $compare:expr) => {{
            let elements = $elements;
            let at = |entry: usize, block: usize, offset: usize| {
                &elements[(block * size + entry) * inner + offset]
            };
            let places = (0..outer).flat_map(|block| (0..inner).map(move |offset| (block, offset)));
            places
                .map(|(block, offset)| $compare(at(a, block, offset), at(b, block, offset)))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        }};
    }
    // 0 and −0 are one number; a number that is none comes last, as everywhere in numpy.
    let numbers =
        |a: &f32, b: &f32| a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    Ok(match x.dtype() {
        DType::F32 => order!(floats(x)?, numbers),
        DType::I64 => order!(elements_of::<i64>(x)?, Ord::cmp),
        DType::I32 => order!(elements_of::<i32>(x)?, Ord::cmp),
        DType::I8 => order!(elements_of::<i8>(x)?, Ord::cmp),
        DType::U8 => order!(elements_of::<u8>(x)?, Ord::cmp),
        DType::Bool => order!(elements_of::<bool>(x)?, Ord::cmp),
    })
}

impl Operator for Unique {
    fn onnx_type(&self) -> &'static str {
        "Unique"
    }

    fn onnx(&self) -> OnnxForm {
        let form = OnnxForm::default()
            .attribute("sorted", OnnxAttribute::Int(self.sorted.into()))
            .output(self.part as usize);
        // The entries are the one output that no node may leave out.
        let form = form.of_outputs(1);
        match self.axis {
            Some(axis) => form.axis(axis),
            None => form,
        }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        check_axis(self.axis, &x)?;
        let list = |dim| Ok(ValueType { dtype: DType::I64, shape: vec![dim] });
        match (self.part, self.axis) {
            (UniquePart::Entries, Some(axis)) => {
                let mut shape = x.shape.clone();
                shape[axis] = Dim::Unknown;
                Ok(ValueType { dtype: x.dtype, shape })
            }
            (UniquePart::Entries, None) => {
                Ok(ValueType { dtype: x.dtype, shape: vec![Dim::Unknown] })
            }
            (UniquePart::Inverse, Some(axis)) => list(x.shape[axis].clone()),
            (UniquePart::Inverse, None) => {
                let sizes: Option<Vec<usize>> = x.shape.iter().map(Dim::fixed).collect();
                let elements = sizes.and_then(|sizes| crate::weights::checked_elements(&sizes));
                list(elements.map_or(Dim::Unknown, Dim::Fixed))
            }
            (UniquePart::First | UniquePart::Counts, _) => list(Dim::Unknown),
        }
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let (x, axis) = along(self.axis, x)?;
        // First place and count of each different entry, and which of them each entry is.
        let (mut found, mut which): (Vec<(usize, i64)>, Vec<usize>) = (Vec::new(), Vec::new());
        for entry in 0..x.shape()[axis] {
            let mut same = None;
            for (index, &(first, _)) in found.iter().enumerate() {
                if compare(&x, axis, first, entry)?.is_eq() {
                    same = Some(index);
                    break;
                }
            }
            let index = same.unwrap_or_else(|| {
                found.push((entry, 0));
                found.len() - 1
            });
            found[index].1 += 1;
            which.push(index);
        }
        let mut order: Vec<usize> = (0..found.len()).collect();
        if self.sorted {
            order.sort_by(|&a, &b| {
                compare(&x, axis, found[a].0, found[b].0).unwrap_or(Ordering::Equal)
            });
        }
        let firsts: Vec<usize> = order.iter().map(|&index| found[index].0).collect();
        Ok(match self.part {
            UniquePart::Entries => x.select(axis, &firsts),
            UniquePart::First => Tensor::from_fn(&[order.len()], |index| firsts[index] as i64),
            UniquePart::Counts => Tensor::from_fn(&[order.len()], |index| found[order[index]].1),
            UniquePart::Inverse => {
                let mut rank = vec![0i64; order.len()];
                order.iter().enumerate().for_each(|(place, &index)| rank[index] = place as i64);
                Tensor::from_fn(&[which.len()], |index| rank[which[index]])
            }
        })
    }
}

/// The first entries along the time dimension in reverse, as many as the sequence is long:
/// `(x, lengths)`, one length an entry of the batch dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReverseSequence {
    /// Dimension of the sequences, 0 or 1.
    pub batch_axis: usize,
    /// Dimension that is reversed, the other one.
    pub time_axis: usize,
}

impl Operator for ReverseSequence {
    fn onnx_type(&self) -> &'static str {
        "ReverseSequence"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("batch_axis", OnnxAttribute::Int(self.batch_axis as i64))
            .attribute("time_axis", OnnxAttribute::Int(self.time_axis as i64))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, lengths] = exactly(inputs)?;
        lengths.expect(DType::I64)?;
        let fits =
            matches!((self.batch_axis, self.time_axis), (0, 1) | (1, 0)) && x.shape.len() >= 2;
        if !fits
            || lengths.shape.len() != 1
            || !lengths.shape[0].may_equal(&x.shape[self.batch_axis])
        {
            return Err(format!("lengths {lengths} do not go with {x}"));
        }
        Ok(x.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, lengths] = exactly(inputs)?;
        let lengths = whole_numbers(lengths)?;
        let size = x.shape()[self.time_axis] as i64;
        if lengths.len() != x.shape()[self.batch_axis] {
            return Err(format!(
                "expected {} lengths, found {lengths:?}",
                x.shape()[self.batch_axis]
            ));
        }
        if let Some(length) = lengths.iter().find(|length| !(0..=size).contains(*length)) {
            return Err(format!("expected lengths of 0 to {size}, found {length}"));
        }
        let source = |index| {
            let mut place = position(index, x.shape());
            let length = lengths[place[self.batch_axis]] as usize;
            let time = &mut place[self.time_axis];
            if *time < length {
                *time = length - 1 - *time;
            }
            Some(flat(&place, x.shape()))
        };
        x.rearranged(x.shape(), None, source).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the operator's documentation.
    #[test]
    fn different_entries_are_found_in_both_orders() {
        let x = Tensor::new(&[6], vec![2f32, 1.0, 1.0, 3.0, 4.0, 3.0]).unwrap();
        let part = |sorted, part| {
            let unique = Unique { axis: None, sorted, part };
            let y = unique.evaluate(&[&x], &Bindings::default()).unwrap();
            match y.dtype() {
                DType::F32 => floats(&y).unwrap().iter().map(|&x| x as i64).collect(),
                _ => whole_numbers(&y).unwrap(),
            }
        };
        assert_eq!(part(false, UniquePart::Entries), [2, 1, 3, 4]);
        assert_eq!(part(false, UniquePart::First), [0, 1, 3, 4]);
        assert_eq!(part(false, UniquePart::Inverse), [0, 1, 1, 2, 3, 2]);
        assert_eq!(part(false, UniquePart::Counts), [1, 2, 2, 1]);
        assert_eq!(part(true, UniquePart::Entries), [1, 2, 3, 4]);
        assert_eq!(part(true, UniquePart::Inverse), [1, 0, 0, 2, 3, 2]);
    }

    #[test]
    fn rows_are_entries_too() {
        let x = Tensor::new(&[3, 2], vec![1i32, 0, 1, 0, 0, 3]).unwrap();
        let unique = Unique { axis: Some(0), sorted: true, part: UniquePart::Entries };
        let y = unique.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<i32>().unwrap(), [0, 3, 1, 0]);
    }

    #[test]
    fn each_sequence_is_reversed_as_far_as_it_goes() {
        let x = Tensor::from_fn(&[2, 3], |index| index as i32);
        let lengths = Tensor::new(&[2], vec![3i64, 1]).unwrap();
        let op = ReverseSequence { batch_axis: 0, time_axis: 1 };
        let y = op.evaluate(&[&x, &lengths], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<i32>().unwrap(), [2, 1, 0, 3, 4, 5]);
        let lengths = Tensor::new(&[2], vec![4i64, 1]).unwrap();
        assert!(op.evaluate(&[&x, &lengths], &Bindings::default()).is_err());
    }
}
