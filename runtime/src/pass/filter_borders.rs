//! Filters whose first or last entries meet nothing but padding, as dilated ones do on small images → smaller
//! filters.

use std::ops::Range;

use graph::op::{Conv, Padding, Rounding, Window, WindowAxis};
use graph::{Dim, Op, Tensor};

use super::repeat;
use crate::module::{Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, cut)
}

fn cut(module: &mut Module, index: usize) -> bool {
    let found = || {
        let node = &module.nodes[index];
        let Operation::Graph(Op::Conv(op)) = &node.operation else { return None };
        let filters = module.constant(node.inputs[1])?;
        let (op, filters) = smaller(op, module.value(node.inputs[0]).shape.get(2..)?, filters)?;
        Some((op, filters, format!("{}/filters", node.name)))
    };
    let Some((op, filters, name)) = found() else { return false };
    let filters = module.add_constant(name, filters);
    let node = &mut module.nodes[index];
    node.operation = Operation::Graph(Op::Conv(op));
    node.inputs[1] = filters;
    true
}

/// A convolution without the borders of its filters that images of this size never meet.
fn smaller(op: &Conv, image: &[Dim], filters: &Tensor) -> Option<(Conv, Tensor)> {
    let axes: Option<Vec<WindowAxis>> = image
        .iter()
        .enumerate()
        .map(|(axis, dim)| op.window.axis(axis, dim.fixed()?, Rounding::Floor).ok())
        .collect();
    let axes = axes?;
    let met: Vec<Range<usize>> = axes.iter().map(met).collect();
    if met.iter().zip(&axes).all(|(met, axis)| met.len() == axis.kernel) {
        return None;
    }
    let mut smaller = filters.clone();
    for (axis, met) in met.iter().enumerate() {
        smaller = smaller.select(2 + axis, &met.clone().collect::<Vec<_>>());
    }
    let padding = axes.iter().zip(&met).map(|(axis, met)| {
        let cut_after = axis.kernel - met.end;
        [axis.before - met.start * axis.dilation, axis.after - cut_after * axis.dilation]
    });
    let (before, after) = padding.map(|[before, after]| (before, after)).unzip();
    let kernel = met.iter().map(Range::len).collect();
    let padding = Padding::Explicit { before, after };
    let window = Window { kernel, padding, ..op.window.clone() };
    Some((Conv { window, ..op.clone() }, smaller))
}

/// Which entries of a filter stay: those that meet an entry of an image in some place, those between, and as
/// many more as padding does not make up for. One does in any case.
fn met(axis: &WindowAxis) -> Range<usize> {
    let &WindowAxis { input, kernel, stride, dilation, before, after, output } = axis;
    let meets = |entry: usize| {
        // The first place where it is not in the padding before the image.
        let at = before.saturating_sub(entry * dilation).div_ceil(stride);
        at < output && at * stride + entry * dilation - before < input
    };
    let first = (0..kernel).find(|&entry| meets(entry)).unwrap_or(0);
    let last = (0..kernel).rfind(|&entry| meets(entry)).unwrap_or(kernel - 1);
    let cut_after = (kernel - 1 - last).min(after / dilation);
    first.min(before / dilation)..kernel - cut_after
}
