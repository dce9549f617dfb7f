//! Elements as the widest number of their kind, for references that treat all types alike.

use super::elements_of;
use crate::{DType, Tensor};

/// The elements of a tensor. Arithmetic on the wide integers, wrapped to the narrow type at its
/// end, is that type's wrapping arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wide {
    /// Floats.
    Real(Vec<f64>),
    /// Integers; truth values as 0 and 1.
    Whole(Vec<i64>),
}

impl Wide {
    pub(super) fn of(tensor: &Tensor) -> Result<Self, String> {
        macro_rules! whole {
            ($type:ty) => {
                Self::Whole(elements_of::<$type>(tensor)?.iter().map(|&x| i64::from(x)).collect())
            };
        }
        Ok(match tensor.dtype() {
            DType::F32 => {
                Self::Real(elements_of::<f32>(tensor)?.iter().map(|&x| f64::from(x)).collect())
            }
            DType::I64 => whole!(i64),
            DType::I32 => whole!(i32),
            DType::I8 => whole!(i8),
            DType::U8 => whole!(u8),
            DType::Bool => whole!(bool),
        })
    }

    /// A tensor of these numbers: floats are rounded, integers wrap around.
    pub(super) fn into_tensor(self, dtype: DType, shape: &[usize]) -> Result<Tensor, String> {
        macro_rules! build {
            ($values:expr, $convert:expr) => {
                Tensor::new(shape, $values.into_iter().map($convert).collect())
            };
        }
        let tensor = match (self, dtype) {
            (Self::Real(values), DType::F32) => build!(values, |x| x as f32),
            (Self::Whole(values), DType::I64) => Tensor::new(shape, values),
            (Self::Whole(values), DType::I32) => build!(values, |x| x as i32),
            (Self::Whole(values), DType::I8) => build!(values, |x| x as i8),
            (Self::Whole(values), DType::U8) => build!(values, |x| x as u8),
            (Self::Whole(values), DType::Bool) => build!(values, |x| x != 0),
            (Self::Real(_), _) => return Err(format!("floats are no elements of type {dtype}")),
            (Self::Whole(_), DType::F32) => return Err("integers are no floats".to_owned()),
        };
        tensor.map_err(|error| error.to_string())
    }

    /// The number itself, when there is exactly one.
    pub(super) fn alone(&self) -> Option<&Self> {
        (self.len() == 1).then_some(self)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Real(values) => values.len(),
            Self::Whole(values) => values.len(),
        }
    }
}

/// The one number of an integer tensor.
pub(super) fn single(tensor: &Tensor) -> Result<i64, String> {
    match Wide::of(tensor)? {
        Wide::Whole(values) if values.len() == 1 => Ok(values[0]),
        _ => Err(format!("expected one integer, found {tensor:?}")),
    }
}
