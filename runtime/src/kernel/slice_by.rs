//! Entries of a tensor at constant distances, of any element type.

use bytemuck::{Pod, cast_slice};
use graph::op::Entries;
use graph::{DType, Tensor};

use super::{Call, Kernel, KernelEntry, MOST_DIMENSIONS, elements_mut, few_dimensions, run};
use crate::module::{Module, Node};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "slice.steps",
    operation: "SliceBy",
    tier: None,
    cost: 1,
    accepts: |module, node| ranges(module, node).map(|_| ()),
    prepare: |module, node, _| run(Steps(ranges(module, node).expect("`accepts` saw them"))),
}];

/// What is taken of a dimension, as the operator has it.
#[derive(Clone, Copy)]
struct Range {
    start: i64,
    end: i64,
    step: i64,
}

/// For each dimension, where it is cut.
struct Steps(Vec<Option<Range>>);

/// Reads the ranges, which have to be constants.
fn ranges(module: &Module, node: &Node) -> Result<Vec<Option<Range>>, String> {
    let numbers = |input: usize| -> Result<Vec<i64>, String> {
        let tensor = node.inputs.get(input).and_then(|&id| module.constant(id));
        let numbers = tensor.and_then(|tensor| match tensor.dtype() {
            DType::I64 => tensor.elements().ok().map(<[i64]>::to_vec),
            _ => whole(tensor),
        });
        numbers.ok_or_else(|| format!("takes a constant for input {input}"))
    };
    let (starts, ends, axes, steps) = (numbers(1)?, numbers(2)?, numbers(3)?, numbers(4)?);
    few_dimensions(module, node.inputs[0], MOST_DIMENSIONS)?;
    let rank = module.value(node.inputs[0]).shape.len();
    if [&starts, &ends, &steps].iter().any(|list| list.len() != axes.len()) {
        return Err("takes ranges of one length".to_owned());
    }
    let mut ranges = vec![None; rank];
    for (index, &axis) in axes.iter().enumerate() {
        let from_end = if axis < 0 { axis + rank as i64 } else { axis };
        let place = usize::try_from(from_end).ok().and_then(|axis| ranges.get_mut(axis));
        match place {
            Some(range @ None) => {
                let [start, end, step] = [starts[index], ends[index], steps[index]];
                *range = Some(Range { start, end, step });
            }
            _ => return Err(format!("takes every axis once, found {axes:?}")),
        }
    }
    Ok(ranges)
}

fn whole(tensor: &Tensor) -> Option<Vec<i64>> {
    Some(tensor.elements::<i32>().ok()?.iter().map(|&number| number.into()).collect())
}

impl Kernel for Steps {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let x = call.inputs[0];
        let whole = |size: usize| Entries { start: 0, step: 1, length: size };
        let mut axes = [(1, whole(1)); MOST_DIMENSIONS];
        let axes = &mut axes[..x.shape.len()];
        for ((axis, &size), range) in axes.iter_mut().zip(x.shape).zip(&self.0) {
            let entries = match *range {
                Some(Range { start, end, step }) => Entries::new(size, start, end, step)?,
                None => whole(size),
            };
            *axis = (size, entries);
        }
        if !axes.iter().map(|(_, entries)| entries.length).eq(call.shape.iter().copied()) {
            return Err(format!("the ranges do not make {:?} of {:?}", call.shape, x.shape));
        }
        if call.output.is_empty() {
            return Ok(());
        }
        match x.dtype.size_bytes() {
            1 => copy::<u8>(axes, cast_slice(x.bytes), elements_mut(call.output)),
            4 => copy::<u32>(axes, cast_slice(x.bytes), elements_mut(call.output)),
            8 => copy::<u64>(axes, cast_slice(x.bytes), elements_mut(call.output)),
            bytes => return Err(format!("does not know elements of {bytes} bytes")),
        }
        Ok(())
    }
}

/// Copies entries, of which there are some, of dimensions with their sizes.
fn copy<T: Pod>(axes: &[(usize, Entries)], x: &[T], y: &mut [T]) {
    let is_whole =
        |&(size, entries): &(usize, Entries)| entries.step == 1 && entries.length == size;
    let Some((&(size, entries), inner)) = axes.split_first().filter(|_| !axes.iter().all(is_whole))
    else {
        y.copy_from_slice(x);
        return;
    };
    let Entries { start, step, length } = entries;
    let (from, to) = (x.len() / size, y.len() / length);
    let stride = step.unsigned_abs() as usize;
    if from == 1 && step > 0 {
        y.iter_mut().zip(x[start..].iter().step_by(stride)).for_each(|(y, &x)| *y = x);
        return;
    }
    for (index, y) in y.chunks_exact_mut(to).enumerate() {
        let entry = if step > 0 { start + index * stride } else { start - index * stride };
        copy(inner, &x[entry * from..][..from], y);
    }
}
