//! Numbers that a model computes shapes with, as far as they are known before a run.

use std::sync::Arc;

use crate::{DType, Dim, Tensor};

/// Longest list of numbers that is followed: shapes are short, data is not.
const LENGTH_LIMIT: usize = 64;

/// One number of an integer value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Integer {
    /// A known number.
    Known(i64),
    /// The size of a named dimension.
    Symbol(Arc<str>),
    /// Only a run knows.
    Unknown,
}

impl Integer {
    /// The number, when it is known.
    pub fn known(&self) -> Option<i64> {
        match self {
            Self::Known(number) => Some(*number),
            Self::Symbol(_) | Self::Unknown => None,
        }
    }

    /// The dimension of this size.
    ///
    /// # Errors
    ///
    /// When the number is negative.
    pub fn dim(&self) -> Result<Dim, String> {
        match self {
            Self::Known(number) => usize::try_from(*number)
                .map(Dim::Fixed)
                .map_err(|_| format!("expected a size of at least 0, found {number}")),
            Self::Symbol(name) => Ok(Dim::Symbol(name.clone())),
            Self::Unknown => Ok(Dim::Unknown),
        }
    }

    /// The numbers of a short integer tensor of rank 0 or 1.
    pub fn of_tensor(tensor: &Tensor) -> Option<Vec<Self>> {
        if tensor.shape().len() > 1 || tensor.len() > LENGTH_LIMIT {
            return None;
        }
        match tensor.dtype() {
            DType::I64 => {
                Some(tensor.elements::<i64>().ok()?.iter().map(|&x| Self::Known(x)).collect())
            }
            DType::I32 => {
                let elements = tensor.elements::<i32>().ok()?;
                Some(elements.iter().map(|&x| Self::Known(i64::from(x))).collect())
            }
            _ => None,
        }
    }
}

impl From<&Dim> for Integer {
    fn from(dim: &Dim) -> Self {
        match dim {
            Dim::Fixed(size) => i64::try_from(*size).map_or(Self::Unknown, Self::Known),
            Dim::Symbol(name) => Self::Symbol(name.clone()),
            Dim::Unknown => Self::Unknown,
        }
    }
}
