//! Constants, shapes, and what only moves elements.

use super::super::{ImportError, Item, NodeContext, OperatorEntry};
use crate::op::{
    Cast, Concat, Gather, Op, Reshape, ReshapeTo, ShapeOf, Squeeze, SqueezeBy, Transpose,
    Unsqueeze, UnsqueezeBy,
};
use crate::{Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "Cast", import: cast },
    OperatorEntry { name: "CastLike", import: cast_like },
    OperatorEntry { name: "Concat", import: concat },
    OperatorEntry { name: "Constant", import: constant },
    OperatorEntry { name: "Flatten", import: flatten },
    OperatorEntry { name: "Gather", import: gather },
    OperatorEntry { name: "Identity", import: identity },
    OperatorEntry { name: "Reshape", import: reshape },
    OperatorEntry { name: "Shape", import: shape },
    OperatorEntry { name: "Size", import: size },
    OperatorEntry { name: "Squeeze", import: squeeze },
    OperatorEntry { name: "Transpose", import: transpose },
    OperatorEntry { name: "Unsqueeze", import: unsqueeze },
];

fn constant(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let tensor = if let Some(tensor) = node.tensor("value")? {
        tensor
    } else if node.has("value_float") {
        Tensor::scalar(node.float_or("value_float", 0.0))
    } else if let Some(value) = node.int("value_int") {
        Tensor::scalar(value)
    } else if let Some(values) = node.floats("value_floats") {
        Tensor::from_fn(&[values.len()], |index| values[index])
    } else if let Some(values) = node.ints("value_ints") {
        Tensor::from_fn(&[values.len()], |index| values[index])
    } else {
        return Err(node.unsupported("a constant that is no dense tensor of numbers"));
    };
    let id = node.stored(tensor)?;
    node.set(0, id);
    Ok(())
}

fn identity(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let item = match node.item(0) {
        Item::Sequence(sequence) => Item::Sequence(sequence),
        Item::Tensor(_) | Item::Absent => Item::Tensor(node.input(0)?),
    };
    node.set_item(0, item)
}

fn cast(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let to = node.element_type("to")?.ok_or_else(|| node.invalid("it lacks `to`"))?;
    let x = node.input(0)?;
    node.output(0, Op::Cast(Cast { to }), &[x])
}

fn cast_like(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, like) = (node.input(0)?, node.input(1)?);
    let to = node.dtype(like);
    node.output(0, Op::Cast(Cast { to }), &[x])
}

fn concat(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let rank = node.rank(node.input(0)?);
    // Before opset 4 the axis had a default.
    let axis = node.axis_of(node.int_or("axis", 1), rank)?;
    node.output(0, Op::Concat(Concat { axis }), &inputs)
}

fn gather(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (data, indices) = (node.input(0)?, node.input(1)?);
    let axis = node.axis_of(node.int_or("axis", 0), node.rank(data))?;
    node.output(0, Op::Gather(Gather { axis }), &[data, indices])
}

fn transpose(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let rank = node.rank(x);
    let permutation = match node.ints("perm") {
        Some(axes) => {
            axes.iter().map(|&axis| node.axis_of(axis, rank)).collect::<Result<_, _>>()?
        }
        None => (0..rank).rev().collect(),
    };
    node.output(0, Op::Transpose(Transpose { permutation }), &[x])
}

fn reshape(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let sizes = match node.ints("shape") {
        Some(sizes) => node.list(&sizes)?,
        None => node.input(1)?,
    };
    let op = ReshapeTo { allow_zero: node.flag("allowzero", false) };
    reshape_to(node, x, sizes, op)
}

/// Writes the output: `x` in other sizes.
fn reshape_to(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    sizes: ValueId,
    op: ReshapeTo,
) -> Result<(), ImportError> {
    let op = static_reshape(node, x, sizes, op).unwrap_or(Op::ReshapeTo(op));
    let inputs: &[ValueId] = if matches!(op, Op::Reshape(_)) { &[x] } else { &[x, sizes] };
    node.output(0, op, inputs)
}

/// Writes the output: the dimensions of `x` at `axis` and after it as one.
pub(super) fn join_dimensions(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    axis: usize,
) -> Result<(), ImportError> {
    let (rank, end) = (node.rank(x), axis + 2);
    let mut sizes = vec![product_of_sizes(node, x, axis, end)?];
    if axis > 0 {
        sizes.insert(0, node.add(Op::ShapeOf(ShapeOf { start: 0, end: axis }), &[x])?);
    }
    if end < rank {
        sizes.push(node.add(Op::ShapeOf(ShapeOf { start: end, end: rank }), &[x])?);
    }
    let sizes = node.add(Op::Concat(Concat { axis: 0 }), &sizes)?;
    reshape_to(node, x, sizes, ReshapeTo { allow_zero: true })
}

/// The reshape without its second input, where the new shape can be written with copied dimensions
/// and one that follows from the rest.
fn static_reshape(
    node: &NodeContext<'_, '_>,
    x: ValueId,
    sizes: ValueId,
    op: ReshapeTo,
) -> Option<Op> {
    use crate::op::Operator;
    let argument = node.argument(x);
    let target = op.infer(&[argument, node.argument(sizes)]).ok()?.shape;
    let mut shape = Vec::new();
    for (position, dim) in target.iter().enumerate() {
        shape.push(match dim {
            Dim::Fixed(0) | Dim::Unknown => return None,
            Dim::Fixed(size) => i64::try_from(*size).ok()?,
            symbol if argument.shape.get(position) == Some(symbol) => 0,
            Dim::Symbol(_) if !shape.contains(&-1) => -1,
            Dim::Symbol(_) => return None,
        });
    }
    let reshape = Reshape { shape };
    let same = reshape.infer(&[argument]).is_ok_and(|found| found.shape == target);
    same.then_some(Op::Reshape(reshape))
}

fn flatten(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let rank = node.rank(x);
    let axis = node.int_or("axis", 1);
    let axis = if axis == rank as i64 { rank } else { node.axis_of(axis, rank)? };
    let shape = node.shape(x);
    let known = |dims: &[Dim]| -> Option<i64> {
        let sizes: Option<Vec<usize>> = dims.iter().map(Dim::fixed).collect();
        i64::try_from(crate::weights::checked_elements(&sizes?)?).ok()
    };
    let sizes = match (known(&shape[..axis]), known(&shape[axis..])) {
        (Some(rows), Some(columns)) => [rows, columns],
        (None, Some(columns)) => [-1, columns],
        (Some(rows), None) => [rows, -1],
        (None, None) => {
            let rows = product_of_sizes(node, x, 0, axis)?;
            let rest = node.list(&[-1])?;
            let sizes = node.add(Op::Concat(Concat { axis: 0 }), &[rows, rest])?;
            return node.output(0, Op::ReshapeTo(ReshapeTo { allow_zero: true }), &[x, sizes]);
        }
    };
    let sizes = node.list(&sizes)?;
    node.output(0, Op::ReshapeTo(ReshapeTo { allow_zero: true }), &[x, sizes])
}

/// The number of elements of the dimensions `start..end` as a list of one.
fn product_of_sizes(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    start: usize,
    end: usize,
) -> Result<ValueId, ImportError> {
    let mut product = node.list(&[1])?;
    for axis in start..end {
        let size = node.add(Op::ShapeOf(ShapeOf { start: axis, end: axis + 1 }), &[x])?;
        product = node.add(Op::Mul, &[product, size])?;
    }
    Ok(product)
}

fn shape(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let rank = node.rank(x);
    let bound = |value: i64| {
        let place = if value < 0 { value + rank as i64 } else { value };
        usize::try_from(place).unwrap_or(0).min(rank)
    };
    let start = bound(node.int_or("start", 0));
    let end = bound(node.int_or("end", rank as i64)).max(start);
    node.output(0, Op::ShapeOf(ShapeOf { start, end }), &[x])
}

fn size(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    node.output(0, Op::SizeOf, &[x])
}

fn squeeze(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let rank = node.rank(x);
    let axes = match (node.ints("axes"), node.optional(1)) {
        (Some(axes), _) => node.axes_of(&axes, rank)?,
        (None, Some(axes)) => match node.known_integers(axes) {
            Some(axes) => node.axes_of(&axes, rank)?,
            None => return node.output(0, Op::SqueezeBy(SqueezeBy {}), &[x, axes]),
        },
        (None, None) => {
            let shape = node.shape(x);
            if shape.iter().any(|dim| dim.fixed().is_none()) {
                return Err(node.unsupported("axes left out for a shape that is not fixed"));
            }
            (0..rank).filter(|&axis| shape[axis] == Dim::Fixed(1)).collect()
        }
    };
    node.output(0, Op::Squeeze(Squeeze { axes }), &[x])
}

fn unsqueeze(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let axes = match node.ints("axes") {
        Some(axes) => axes,
        None => {
            let axes = node.input(1)?;
            match node.known_integers(axes) {
                Some(axes) => axes,
                None => return node.output(0, Op::UnsqueezeBy(UnsqueezeBy {}), &[x, axes]),
            }
        }
    };
    let axes = node.axes_of(&axes, node.rank(x) + axes.len())?;
    node.output(0, Op::Unsqueeze(Unsqueeze { axes }), &[x])
}
