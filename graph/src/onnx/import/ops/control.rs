//! Choice and repetition.

use std::collections::BTreeSet;

use super::super::{Branch, ImportError, Item, NodeContext, OperatorEntry, Sequence, picked};
use crate::onnx::proto::GraphMessage;
use crate::op::{Concat, Gather, If, Loop, Op, ShapeOf, SliceBy, Squeeze, Transpose};
use crate::{DType, Dim, Shape, Tensor, ValueId, ValueType};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "If", import: choice },
    OperatorEntry { name: "Loop", import: repetition },
    OperatorEntry { name: "Scan", import: scan },
];

fn choice(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let condition = node.input(0)?;
    let (then_graph, else_graph) = (node.graph("then_branch")?, node.graph("else_branch")?);
    let known = node.constant(condition).and_then(|x| x.elements::<bool>().ok()?.first().copied());
    match known {
        Some(true) => return node.inline(then_graph),
        Some(false) => return node.inline(else_graph),
        None => {}
    }
    let mut branches = [Branch::new(), Branch::new()];
    node.read_branch(&mut branches[0], then_graph, &[])?;
    node.read_branch(&mut branches[1], else_graph, &[])?;
    let count = node.output_count();
    if branches.iter().any(|branch| branch.outputs.len() < count) {
        return Err(node.invalid(format!("expected branches of {count} outputs")));
    }
    for index in (0..count).filter(|&index| node.wants(index)).collect::<Vec<_>>() {
        let [a, b] = [0, 1].map(|branch| branches[branch].outputs[index]);
        let types = [branches[0].value_type(a).clone(), branches[1].value_type(b).clone()];
        if types[0].shape.len() != types[1].shape.len() {
            return Err(node.unsupported("an output whose number of dimensions depends on a run"));
        }
        let (then_branch, then_inputs) = node.subgraph(&mut branches[0], &[a])?;
        let (else_branch, else_inputs) = node.subgraph(&mut branches[1], &[b])?;
        let inputs = [vec![condition], then_inputs, else_inputs].concat();
        node.output(index, Op::If(If { then_branch, else_branch }), &inputs)?;
    }
    Ok(())
}

/// Types of the round and of the condition.
fn own_types() -> [ValueType; 2] {
    [DType::I64, DType::Bool].map(|dtype| ValueType { dtype, shape: Shape::new() })
}

/// What a loop carries at one place.
enum Slot {
    Tensor(ValueId),
    /// A sequence that the body passes on.
    Passed(Sequence),
    /// A sequence to which each round adds an entry, which is what the loop collects.
    Grown(Sequence),
}

/// What is carried, by what it is at first and what the body makes of it.
fn slots<'a>(
    node: &NodeContext<'_, '_>,
    message: &'a GraphMessage,
) -> Result<Vec<Slot>, ImportError> {
    let copies = message.node.iter().filter(|node| node.op_type() == "Identity");
    let name = |names: &'a [String]| names.first().map_or("", String::as_str);
    let copies: BTreeSet<_> = copies.map(|node| (name(&node.input), name(&node.output))).collect();
    let slot = |index: usize| match node.item(index) {
        Item::Tensor(id) => Ok(Slot::Tensor(id)),
        Item::Sequence(sequence) => {
            let before = message.input.get(index).map_or("", |info| info.name());
            let after = message.output.get(index - 1).map_or("", |info| info.name());
            let passes_on = before == after || copies.contains(&(before, after));
            Ok(if passes_on { Slot::Passed(sequence) } else { Slot::Grown(sequence) })
        }
        Item::Absent => Err(node.invalid("a carried value has no first state")),
    };
    if (0..2).any(|index| matches!(node.item(index), Item::Sequence(_))) {
        return Err(node.invalid("expected a number of rounds and a condition, found a sequence"));
    }
    let slots = (2..node.inputs().len()).map(slot).collect::<Result<Vec<_>, _>>()?;
    if message.input.len() != 2 + slots.len() {
        return Err(node.invalid("the body has another number of inputs"));
    }
    Ok(slots)
}

/// A loop's body, where what is carried has these types at first: it gives its condition, the tensors
/// that it carries, what it collects, and the entries that it adds to sequences.
fn body<'a>(
    node: &mut NodeContext<'_, 'a>,
    message: &'a GraphMessage,
    slots: &[Slot],
    types: &[ValueType],
) -> Result<Branch, ImportError> {
    let mut branch = Branch::new();
    let (mut types, picked) = (types.iter().cloned(), picked(message));
    let mut given = Vec::new();
    for (info, value_type) in message.input.iter().zip(own_types()) {
        given.push(Item::Tensor(branch.formal(info.name(), value_type)?));
    }
    for (index, (slot, info)) in slots.iter().zip(&message.input[2..]).enumerate() {
        given.push(match slot {
            Slot::Tensor(_) => {
                let value_type = types.next().ok_or_else(|| node.invalid("a type is missing"))?;
                Item::Tensor(branch.formal(info.name(), value_type)?)
            }
            Slot::Passed(outer) => Item::Sequence(node.capture_sequence(
                &mut branch,
                info.name(),
                outer.clone(),
                &picked,
            )?),
            Slot::Grown(_) => Item::Sequence(Sequence::Growing(index, [].into())),
        });
    }
    let mut items = node.read_items(&mut branch, message, &given)?.into_iter();
    let (mut added, mut collected) = (Vec::new(), Vec::new());
    let condition = items.next().ok_or_else(|| node.invalid("the body gives no condition"))?;
    branch.outputs.push(node.tensor_of(&condition)?);
    for (index, slot) in slots.iter().enumerate() {
        let item = items.next();
        let item = item.ok_or_else(|| node.invalid(format!("the body gives no output {index}")))?;
        match (slot, item) {
            (Slot::Tensor(_), item) => branch.outputs.push(node.tensor_of(&item)?),
            (Slot::Passed(_), _) => {}
            (Slot::Grown(_), Item::Sequence(Sequence::Growing(place, entries)))
                if place == index && entries.len() == 1 =>
            {
                added.push(entries[0]);
            }
            (Slot::Grown(_), _) => {
                let rest = "a sequence to which a round does not add one entry, at its end,";
                return Err(node.unsupported(rest));
            }
        }
    }
    for item in items {
        collected.push(node.tensor_of(&item)?);
    }
    branch.outputs.extend(collected.into_iter().chain(added));
    Ok(branch)
}

fn repetition<'a, 'b>(node: &mut NodeContext<'a, 'b>) -> Result<(), ImportError> {
    let message = node.graph("body")?;
    let slots = slots(node, message)?;
    let rounds = match node.optional(0) {
        Some(rounds) => rounds,
        None => node.weight(Tensor::scalar(i64::MAX))?,
    };
    let condition = match node.optional(1) {
        Some(condition) => condition,
        None => node.weight(Tensor::scalar(true))?,
    };
    let tensor = |slot: &Slot| match slot {
        Slot::Tensor(id) => Some(*id),
        Slot::Passed(_) | Slot::Grown(_) => None,
    };
    let first: Vec<ValueId> = slots.iter().filter_map(tensor).collect();
    let types: Vec<ValueType> =
        first.iter().map(|&id| node.argument(id).value_type.clone()).collect();
    let read =
        |node: &mut NodeContext<'a, 'b>, types: &[ValueType]| body(node, message, &slots, types);
    let mut branch = steady(node, &types, 1, read)?;
    let inputs = [vec![rounds, condition], first].concat();
    let carried = types.len();
    let added = slots.iter().filter(|slot| matches!(slot, Slot::Grown(_))).count();
    let (mut tensors, mut lists) = (0..carried, branch.outputs.len() - 1 - added..);
    for (index, slot) in slots.iter().enumerate() {
        match slot {
            Slot::Tensor(_) => {
                let place = tensors.next().unwrap_or(0);
                write(node, &mut branch, carried, (index, place), &inputs)?;
            }
            Slot::Passed(sequence) => node.set_item(index, Item::Sequence(sequence.clone()))?,
            Slot::Grown(first) => {
                let place = lists.next().unwrap_or(0);
                if node.wants(index) {
                    let (op, inputs) = loop_for(node, &mut branch, carried, place, &inputs)?;
                    let all = node.add(op, &inputs)?;
                    grown(node, first, all, index)?;
                }
            }
        }
    }
    branch.outputs.truncate(branch.outputs.len() - added);
    for index in slots.len()..node.output_count() {
        let place = carried + index - slots.len();
        write(node, &mut branch, carried, (index, place), &inputs)?;
    }
    Ok(())
}

/// Writes the output at `index`, which is that of the loop at `place`.
fn write(
    node: &mut NodeContext<'_, '_>,
    branch: &mut Branch,
    carried: usize,
    (index, place): (usize, usize),
    inputs: &[ValueId],
) -> Result<(), ImportError> {
    if !node.wants(index) {
        return Ok(());
    }
    let (op, inputs) = loop_for(node, branch, carried, place, inputs)?;
    node.output(index, op, &inputs)
}

/// Makes what is collected, behind the entries that were there at first, the output at `index`.
fn grown(
    node: &mut NodeContext<'_, '_>,
    first: &Sequence,
    mut all: ValueId,
    index: usize,
) -> Result<(), ImportError> {
    if !matches!(first, Sequence::Entries(entries) if entries.is_empty()) {
        let Some(first) = node.stack(first)? else {
            return Err(node.unsupported("a first sequence of entries of several shapes"));
        };
        all = node.add(Op::Concat(Concat { axis: 0 }), &[first, all])?;
    }
    node.set_item(index, Item::Sequence(Sequence::Stacked(all)))
}

/// A body whose carried values keep their types from round to round: with the sizes at first, or
/// without any.
fn steady<'a, 'b>(
    node: &mut NodeContext<'a, 'b>,
    types: &[ValueType],
    before: usize,
    read: impl Fn(&mut NodeContext<'a, 'b>, &[ValueType]) -> Result<Branch, ImportError>,
) -> Result<Branch, ImportError> {
    let after = |branch: &Branch| -> Vec<ValueType> {
        let carried = branch.outputs.iter().skip(before).take(types.len());
        carried.map(|&id| branch.value_type(id).clone()).collect()
    };
    let branch = read(node, types)?;
    if after(&branch) == types {
        return Ok(branch);
    }
    let mut wide = types.to_vec();
    wide.iter_mut().for_each(|value_type| value_type.shape.fill(Dim::Unknown));
    let branch = read(node, &wide)?;
    let kind = |types: &[ValueType]| -> Vec<_> {
        types.iter().map(|value_type| (value_type.dtype, value_type.shape.len())).collect()
    };
    if kind(&after(&branch)) != kind(&wide) {
        return Err(node.unsupported("a carried value whose type or number of dimensions changes"));
    }
    Ok(branch)
}

/// The loop that gives one output, and all it reads: a body gives its condition, what is carried,
/// and of what is collected only what is asked for.
fn loop_for(
    node: &mut NodeContext<'_, '_>,
    branch: &mut Branch,
    carried: usize,
    index: usize,
    inputs: &[ValueId],
) -> Result<(Op, Vec<ValueId>), ImportError> {
    let mut outputs: Vec<ValueId> = branch.outputs.iter().take(1 + carried).copied().collect();
    if index >= carried {
        let collected = branch.outputs.get(1 + index).copied();
        let missing = || node.invalid(format!("the body gives no output {index}"));
        outputs.push(collected.ok_or_else(missing)?);
    }
    let (body, outside) = node.subgraph(branch, &outputs)?;
    let op = Op::Loop(Loop { body, carried, output: index.min(carried) });
    Ok((op, [inputs, &outside].concat()))
}

/// Axes and directions of a Scan's inputs or outputs.
fn axis_and_direction(
    node: &NodeContext<'_, '_>,
    kind: &str,
    index: usize,
    rank: usize,
) -> Result<(usize, bool), ImportError> {
    let number = |name: &str| {
        let list = node.ints(&format!("scan_{kind}_{name}")).unwrap_or_default();
        list.get(index).copied().unwrap_or(0)
    };
    Ok((node.axis_of(number("axes"), rank)?, number("directions") != 0))
}

/// A loop over the entries of the scanned inputs.
fn scan<'a, 'b>(node: &mut NodeContext<'a, 'b>) -> Result<(), ImportError> {
    if node.opset() < 9 {
        return Err(node.unsupported("a version before 9"));
    }
    let message = node.graph("body")?;
    let inputs = node.all_inputs()?;
    let scanned = usize::try_from(node.int_or("num_scan_inputs", 0)).unwrap_or(0);
    let carried = inputs.len().checked_sub(scanned).filter(|_| scanned > 0);
    let carried = carried.ok_or_else(|| node.invalid("expected inputs to scan"))?;
    let (first, sequences) = inputs.split_at(carried);
    let mut axes = Vec::new();
    for (index, &id) in sequences.iter().enumerate() {
        axes.push(axis_and_direction(node, "input", index, node.rank(id))?);
    }
    let last = node.list(&[-1])?;
    let last = node.add(Op::Squeeze(Squeeze { axes: vec![0] }), &[last])?;
    let read = |node: &mut NodeContext<'a, 'b>, types: &[ValueType]| {
        let mut branch = Branch::new();
        let [round, condition] = own_types();
        let round = branch.formal("scan/round", round)?;
        let condition = branch.formal("scan/condition", condition)?;
        let mut given = Vec::new();
        for (index, value_type) in types.iter().enumerate() {
            let state = branch.formal(&format!("scan/state/{index}"), value_type.clone())?;
            given.push(Item::Tensor(state));
        }
        let last = node.capture(&mut branch, "scan/last", last)?;
        let backwards = branch.add("scan/backwards", Op::Sub, &[last, round])?;
        for (index, (&id, &(axis, reverse))) in sequences.iter().zip(&axes).enumerate() {
            let sequence = node.capture(&mut branch, &format!("scan/sequence/{index}"), id)?;
            let place = if reverse { backwards } else { round };
            let name = format!("scan/entry/{index}");
            let entry = branch.add(&name, Op::Gather(Gather { axis }), &[sequence, place])?;
            given.push(Item::Tensor(entry));
        }
        node.read_branch(&mut branch, message, &given)?;
        branch.outputs.insert(0, condition);
        Ok(branch)
    };
    let types: Vec<ValueType> =
        first.iter().map(|&id| node.argument(id).value_type.clone()).collect();
    let mut branch = steady(node, &types, 1, read)?;
    let (start, end) = (axes[0].0, axes[0].0 + 1);
    let rounds = node.add(Op::ShapeOf(ShapeOf { start, end }), &[sequences[0]])?;
    let rounds = node.add(Op::Squeeze(Squeeze { axes: vec![0] }), &[rounds])?;
    let condition = node.weight(Tensor::scalar(true))?;
    let inputs = [&[rounds, condition], first].concat();
    for index in (0..node.output_count()).filter(|&index| node.wants(index)).collect::<Vec<_>>() {
        let (op, inputs) = loop_for(node, &mut branch, carried, index, &inputs)?;
        match index.checked_sub(carried) {
            None => node.output(index, op, &inputs)?,
            Some(collected) => collect(node, op, &inputs, collected, index)?,
        }
    }
    Ok(())
}

/// What a loop collects, in the order and along the axis that a Scan asks for.
fn collect(
    node: &mut NodeContext<'_, '_>,
    op: Op,
    inputs: &[ValueId],
    collected: usize,
    index: usize,
) -> Result<(), ImportError> {
    let mut y = node.add(op, inputs)?;
    let rank = node.rank(y);
    let (axis, reverse) = axis_and_direction(node, "output", collected, rank)?;
    if reverse {
        let lists = [-1, i64::MIN, 0, -1].map(|number| node.list(&[number]));
        let [starts, ends, axes, steps] = lists;
        y = node.add(Op::SliceBy(SliceBy {}), &[y, starts?, ends?, axes?, steps?])?;
    }
    let mut permutation: Vec<usize> = (1..rank).collect();
    permutation.insert(axis, 0);
    node.output(index, Op::Transpose(Transpose { permutation }), &[y])
}
