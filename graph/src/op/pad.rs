//! Entries before and after a tensor's own.

use serde::{Deserialize, Serialize};

use super::movement::{from_either_end, whole_numbers};
use super::position::{affordable, flat, position};
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Entries added before and after the dimensions `axes`, or taken off where a number is below 0:
/// `(x, pads, value, axes)`, where `pads` are the numbers before each axis, then those after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pad {
    /// What the added entries are.
    pub mode: PadMode,
}

/// What padding adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PadMode {
    /// One value.
    Constant,
    /// The entry at the edge.
    Edge,
    /// The entries mirrored at the edge, which is not repeated.
    Reflect,
    /// The entries from the other end.
    Wrap,
}

impl PadMode {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Constant, "constant"),
        (Self::Edge, "edge"),
        (Self::Reflect, "reflect"),
        (Self::Wrap, "wrap"),
    ];

    fn name(self) -> &'static str {
        let entry = Self::ALL.iter().find(|(mode, _)| *mode == self);
        entry.map_or("constant", |(_, name)| name)
    }

    /// The mode of this ONNX name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(mode, _)| *mode)
    }

    /// The entry of a dimension of `size` that stands at `place`; `None` for the padding value.
    pub fn source(self, place: i64, size: i64) -> Option<usize> {
        let source = match self {
            _ if (0..size).contains(&place) => place,
            Self::Constant => return None,
            Self::Edge => place.clamp(0, size - 1),
            Self::Reflect if size == 1 => 0,
            Self::Reflect => {
                let period = 2 * (size - 1);
                let folded = place.rem_euclid(period);
                folded.min(period - folded)
            }
            Self::Wrap => place.rem_euclid(size),
        };
        Some(source as usize)
    }
}

/// Most entries added or taken off: more than any memory holds, and so few that places can be counted.
const MOST_ENTRIES: u64 = 1 << 48;

impl Pad {
    /// Entries added before and after each of `rank` dimensions.
    ///
    /// # Errors
    ///
    /// When the numbers do not fit the axes, or these the rank.
    pub fn widths(rank: usize, pads: &[i64], axes: &[i64]) -> Result<Vec<(i64, i64)>, String> {
        if pads.len() != 2 * axes.len() {
            let (expected, found) = (2 * axes.len(), pads.len());
            return Err(format!("expected {expected} pads, found {found}"));
        }
        let mut widths = vec![(0, 0); rank];
        for (index, &axis) in axes.iter().enumerate() {
            let axis = from_either_end(axis, rank, 0)
                .map_err(|_| format!("axis {axis} is not one of {rank} dimensions"))?;
            let width = (pads[index], pads[index + axes.len()]);
            if [width.0, width.1].iter().any(|pad| pad.unsigned_abs() > MOST_ENTRIES) {
                return Err(format!("expected pads up to {MOST_ENTRIES}, found {width:?}"));
            }
            widths[axis] = width;
        }
        Ok(widths)
    }

    /// Entries of a dimension with so many added.
    ///
    /// # Errors
    ///
    /// When more are taken off than there are.
    pub fn padded(size: usize, (before, after): (i64, i64)) -> Result<usize, String> {
        let size = i64::try_from(size).ok().and_then(|size| size.checked_add(before));
        let size = size.and_then(|size| size.checked_add(after));
        size.and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| format!("pads {before} and {after} leave no dimension"))
    }
}

impl Operator for Pad {
    fn onnx_type(&self) -> &'static str {
        "Pad"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().attribute("mode", OnnxAttribute::Text(self.mode.name()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, pads, value, axes] = exactly(inputs)?;
        pads.expect(DType::I64)?;
        value.expect(x.dtype)?;
        let known = |list: Argument<'_>| -> Option<Vec<i64>> {
            list.integers?.iter().map(Integer::known).collect()
        };
        let dims = match (known(pads), known(axes)) {
            (Some(pads), Some(axes)) => Self::widths(x.shape.len(), &pads, &axes)?,
            _ => {
                let shape = vec![Dim::Unknown; x.shape.len()];
                return Ok(ValueType { dtype: x.dtype, shape });
            }
        };
        let pad = |(dim, &width): (&Dim, &(i64, i64))| match (dim, width) {
            (dim, (0, 0)) => Ok(dim.clone()),
            (Dim::Fixed(size), width) => Self::padded(*size, width).map(Dim::Fixed),
            _ => Ok(Dim::Unknown),
        };
        let shape = x.shape.iter().zip(&dims).map(pad).collect::<Result<_, String>>()?;
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, pads, value, axes] = exactly(inputs)?;
        let widths = Self::widths(x.shape().len(), &whole_numbers(pads)?, &whole_numbers(axes)?)?;
        let pairs = x.shape().iter().zip(&widths);
        let shape = pairs
            .map(|(&size, &width)| Self::padded(size, width))
            .collect::<Result<Vec<_>, _>>()?;
        affordable(&shape)?;
        if self.mode != PadMode::Constant && x.is_empty() && !shape.contains(&0) {
            return Err("expected entries to pad with, found an empty tensor".to_owned());
        }
        let source = |index| {
            let place = position(index, &shape);
            let place = place.iter().zip(&widths).zip(x.shape()).map(|((&place, width), &size)| {
                self.mode.source(place as i64 - width.0, size as i64)
            });
            Some(flat(&place.collect::<Option<Vec<_>>>()?, x.shape()))
        };
        x.rearranged(&shape, Some(value), source).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mode: PadMode, pads: [i64; 2], expected: &[i32]) {
        let x = Tensor::new(&[3], vec![1i32, 2, 3]).unwrap();
        let pads = Tensor::new(&[2], pads.to_vec()).unwrap();
        let (value, axes) = (Tensor::scalar(9i32), Tensor::new(&[1], vec![-1i64]).unwrap());
        let y = Pad { mode }.evaluate(&[&x, &pads, &value, &axes], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<i32>().unwrap(), expected);
    }

    /// Expected values are numpy's.
    #[test]
    fn each_mode_continues_the_entries() {
        check(PadMode::Constant, [2, 1], &[9, 9, 1, 2, 3, 9]);
        check(PadMode::Edge, [2, 1], &[1, 1, 1, 2, 3, 3]);
        check(PadMode::Reflect, [2, 1], &[3, 2, 1, 2, 3, 2]);
        check(PadMode::Reflect, [5, 0], &[2, 1, 2, 3, 2, 1, 2, 3]);
        check(PadMode::Wrap, [2, 4], &[2, 3, 1, 2, 3, 1, 2, 3, 1]);
        check(PadMode::Constant, [-1, 1], &[2, 3, 9]);
        check(PadMode::Edge, [-2, -1], &[]);
    }

    #[test]
    fn more_is_not_taken_off_than_there_is() {
        let error = Pad::padded(3, (-2, -2)).unwrap_err();
        assert_eq!(error, "pads -2 and -2 leave no dimension");
        assert!(Pad::padded(3, (i64::MAX, i64::MAX)).is_err());
    }
}
