//! Functions of one element.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::wide::Wide;
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, erf, exactly};
use crate::{Bindings, DType, Tensor, ValueType};

/// A function that is applied to each element.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Unary {
    /// `|x|`
    Abs,
    /// `−x`
    Neg,
    /// −1, 0 or 1.
    Sign,
    /// Smallest whole number not below `x`.
    Ceil,
    /// Largest whole number not above `x`.
    Floor,
    /// Nearest whole number, the even one of two.
    Round,
    /// `eˣ`
    Exp,
    /// Natural logarithm.
    Log,
    /// `√x`
    Sqrt,
    /// `1 / x`
    Reciprocal,
    /// Error function.
    Erf,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// Tangent of radians.
    Tan,
    /// Inverse sine, in radians.
    Asin,
    /// Inverse cosine, in radians.
    Acos,
    /// Inverse tangent, in radians.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Inverse hyperbolic sine.
    Asinh,
    /// Inverse hyperbolic cosine.
    Acosh,
    /// Inverse hyperbolic tangent.
    Atanh,
    /// `1 / (1 + e⁻ˣ)`
    Sigmoid,
    /// `ln(1 + eˣ)`
    Softplus,
    /// `x / (1 + |x|)`
    Softsign,
    /// `x · min(max(x/6 + 1/2, 0), 1)`
    HardSwish,
    /// `x · tanh(ln(1 + eˣ))` (Misra 2019, arXiv:1908.08681).
    Mish,
    /// The other truth value.
    Not,
    /// Every bit inverted.
    BitwiseNot,
    /// Whether `x` is no number.
    IsNan,
    /// Whether `x` is infinite.
    IsInf {
        /// Whether −∞ counts.
        negative: bool,
        /// Whether +∞ counts.
        positive: bool,
    },
    /// `max(x, 0) + min(alpha · (e^(x/alpha) − 1), 0)`
    Celu {
        /// Width of the bend.
        alpha: f32,
    },
    /// `x` above 0, `alpha · (eˣ − 1)` below.
    Elu {
        /// Negative of the lower limit.
        alpha: f32,
    },
    /// `min(max(alpha · x + beta, 0), 1)`
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `x` above 0, `alpha · x` below.
    LeakyRelu {
        /// Slope below 0.
        alpha: f32,
    },
    /// `gamma · Elu(x)` (Klambauer et al. 2017, arXiv:1706.02515).
    Selu {
        /// Negative of the lower limit, before scaling.
        alpha: f32,
        /// Scale.
        gamma: f32,
    },
    /// `x + bias` below `−lambda`, `x − bias` above `lambda`, 0 between.
    Shrink {
        /// Distance by which `x` comes nearer to 0.
        bias: f32,
        /// Half the width of what becomes 0.
        lambda: f32,
    },
    /// `x / (1 + e^(−alpha · x))`
    Swish {
        /// Steepness of the gate.
        alpha: f32,
    },
    /// `x` above `alpha`, 0 elsewhere.
    ThresholdedRelu {
        /// The threshold.
        alpha: f32,
    },
}

impl Unary {
    /// The type of the output for elements of this type; `None` where the function has no meaning.
    fn output_type(self, dtype: DType) -> Option<DType> {
        let signed = matches!(dtype, DType::F32 | DType::I64 | DType::I32 | DType::I8);
        match self {
            Self::Abs | Self::Sign | Self::Shrink { .. } => (dtype != DType::Bool).then_some(dtype),
            Self::Neg => signed.then_some(dtype),
            Self::Not => (dtype == DType::Bool).then_some(DType::Bool),
            Self::BitwiseNot => (!matches!(dtype, DType::F32 | DType::Bool)).then_some(dtype),
            Self::IsNan | Self::IsInf { .. } => (dtype == DType::F32).then_some(DType::Bool),
            _ => (dtype == DType::F32).then_some(DType::F32),
        }
    }

    /// The function of a float.
    fn real(self, x: f64) -> f64 {
        match self {
            Self::Abs => x.abs(),
            Self::Neg => -x,
            Self::Sign => {
                if x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
            Self::Ceil => x.ceil(),
            Self::Floor => x.floor(),
            Self::Round => x.round_ties_even(),
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Sqrt => x.sqrt(),
            Self::Reciprocal => x.recip(),
            Self::Erf => erf(x),
            Self::Sin => x.sin(),
            Self::Cos => x.cos(),
            Self::Tan => x.tan(),
            Self::Asin => x.asin(),
            Self::Acos => x.acos(),
            Self::Atan => x.atan(),
            Self::Sinh => x.sinh(),
            Self::Cosh => x.cosh(),
            Self::Asinh => x.asinh(),
            Self::Acosh => x.acosh(),
            Self::Atanh => x.atanh(),
            _ => self.activation(x),
        }
    }

    /// The functions that networks were given names for.
    fn activation(self, x: f64) -> f64 {
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let elu = |alpha: f32| if x < 0.0 { f64::from(alpha) * x.exp_m1() } else { x };
        match self {
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Softplus => {
                if x.is_nan() {
                    x
                } else {
                    softplus(x)
                }
            }
            Self::Softsign => x / (1.0 + x.abs()),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Mish => x * softplus(x).tanh(),
            Self::Celu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * (x / f64::from(alpha)).exp_m1()
                } else {
                    x
                }
            }
            Self::Elu { alpha } => elu(alpha),
            Self::HardSigmoid { alpha, beta } => {
                (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
            }
            Self::LeakyRelu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * x
                } else {
                    x
                }
            }
            Self::Selu { alpha, gamma } => f64::from(gamma) * elu(alpha),
            Self::Shrink { bias, lambda } => {
                let (bias, lambda) = (f64::from(bias), f64::from(lambda));
                if x < -lambda {
                    x + bias
                } else if x > lambda {
                    x - bias
                } else {
                    0.0
                }
            }
            Self::Swish { alpha } => x / (1.0 + (-f64::from(alpha) * x).exp()),
            Self::ThresholdedRelu { alpha } => {
                if x > f64::from(alpha) {
                    x
                } else {
                    0.0
                }
            }
            other => unreachable!("{other:?} is no activation"),
        }
    }

    /// The function of an integer, or of a truth value as 0 or 1.
    fn whole(self, x: i64) -> i64 {
        match self {
            Self::Abs => x.wrapping_abs(),
            Self::Neg => x.wrapping_neg(),
            Self::Sign => x.signum(),
            Self::Not => i64::from(x == 0),
            Self::BitwiseNot => !x,
            _ => self.real(x as f64) as i64,
        }
    }

    /// Whether something is true of a float.
    fn test(self, x: f64) -> Option<bool> {
        match self {
            Self::IsNan => Some(x.is_nan()),
            Self::IsInf { negative, positive } => {
                Some(x == f64::INFINITY && positive || x == f64::NEG_INFINITY && negative)
            }
            _ => None,
        }
    }
}

impl Operator for Unary {
    fn onnx_type(&self) -> &'static str {
        match self {
            Self::Abs => "Abs",
            Self::Neg => "Neg",
            Self::Sign => "Sign",
            Self::Ceil => "Ceil",
            Self::Floor => "Floor",
            Self::Round => "Round",
            Self::Exp => "Exp",
            Self::Log => "Log",
            Self::Sqrt => "Sqrt",
            Self::Reciprocal => "Reciprocal",
            Self::Erf => "Erf",
            Self::Sin => "Sin",
            Self::Cos => "Cos",
            Self::Tan => "Tan",
            Self::Asin => "Asin",
            Self::Acos => "Acos",
            Self::Atan => "Atan",
            Self::Sinh => "Sinh",
            Self::Cosh => "Cosh",
            Self::Asinh => "Asinh",
            Self::Acosh => "Acosh",
            Self::Atanh => "Atanh",
            Self::Sigmoid => "Sigmoid",
            Self::Softplus => "Softplus",
            Self::Softsign => "Softsign",
            Self::HardSwish => "HardSwish",
            Self::Mish => "Mish",
            Self::Not => "Not",
            Self::BitwiseNot => "BitwiseNot",
            Self::IsNan => "IsNaN",
            Self::IsInf { .. } => "IsInf",
            Self::Celu { .. } => "Celu",
            Self::Elu { .. } => "Elu",
            Self::HardSigmoid { .. } => "HardSigmoid",
            Self::LeakyRelu { .. } => "LeakyRelu",
            Self::Selu { .. } => "Selu",
            Self::Shrink { .. } => "Shrink",
            Self::Swish { .. } => "Swish",
            Self::ThresholdedRelu { .. } => "ThresholdedRelu",
        }
    }

    fn onnx(&self) -> OnnxForm {
        let form = OnnxForm::default();
        let float = |form: OnnxForm, name, value| form.attribute(name, OnnxAttribute::Float(value));
        match *self {
            Self::IsInf { negative, positive } => form
                .attribute("detect_negative", OnnxAttribute::Int(negative.into()))
                .attribute("detect_positive", OnnxAttribute::Int(positive.into())),
            Self::Celu { alpha }
            | Self::Elu { alpha }
            | Self::LeakyRelu { alpha }
            | Self::ThresholdedRelu { alpha } => float(form, "alpha", alpha),
            Self::Swish { alpha } => float(form.since(24), "alpha", alpha),
            Self::HardSigmoid { alpha, beta } => float(float(form, "alpha", alpha), "beta", beta),
            Self::Selu { alpha, gamma } => float(float(form, "alpha", alpha), "gamma", gamma),
            Self::Shrink { bias, lambda } => float(float(form, "bias", bias), "lambd", lambda),
            _ => form,
        }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        let dtype = self.output_type(x.dtype);
        let dtype =
            dtype.ok_or_else(|| format!("elements of type {} have no such function", x.dtype))?;
        Ok(ValueType { dtype, shape: x.shape.clone() })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        if !matches!(self, Self::Abs | Self::Neg | Self::Sign) {
            return None;
        }
        let apply =
            |x: &Integer| x.known().map_or(Integer::Unknown, |x| Integer::Known(self.whole(x)));
        Some(x.integers?.iter().map(apply).collect())
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let dtype = self.output_type(x.dtype());
        let dtype = dtype.ok_or_else(|| format!("{} have no such function", x.dtype()))?;
        let values = match Wide::of(x)? {
            Wide::Real(values) if dtype == DType::Bool => Wide::Whole(
                values.into_iter().map(|x| self.test(x).unwrap_or(false).into()).collect(),
            ),
            Wide::Real(values) => Wide::Real(values.into_iter().map(|x| self.real(x)).collect()),
            Wide::Whole(values) => Wide::Whole(values.into_iter().map(|x| self.whole(x)).collect()),
        };
        values.into_tensor(dtype, x.shape())
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply<T: crate::Element>(unary: Unary, x: Vec<T>) -> Result<Tensor, String> {
        let x = Tensor::new(&[x.len()], x).unwrap();
        unary.evaluate(&[&x], &Bindings::default())
    }

    #[test]
    fn integers_wrap_around() {
        let of = |unary| apply(unary, vec![i8::MIN, -3, 0, 5]).unwrap();
        assert_eq!(of(Unary::Abs).elements::<i8>().unwrap(), [i8::MIN, 3, 0, 5]);
        assert_eq!(of(Unary::Neg).elements::<i8>().unwrap(), [i8::MIN, 3, 0, -5]);
        assert_eq!(of(Unary::Sign).elements::<i8>().unwrap(), [-1, -1, 0, 1]);
        let inverted = apply(Unary::BitwiseNot, vec![0u8, 0xf0]).unwrap();
        assert_eq!(inverted.elements::<u8>().unwrap(), [0xff, 0x0f]);
    }

    #[test]
    fn functions_without_meaning_are_refused() {
        assert!(apply(Unary::Exp, vec![1i32]).is_err());
        assert!(apply(Unary::Neg, vec![1u8]).is_err());
        assert!(apply(Unary::Not, vec![1.0f32]).is_err());
    }

    #[test]
    fn limits_and_nan_come_through() {
        let large = f32::MAX;
        for (unary, expected) in [
            (Unary::Softplus, [0.0, large]),
            (Unary::Sigmoid, [0.0, 1.0]),
            (Unary::Mish, [0.0, large]),
        ] {
            let y = apply(unary, vec![-large, large, f32::NAN]).unwrap();
            let y = y.elements::<f32>().unwrap();
            assert_eq!(y[..2], expected, "{unary:?}");
            assert!(y[2].is_nan(), "{unary:?}");
        }
    }
}
