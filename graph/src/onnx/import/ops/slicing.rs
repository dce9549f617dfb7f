//! Parts, copies and margins of tensors.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{
    Binary, Concat, Entries, Expand, Integer, Op, Pad, PadMode, ShapeOf, Slice, SliceBy, Split,
    Squeeze, Tile,
};
use crate::{DType, Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "CenterCropPad", import: center_crop_pad },
    OperatorEntry { name: "ConstantOfShape", import: constant_of_shape },
    OperatorEntry { name: "Expand", import: expand },
    OperatorEntry { name: "Pad", import: pad },
    OperatorEntry { name: "Slice", import: slice },
    OperatorEntry { name: "Split", import: split },
    OperatorEntry { name: "Tile", import: tile },
];

/// Attributes before opset 10, inputs since.
fn slice(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let attribute = |node: &mut NodeContext<'_, '_>, name: &str| {
        let list = node.ints(name);
        list.map(|list| node.list(&list)).transpose()
    };
    let lists = if node.opset() < 10 {
        [attribute(node, "starts")?, attribute(node, "ends")?, attribute(node, "axes")?, None]
    } else {
        [node.optional(1), node.optional(2), node.optional(3), node.optional(4)]
    };
    let [Some(starts), Some(ends), axes, steps] = lists else {
        return Err(node.invalid("it lacks starts or ends"));
    };
    let (axes, steps) = match (axes, steps) {
        (Some(axes), Some(steps)) => (axes, steps),
        given => {
            let defaults = default_ranges(node, starts, node.rank(x))?;
            (given.0.unwrap_or(defaults.0), given.1.unwrap_or(defaults.1))
        }
    };
    let lists = [starts, ends, axes, steps];
    match fixed_ranges(node, x, lists) {
        Some(ranges) => sliced(node, x, &ranges),
        None => node.output(0, Op::SliceBy(SliceBy {}), &[x, starts, ends, axes, steps]),
    }
}

/// The axes and steps of ranges that start at `starts`, where none are given.
fn default_ranges(
    node: &mut NodeContext<'_, '_>,
    starts: ValueId,
    rank: usize,
) -> Result<(ValueId, ValueId), ImportError> {
    match node.shape(starts)[..] {
        [Dim::Fixed(count)] => {
            // A range for one dimension at most: longer lists fail below.
            let count = count.min(rank) as i64;
            let axes = node.list(&(0..count).collect::<Vec<_>>())?;
            Ok((axes, node.list(&vec![1; count as usize])?))
        }
        [_] => {
            let sizes = node.add(Op::ShapeOf(ShapeOf { start: 0, end: 1 }), &[starts])?;
            let count = node.add(Op::Squeeze(Squeeze { axes: vec![0] }), &[sizes])?;
            let [zero, one] = [0i64, 1].map(|number| node.weight(Tensor::scalar(number)));
            let (zero, one) = (zero?, one?);
            let axes = node.add(Op::Range, &[zero, count, one])?;
            Ok((axes, node.add(Op::Expand(Expand {}), &[one, sizes])?))
        }
        _ => Err(node.unsupported("starts that are no list")),
    }
}

/// One slice after another.
fn sliced(
    node: &mut NodeContext<'_, '_>,
    mut x: ValueId,
    ranges: &[Slice],
) -> Result<(), ImportError> {
    let Some((last, before)) = ranges.split_last() else {
        node.set(0, x);
        return Ok(());
    };
    for range in before {
        x = node.add(Op::Slice(range.clone()), &[x])?;
    }
    node.output(0, Op::Slice(last.clone()), &[x])
}

/// The ranges that leave something out, when all are known and go forward one by one.
fn fixed_ranges(
    node: &NodeContext<'_, '_>,
    x: ValueId,
    [starts, ends, axes, steps]: [ValueId; 4],
) -> Option<Vec<Slice>> {
    // "To the end" is written as a very large number.
    const FAR: i64 = i32::MAX as i64;
    let (axes, steps) = (node.known_integers(axes)?, node.known_integers(steps)?);
    let (starts, ends) = (node.argument(starts).integers?, node.argument(ends).integers?);
    let shape = node.shape(x);
    let lengths = [starts.len(), ends.len(), steps.len()];
    if steps.iter().any(|&step| step != 1) || lengths.iter().any(|&length| length != axes.len()) {
        return None;
    }
    let mut ranges: Vec<Slice> = Vec::new();
    for ((&axis, start), end) in axes.iter().zip(starts).zip(ends) {
        let axis = node.axis_of(axis, shape.len()).ok()?;
        if ranges.iter().any(|range| range.axis == axis) {
            return None;
        }
        let range = match (&shape[axis], start.known()?, end) {
            (Dim::Fixed(size), start, Integer::Known(end)) => {
                let entries = Entries::new(*size, start, *end, 1).ok()?;
                if entries.length == *size {
                    continue;
                }
                Slice { axis, start: entries.start, end: (entries.start + entries.length).into() }
            }
            (_, 0, Integer::Known(FAR..)) => continue,
            (Dim::Symbol(size), 0, Integer::Symbol(end)) if size == end => continue,
            // Of two names either may be the smaller size.
            (Dim::Fixed(_), 0, Integer::Symbol(end)) => {
                Slice { axis, start: 0, end: Dim::Symbol(end.clone()) }
            }
            // The first entry: an empty dimension is refused when the graph runs.
            (_, 0, Integer::Known(1)) => Slice { axis, start: 0, end: Dim::Fixed(1) },
            _ => return None,
        };
        ranges.push(range);
    }
    Some(ranges)
}

/// The sizes were an attribute from opset 2 on, and an input in opset 1 and since 13.
fn split(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let axis = node.axis_of(node.int_or("axis", 0), node.rank(x))?;
    let parts = node.output_count();
    let sizes = match node.ints("split") {
        Some(sizes) => Some(node.list(&sizes)?),
        None => node.optional(1),
    };
    let size = node.shape(x)[axis].fixed();
    let numbers = match (sizes, size) {
        (Some(sizes), _) => node.known_integers(sizes),
        (None, Some(size)) => {
            if node.opset() < 18 && !size.is_multiple_of(parts.max(1)) {
                return Err(node.invalid(format!("{size} entries do not make {parts} equal parts")));
            }
            let length = size.div_ceil(parts.max(1));
            let part = |part: usize| length.min(size.saturating_sub(part * length)) as i64;
            Some((0..parts).map(part).collect())
        }
        (None, None) => None,
    };
    let Some(numbers) = numbers else {
        for part in 0..parts {
            let op = Op::Split(Split { axis, parts, part, listed: sizes.is_some() });
            node.output(part, op, &[Some(x), sizes].into_iter().flatten().collect::<Vec<_>>())?;
        }
        return Ok(());
    };
    let total = numbers.iter().try_fold(0i64, |sum, &part| sum.checked_add(part));
    let fits = numbers.len() == parts && numbers.iter().all(|&part| part >= 0);
    if !fits || total.is_none() || size.is_some_and(|size| total != Some(size as i64)) {
        return Err(
            node.invalid(format!("parts {numbers:?} are not {parts} that fill axis {axis}"))
        );
    }
    let mut start = 0;
    for (part, length) in numbers.into_iter().enumerate() {
        let end = start + length as usize;
        node.output(part, Op::Slice(Slice { axis, start, end: end.into() }), &[x])?;
        start = end;
    }
    Ok(())
}

/// Attributes before opset 11, inputs since; the axes are an input since opset 18.
fn pad(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let name = node.text_or("mode", "constant");
    let mode = PadMode::from_name(&name);
    let mode = mode.ok_or_else(|| node.unsupported(format!("mode = `{name}`")))?;
    // `paddings` in opset 1.
    let attribute = node.ints("pads").or_else(|| node.ints("paddings"));
    let (pads, value) = match attribute {
        Some(pads) => {
            let value = node.float_or("value", 0.0);
            let value = super::arithmetic::factor(node, value, x)?;
            (node.list(&pads)?, value)
        }
        None => {
            let value = match node.optional(2) {
                Some(value) => value,
                None => node.weight(Tensor::zeros(node.dtype(x), &[]))?,
            };
            (node.input(1)?, value)
        }
    };
    let axes = match node.optional(3) {
        Some(axes) => axes,
        None => node.list(&(0..node.rank(x) as i64).collect::<Vec<_>>())?,
    };
    node.output(0, Op::Pad(Pad { mode }), &[x, pads, value, axes])
}

/// The middle of each axis, with zeros around where the output is larger.
fn center_crop_pad(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, asked) = (node.input(0)?, node.input(1)?);
    let rank = node.rank(x);
    let axes = node.ints("axes").unwrap_or_else(|| (0..rank as i64).collect());
    let axes = axes.iter().map(|&axis| node.axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    if node.shape(asked)[..] != [Dim::Fixed(axes.len())] {
        return Err(node.invalid(format!("expected a size for each of {} axes", axes.len())));
    }
    let mut sizes = Vec::new();
    for &axis in &axes {
        sizes.push(node.add(Op::ShapeOf(ShapeOf { start: axis, end: axis + 1 }), &[x])?);
    }
    if sizes.is_empty() {
        node.set(0, x);
        return Ok(());
    }
    let ones = vec![1; sizes.len()];
    let sizes = node.add(Op::Concat(Concat { axis: 0 }), &sizes)?;
    let axes = node.list(&axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>())?;
    let (two, ones) = (node.list(&[2])?, node.list(&ones)?);
    let kept = node.add(Op::Binary(Binary::Min), &[sizes, asked])?;
    let less = node.add(Op::Sub, &[sizes, kept])?;
    let starts = node.add(Op::Div, &[less, two])?;
    let ends = node.add(Op::Add, &[starts, kept])?;
    let cropped = node.add(Op::SliceBy(SliceBy {}), &[x, starts, ends, axes, ones])?;
    let more = node.add(Op::Sub, &[asked, kept])?;
    let before = node.add(Op::Div, &[more, two])?;
    let after = node.add(Op::Sub, &[more, before])?;
    let pads = node.add(Op::Concat(Concat { axis: 0 }), &[before, after])?;
    let zero = node.weight(Tensor::zeros(node.dtype(x), &[]))?;
    node.output(0, Op::Pad(Pad { mode: PadMode::Constant }), &[cropped, pads, zero, axes])
}

fn expand(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, sizes) = (node.input(0)?, node.input(1)?);
    node.output(0, Op::Expand(Expand {}), &[x, sizes])
}

/// Numbers for all dimensions since opset 6; in opset 1 one number for one axis.
fn tile(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, mut repeats) = (node.input(0)?, node.input(1)?);
    if node.opset() < 6 {
        let (count, axis) = (node.integers(1)?, node.integers(2)?);
        let mut counts = vec![1; node.rank(x)];
        let ([count], [axis]) = (count.as_slice(), axis.as_slice()) else {
            return Err(node.invalid("expected one count and one axis"));
        };
        let axis = node.axis_of(*axis, counts.len())?;
        counts[axis] = *count;
        repeats = node.list(&counts)?;
    }
    node.output(0, Op::Tile(Tile {}), &[x, repeats])
}

fn constant_of_shape(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let sizes = node.input(0)?;
    let value = node.tensor("value")?.unwrap_or_else(|| Tensor::zeros(DType::F32, &[]));
    let value = value.reshaped(&[]).map_err(|error| node.invalid(error.to_string()))?;
    let value = node.weight(value)?;
    node.output(0, Op::Expand(Expand {}), &[value, sizes])
}
