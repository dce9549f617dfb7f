//! Rotary position embedding.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, elements_of, floats};
use crate::{Bindings, DType, Tensor, ValueType};

/// Rotates pairs of entries of each row of `[batch, heads, sequence, size]` by an angle that
/// depends on the row's place (Su et al. 2021, arXiv:2104.09864): `(x, cos, sin)` or
/// `(x, cos, sin, positions)`.
///
/// # Shapes
///
/// - cos, sin: `[batch, sequence, width / 2]`, with positions `[places, width / 2]`
/// - positions: `[batch, sequence]`, i64
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotaryEmbedding {
    /// Which entries make a pair.
    pub pairs: RotaryPairs,
    /// How many entries of a row are rotated, from the first; `None` for all.
    pub width: Option<usize>,
}

/// Which entries are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotaryPairs {
    /// Entry `i` of the first half with entry `i` of the second.
    Halves,
    /// Neighbours.
    Interleaved,
}

impl Operator for RotaryEmbedding {
    fn onnx_type(&self) -> &'static str {
        "RotaryEmbedding"
    }

    fn onnx(&self) -> OnnxForm {
        let interleaved = i64::from(self.pairs == RotaryPairs::Interleaved);
        let width = self.width.unwrap_or(0) as i64;
        OnnxForm::default()
            .attribute("interleaved", OnnxAttribute::Int(interleaved))
            .attribute("rotary_embedding_dim", OnnxAttribute::Int(width))
            .since(23)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, cos, sin, positions @ ..] = inputs else {
            return Err(format!("expected 3 or 4 inputs, found {}", inputs.len()));
        };
        for input in [x, cos, sin] {
            input.expect(DType::F32)?;
        }
        let cache_rank = if positions.is_empty() { 3 } else { 2 };
        if x.shape.len() != 4 || cos.shape.len() != cache_rank || sin.shape.len() != cache_rank {
            return Err(format!("{x} does not go with {cos} and {sin}"));
        }
        if let [positions, ..] = positions {
            positions.expect(DType::I64)?;
        }
        Ok(x.value_type.clone())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let (x, cos, sin, positions) = match *inputs {
            [x, cos, sin] => (x, cos, sin, None),
            [x, cos, sin, positions] => (x, cos, sin, Some(elements_of::<i64>(positions)?)),
            _ => return Err(format!("expected 3 or 4 inputs, found {}", inputs.len())),
        };
        let [batch, heads, sequence, size] = *x.shape() else {
            return Err(format!("expected 4 dimensions, found {x:?}"));
        };
        let (values, width) = (floats(x)?, self.width.unwrap_or(size));
        let half = width / 2;
        if width > size
            || width % 2 != 0
            || cos.shape().last() != Some(&half)
            || cos.shape() != sin.shape()
        {
            return Err(format!("{width} of {size} entries do not go with {cos:?} and {sin:?}"));
        }
        let places = positions.map_or(cos.shape().iter().rev().skip(1).product(), <[_]>::len);
        if places != batch * sequence {
            return Err(format!("expected {batch} · {sequence} places, found {places}"));
        }
        let rows = cos.len().checked_div(half).unwrap_or(0);
        let place = |row: usize| {
            let row = row / (heads * sequence) * sequence + row % sequence;
            let place = positions.map_or(Some(row), |list| usize::try_from(list[row]).ok());
            place.filter(|&place| place < rows || half == 0).ok_or("a position beyond the angles")
        };
        let (cos, sin) = (floats(cos)?, floats(sin)?);
        let mut output = values.to_vec();
        for (row, entries) in output.chunks_mut(size.max(1)).enumerate() {
            let place = place(row)?;
            for pair in 0..half {
                let (first, second) = match self.pairs {
                    RotaryPairs::Halves => (pair, pair + half),
                    RotaryPairs::Interleaved => (2 * pair, 2 * pair + 1),
                };
                let (cos, sin) = (cos[place * half + pair], sin[place * half + pair]);
                let (a, b) = (entries[first], entries[second]);
                entries[first] = cos * a - sin * b;
                entries[second] = sin * a + cos * b;
            }
        }
        Tensor::new(x.shape(), output).map_err(|error| error.to_string())
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        3 * elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_beyond_the_angles_are_refused() {
        let x = Tensor::new(&[1, 1, 1, 2], vec![3f32, 4.0]).unwrap();
        let cos = Tensor::new(&[2, 1], vec![1f32, 0.0]).unwrap();
        let sin = Tensor::new(&[2, 1], vec![0f32, 1.0]).unwrap();
        let op = RotaryEmbedding { pairs: RotaryPairs::Halves, width: None };
        let rotated = |place: i64| {
            let place = Tensor::new(&[1, 1], vec![place]).unwrap();
            op.evaluate(&[&x, &cos, &sin, &place], &Bindings::default())
        };
        assert_eq!(rotated(1).unwrap().elements::<f32>().unwrap(), [-4.0, 3.0]);
        assert!(rotated(2).is_err());
        assert!(rotated(-1).is_err());
    }
}
