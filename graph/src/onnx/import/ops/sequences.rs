//! Sequences of tensors and optional values, which are gone when the model has been read: whoever
//! takes an entry out takes the tensor that was put in, or, where only a run knows the place or how
//! many there are, an entry of a tensor of all, which are of one shape then.

use super::super::{ImportError, Item, NodeContext, OperatorEntry, Sequence};
use super::shape::join_dimensions;
use crate::op::{Concat, Gather, Op, ShapeOf, Slice, Split, Squeeze, Transpose, Unsqueeze};
use crate::{Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "ConcatFromSequence", import: concat_from_sequence },
    OperatorEntry { name: "Optional", import: |node| node.set_item(0, node.item(0)) },
    OperatorEntry { name: "OptionalGetElement", import: optional_get_element },
    OperatorEntry { name: "OptionalHasElement", import: optional_has_element },
    OperatorEntry { name: "SequenceAt", import: sequence_at },
    OperatorEntry { name: "SequenceConstruct", import: sequence_construct },
    OperatorEntry { name: "SequenceEmpty", import: |node| set(node, Vec::new()) },
    OperatorEntry { name: "SequenceErase", import: sequence_erase },
    OperatorEntry { name: "SequenceInsert", import: sequence_insert },
    OperatorEntry { name: "SequenceLength", import: sequence_length },
    OperatorEntry { name: "SplitToSequence", import: split_to_sequence },
];

fn set(node: &mut NodeContext<'_, '_>, entries: Vec<ValueId>) -> Result<(), ImportError> {
    node.set_item(0, Item::Sequence(Sequence::Entries(entries.into())))
}

/// The entries of the input at 0, which have to be known.
fn entries(node: &NodeContext<'_, '_>) -> Result<Vec<ValueId>, ImportError> {
    match node.sequence(0)? {
        Sequence::Entries(entries) => Ok(entries.to_vec()),
        sequence => Err(node.refuse_sequence(&sequence)),
    }
}

/// A value as the only entry of a new dimension.
fn alone(node: &mut NodeContext<'_, '_>, x: ValueId, axis: usize) -> Result<ValueId, ImportError> {
    node.add(Op::Unsqueeze(Unsqueeze { axes: vec![axis] }), &[x])
}

/// Along `axis` what is along the first dimension.
fn first_to(axis: usize, rank: usize) -> Op {
    let mut permutation: Vec<usize> = (1..rank).collect();
    permutation.insert(axis, 0);
    Op::Transpose(Transpose { permutation })
}

fn optional_has_element(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let present = !matches!(node.item(0), Item::Absent);
    let present = node.weight(Tensor::scalar(present))?;
    node.set(0, present);
    Ok(())
}

fn optional_get_element(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    match node.item(0) {
        Item::Absent => Err(node.invalid("expected an element, found an empty optional value")),
        item => node.set_item(0, item),
    }
}

fn sequence_construct(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let entries = node.all_inputs()?;
    set(node, entries)
}

/// The place that the input at `index` names among `count`, from the end when it is negative.
fn place(node: &NodeContext<'_, '_>, index: usize, count: usize) -> Result<usize, ImportError> {
    let place = node.integers(index)?;
    let found = match place[..] {
        [place @ ..=-1] => place.checked_add(count as i64),
        [place] => Some(place),
        _ => None,
    };
    found
        .and_then(|place| usize::try_from(place).ok())
        .filter(|&place| place < count)
        .ok_or_else(|| node.invalid(format!("place {place:?} is not one of {count}")))
}

fn sequence_at(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let sequence = node.sequence(0)?;
    if let Sequence::Entries(entries) = &sequence
        && node.optional(1).is_none_or(|place| node.known_integers(place).is_some())
    {
        let place = place(node, 1, entries.len())?;
        node.set(0, entries[place]);
        return Ok(());
    }
    let place = node.input(1)?;
    let Some(all) = node.stack(&sequence)? else {
        return Err(node.unsupported("input 1 that is computed by the model"));
    };
    // Some exporters write lists of one.
    let place = match node.rank(place) {
        0 => place,
        rank => node.add(Op::Squeeze(Squeeze { axes: (0..rank).collect() }), &[place])?,
    };
    node.output(0, Op::Gather(Gather { axis: 0 }), &[all, place])
}

/// The last entry where no place is given.
fn sequence_erase(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let mut entries = entries(node)?;
    match node.optional(1) {
        Some(_) => drop(entries.remove(place(node, 1, entries.len())?)),
        None => {
            entries.pop().ok_or_else(|| node.invalid("expected an entry to erase"))?;
        }
    }
    set(node, entries)
}

/// At the end where no place is given; a negative place counts from the last entry.
fn sequence_insert(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let entry = node.input(1)?;
    let mut entries = match node.sequence(0)? {
        Sequence::Entries(entries) => entries.to_vec(),
        sequence if node.optional(2).is_some() => return Err(node.refuse_sequence(&sequence)),
        Sequence::Growing(index, added) => {
            let added = added.iter().copied().chain([entry]).collect();
            return node.set_item(0, Item::Sequence(Sequence::Growing(index, added)));
        }
        Sequence::Stacked(all) => {
            let entry = alone(node, entry, 0)?;
            let all = node.add(Op::Concat(Concat { axis: 0 }), &[all, entry])?;
            return node.set_item(0, Item::Sequence(Sequence::Stacked(all)));
        }
    };
    let count = entries.len();
    let place = match node.optional(2) {
        Some(_) if node.integers(2)? == [count as i64] => count,
        Some(_) => place(node, 2, count)?,
        None => count,
    };
    entries.insert(place, entry);
    set(node, entries)
}

fn sequence_length(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    if let Sequence::Stacked(all) = node.sequence(0)? {
        let length = node.add(Op::ShapeOf(ShapeOf { start: 0, end: 1 }), &[all])?;
        return node.output(0, Op::Squeeze(Squeeze { axes: vec![0] }), &[length]);
    }
    let length = entries(node)?.len() as i64;
    let length = node.weight(Tensor::scalar(length))?;
    node.set(0, length);
    Ok(())
}

fn concat_from_sequence(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let wanted = node.int("axis").ok_or_else(|| node.invalid("it lacks an axis"))?;
    let is_new = node.flag("new_axis", false);
    if let Sequence::Stacked(all) = node.sequence(0)? {
        let rank = node.rank(all);
        let axis = node.axis_of(wanted, if is_new { rank } else { rank - 1 })?;
        if is_new {
            return node.output(0, first_to(axis, rank), &[all]);
        }
        let beside = node.add(first_to(axis, rank), &[all])?;
        return join_dimensions(node, beside, axis);
    }
    let mut entries = entries(node)?;
    let first = *entries.first().ok_or_else(|| node.invalid("expected entries, found none"))?;
    let axis = node.axis_of(wanted, node.rank(first) + usize::from(is_new))?;
    // A node that reads many is as much as many nodes.
    node.will_add(entries.len())?;
    if is_new {
        for entry in &mut entries {
            *entry = alone(node, *entry, axis)?;
        }
    }
    node.output(0, Op::Concat(Concat { axis }), &entries)
}

/// Parts of the sizes listed, of one size, or of 1, in which case their dimension may be dropped.
fn split_to_sequence(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let axis = node.axis_of(node.int_or("axis", 0), node.rank(x))?;
    let size = node.shape(x)[axis].clone();
    if let Some(sizes) = node.optional(1)
        && let [Dim::Fixed(parts)] = node.shape(sizes)[..]
        && (node.known_integers(sizes).is_none() || size.fixed().is_none())
    {
        node.will_add(parts)?;
        let part = |part| Op::Split(Split { axis, parts, part, listed: true });
        let parts = (0..parts).map(|index| node.add(part(index), &[x, sizes]));
        let parts = parts.collect::<Result<_, _>>()?;
        return set(node, parts);
    }
    let Dim::Fixed(size) = size else {
        return single_entries(node, x, axis);
    };
    let lengths = lengths(node, size)?;
    let drops = drops_dimension(node);
    if drops {
        node.will_add(lengths.len())?;
    }
    let (mut parts, mut start) = (Vec::new(), 0);
    for length in lengths {
        let end = Dim::Fixed(start + length);
        let mut part = node.add(Op::Slice(Slice { axis, start, end }), &[x])?;
        if drops {
            part = node.add(Op::Squeeze(Squeeze { axes: vec![axis] }), &[part])?;
        }
        parts.push(part);
        start += length;
    }
    set(node, parts)
}

/// Whether the size of every part is given, as 1.
fn are_single(node: &NodeContext<'_, '_>) -> bool {
    let is_one = |id| node.rank(id) == 0 && node.known_integers(id) == Some(vec![1]);
    node.optional(1).is_some_and(is_one)
}

/// Whether parts lack the dimension that was split. ONNX keeps it where a size is given, of 1, too;
/// onnxruntime does not, and PyTorch writes `unbind` so.
fn drops_dimension(node: &NodeContext<'_, '_>) -> bool {
    !node.flag("keepdims", true) && (node.optional(1).is_none() || are_single(node))
}

/// Parts of one entry each of a dimension of any size.
fn single_entries(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    axis: usize,
) -> Result<(), ImportError> {
    if node.optional(1).is_some() && !are_single(node) {
        return Err(node.unsupported("a number of parts that is not known"));
    }
    let rank = node.rank(x);
    let mut permutation: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
    permutation.insert(0, axis);
    let mut all = node.add(Op::Transpose(Transpose { permutation }), &[x])?;
    if !drops_dimension(node) {
        all = alone(node, all, 1 + axis)?;
    }
    node.set_item(0, Item::Sequence(Sequence::Stacked(all)))
}

/// The sizes of the parts of a dimension of `size`.
fn lengths(node: &mut NodeContext<'_, '_>, size: usize) -> Result<Vec<usize>, ImportError> {
    let Some(sizes) = node.optional(1) else {
        node.will_add(size)?;
        return Ok(vec![1; size]);
    };
    let numbers = node.integers(1)?;
    if node.rank(sizes) == 0 {
        let &[length @ 1..=i64::MAX] = numbers.as_slice() else {
            return Err(node.invalid(format!("expected parts of at least 1, found {numbers:?}")));
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let count = size.div_ceil(length);
        node.will_add(count)?;
        return Ok((0..count).map(|part| length.min(size - part * length)).collect());
    }
    node.will_add(numbers.len())?;
    let lengths: Option<Vec<usize>> = numbers.iter().map(|&n| usize::try_from(n).ok()).collect();
    let total = |lengths: &Vec<usize>| {
        lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length))
    };
    lengths
        .filter(|lengths| total(lengths) == Some(size))
        .ok_or_else(|| node.invalid(format!("parts {numbers:?} do not fill {size} entries")))
}
