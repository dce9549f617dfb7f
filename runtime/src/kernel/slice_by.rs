//! Entries of a tensor at constant distances, of any element type.

use bytemuck::{Pod, cast_slice};
use graph::DType;
use graph::op::Entries;

use super::{
    Call, Kernel, KernelEntry, MOST_DIMENSIONS, Operand, elements_mut, few_dimensions, run,
};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "slice.steps",
    operation: "SliceBy",
    tier: None,
    cost: 1,
    accepts: |module, node| few_dimensions(module, node.inputs[0], MOST_DIMENSIONS),
    prepare: |_, _, _| run(Steps),
}];

struct Steps;

/// One of a list of numbers in i64 or i32, which the operator takes.
fn number(list: &Operand<'_>, index: usize) -> i64 {
    match list.dtype {
        DType::I64 => list.elements::<i64>()[index],
        _ => list.elements::<i32>()[index].into(),
    }
}

/// Which entries of each dimension of a shape are taken, after its size.
fn entries(
    shape: &[usize],
    lists: &[Operand<'_>],
) -> Result<[(usize, Entries); MOST_DIMENSIONS], String> {
    let [starts, ends, axes, steps] = lists else {
        return Err("expected starts, ends, axes and steps".to_owned());
    };
    if [starts, ends, steps].iter().any(|list| list.shape != axes.shape) {
        return Err("expected starts, ends, axes and steps of one length".to_owned());
    }
    let whole = |size: usize| (size, Entries { start: 0, step: 1, length: size });
    let mut found = [whole(1); MOST_DIMENSIONS];
    for (entries, &size) in found.iter_mut().zip(shape) {
        *entries = whole(size);
    }
    let rank = shape.len();
    for index in 0..axes.shape.iter().product() {
        let axis = number(axes, index);
        let from_start = if axis < 0 { axis.wrapping_add(rank as i64) } else { axis };
        let place = usize::try_from(from_start).ok().filter(|&axis| axis < rank);
        let place = place.ok_or_else(|| format!("axis {axis} is none of {rank}"))?;
        let [start, end, step] = [starts, ends, steps].map(|list| number(list, index));
        let (_, known) = &mut found[place];
        let of_known = Entries::new(known.length, start, end, step)?;
        *known = Entries {
            start: known
                .start
                .wrapping_add_signed(known.step.wrapping_mul(of_known.start as i64) as isize),
            step: known.step.wrapping_mul(of_known.step),
            length: of_known.length,
        };
    }
    Ok(found)
}

impl Kernel for Steps {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let x = call.inputs[0];
        let axes = entries(x.shape, &call.inputs[1..])?;
        let axes = &axes[..x.shape.len()];
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
