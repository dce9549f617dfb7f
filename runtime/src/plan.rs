//! Where every value lies, for one set of input sizes.

use std::ops::Range;

use graph::Bindings;

use crate::RuntimeError;
use crate::kernel::Prepared;
use crate::module::{Id, Module};

/// Alignment of everything in the arena: a cache line, and the widest vector.
pub(crate) const ALIGNMENT: usize = 64;

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
    /// Bytes of the arena.
    pub(crate) bytes: usize,
}

/// A value that needs memory from one step to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) bytes: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Request {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Offsets for all requests, such that none overlaps another that lives at the same time, and
/// the bytes needed: the better of two greedy orders (by size, and by time), each at the lowest
/// offset that is free (Pisarchyk and Lee 2020, arXiv:2001.03288, §5).
pub(crate) fn layout(requests: &[Request]) -> (Vec<usize>, usize) {
    let mut by_time: Vec<usize> = (0..requests.len()).collect();
    by_time.sort_by_key(|&index| requests[index].first);
    let mut by_size = by_time.clone();
    by_size.sort_by_key(|&index| std::cmp::Reverse(requests[index].bytes));
    let [by_size, by_time] = [by_size, by_time].map(|order| greedy(requests, &order));
    if by_time.1 < by_size.1 { by_time } else { by_size }
}

fn greedy(requests: &[Request], order: &[usize]) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; requests.len()];
    let mut peak = 0;
    let mut placed: Vec<usize> = Vec::new();
    for &index in order {
        let bytes = requests[index].bytes.next_multiple_of(ALIGNMENT);
        let busy = placed.iter().filter(|&&other| requests[other].meets(&requests[index]));
        let mut busy: Vec<Range<usize>> =
            busy.map(|&other| offsets[other]..offsets[other] + requests[other].bytes).collect();
        busy.sort_by_key(|range| range.start);
        let mut offset = 0;
        for range in busy {
            if offset + bytes <= range.start {
                break;
            }
            offset = offset.max(range.end.next_multiple_of(ALIGNMENT));
        }
        offsets[index] = offset;
        peak = peak.max(offset + bytes);
        placed.push(index);
    }
    (offsets, peak)
}

/// A value that is a part of another.
#[derive(Clone, Copy)]
struct Root {
    base: Id,
    offset: usize,
}

impl Plan {
    /// Plans for these sizes.
    ///
    /// # Errors
    /// When a size is not bound, a view reaches out of its value, or sizes overflow.
    pub(crate) fn new(
        module: &Module,
        steps: &[Prepared],
        bindings: Bindings,
    ) -> Result<Self, RuntimeError> {
        let shapes = shapes(module, &bindings)?;
        let sizes = sizes(module, &shapes)?;
        let roots = roots(module, steps, &shapes, &sizes)?;
        let mut produced = vec![None; module.values.len()];
        let mut last = vec![0; module.values.len()];
        for (step, node) in module.nodes.iter().enumerate() {
            produced[node.output.0] = Some(step);
            for input in &node.inputs {
                last[roots[input.0].base.0] = step;
            }
        }
        for output in &module.outputs {
            last[roots[output.0].base.0] = module.nodes.len();
        }
        let owned: Vec<usize> = (0..module.values.len())
            .filter(|&value| produced[value].is_some() && roots[value].base.0 == value)
            .collect();
        let request = |&value: &usize| {
            let first = produced[value].expect("`owned` values are produced");
            Request { bytes: sizes[value], first, last: last[value].max(first) }
        };
        let requests: Vec<Request> = owned.iter().map(request).collect();
        let (offsets, bytes) = layout(&requests);
        let mut arena = vec![None; module.values.len()];
        for (&value, offset) in owned.iter().zip(offsets) {
            arena[value] = Some(offset);
        }
        let place = |value: usize| {
            let Root { base, offset } = roots[value];
            let range = offset..offset + sizes[value];
            if let Some(start) = arena[base.0] {
                Place::Arena(start + range.start..start + range.end)
            } else if let Some(input) = module.inputs.iter().position(|&id| id == base) {
                Place::Input(input, range)
            } else if module.constant(base).is_some() {
                Place::Constant(base, range)
            } else {
                Place::Nowhere
            }
        };
        let places = (0..module.values.len()).map(place).collect();
        Ok(Self { bindings, shapes, places, bytes })
    }
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
        let element = module.values[id].dtype.size_bytes();
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
    shapes: &[Vec<usize>],
    sizes: &[usize],
) -> Result<Vec<Root>, RuntimeError> {
    let mut roots: Vec<Root> =
        (0..module.values.len()).map(|id| Root { base: Id(id), offset: 0 }).collect();
    for (node, step) in module.nodes.iter().zip(steps) {
        let Prepared::View { start } = *step else { continue };
        let (input, output) = (node.inputs[0].0, node.output.0);
        let outermost = shapes[input].first().copied().unwrap_or(1).max(1);
        let skipped = start * (sizes[input] / outermost);
        if skipped + sizes[output] > sizes[input] {
            let (from, to) = (&shapes[input], &shapes[output]);
            let reason = format!("{to:?} from index {start} reaches out of {from:?}");
            return Err(sizes_error(module, output, reason));
        }
        let Root { base, offset } = roots[input];
        roots[output] = Root { base, offset: offset + skipped };
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use graph::bert::{self, BertConfig, BertLayer};
    use proptest::prelude::*;

    use super::*;
    use crate::compile::Level;
    use crate::kernel::choose;
    use crate::module::Node;
    use crate::pass;

    /// Finds overlaps without the planner's help: byte by byte in units of the alignment, step by
    /// step.
    fn overlap(requests: &[Request], offsets: &[usize]) -> Option<(usize, usize)> {
        let steps = requests.iter().map(|request| request.last + 1).max().unwrap_or(0);
        for step in 0..steps {
            let mut owner = std::collections::BTreeMap::new();
            for (index, request) in requests.iter().enumerate() {
                if (request.first..=request.last).contains(&step) && request.bytes > 0 {
                    let first = offsets[index] / ALIGNMENT;
                    for unit in first..=(offsets[index] + request.bytes - 1) / ALIGNMENT {
                        if let Some(other) = owner.insert(unit, index) {
                            return Some((other, index));
                        }
                    }
                }
            }
        }
        None
    }

    fn bound(requests: &[Request]) -> usize {
        let steps = requests.iter().map(|request| request.last + 1).max().unwrap_or(0);
        let live = |step: usize| {
            let alive = |request: &&Request| (request.first..=request.last).contains(&step);
            let bytes = |request: &Request| request.bytes.next_multiple_of(ALIGNMENT);
            requests.iter().filter(alive).map(bytes).sum()
        };
        (0..steps).map(live).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn nothing_overlaps(raw in proptest::collection::vec((0usize..2000, 0usize..30, 0usize..8), 0..40)) {
            let requests: Vec<_> = raw.iter()
                .map(|&(bytes, first, length)| Request { bytes, first, last: first + length })
                .collect();
            let (offsets, bytes) = layout(&requests);
            prop_assert_eq!(overlap(&requests, &offsets), None);
            prop_assert!(offsets.iter().all(|offset| offset % ALIGNMENT == 0));
            prop_assert!(bytes >= bound(&requests));
        }
    }

    #[test]
    fn the_checker_finds_overlaps() {
        let request = |first, last| Request { bytes: 100, first, last };
        let requests = [request(0, 2), request(1, 3), request(3, 4)];
        assert_eq!(overlap(&requests, &[0, 64, 0]), Some((0, 1)));
        assert_eq!(overlap(&requests, &[0, 128, 0]), None);
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let step = |index| Request { bytes: 640, first: index, last: index + 1 };
        let requests: Vec<_> = (0..10).map(step).collect();
        assert_eq!(layout(&requests).1, 1280);
    }

    /// A model as it would run at this level.
    fn prepared(level: Level) -> (Module, Vec<Prepared>) {
        let layer = BertLayer { heads: 2, intermediate: 48 };
        let config = BertConfig::uniform(30, 16, 3, layer);
        let graph = bert::build(&config, &mut bert::initial_weights(1)).unwrap();
        let mut module = Module::new(&graph);
        pass::run(&mut module, level, &[]).unwrap();
        let cpu = kernels::Cpu::best();
        let steps = module.nodes.iter().map(|node| choose(&module, node, cpu).prepared).collect();
        (module, steps)
    }

    fn sizes_of(batch: usize, sequence: usize) -> Bindings {
        Bindings::new([("batch", batch), ("sequence", sequence)])
    }

    /// Whether a node's output keeps off everything that is still going to be read, views taken
    /// one by one, as they are.
    fn check_lifetimes(module: &Module, steps: &[Prepared], plan: &Plan) {
        let last_read = |id: Id| {
            let reads = |(step, node): (usize, &Node)| node.inputs.contains(&id).then_some(step);
            let read = module.nodes.iter().enumerate().filter_map(reads).max();
            if module.outputs.contains(&id) { Some(module.nodes.len()) } else { read }
        };
        for (step, node) in module.nodes.iter().enumerate() {
            if matches!(steps[step], Prepared::View { .. }) {
                continue;
            }
            let Place::Arena(written) = &plan.places[node.output.0] else { panic!("no place") };
            assert!(written.end <= plan.bytes && written.start % ALIGNMENT == 0);
            for other in &module.nodes[..step] {
                let Place::Arena(kept) = &plan.places[other.output.0] else { continue };
                let meets = written.start < kept.end && kept.start < written.end;
                let dead = last_read(other.output).is_none_or(|last| last < step);
                assert!(dead || !meets, "`{}` is written over `{}`", node.name, other.name);
            }
        }
    }

    #[test]
    fn a_model_never_writes_over_what_it_reads_later() {
        for level in [Level::O0, Level::O3] {
            let (module, steps) = prepared(level);
            for (batch, sequence) in [(1, 1), (3, 7), (8, 64)] {
                let plan = Plan::new(&module, &steps, sizes_of(batch, sequence)).unwrap();
                check_lifetimes(&module, &steps, &plan);
            }
        }
    }

    #[test]
    fn fusion_and_reuse_shrink_the_arena() {
        let bytes = |level| {
            let (module, steps) = prepared(level);
            let plan = Plan::new(&module, &steps, sizes_of(4, 64)).unwrap();
            let all: usize = module
                .nodes
                .iter()
                .map(|node| sizes(&module, &plan.shapes).unwrap()[node.output.0])
                .sum();
            (plan.bytes, all)
        };
        let ((plain, plain_all), (fused, _)) = (bytes(Level::O0), bytes(Level::O3));
        assert!(4 * plain < plain_all, "{plain} of {plain_all}");
        assert!(fused < plain, "{fused} of {plain}");
    }
}
