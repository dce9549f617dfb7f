//! Element by element: arithmetic with broadcasting, activations.

use serde::{Deserialize, Serialize};

use super::position::affordable;
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, elements_of, exactly, floats};
use crate::{Bindings, DType, Dim, Element, Shape, Tensor, ValueType, dim};

/// The four arithmetic operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
}

impl Arithmetic {
    fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
        }
    }

    /// Integers wrap around; a quotient is cut towards 0.
    fn apply_integers<T: WrappingInteger>(self, a: T, b: T) -> Result<T, String> {
        match self {
            Self::Add => Ok(a.add(b)),
            Self::Sub => Ok(a.sub(b)),
            Self::Mul => Ok(a.mul(b)),
            Self::Div => a.div(b).ok_or_else(|| "an integer is divided by 0".to_owned()),
        }
    }
}

/// Integers whose arithmetic wraps around.
trait WrappingInteger: Element {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Option<Self>;
}

macro_rules! wrapping_integer {
    ($($type:ty),*) => {
        $(impl WrappingInteger for $type {
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            fn div(self, other: Self) -> Option<Self> {
                (other != 0).then(|| self.wrapping_div(other))
            }
        })*
    };
}
wrapping_integer!(i64, i32, i8, u8);

/// `apply` of the elements of `a` and `b`, broadcast.
pub(super) fn zip<T: Element, U: Element>(
    a: &Tensor,
    b: &Tensor,
    apply: impl Fn(T, T) -> Result<U, String>,
) -> Result<Tensor, String> {
    let (left, right) = (elements_of::<T>(a)?, elements_of::<T>(b)?);
    let shape = broadcast_sizes(a.shape(), b.shape())?;
    let elements = (0..shape.iter().product()).map(|index| {
        let a = left[broadcast_index(index, &shape, a.shape())];
        let b = right[broadcast_index(index, &shape, b.shape())];
        apply(a, b)
    });
    let elements = elements.collect::<Result<Vec<U>, String>>()?;
    Tensor::new(&shape, elements).map_err(|error| error.to_string())
}

impl Operator for Arithmetic {
    fn onnx_type(&self) -> &'static str {
        match self {
            Self::Add => "Add",
            Self::Sub => "Sub",
            Self::Mul => "Mul",
            Self::Div => "Div",
        }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [a, b] = exactly(inputs)?;
        if a.dtype == DType::Bool {
            return Err(format!("expected numbers, found {a}"));
        }
        b.expect(a.dtype)?;
        Ok(ValueType { dtype: a.dtype, shape: broadcast(&a.shape, &b.shape)? })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [a, b] = exactly(inputs).ok()?;
        let (a, b) = (a.integers?, b.integers?);
        let length = if a.len() == 1 { b.len() } else { a.len() };
        let at = |list: &[Integer], index: usize| {
            list.get(if list.len() == 1 { 0 } else { index }).cloned()
        };
        let known = |a: Integer, b: Integer| match (a.known(), b.known()) {
            (Some(a), Some(b)) => {
                self.apply_integers(a, b).map_or(Integer::Unknown, Integer::Known)
            }
            (None, Some(1)) if matches!(self, Self::Mul | Self::Div) => a,
            (None, Some(0)) if matches!(self, Self::Add | Self::Sub) => a,
            (Some(1), None) if *self == Self::Mul => b,
            (Some(0), None) if *self == Self::Add => b,
            _ => Integer::Unknown,
        };
        (0..length).map(|index| Some(known(at(a, index)?, at(b, index)?))).collect()
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [a, b] = exactly(inputs)?;
        match a.dtype() {
            DType::F32 => zip(a, b, |a: f32, b| Ok(self.apply(a, b))),
            DType::I64 => zip(a, b, |a: i64, b| self.apply_integers(a, b)),
            DType::I32 => zip(a, b, |a: i32, b| self.apply_integers(a, b)),
            DType::I8 => zip(a, b, |a: i8, b| self.apply_integers(a, b)),
            DType::U8 => zip(a, b, |a: u8, b| self.apply_integers(a, b)),
            DType::Bool => Err("expected numbers, found truth values".to_owned()),
        }
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        elements(output)
    }
}

/// The shape that `a` and `b` broadcast to.
///
/// # Errors
///
/// When a dimension differs and neither side is 1.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Shape, String> {
    let rank = a.len().max(b.len());
    let one = Dim::Fixed(1);
    let at = |shape: &[Dim], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(index) => shape[index].clone(),
        None => one.clone(),
    };
    let dims = (0..rank).map(|axis| match (at(a, axis), at(b, axis)) {
        (x, y) if x == y => Ok(x),
        (x, y) if y == one => Ok(x),
        (x, y) if x == one => Ok(y),
        // What is not 1 decides: the other side is 1, or the same.
        (Dim::Unknown, known @ Dim::Fixed(_)) | (known @ Dim::Fixed(_), Dim::Unknown) => Ok(known),
        (Dim::Unknown, _) | (_, Dim::Unknown) => Ok(Dim::Unknown),
        (x, y) => {
            let (a, b) = (dim::display(a), dim::display(b));
            Err(format!("shapes {a} and {b} do not broadcast{}", dim::how_to_bind(&x, &y)))
        }
    });
    dims.collect()
}

/// [`broadcast`] of concrete shapes, to one that is small enough to hold.
pub(super) fn broadcast_sizes(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let shape = Bindings::default().sizes(&broadcast(&dim::fixed(a), &dim::fixed(b))?)?;
    affordable(&shape)?;
    Ok(shape)
}

/// Flat index into a tensor of shape `source` for flat `index` of the shape it is broadcast to.
pub(super) fn broadcast_index(index: usize, shape: &[usize], source: &[usize]) -> usize {
    let (mut rest, mut flat, mut stride) = (index, 0, 1);
    for axis in (0..shape.len()).rev() {
        let position = rest % shape[axis];
        rest /= shape[axis];
        if let Some(source_axis) = (axis + source.len()).checked_sub(shape.len()) {
            if source[source_axis] != 1 {
                flat += position * stride;
            }
            stride *= source[source_axis];
        }
    }
    flat
}

/// Number of elements of a concrete shape.
pub(super) fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|&size| size as u64).product()
}

/// `max(x, 0)`.
#[derive(Debug)]
pub(super) struct Relu;

/// Hyperbolic tangent.
#[derive(Debug)]
pub(super) struct Tanh;

/// Gaussian error linear unit, `x · Φ(x)` (Hendrycks & Gimpel 2016, arXiv:1606.08415).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gelu {
    /// Φ through the error function.
    #[default]
    Erf,
    /// `0.5x(1 + tanh(√(2/π)(x + 0.044715x³)))`.
    Tanh,
}

impl Gelu {
    fn form(&self) -> OnnxForm {
        let approximate = match self {
            Self::Erf => "none",
            Self::Tanh => "tanh",
        };
        OnnxForm::default().attribute("approximate", OnnxAttribute::Text(approximate))
    }

    /// The function itself, in `f64` so that it can serve as a reference.
    pub fn apply(self, x: f32) -> f32 {
        let x = f64::from(x);
        let value = match self {
            Self::Erf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            Self::Tanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
        };
        value as f32
    }
}

/// The error function to about 1e-15: its Maclaurin series below 3, the continued fraction of
/// `erfc` above (Abramowitz & Stegun 7.1.6, 7.1.14).
pub fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    let value = if magnitude < 3.0 {
        let (mut term, mut sum, mut n) = (magnitude, magnitude, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * magnitude * magnitude / (2.0 * n + 1.0);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-magnitude * magnitude).exp() * sum
    } else {
        let fraction =
            (1..=60).rev().fold(magnitude, |tail, k| magnitude + f64::from(k) / 2.0 / tail);
        1.0 - (-magnitude * magnitude).exp() / (std::f64::consts::PI.sqrt() * fraction)
    };
    value.copysign(x)
}

macro_rules! unary {
    ($operator:ty, $onnx:literal, $form:expr, $flops:literal, $apply:expr) => {
        impl Operator for $operator {
            fn onnx_type(&self) -> &'static str {
                $onnx
            }
            fn onnx(&self) -> OnnxForm {
                let form: fn(&Self) -> OnnxForm = $form;
                form(self)
            }
            fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
                let [x] = exactly(inputs)?;
                x.expect(DType::F32)?;
                Ok(x.value_type.clone())
            }
            fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
                let [x] = exactly(inputs)?;
                let elements = floats(x)?;
                let apply: fn(&Self, f32) -> f32 = $apply;
                Ok(Tensor::from_fn(x.shape(), |index| apply(self, elements[index])))
            }
            fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
                $flops * elements(output)
            }
        }
    };
}
unary!(Relu, "Relu", |_| OnnxForm::default(), 1, |_, x| if x < 0.0 { 0.0 } else { x });
unary!(Tanh, "Tanh", |_| OnnxForm::default(), 1, |_, x| x.tanh());
unary!(Gelu, "Gelu", Gelu::form, 8, |gelu, x| gelu.apply(x));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        let shape = |dims: &[&str]| -> Shape {
            dims.iter()
                .map(|dim| dim.parse().map_or_else(|_| Dim::symbol(dim), Dim::Fixed))
                .collect()
        };
        let check = |a: &[&str], b: &[&str], expected: Result<&[&str], &str>| {
            let expected = expected.map(shape).map_err(str::to_owned);
            assert_eq!(broadcast(&shape(a), &shape(b)), expected);
        };
        check(
            &["batch", "12", "s", "s"],
            &["batch", "1", "1", "s"],
            Ok(&["batch", "12", "s", "s"]),
        );
        check(&["batch", "s", "384"], &["384"], Ok(&["batch", "s", "384"]));
        check(&[], &["3"], Ok(&["3"]));
        check(&["2"], &["3"], Err("shapes [2] and [3] do not broadcast"));
        check(
            &["batch"],
            &["s"],
            Err(
                "shapes [batch] and [s] do not broadcast; if `batch` and `s` are equal, give their \
                 sizes (--bind batch=…,s=…)",
            ),
        );
        check(
            &["s", "4"],
            &["5", "4"],
            Err(
                "shapes [s, 4] and [5, 4] do not broadcast; if `s` is 5, give its size (--bind s=5)",
            ),
        );
    }

    #[test]
    fn a_column_and_a_row_make_a_table() {
        let column = Tensor::from_fn(&[2, 1], |index| index as f32 * 10.0);
        let row = Tensor::from_fn(&[3], |index| index as f32);
        let sum = Arithmetic::Add.evaluate(&[&column, &row], &Bindings::default()).unwrap();
        assert_eq!(sum.elements::<f32>().unwrap(), [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    }

    #[test]
    fn relu_keeps_what_is_no_number() {
        let x = Tensor::new(&[3], vec![f32::NAN, -1.0, 2.0]).unwrap();
        let y = Relu.evaluate(&[&x], &Bindings::default()).unwrap();
        let y = y.elements::<f32>().unwrap();
        assert!(y[0].is_nan());
        assert_eq!(y[1..], [0.0, 2.0]);
    }

    #[test]
    fn a_product_of_sizes_that_no_machine_holds_is_refused() {
        let row = Tensor::from_fn(&[1, 1 << 17], |_| 0u8);
        let column = row.reshaped(&[1 << 17, 1]).unwrap();
        let sum = Arithmetic::Add.evaluate(&[&row, &column], &Bindings::default());
        assert!(sum.unwrap_err().contains("expected at most"));
    }

    #[test]
    fn erf_matches_published_values() {
        // Abramowitz & Stegun, table 7.1.
        for (x, expected) in
            [(0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650), (3.5, 0.999999257)]
        {
            assert!((erf(x) - expected).abs() < 1e-9, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(0.0), 0.0);
    }
}
