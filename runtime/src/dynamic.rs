//! Runs a model whose sizes depend on values: node by node, each output in memory of its own, since
//! nothing can be planned before the values are there.
//!
//! Kernels still run wherever the inputs say how large the output is; the rest is the graph's own
//! definition of the operator.

use std::ops::Range;
use std::sync::LazyLock;

use graph::op::Argument;
use graph::{Bindings, DType, Dim, Op, Shape, Tensor, ValueType, dim};

use crate::RuntimeError;
use crate::kernel::{Call, Free, Kernel, Operand, Prepared, Scratch, side_by_side};
use crate::module::{Id, Module, Node, Operation, SeveralOutputs};
use crate::program::Program;

/// Says whether there is room for so many bytes that are there at a node of this name.
pub(crate) type Admit<'a> = &'a (dyn Fn(&str, usize) -> Result<(), RuntimeError> + Sync);

/// The values of a program, kept from run to run of the same named sizes.
pub(crate) struct Values<'p> {
    program: &'p Program,
    list: Vec<Option<Tensor>>,
    /// For each value the last node that reads it; `None` for what stays: outputs and constants.
    last_readers: Vec<Option<usize>>,
    /// For each node of known sizes what it takes, once it has run.
    known: Vec<Option<Known>>,
}

impl<'p> Values<'p> {
    pub(crate) fn new(program: &'p Program) -> Self {
        let Program { module, .. } = program;
        let list = module.values.iter().map(|value| value.constant.clone()).collect();
        let known = module.nodes.iter().map(|_| None).collect();
        Self { program, list, last_readers: last_readers(module), known }
    }

    /// The outputs for the inputs, which are in the module's order; says which node has run, after each.
    ///
    /// # Errors
    /// When a node fails on the values, or there is no room for what it writes.
    pub(crate) fn run(
        &mut self,
        inputs: impl IntoIterator<Item = Tensor>,
        bindings: &Bindings,
        admit: Admit<'_>,
        mut ran: impl FnMut(usize),
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let Self { program, list: values, last_readers, known } = self;
        let Program { module, steps, guards, .. } = program;
        for (id, tensor) in module.inputs.iter().zip(inputs) {
            values[id.0] = Some(tensor);
        }
        let mut running = Running { module, bindings, admit, bytes: 0 };
        for (index, (node, step)) in module.nodes.iter().zip(steps).enumerate() {
            let is_there = matches!(step, Prepared::Part { .. });
            if !is_there && guards.admit(index, |condition| holds(values[condition.0].as_ref())) {
                let outputs = running.outputs(node, step, values, &mut known[index])?;
                for (id, output) in outputs_of(module, index).zip(outputs) {
                    values[id.0] = Some(output);
                }
            }
            ran(index);
            for &input in &node.inputs {
                if last_readers[input.0] == Some(index)
                    && let Some(read) = values[input.0].take()
                    && !module.inputs.contains(&input)
                {
                    running.bytes -= read.size_bytes();
                }
            }
        }
        let output = |id: &Id| {
            values[id.0].clone().ok_or_else(|| RuntimeError::Sizes {
                name: module.value(*id).name.clone(),
                reason: "nothing wrote it".to_owned(),
            })
        };
        module.outputs.iter().map(output).collect()
    }
}

/// What a node writes, in the order of [`Kernel::compute`].
fn outputs_of(module: &Module, index: usize) -> impl Iterator<Item = Id> {
    let output = module.nodes[index].output;
    let several = matches!(module.nodes[index].operation, Operation::Several(_));
    let behind = if several { &module.nodes[index + 1..] } else { &[] };
    let other = move |place| {
        let is_it = |node: &&Node| {
            node.inputs.first() == Some(&output)
                && node.operation == Operation::OtherOutput { place }
        };
        behind.iter().find(is_it).map(|node| node.output)
    };
    std::iter::once(output).chain((0..).map_while(other))
}

/// Whether a condition holds.
fn holds(condition: Option<&Tensor>) -> bool {
    let first = condition.and_then(|condition| condition.elements::<bool>().ok()?.first());
    first.is_some_and(|&holds| holds)
}

/// For each value the last node that reads it; `None` for outputs and constants.
fn last_readers(module: &Module) -> Vec<Option<usize>> {
    let mut readers = vec![None; module.values.len()];
    for (index, node) in module.nodes.iter().enumerate() {
        for input in &node.inputs {
            readers[input.0] = Some(index);
        }
    }
    for output in &module.outputs {
        readers[output.0] = None;
    }
    for (reader, value) in readers.iter_mut().zip(&module.values) {
        if value.constant.is_some() {
            *reader = None;
        }
    }
    readers
}

/// What a node of known sizes takes, whatever the values are.
struct Known {
    shape: Vec<usize>,
    scratch_bytes: usize,
}

/// One run of a program.
struct Running<'a> {
    module: &'a Module,
    bindings: &'a Bindings,
    admit: Admit<'a>,
    /// Of what nodes have written and something still reads.
    bytes: usize,
}

impl Running<'_> {
    /// What a node writes.
    fn outputs(
        &mut self,
        node: &Node,
        step: &Prepared,
        values: &[Option<Tensor>],
        known: &mut Option<Known>,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let fail = |reason| RuntimeError::Node {
            node: node.name.clone(),
            operation: node.operation.kind(),
            reason,
        };
        let inputs = operands(node, values);
        if let Prepared::Run(kernel) = step {
            let (before, admit) = (self.bytes, self.admit);
            let admit = |node: &str, bytes: usize| admit(node, before.saturating_add(bytes));
            let free = Free { inputs: &inputs, bindings: self.bindings, admit: &admit };
            let outputs = match (kernel.compute(free), &node.operation) {
                (None, Operation::Several(several)) => {
                    Some(self.several(node, &**kernel, several, &inputs))
                }
                (outputs, _) => outputs,
            };
            if let Some(outputs) = outputs {
                let outputs = outputs.map_err(fail)?;
                let bytes = outputs.iter().map(Tensor::size_bytes).sum();
                self.admit(node, bytes)?;
                self.bytes += bytes;
                return Ok(outputs);
            }
        }
        let output = match (step, &mut *known) {
            (Prepared::Run(kernel), Some(known)) => {
                self.admit(node, output_bytes(self.module, node, &known.shape))?;
                self.run(node, &**kernel, &inputs, known).map_err(fail)?
            }
            _ => {
                let sizes = sizes(self.module, node, &inputs, self.bindings).map_err(fail)?;
                let expected = sizes.as_ref();
                let expected = expected.map_or(0, |sizes| output_bytes(self.module, node, sizes));
                self.admit(node, expected)?;
                self.output(node, step, &inputs, sizes, known).map_err(fail)?
            }
        };
        self.admit(node, output.size_bytes())?;
        self.bytes += output.size_bytes();
        Ok(vec![output])
    }

    /// Refuses an output that the memory budget has no room for beside them.
    fn admit(&self, node: &Node, bytes: usize) -> Result<(), RuntimeError> {
        (self.admit)(&node.name, self.bytes.saturating_add(bytes))
    }

    /// The output of a node, of these sizes where they are known before it is computed.
    fn output(
        &self,
        node: &Node,
        step: &Prepared,
        inputs: &[&Tensor],
        sizes: Option<Vec<usize>>,
        known: &mut Option<Known>,
    ) -> Result<Tensor, String> {
        if node.operation == Operation::Choose {
            let &[condition, a, b] = inputs else {
                return Err("expected a condition and two sides".to_owned());
            };
            return match condition.elements::<bool>() {
                Ok([holds]) => Ok(if *holds { a } else { b }.clone()),
                _ => Err(format!("expected one truth value, found {condition:?}")),
            };
        }
        let (kernel, shape) = match (step, sizes) {
            (Prepared::Run(kernel), Some(shape)) if !kernel.is_definition() => (kernel, shape),
            (_, sizes) => {
                let Operation::Graph(op) = &node.operation else {
                    return Err(
                        "fused operations take sizes that are known before a run".to_owned()
                    );
                };
                let output = op.operator().evaluate(inputs, self.bindings)?;
                return match sizes {
                    Some(sizes) if sizes != output.shape() => {
                        Err(format!("expected sizes {sizes:?}, found {:?}", output.shape()))
                    }
                    _ => Ok(output),
                };
            }
        };
        let scratch_bytes = scratch_bytes(&**kernel, inputs, &shape);
        let found = Known { shape, scratch_bytes };
        let output = self.run(node, &**kernel, inputs, &found)?;
        if has_known_sizes(self.module, node) {
            *known = Some(found);
        }
        Ok(output)
    }

    /// What a node with several outputs writes, each in memory of its own.
    fn several(
        &self,
        node: &Node,
        kernel: &dyn Kernel,
        several: &SeveralOutputs,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, String> {
        let own = self.module.value(node.output).value_type();
        let types = std::iter::once(&own).chain(several.others.iter().map(|(_, other)| other));
        let output = |(op, ValueType { dtype, shape }): (&Op, &ValueType)| {
            let sizes = inferred(op, shape, inputs, self.bindings)?;
            Ok((*dtype, sizes.ok_or("expected sizes that follow from the inputs")?))
        };
        let outputs = node.operation.operators().zip(types).map(output);
        let outputs = outputs.collect::<Result<Vec<(DType, Vec<usize>)>, String>>()?;
        let bytes = outputs.iter().map(|(dtype, sizes)| bytes_of(*dtype, sizes));
        let (places, end) = side_by_side(bytes);
        self.admit(node, end).map_err(|error| error.to_string())?;
        let mut written = zeros(end)?;
        let written: &mut [u8] = bytemuck::cast_slice_mut(&mut written);
        let shape = outputs[0].1.clone();
        let known = Known { scratch_bytes: scratch_bytes(kernel, inputs, &shape), shape };
        self.call(kernel, inputs, &known, written)?;
        let tensor = |((dtype, sizes), place): (&(DType, Vec<usize>), Range<usize>)| {
            Tensor::from_bytes(*dtype, sizes, &written[place]).map_err(|error| error.to_string())
        };
        outputs.iter().zip(places).map(tensor).collect()
    }

    /// Runs a node's kernel.
    fn run(
        &self,
        node: &Node,
        kernel: &dyn Kernel,
        inputs: &[&Tensor],
        known: &Known,
    ) -> Result<Tensor, String> {
        let dtype = self.module.value(node.output).dtype;
        Tensor::written(dtype, &known.shape, |output| self.call(kernel, inputs, known, output))
    }

    /// Has a kernel write its output.
    fn call(
        &self,
        kernel: &dyn Kernel,
        inputs: &[&Tensor],
        Known { shape, scratch_bytes }: &Known,
        output: &mut [u8],
    ) -> Result<(), String> {
        let operands: Vec<Operand<'_>> = inputs.iter().map(|tensor| operand(tensor)).collect();
        let mut scratch = zeros(*scratch_bytes)?;
        let scratch = &mut bytemuck::cast_slice_mut(&mut scratch)[..*scratch_bytes];
        let (inputs, bindings) = (operands.as_slice(), self.bindings);
        kernel.run(Call { inputs, shape, output, in_place: None, scratch, bindings })
    }
}

/// What a node reads. A weight that a kernel packed is not there any more: the kernel does not read it.
fn operands<'v>(node: &Node, values: &'v [Option<Tensor>]) -> Vec<&'v Tensor> {
    static EMPTY: LazyLock<Tensor> = LazyLock::new(|| Tensor::zeros(DType::F32, &[0]));
    node.inputs.iter().map(|id| values[id.0].as_ref().unwrap_or(&EMPTY)).collect()
}

fn output_bytes(module: &Module, node: &Node, sizes: &[usize]) -> usize {
    bytes_of(module.value(node.output).dtype, sizes)
}

/// Saturates: what does not fit a number fits no memory either.
fn bytes_of(dtype: DType, sizes: &[usize]) -> usize {
    sizes.iter().fold(dtype.size_bytes(), |bytes, &size| bytes.saturating_mul(size))
}

/// Whether the sizes of all that a node reads and writes are known before a run.
fn has_known_sizes(module: &Module, node: &Node) -> bool {
    let mut values = node.inputs.iter().chain([&node.output]);
    values.all(|&id| !module.value(id).shape.contains(&Dim::Unknown))
}

/// Words for so many bytes, where the system has them.
pub(crate) fn zeros(bytes: usize) -> Result<Vec<u64>, String> {
    let words = bytes.div_ceil(size_of::<u64>());
    let mut zeros = Vec::new();
    zeros
        .try_reserve_exact(words)
        .map_err(|error| format!("cannot have {bytes} bytes: {error}"))?;
    zeros.resize(words, 0);
    Ok(zeros)
}

/// Bytes that a kernel needs while it runs.
fn scratch_bytes(kernel: &dyn Kernel, inputs: &[&Tensor], output: &[usize]) -> usize {
    let shapes: Vec<Shape> = inputs.iter().map(|tensor| dim::fixed(tensor.shape())).collect();
    let shapes: Vec<&[Dim]> = shapes.iter().map(Vec::as_slice).collect();
    let wanted = kernel.scratch(&shapes, &dim::fixed(output));
    wanted.map_or(0, |Scratch { element_bytes, shape }| {
        shape.iter().filter_map(Dim::fixed).fold(element_bytes, usize::saturating_mul)
    })
}

/// A tensor as kernels see it.
pub(crate) fn operand(tensor: &Tensor) -> Operand<'_> {
    Operand { dtype: tensor.dtype(), shape: tensor.shape(), bytes: tensor.bytes() }
}

/// The output's sizes, when they follow from the inputs; `None` when only computing it tells.
fn sizes(
    module: &Module,
    node: &Node,
    inputs: &[&Tensor],
    bindings: &Bindings,
) -> Result<Option<Vec<usize>>, String> {
    let declared = &module.value(node.output).shape;
    // Inputs of unknown sizes may not fit each other.
    if has_known_sizes(module, node) {
        return bindings.sizes(declared).map(Some);
    }
    match &node.operation {
        Operation::Graph(op) => inferred(op, declared, inputs, bindings),
        Operation::Linear { .. } | Operation::IntegerLinear(_) => {
            let ([rows @ .., inner], [expected, _]) = (inputs[0].shape(), inputs[1].shape()) else {
                return Err(format!("expected rows and weights, found {:?}", inputs[0]));
            };
            if inner != expected {
                return Err(format!("expected rows of {expected}, found {:?}", inputs[0]));
            }
            let columns = declared.last().and_then(Dim::fixed);
            Ok(columns.map(|columns| [rows, &[columns]].concat()))
        }
        _ => Ok(None),
    }
}

/// The sizes of what an operator makes of these inputs, as far as they tell; they have to be the declared.
fn inferred(
    op: &Op,
    declared: &[Dim],
    inputs: &[&Tensor],
    bindings: &Bindings,
) -> Result<Option<Vec<usize>>, String> {
    let types: Vec<ValueType> = inputs
        .iter()
        .map(|tensor| ValueType { dtype: tensor.dtype(), shape: dim::fixed(tensor.shape()) })
        .collect();
    let numbers: Vec<_> =
        inputs.iter().map(|tensor| graph::op::Integer::of_tensor(tensor)).collect();
    let arguments: Vec<Argument<'_>> = types
        .iter()
        .zip(inputs)
        .zip(&numbers)
        .map(|((value_type, &tensor), numbers)| Argument {
            value_type,
            constant: Some(tensor),
            integers: numbers.as_deref(),
        })
        .collect();
    let inferred = bindings.sizes(&op.operator().infer(&arguments)?.shape).ok();
    let is_known = !declared.contains(&Dim::Unknown);
    match &inferred {
        Some(found) if is_known && bindings.sizes(declared)? != *found => {
            let declared = bindings.sizes(declared)?;
            Err(format!("expected sizes {declared:?}, found {found:?}"))
        }
        _ => Ok(inferred),
    }
}
