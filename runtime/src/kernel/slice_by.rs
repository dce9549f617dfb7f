//! Entries of a tensor at constant distances, of any element type.

use bytemuck::{Pod, cast_slice};
use graph::op::Entries;
use graph::{DType, Tensor};

use super::{
    Call, Kernel, KernelEntry, MOST_DIMENSIONS, Operand, elements_mut, few_dimensions, run,
};
use crate::module::{Module, Node};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "slice.steps",
    operation: "SliceBy",
    tier: None,
    cost: 1,
    accepts: |module, node| Steps::new(module, node).map(|_| ()),
    prepare: |module, node, _| run(Steps::new(module, node).expect("`accepts` saw the axes")),
}];

/// A dimension that is cut.
#[derive(Clone, Copy)]
struct Cut {
    axis: usize,
    step: i64,
}

/// What is cut, in the order of the starts and the ends.
struct Steps(Vec<Cut>);

impl Steps {
    /// Reads the axes and the distances, which have to be constants.
    fn new(module: &Module, node: &Node) -> Result<Self, String> {
        let numbers = |input: usize| -> Result<Vec<i64>, String> {
            let tensor = node.inputs.get(input).and_then(|&id| module.constant(id));
            let numbers = tensor.and_then(|tensor| match tensor.dtype() {
                DType::I64 => tensor.elements().ok().map(<[i64]>::to_vec),
                _ => whole(tensor),
            });
            numbers.ok_or_else(|| format!("takes a constant for input {input}"))
        };
        let (axes, steps) = (numbers(3)?, numbers(4)?);
        few_dimensions(module, node.inputs[0], MOST_DIMENSIONS)?;
        let rank = module.value(node.inputs[0]).shape.len();
        if axes.len() != steps.len() {
            return Err("takes as many distances as axes".to_owned());
        }
        let mut cuts: Vec<Cut> = Vec::new();
        for (&axis, &step) in axes.iter().zip(&steps) {
            let from_end = if axis < 0 { axis + rank as i64 } else { axis };
            match usize::try_from(from_end).ok().filter(|&axis| axis < rank) {
                Some(axis) if cuts.iter().all(|cut| cut.axis != axis) => {
                    cuts.push(Cut { axis, step });
                }
                _ => return Err(format!("takes every axis once, found {axes:?}")),
            }
        }
        Ok(Self(cuts))
    }
}

fn whole(tensor: &Tensor) -> Option<Vec<i64>> {
    Some(tensor.elements::<i32>().ok()?.iter().map(|&number| number.into()).collect())
}

/// One of a list of numbers in i64 or i32, which the operator takes.
fn number(list: &Operand<'_>, index: usize) -> i64 {
    match list.dtype {
        DType::I64 => list.elements::<i64>()[index],
        _ => list.elements::<i32>()[index].into(),
    }
}

impl Kernel for Steps {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let x = call.inputs[0];
        let whole = |size: usize| Entries { start: 0, step: 1, length: size };
        let mut axes = [(1, whole(1)); MOST_DIMENSIONS];
        let axes = &mut axes[..x.shape.len()];
        for (axis, &size) in axes.iter_mut().zip(x.shape) {
            *axis = (size, whole(size));
        }
        if call.inputs[1..3].iter().any(|list| list.shape != [self.0.len()]) {
            return Err("expected a start and an end for each axis".to_owned());
        }
        for (index, &Cut { axis, step }) in self.0.iter().enumerate() {
            let [start, end] = [1, 2].map(|input| number(&call.inputs[input], index));
            axes[axis].1 = Entries::new(x.shape[axis], start, end, step)?;
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
