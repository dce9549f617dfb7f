//! Which values share memory, and for how long: views, results that lie over an input, scratch.
//!
//! All of it follows from symbolic shapes, so it is the same for all sizes and found once.

use graph::{Dim, Shape};

use super::formula::{PeakFormula, SizeTerm};
use crate::RuntimeError;
use crate::kernel::{Kernel, Prepared, written};
use crate::module::{Id, Module, Node};

/// Memory that one value after another lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    /// A sum.
    pub(crate) size: Vec<SizeTerm>,
    /// The step that writes it first.
    pub(crate) first: usize,
    /// The last step that needs it; the number of steps where it holds an output.
    pub(crate) last: usize,
}

/// Everything that a run keeps in its arena.
#[derive(Clone, Debug)]
pub(crate) struct Buffers {
    pub(crate) list: Vec<Buffer>,
    /// For each value the buffer that it lies in, wholly or as a view of a part; `None` for
    /// inputs, constants, and what no node writes.
    pub(crate) of_value: Vec<Option<usize>>,
    /// For each node the input that its output lies over.
    pub(crate) in_place: Vec<Option<usize>>,
    /// For each node the buffer that its kernel may use while it runs.
    pub(crate) scratch: Vec<Option<usize>>,
    /// Sizes of the values that kernels write, and of their scratch.
    written: Vec<SizeTerm>,
}

impl Buffers {
    /// The buffers of a model whose sizes depend on values: none that can be planned.
    pub(crate) fn unplanned(module: &Module) -> Self {
        Self {
            list: Vec::new(),
            of_value: vec![None; module.values.len()],
            in_place: vec![None; module.nodes.len()],
            scratch: vec![None; module.nodes.len()],
            written: Vec::new(),
        }
    }

    /// # Errors
    /// When the fixed dimensions of a value alone do not fit memory.
    pub(crate) fn new(module: &Module, steps: &[Prepared]) -> Result<Self, RuntimeError> {
        let bases = bases(module, steps);
        let last_reads = last_reads(module, &bases);
        let mut buffers = Self::unplanned(module);
        for (step, (node, prepared)) in module.nodes.iter().zip(steps).enumerate() {
            let output = node.output.0;
            if prepared.is_view() {
                buffers.of_value[output] = buffers.of_value[bases[output].0];
                continue;
            }
            let size = size(module, node.output)?;
            let last = last_reads[output].max(step);
            let others: Vec<SizeTerm> = written(module, node).into_iter().skip(1).collect();
            buffers.written.push(size.clone());
            buffers.written.extend_from_slice(&others);
            let scratch = scratch(module, node, prepared.kernel())?;
            if !scratch.is_empty() {
                buffers.written.extend_from_slice(&scratch);
                buffers.scratch[step] = Some(buffers.add(scratch, step, step));
            }
            let free = |id: Id| last_reads[bases[id.0].0] == step;
            // On a GPU nothing lies over an input: its compilers take them for distinct.
            let in_place = prepared.kernel().map_or(&[][..], |kernel| kernel.in_place());
            let over = in_place.iter().copied().find(|&input| {
                buffers.can_lie_over(module, node, input, &size, &bases) && free(node.inputs[input])
            });
            buffers.in_place[step] = over;
            buffers.of_value[output] = Some(match over {
                Some(input) => {
                    let buffer = buffers.of_value[node.inputs[input].0].expect("it lies somewhere");
                    buffers.list[buffer].last = last;
                    buffer
                }
                None => buffers.add([vec![size], others].concat(), step, last),
            });
        }
        Ok(buffers)
    }

    fn add(&mut self, size: Vec<SizeTerm>, first: usize, last: usize) -> usize {
        self.list.push(Buffer { size, first, last });
        self.list.len() - 1
    }

    /// Whether an input fills a buffer that is as large as the output and that no other input
    /// lies in.
    fn can_lie_over(
        &self,
        module: &Module,
        node: &Node,
        input: usize,
        size: &SizeTerm,
        bases: &[Id],
    ) -> bool {
        let Some(&id) = node.inputs.get(input) else { return false };
        let Some(buffer) = self.of_value[id.0] else { return false };
        let others = node.inputs.iter().enumerate().filter(|&(other, _)| other != input);
        let alone = others.map(|(_, other)| bases[other.0]).all(|base| base != bases[id.0]);
        let term = |id| self::size(module, id).ok();
        alone && self.list[buffer].size == [size.clone()] && term(id).as_ref() == Some(size)
    }

    /// The lower bound as a formula.
    pub(crate) fn formula(&self) -> PeakFormula {
        let steps = self.list.iter().map(|buffer| buffer.last + 1).max().unwrap_or(0);
        PeakFormula::new((0..steps).map(|step| {
            let alive = |buffer: &&Buffer| (buffer.first..=buffer.last).contains(&step);
            self.list.iter().filter(alive).flat_map(|buffer| buffer.size.iter().cloned()).collect()
        }))
    }

    /// Sizes of everything that would need memory of its own if nothing were reused.
    pub(crate) fn written(&self) -> &[SizeTerm] {
        &self.written
    }
}

/// For every value, the value that it is a view of, or itself.
pub(crate) fn bases(module: &Module, steps: &[Prepared]) -> Vec<Id> {
    let mut bases: Vec<Id> = (0..module.values.len()).map(Id).collect();
    for (node, step) in module.nodes.iter().zip(steps) {
        if step.is_view() {
            bases[node.output.0] = bases[node.inputs[0].0];
        }
    }
    bases
}

/// For every value that is no view, the last step that reads it or a view of it: the number of
/// steps for outputs, 0 where nothing does.
fn last_reads(module: &Module, bases: &[Id]) -> Vec<usize> {
    let mut last = vec![0; module.values.len()];
    for (step, node) in module.nodes.iter().enumerate() {
        for input in &node.inputs {
            last[bases[input.0].0] = step;
        }
    }
    for output in &module.outputs {
        last[bases[output.0].0] = module.nodes.len();
    }
    last
}

fn size(module: &Module, id: Id) -> Result<SizeTerm, RuntimeError> {
    let value = module.value(id);
    term(&value.name, value.element_bytes(), &value.shape)
}

fn scratch(
    module: &Module,
    node: &Node,
    kernel: Option<&dyn Kernel>,
) -> Result<Vec<SizeTerm>, RuntimeError> {
    let Some(kernel) = kernel else { return Ok(Vec::new()) };
    let inputs: Vec<&[Dim]> =
        node.inputs.iter().map(|&id| module.value(id).shape.as_slice()).collect();
    let wanted = kernel.scratch(&inputs, &module.value(node.output).shape);
    let own = wanted.map(|wanted| term(&node.name, wanted.element_bytes, &wanted.shape));
    let arena = kernel.arena().iter().cloned().map(Ok);
    own.into_iter().chain(arena).collect()
}

fn term(name: &str, element_bytes: usize, shape: &Shape) -> Result<SizeTerm, RuntimeError> {
    SizeTerm::new(element_bytes, shape).ok_or_else(|| RuntimeError::Sizes {
        name: name.to_owned(),
        reason: format!("{} does not fit memory", graph::dim::display(shape)),
    })
}
