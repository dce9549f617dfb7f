//! Entries before and after a tensor's own, of any element type: rows are copied, and what is around
//! them is written a row or an entry at a time.

use graph::op::{Pad, PadMode};
use graph::{Op, Tensor};

use super::{Call, Kernel, KernelEntry, MOST_DIMENSIONS, few_dimensions, run};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "pad.copy",
    operation: "Pad",
    tier: None,
    cost: 1,
    accepts: |module, node| padding(module, node).map(|_| ()),
    prepare: |module, node, _| run(padding(module, node).expect("`accepts` saw that it is one")),
}];

struct Padding {
    mode: PadMode,
    /// Entries before and after each dimension.
    widths: Vec<(i64, i64)>,
}

/// Reads the numbers of entries, which have to be constants.
fn padding(module: &Module, node: &Node) -> Result<Padding, String> {
    let Operation::Graph(Op::Pad(Pad { mode })) = node.operation else {
        unreachable!("the table pairs this kernel with paddings")
    };
    let numbers = |input: usize| {
        let tensor = node.inputs.get(input).and_then(|&id| module.constant(id));
        let numbers = tensor.map(Tensor::elements::<i64>);
        numbers.and_then(Result::ok).ok_or_else(|| format!("takes a constant for input {input}"))
    };
    few_dimensions(module, node.inputs[0], MOST_DIMENSIONS)?;
    let rank = module.value(node.inputs[0]).shape.len();
    Ok(Padding { mode, widths: Pad::widths(rank, numbers(1)?, numbers(3)?)? })
}

impl Kernel for Padding {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (mode, [x, _, value, _]) = (self.mode, call.inputs) else {
            return Err("expected 4 inputs".to_owned());
        };
        if value.bytes.len() != x.dtype.size_bytes() {
            return Err(format!("expected one value to pad with, found {:?}", value.shape));
        }
        let mut axes = [Axis { size: 1, padded: 1, before: 0 }; MOST_DIMENSIONS];
        let axes = &mut axes[..x.shape.len()];
        let sizes = x.shape.iter().zip(call.shape).zip(&self.widths);
        for (axis, ((&size, &padded), &width)) in axes.iter_mut().zip(sizes) {
            if Pad::padded(size, width)? != padded {
                return Err(format!("pads do not make {:?} of {:?}", call.shape, x.shape));
            }
            *axis = Axis { size, padded, before: width.0 };
        }
        if call.output.is_empty() {
            return Ok(());
        }
        if mode != PadMode::Constant && x.bytes.is_empty() {
            return Err("expected entries to pad with, found an empty tensor".to_owned());
        }
        write(mode, value.bytes, axes, x.bytes, call.output);
        Ok(())
    }
}

/// How a dimension is padded.
#[derive(Clone, Copy)]
struct Axis {
    size: usize,
    padded: usize,
    /// Entries added before; taken off where it is below 0.
    before: i64,
}

impl Axis {
    const fn is_whole(&self) -> bool {
        self.before == 0 && self.size == self.padded
    }

    /// The first entry that is kept, its place, and how many there are.
    fn kept(&self) -> (usize, usize, usize) {
        let first = usize::try_from(-self.before).unwrap_or(0).min(self.size);
        let place = usize::try_from(self.before).unwrap_or(0).min(self.padded);
        (first, place, (self.size - first).min(self.padded - place))
    }
}

/// Writes the output of some outermost entries, which is not empty.
fn write(mode: PadMode, value: &[u8], axes: &[Axis], x: &[u8], y: &mut [u8]) {
    let Some((axis, inner)) = axes.split_first().filter(|_| !axes.iter().all(Axis::is_whole))
    else {
        y.copy_from_slice(x);
        return;
    };
    let (from, to) = (x.len() / axis.size.max(1), y.len() / axis.padded);
    let mut copied = 0..0;
    if inner.iter().all(Axis::is_whole) {
        let (first, place, count) = axis.kept();
        y[place * to..][..count * to].copy_from_slice(&x[first * from..][..count * from]);
        copied = place..place + count;
    }
    for (place, y) in
        y.chunks_exact_mut(to).enumerate().filter(|(place, _)| !copied.contains(place))
    {
        match mode.source(place as i64 - axis.before, axis.size as i64) {
            Some(entry) => write(mode, value, inner, &x[entry * from..][..from], y),
            None => y.chunks_exact_mut(value.len()).for_each(|y| y.copy_from_slice(value)),
        }
    }
}
