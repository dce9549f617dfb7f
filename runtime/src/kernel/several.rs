//! Nodes with several outputs, which lie one behind the other in what the node writes.

use std::ops::Range;

use super::{KernelEntry, Prepared, any};
use crate::module::{Module, Node, Operation};
use crate::plan::{ALIGNMENT, SizeTerm};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "part",
    operation: "OtherOutput",
    tier: None,
    cost: 1,
    accepts: any,
    prepare: |module, node, _| Prepared::Part { behind: behind(module, node) },
}];

/// What a node writes, output for output; no more than its first where only a run knows sizes.
pub(crate) fn written(module: &Module, node: &Node) -> Vec<SizeTerm> {
    let own = module.value(node.output).value_type();
    let others = match &node.operation {
        Operation::Several(several) => several.others.as_slice(),
        _ => &[],
    };
    let all = std::iter::once(&own).chain(others.iter().map(|(_, other)| other));
    all.map_while(SizeTerm::of_type).collect()
}

/// What lies before another output of a node.
fn behind(module: &Module, node: &Node) -> Vec<SizeTerm> {
    let Operation::OtherOutput { place } = node.operation else {
        unreachable!("the table pairs this kernel with other outputs")
    };
    let index = module.producer(node.inputs[0]).expect("the pass wrote the node before it");
    let mut terms = written(module, &module.nodes[index]);
    terms.truncate(1 + place);
    terms
}

/// Places one behind the other, and where they end.
pub(crate) fn side_by_side(sizes: impl Iterator<Item = usize>) -> (Vec<Range<usize>>, usize) {
    let mut end = 0;
    let places = sizes.map(|bytes| {
        let start = end;
        end = (start + bytes).next_multiple_of(ALIGNMENT);
        start..start + bytes
    });
    (places.collect(), end)
}

/// The outputs of these sizes in what a node writes.
///
/// # Panics
/// When it has no room for one of them.
pub(super) fn split(
    mut written: &mut [u8],
    sizes: impl Iterator<Item = usize>,
) -> impl Iterator<Item = &mut [u8]> {
    sizes.map(move |bytes| {
        let (output, rest) = std::mem::take(&mut written).split_at_mut(bytes);
        let between = bytes.next_multiple_of(ALIGNMENT) - bytes;
        written = rest.get_mut(between..).unwrap_or_default();
        output
    })
}
