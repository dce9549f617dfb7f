//! Squares of pixels as channels, and back.

use serde::{Deserialize, Serialize};

use super::position::{flat, position};
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, Dim, Tensor, ValueType};

/// `[batch, channels, height, width]` to
/// `[batch, channels / block², height · block, width · block]` (Shi et al. 2016,
/// arXiv:1609.05158).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthToSpace {
    /// Side of the squares, > 0.
    pub block: usize,
    /// How the channels are counted.
    pub order: DepthOrder,
}

/// How channels are counted that become squares of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DepthOrder {
    /// By row, column, and then the output's channel.
    DepthColumnRow,
    /// By the output's channel, and then row and column.
    ColumnRowDepth,
}

/// `[batch, channels, height, width]` to
/// `[batch, block² · channels, height / block, width / block]`: the opposite of [`DepthToSpace`] in
/// the order by row, column and channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceToDepth {
    /// Side of the squares, > 0.
    pub block: usize,
}

/// Largest side of a square: far from overflow when squared.
const BLOCK_LIMIT: usize = 1 << 16;

fn times(dim: &Dim, factor: usize) -> Result<Dim, String> {
    match dim.fixed() {
        Some(size) => {
            let product = size.checked_mul(factor).map(Dim::Fixed);
            product.ok_or_else(|| format!("{size} · {factor} is too large"))
        }
        None if factor == 1 => Ok(dim.clone()),
        None => Ok(Dim::Unknown),
    }
}

fn divided(dim: &Dim, factor: usize) -> Result<Dim, String> {
    match dim.fixed() {
        Some(size) if !size.is_multiple_of(factor) => {
            Err(format!("{size} is not a multiple of {factor}"))
        }
        Some(size) => Ok(Dim::Fixed(size / factor)),
        None if factor == 1 => Ok(dim.clone()),
        None => Ok(Dim::Unknown),
    }
}

fn image(x: &ValueType, block: usize) -> Result<[Dim; 4], String> {
    if block == 0 || block > BLOCK_LIMIT {
        return Err(format!("expected a block of 1 to {BLOCK_LIMIT}, found {block}"));
    }
    let shape = x.shape.clone().try_into();
    shape.map_err(|_| format!("expected [batch, channels, height, width], found {x}"))
}

pub(super) fn type_of(x: &Tensor) -> ValueType {
    ValueType { dtype: x.dtype(), shape: crate::dim::fixed(x.shape()) }
}

impl DepthToSpace {
    fn target(&self, x: &ValueType) -> Result<Vec<Dim>, String> {
        let [batch, channels, height, width] = image(x, self.block)?;
        let channels = divided(&channels, self.block * self.block)?;
        Ok(vec![batch, channels, times(&height, self.block)?, times(&width, self.block)?])
    }
}

impl Operator for DepthToSpace {
    fn onnx_type(&self) -> &'static str {
        "DepthToSpace"
    }

    fn onnx(&self) -> OnnxForm {
        let mode = match self.order {
            DepthOrder::DepthColumnRow => "DCR",
            DepthOrder::ColumnRowDepth => "CRD",
        };
        OnnxForm::default()
            .attribute("blocksize", OnnxAttribute::Int(self.block as i64))
            .attribute("mode", OnnxAttribute::Text(mode))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        Ok(ValueType { dtype: x.dtype, shape: self.target(x.value_type)? })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let shape = Bindings::default().sizes(&self.target(&type_of(x))?)?;
        let block = self.block;
        let source = |index| {
            let at = position(index, &shape);
            let (row, column) = (at[2] % block, at[3] % block);
            let channel = match self.order {
                DepthOrder::DepthColumnRow => (row * block + column) * shape[1] + at[1],
                DepthOrder::ColumnRowDepth => (at[1] * block + row) * block + column,
            };
            Some(flat(&[at[0], channel, at[2] / block, at[3] / block], x.shape()))
        };
        x.rearranged(&shape, None, source).map_err(|error| error.to_string())
    }
}

impl SpaceToDepth {
    fn target(&self, x: &ValueType) -> Result<Vec<Dim>, String> {
        let [batch, channels, height, width] = image(x, self.block)?;
        let channels = times(&channels, self.block * self.block)?;
        Ok(vec![batch, channels, divided(&height, self.block)?, divided(&width, self.block)?])
    }
}

impl Operator for SpaceToDepth {
    fn onnx_type(&self) -> &'static str {
        "SpaceToDepth"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().attribute("blocksize", OnnxAttribute::Int(self.block as i64))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        Ok(ValueType { dtype: x.dtype, shape: self.target(x.value_type)? })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let shape = Bindings::default().sizes(&self.target(&type_of(x))?)?;
        let block = self.block;
        let source = |index| {
            let at = position(index, &shape);
            let (square, channel) = (at[1] / x.shape()[1], at[1] % x.shape()[1]);
            let (row, column) = (at[2] * block + square / block, at[3] * block + square % block);
            Some(flat(&[at[0], channel, row, column], x.shape()))
        };
        x.rearranged(&shape, None, source).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let x = Tensor::from_fn(&[2, 12, 2, 3], |index| index as i32);
        let there = DepthToSpace { block: 2, order: DepthOrder::DepthColumnRow };
        let y = there.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [2, 3, 4, 6]);
        let back = SpaceToDepth { block: 2 }.evaluate(&[&y], &Bindings::default()).unwrap();
        assert_eq!(back, x);
    }

    #[test]
    fn what_does_not_divide_is_refused() {
        let x = Tensor::from_fn(&[1, 3, 3, 4], |_| true);
        for block in [0, 2, usize::MAX] {
            let op = DepthToSpace { block, order: DepthOrder::ColumnRowDepth };
            assert!(op.evaluate(&[&x], &Bindings::default()).is_err());
            assert!(SpaceToDepth { block }.evaluate(&[&x], &Bindings::default()).is_err());
        }
    }
}
