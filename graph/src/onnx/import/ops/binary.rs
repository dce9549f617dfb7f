//! Functions of two elements, comparisons, logic, and choices.

use super::super::{ImportError, NodeContext, OperatorEntry};
use super::arithmetic::{binary, factor};
use crate::DType;
use crate::op::{Binary, Op, Unsqueeze};

macro_rules! plain {
    ($($function:ident),*) => {
        &[$(OperatorEntry {
            name: stringify!($function),
            import: |node| binary(node, Op::Binary(Binary::$function)),
        }),*]
    };
}

/// Functions without attributes.
pub(super) const PLAIN: &[OperatorEntry] = plain![
    And,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Or,
    Pow,
    Xor
];

/// What takes more than a name.
pub(super) const OTHERS: &[OperatorEntry] = &[
    OperatorEntry { name: "BitShift", import: bit_shift },
    OperatorEntry { name: "Max", import: |node| variadic(node, Op::Binary(Binary::Max)) },
    OperatorEntry { name: "Mean", import: mean },
    OperatorEntry { name: "Min", import: |node| variadic(node, Op::Binary(Binary::Min)) },
    OperatorEntry { name: "Mod", import: modulo },
    OperatorEntry { name: "PRelu", import: prelu },
    OperatorEntry { name: "Where", import: choose },
];

fn bit_shift(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let shift = match node.text_or("direction", "").as_str() {
        "LEFT" => Binary::ShiftLeft,
        "RIGHT" => Binary::ShiftRight,
        other => return Err(node.invalid(format!("direction = `{other}`"))),
    };
    binary(node, Op::Binary(shift))
}

fn modulo(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let remainder = if node.flag("fmod", false) { Binary::Remainder } else { Binary::Mod };
    binary(node, Op::Binary(remainder))
}

/// Any number of inputs, two at a time.
fn variadic(node: &mut NodeContext<'_, '_>, op: Op) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let [first, middle @ .., last] = inputs.as_slice() else {
        let x = node.input(0)?;
        node.set(0, x);
        return Ok(());
    };
    let mut so_far = *first;
    for &next in middle {
        so_far = node.add(op.clone(), &[so_far, next])?;
    }
    node.output(0, op, &[so_far, *last])
}

fn mean(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let mut sum = node.input(0)?;
    for &next in inputs.get(1..).unwrap_or_default() {
        sum = node.add(Op::Add, &[sum, next])?;
    }
    let count = factor(node, inputs.len() as f32, sum)?;
    node.output(0, Op::Div, &[sum, count])
}

/// Before opset 7 a slope a channel, dimension 1, was a list.
fn prelu(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, mut slope) = (node.input(0)?, node.input(1)?);
    let rank = node.rank(x);
    if node.opset() < 7 && node.rank(slope) == 1 && rank > 2 {
        let axes = (1..rank - 1).collect();
        slope = node.add(Op::Unsqueeze(Unsqueeze { axes }), &[slope])?;
    }
    node.output(0, Op::Binary(Binary::PRelu), &[x, slope])
}

fn choose(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    if inputs.first().is_some_and(|&condition| node.dtype(condition) != DType::Bool) {
        return Err(node.invalid("expected a condition of truth values"));
    }
    node.output(0, Op::Where, &inputs)
}
