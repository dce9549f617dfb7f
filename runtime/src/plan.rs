//! Where every value lies, for one set of input sizes.
//!
//! - `buffers`: which values share memory and for how long, the same for all sizes.
//! - `layout`: offsets for buffers of given sizes.
//! - [`PeakFormula`]: the least that any layout needs, in the symbols of the model.
//! - `budget`: the largest sizes that fit.
//! - [`ArenaBlock`]: the plan as a map for people.

mod blocks;
mod budget;
mod buffers;
mod formula;
mod layout;
#[cfg(test)]
mod tests;

use std::ops::Range;

use graph::Bindings;

use crate::RuntimeError;
use crate::kernel::Prepared;
use crate::module::{Id, Module, Node};

pub use blocks::ArenaBlock;
pub(crate) use blocks::blocks;
pub use budget::{MemoryUse, SlicedUse};
pub(crate) use budget::{admit, admit_weights, admit_written, fits, largest};
pub(crate) use buffers::Buffers;
#[cfg(feature = "gpu")]
pub(crate) use buffers::bases;
use formula::sum;
pub use formula::{PeakFormula, SizeTerm};
pub(crate) use layout::ALIGNMENT;
use layout::{Request, layout, lower_bound};

/// Where a value's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not read when the model runs: dead, or packed by the kernel that takes it.
    Nowhere,
    /// In the tensor given for an input.
    Input(usize, Range<usize>),
    /// In a constant.
    Constant(Id, Range<usize>),
    /// In the session's arena.
    Arena(Range<usize>),
}

/// Shapes and places of all values for one set of sizes.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) bindings: Bindings,
    pub(crate) shapes: Vec<Vec<usize>>,
    pub(crate) places: Vec<Place>,
    /// For each node the range of the arena that its kernel writes.
    pub(crate) written: Vec<Range<usize>>,
    /// For each node the range of the arena that its kernel may use while it runs.
    pub(crate) scratch: Vec<Range<usize>>,
    /// Ranges of the arena that nothing reads after a step, by step; debug builds only, which
    /// poison them.
    pub(crate) freed: Vec<(usize, Range<usize>)>,
    /// Bytes of the arena.
    pub(crate) bytes: usize,
    /// Bytes that no layout can do without.
    pub(crate) lower_bound: usize,
}

impl Plan {
    /// Plans for these sizes.
    ///
    /// # Errors
    /// When a size is not bound, a view reaches out of its value, or sizes overflow.
    pub(crate) fn new(
        module: &Module,
        steps: &[Prepared],
        buffers: &Buffers,
        bindings: Bindings,
    ) -> Result<Self, RuntimeError> {
        let shapes = shapes(module, &bindings)?;
        let sizes = sizes(module, &shapes)?;
        let roots = roots(module, steps, (&shapes, &sizes), &bindings)?;
        let requests = requests(module, buffers, &bindings)?;
        let found = layout(&requests);
        let range = |buffer: usize| {
            let start = found.offsets[buffer];
            start..start + requests[buffer].bytes
        };
        let place = |value: usize| {
            let Root { base, offset } = roots[value];
            let part = offset..offset + sizes[value];
            if let Some(buffer) = buffers.of_value[value] {
                let start = range(buffer).start;
                Place::Arena(start + part.start..start + part.end)
            } else if let Some(input) = module.inputs.iter().position(|&id| id == base) {
                Place::Input(input, part)
            } else if module.constant(base).is_some() {
                Place::Constant(base, part)
            } else {
                Place::Nowhere
            }
        };
        let places = (0..module.values.len()).map(place).collect();
        let of_node = |node: &Node| buffers.of_value[node.output.0].map_or(0..0, range);
        let written = module.nodes.iter().map(of_node).collect();
        let scratch = buffers.scratch.iter().map(|buffer| buffer.map_or(0..0, range)).collect();
        let mut freed = Vec::new();
        if cfg!(debug_assertions) {
            freed.extend((0..requests.len()).map(|buffer| (requests[buffer].last, range(buffer))));
            freed.sort_by_key(|(step, _)| *step);
        }
        let lower_bound = lower_bound(&requests);
        let bytes = found.peak;
        Ok(Self { bindings, shapes, places, written, scratch, freed, bytes, lower_bound })
    }
}

/// The buffers with their sizes.
fn requests(
    module: &Module,
    buffers: &Buffers,
    bindings: &Bindings,
) -> Result<Vec<Request>, RuntimeError> {
    let request = |buffer: &buffers::Buffer| {
        let bytes = sum(&buffer.size, bindings)
            .map_err(|reason| sizes_error(module, module.nodes[buffer.first].output.0, reason))?;
        Ok(Request { bytes, first: buffer.first, last: buffer.last })
    };
    buffers.list.iter().map(request).collect()
}

/// A value that is a part of another.
#[derive(Clone, Copy)]
struct Root {
    base: Id,
    offset: usize,
}

fn sizes_error(module: &Module, id: usize, reason: impl Into<String>) -> RuntimeError {
    RuntimeError::Sizes { name: module.values[id].name.clone(), reason: reason.into() }
}

/// The shapes of all values that run; empty for the others.
fn shapes(module: &Module, bindings: &Bindings) -> Result<Vec<Vec<usize>>, RuntimeError> {
    let mut shapes = vec![Vec::new(); module.values.len()];
    let nodes = module.nodes.iter().flat_map(|node| node.inputs.iter().chain([&node.output]));
    for &Id(id) in nodes.chain(&module.inputs).chain(&module.outputs) {
        let sizes = bindings.sizes(&module.values[id].shape);
        shapes[id] = sizes.map_err(|reason| sizes_error(module, id, reason))?;
    }
    Ok(shapes)
}

fn sizes(module: &Module, shapes: &[Vec<usize>]) -> Result<Vec<usize>, RuntimeError> {
    let size = |(id, shape): (usize, &Vec<usize>)| {
        let element = module.values[id].element_bytes();
        let bytes = shape.iter().try_fold(element, |bytes, &size| bytes.checked_mul(size));
        // Half the address space leaves room for sums of offsets.
        bytes
            .filter(|&bytes| bytes < usize::MAX >> 8)
            .ok_or_else(|| sizes_error(module, id, format!("{shape:?} does not fit memory")))
    };
    shapes.iter().enumerate().map(size).collect()
}

/// For every value, the value it is a part of.
fn roots(
    module: &Module,
    steps: &[Prepared],
    (shapes, sizes): (&[Vec<usize>], &[usize]),
    bindings: &Bindings,
) -> Result<Vec<Root>, RuntimeError> {
    let mut roots: Vec<Root> =
        (0..module.values.len()).map(|id| Root { base: Id(id), offset: 0 }).collect();
    for (node, step) in module.nodes.iter().zip(steps) {
        let (start, output) = match step {
            Prepared::View { start } => (*start, node.output.0),
            Prepared::Part { behind } => {
                let reason = |reason| sizes_error(module, node.output.0, reason);
                let offset = sum(behind, bindings).map_err(reason)?.next_multiple_of(ALIGNMENT);
                roots[node.output.0] = Root { base: node.inputs[0], offset };
                continue;
            }
            _ => continue,
        };
        let input = node.inputs[0].0;
        let outermost = shapes[input].first().copied().unwrap_or(1).max(1);
        let skipped = start.checked_mul(sizes[input] / outermost);
        let reaches = |skipped: usize| skipped.checked_add(sizes[output]);
        let fits = |skipped: &usize| reaches(*skipped).is_some_and(|end| end <= sizes[input]);
        let Some(skipped) = skipped.filter(fits) else {
            let (from, to) = (&shapes[input], &shapes[output]);
            let reason = format!("{to:?} from index {start} reaches out of {from:?}");
            return Err(sizes_error(module, output, reason));
        };
        let Root { base, offset } = roots[input];
        roots[output] = Root { base, offset: offset + skipped };
    }
    Ok(roots)
}
