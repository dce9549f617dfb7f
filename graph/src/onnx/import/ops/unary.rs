//! Functions of one element, bounds, and dropout as it is at inference.

use super::super::{ImportError, NodeContext, OperatorEntry};
use super::arithmetic::{factor, unary};
use crate::op::{Binary, Cast, Clip, Op, Unary};
use crate::{DType, Tensor};

macro_rules! plain {
    ($($name:literal $function:ident),*) => {
        &[$(OperatorEntry {
            name: $name,
            import: |node| unary(node, Op::Unary(Unary::$function)),
        }),*]
    };
}

/// Functions without attributes.
pub(super) const PLAIN: &[OperatorEntry] = plain![
    "Abs" Abs, "Acos" Acos, "Acosh" Acosh, "Asin" Asin, "Asinh" Asinh, "Atan" Atan,
    "Atanh" Atanh, "BitwiseNot" BitwiseNot, "Ceil" Ceil, "Cos" Cos, "Cosh" Cosh, "Erf" Erf,
    "Exp" Exp, "Floor" Floor, "HardSwish" HardSwish, "IsNaN" IsNan, "Log" Log, "Mish" Mish,
    "Neg" Neg, "Not" Not, "Reciprocal" Reciprocal, "Round" Round, "Sigmoid" Sigmoid,
    "Sign" Sign, "Sin" Sin, "Sinh" Sinh, "Softplus" Softplus, "Softsign" Softsign,
    "Sqrt" Sqrt, "Tan" Tan
];

/// Functions with attributes.
pub(super) const WITH_ATTRIBUTES: &[OperatorEntry] = &[
    OperatorEntry { name: "Celu", import: |node| alpha(node, 1.0, |alpha| Unary::Celu { alpha }) },
    OperatorEntry { name: "Clip", import: clip },
    OperatorEntry { name: "Dropout", import: dropout },
    OperatorEntry { name: "Elu", import: |node| alpha(node, 1.0, |alpha| Unary::Elu { alpha }) },
    OperatorEntry { name: "HardSigmoid", import: hard_sigmoid },
    OperatorEntry { name: "IsInf", import: is_inf },
    OperatorEntry {
        name: "LeakyRelu",
        import: |node| alpha(node, 0.01, |alpha| Unary::LeakyRelu { alpha }),
    },
    OperatorEntry { name: "Relu", import: relu },
    OperatorEntry { name: "Selu", import: selu },
    OperatorEntry { name: "Shrink", import: shrink },
    OperatorEntry {
        name: "Swish",
        import: |node| alpha(node, 1.0, |alpha| Unary::Swish { alpha }),
    },
    OperatorEntry {
        name: "ThresholdedRelu",
        import: |node| alpha(node, 1.0, |alpha| Unary::ThresholdedRelu { alpha }),
    },
];

fn alpha(
    node: &mut NodeContext<'_, '_>,
    default: f32,
    function: fn(f32) -> Unary,
) -> Result<(), ImportError> {
    unary(node, Op::Unary(function(node.float_or("alpha", default))))
}

fn hard_sigmoid(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (alpha, beta) = (node.float_or("alpha", 0.2), node.float_or("beta", 0.5));
    unary(node, Op::Unary(Unary::HardSigmoid { alpha, beta }))
}

fn is_inf(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let negative = node.flag("detect_negative", true);
    let positive = node.flag("detect_positive", true);
    unary(node, Op::Unary(Unary::IsInf { negative, positive }))
}

/// Before opset 6 the constants of the paper were written with four digits.
fn selu(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (alpha, gamma) = if node.opset() < 6 { (1.6732, 1.0507) } else { (1.673_263_2, 1.050_701) };
    let (alpha, gamma) = (node.float_or("alpha", alpha), node.float_or("gamma", gamma));
    unary(node, Op::Unary(Unary::Selu { alpha, gamma }))
}

fn shrink(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (bias, lambda) = (node.float_or("bias", 0.0), node.float_or("lambd", 0.5));
    unary(node, Op::Unary(Unary::Shrink { bias, lambda }))
}

fn relu(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    if node.dtype(x) == DType::F32 {
        return node.output(0, Op::Relu, &[x]);
    }
    let zero = factor(node, 0.0, x)?;
    node.output(0, Op::Binary(Binary::Max), &[x, zero])
}

/// Bounds are attributes before opset 11 and optional inputs after.
fn clip(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let (low, high) = if node.opset() < 11 {
        let mut bound = |name: &str| -> Result<_, ImportError> {
            if !node.has(name) {
                return Ok(None);
            }
            let value = node.float_or(name, 0.0);
            factor(node, value, x).map(Some)
        };
        (bound("min")?, bound("max")?)
    } else {
        (node.optional(1), node.optional(2))
    };
    if low.is_none() && high.is_none() {
        node.set(0, x);
        return Ok(());
    }
    let clip = Clip { low: low.is_some(), high: high.is_some() };
    let inputs: Vec<_> = [Some(x), low, high].into_iter().flatten().collect();
    node.output(0, Op::Clip(clip), &inputs)
}

/// Outside training nothing is dropped.
fn dropout(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let ratio = match node.optional(1) {
        Some(ratio) => node.known_floats(ratio).and_then(|ratio| ratio.first().copied()),
        None => Some(node.float_or("ratio", 0.5)),
    };
    let training = match node.optional(2) {
        Some(training) => {
            let training = node.constant(training).and_then(|flag| flag.elements::<bool>().ok());
            training.is_none_or(|training| training != [false])
        }
        None => node.opset() < 7 && !node.flag("is_test", false),
    };
    if training && ratio != Some(0.0) {
        return Err(node.unsupported("dropping elements at random (training mode)"));
    }
    node.set(0, x);
    if !node.wants(1) {
        return Ok(());
    }
    let truth = node.weight(Tensor::scalar(true))?;
    let like = node.add(Op::Cast(Cast { to: DType::Bool }), &[x])?;
    if node.opset() >= 10 {
        return node.output(1, Op::Binary(Binary::Or), &[like, truth]);
    }
    let mask = node.add(Op::Binary(Binary::Or), &[like, truth])?;
    let to = node.dtype(x);
    node.output(1, Op::Cast(Cast { to }), &[mask])
}
