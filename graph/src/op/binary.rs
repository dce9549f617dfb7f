//! Functions of two elements, broadcast, apart from the four of arithmetic.

use serde::{Deserialize, Serialize};

use super::elementwise::{broadcast, broadcast_index, broadcast_sizes, elements};
use super::position::affordable;
use super::wide::Wide;
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, exactly};
use crate::{Bindings, DType, Tensor, ValueType};

/// A function that is applied to each pair of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binary {
    /// `aᵇ`, of the type of `a`; the two types may differ.
    Pow,
    /// Remainder with the sign of the divisor.
    Mod,
    /// Remainder with the sign of the dividend.
    Remainder,
    /// `a` above 0, `a · b` below.
    PRelu,
    /// The larger; NaN where one is.
    Max,
    /// The smaller; NaN where one is.
    Min,
    /// Both.
    And,
    /// At least one.
    Or,
    /// Exactly one.
    Xor,
    /// Bits set in both.
    BitwiseAnd,
    /// Bits set in at least one.
    BitwiseOr,
    /// Bits set in exactly one.
    BitwiseXor,
    /// `a · 2ᵇ`, cut to the type.
    ShiftLeft,
    /// `a / 2ᵇ`, rounded down.
    ShiftRight,
    /// `a = b`
    Equal,
    /// `a > b`
    Greater,
    /// `a ≥ b`
    GreaterOrEqual,
    /// `a < b`
    Less,
    /// `a ≤ b`
    LessOrEqual,
}

impl Binary {
    fn compares(self) -> bool {
        use Binary::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
        matches!(self, Equal | Greater | GreaterOrEqual | Less | LessOrEqual)
    }

    fn takes(self, dtype: DType) -> bool {
        match self {
            Self::Pow | Self::PRelu => matches!(dtype, DType::F32 | DType::I64 | DType::I32),
            Self::And | Self::Or | Self::Xor => dtype == DType::Bool,
            Self::BitwiseAnd | Self::BitwiseOr | Self::BitwiseXor => {
                !matches!(dtype, DType::F32 | DType::Bool)
            }
            Self::ShiftLeft | Self::ShiftRight => dtype == DType::U8,
            Self::Equal => true,
            _ => dtype != DType::Bool,
        }
    }

    fn compare<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
            Self::Less => a < b,
            Self::LessOrEqual => a <= b,
            _ => a == b,
        }
    }

    fn real(self, a: f64, b: f64) -> Result<f64, String> {
        Ok(match self {
            Self::Pow => a.powf(b),
            Self::Mod => {
                let rest = a % b;
                if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
            }
            Self::Remainder => a % b,
            Self::PRelu => {
                if a < 0.0 {
                    a * b
                } else {
                    a
                }
            }
            Self::Max => {
                if a.is_nan() || a > b {
                    a
                } else {
                    b
                }
            }
            Self::Min => {
                if a.is_nan() || a < b {
                    a
                } else {
                    b
                }
            }
            _ => return Err("expected integers or truth values, found floats".to_owned()),
        })
    }

    fn whole(self, a: i64, b: i64) -> Result<i64, String> {
        let by_zero = || "an integer is divided by 0".to_owned();
        Ok(match self {
            Self::Pow => power(a, b),
            Self::Mod => {
                let rest = if b == 0 { return Err(by_zero()) } else { a.wrapping_rem(b) };
                if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
            }
            Self::Remainder => {
                if b == 0 {
                    return Err(by_zero());
                } else {
                    a.wrapping_rem(b)
                }
            }
            Self::PRelu => {
                if a < 0 {
                    a.wrapping_mul(b)
                } else {
                    a
                }
            }
            Self::Max => a.max(b),
            Self::Min => a.min(b),
            Self::And | Self::BitwiseAnd => a & b,
            Self::Or | Self::BitwiseOr => a | b,
            Self::Xor | Self::BitwiseXor => a ^ b,
            Self::ShiftLeft => u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0),
            Self::ShiftRight => u32::try_from(b).ok().and_then(|b| a.checked_shr(b)).unwrap_or(0),
            _ => self.compare(a, b).into(),
        })
    }
}

/// `a` to the power of `b`, wrapping; fractions are cut off.
fn power(a: i64, b: i64) -> i64 {
    let Ok(exponent) = u64::try_from(b) else { return (a as f64).powf(b as f64) as i64 };
    let (mut result, mut base, mut rest) = (1i64, a, exponent);
    while rest > 0 {
        if rest % 2 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        rest /= 2;
    }
    result
}

impl Operator for Binary {
    fn onnx_type(&self) -> &'static str {
        match self {
            Self::Pow => "Pow",
            Self::Mod | Self::Remainder => "Mod",
            Self::PRelu => "PRelu",
            Self::Max => "Max",
            Self::Min => "Min",
            Self::And => "And",
            Self::Or => "Or",
            Self::Xor => "Xor",
            Self::BitwiseAnd => "BitwiseAnd",
            Self::BitwiseOr => "BitwiseOr",
            Self::BitwiseXor => "BitwiseXor",
            Self::ShiftLeft | Self::ShiftRight => "BitShift",
            Self::Equal => "Equal",
            Self::Greater => "Greater",
            Self::GreaterOrEqual => "GreaterOrEqual",
            Self::Less => "Less",
            Self::LessOrEqual => "LessOrEqual",
        }
    }

    fn onnx(&self) -> OnnxForm {
        let form = OnnxForm::default();
        match self {
            Self::Remainder => form.attribute("fmod", OnnxAttribute::Int(1)),
            Self::ShiftLeft => form.attribute("direction", OnnxAttribute::Text("LEFT")),
            Self::ShiftRight => form.attribute("direction", OnnxAttribute::Text("RIGHT")),
            _ => form,
        }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [a, b] = exactly(inputs)?;
        if !self.takes(a.dtype) {
            return Err(format!("elements of type {} have no such function", a.dtype));
        }
        match self {
            Self::Pow if b.dtype != DType::Bool => {}
            _ => b.expect(a.dtype)?,
        }
        let dtype = if self.compares() { DType::Bool } else { a.dtype };
        Ok(ValueType { dtype, shape: broadcast(&a.shape, &b.shape)? })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [a, b] = exactly(inputs).ok()?;
        let (a, b) = (a.integers?, b.integers?);
        let length = if a.len() == 1 { b.len() } else { a.len() };
        let at = |list: &[Integer], index: usize| {
            list.get(if list.len() == 1 { 0 } else { index }).cloned()
        };
        let apply = |a: Integer, b: Integer| match (a.known(), b.known()) {
            (Some(a), Some(b)) => self.whole(a, b).map_or(Integer::Unknown, Integer::Known),
            _ => Integer::Unknown,
        };
        (0..length).map(|index| Some(apply(at(a, index)?, at(b, index)?))).collect()
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [a, b] = exactly(inputs)?;
        let shape = broadcast_sizes(a.shape(), b.shape())?;
        let count = affordable(&shape)?;
        let left = |index| broadcast_index(index, &shape, a.shape());
        let right = |index| broadcast_index(index, &shape, b.shape());
        let values = match (Wide::of(a)?, Wide::of(b)?) {
            (Wide::Real(x), Wide::Real(y)) if self.compares() => Wide::Whole(
                (0..count).map(|i| self.compare(x[left(i)], y[right(i)]).into()).collect(),
            ),
            (Wide::Real(x), Wide::Real(y)) => {
                let values = (0..count).map(|i| self.real(x[left(i)], y[right(i)]));
                Wide::Real(values.collect::<Result<_, _>>()?)
            }
            (Wide::Whole(x), Wide::Whole(y)) => {
                let values = (0..count).map(|i| self.whole(x[left(i)], y[right(i)]));
                Wide::Whole(values.collect::<Result<_, _>>()?)
            }
            (Wide::Real(x), Wide::Whole(y)) => {
                Wide::Real((0..count).map(|i| x[left(i)].powf(y[right(i)] as f64)).collect())
            }
            (Wide::Whole(x), Wide::Real(y)) => {
                let power = |i| (x[left(i)] as f64).powf(y[right(i)]) as i64;
                Wide::Whole((0..count).map(power).collect())
            }
        };
        let dtype = if self.compares() { DType::Bool } else { a.dtype() };
        values.into_tensor(dtype, &shape)
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply<T: crate::Element>(binary: Binary, a: Vec<T>, b: Vec<T>) -> Result<Tensor, String> {
        let tensor = |values: Vec<T>| Tensor::new(&[values.len()], values).unwrap();
        binary.evaluate(&[&tensor(a), &tensor(b)], &Bindings::default())
    }

    #[test]
    fn remainders_take_the_sign_of_either_side() {
        let (a, b) = (vec![7, -7, 7, -7], vec![3, 3, -3, -3]);
        let of = |binary| apply::<i32>(binary, a.clone(), b.clone()).unwrap();
        assert_eq!(of(Binary::Mod).elements::<i32>().unwrap(), [1, 2, -2, -1]);
        assert_eq!(of(Binary::Remainder).elements::<i32>().unwrap(), [1, -1, 1, -1]);
        assert!(apply(Binary::Mod, vec![1i8], vec![0]).is_err());
    }

    #[test]
    fn extremes_keep_nan() {
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            for binary in [Binary::Max, Binary::Min] {
                let y = apply(binary, vec![a], vec![b]).unwrap();
                assert!(y.elements::<f32>().unwrap()[0].is_nan());
            }
        }
    }

    #[test]
    fn shifts_past_the_type_give_nothing() {
        let left = apply(Binary::ShiftLeft, vec![255u8, 1, 1], vec![1, 8, 200]).unwrap();
        assert_eq!(left.elements::<u8>().unwrap(), [254, 0, 0]);
        let right = apply(Binary::ShiftRight, vec![255u8, 1], vec![7, 100]).unwrap();
        assert_eq!(right.elements::<u8>().unwrap(), [1, 0]);
    }

    #[test]
    fn integer_powers_are_exact_and_wrap() {
        let y = apply(Binary::Pow, vec![3i64, 2, 2, -1], vec![39, 64, -1, -3]).unwrap();
        assert_eq!(y.elements::<i64>().unwrap(), [4052555153018976267, 0, 0, -1]);
    }
}
