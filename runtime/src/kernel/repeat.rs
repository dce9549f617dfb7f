//! Loops: the body is compiled as a model is, once, and runs round by round.

use std::sync::{Arc, Mutex, PoisonError};

use graph::op::{Loop, Operator as _, ROUND_LIMIT};
use graph::{Bindings, Op, Tensor};

use super::{
    Call, Free, Kernel, KernelEntry, Operand, Prepared, choose, from_operand, reference, run,
};
use crate::Device;
use crate::body::Body;
use crate::dynamic::{Admit, Values, operand, zeros};
use crate::module::{Module, Node, Operation};
use crate::plan::{ALIGNMENT, Plan, SizeTerm};
use crate::program::Program;
use crate::session::{Given, Inputs, Run};

use kernels::Cpu;

pub(super) const KERNELS: &[KernelEntry] =
    &[KernelEntry { name: "loop", operation: "Loop", tier: None, cost: 1, accepts, prepare }];

/// Sizes for which a loop keeps plans at the same time.
const MOST_PLANS: usize = 64;

/// What holds in every round.
const HOLDS: &[u8] = &[1];

fn op(node: &Node) -> &Loop {
    match &node.operation {
        Operation::Graph(Op::Loop(op)) => op,
        _ => unreachable!("the table pairs this kernel with loops"),
    }
}

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    Body::new(module, node, op(node)).map(|_| ())
}

fn prepare(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    match Repeat::new(module, node, cpu) {
        Ok(kernel) => run(kernel),
        // Sizes that fit no memory: the definition says so when it meets them.
        Err(_) => reference::of(Op::Loop(op(node).clone())),
    }
}

/// A loop whose body is compiled.
struct Repeat {
    name: String,
    op: Loop,
    body: Program,
    /// For each input of the body's module, which of the node's inputs it is.
    sources: Vec<usize>,
    /// For each input of the node, whether it is a constant of the body's module now.
    captured: Vec<bool>,
    /// Shapes of what the body gets, see [`Loop::given`].
    shapes: Vec<graph::Shape>,
    arena: Vec<SizeTerm>,
    packed_bytes: usize,
    plans: Mutex<Vec<Arc<Rounds>>>,
}

/// Where everything lies in the memory of a loop, for one set of sizes: what is carried into a round, what
/// is carried out of it, and the arena of the body.
struct Rounds {
    plan: Plan,
    /// Where each carried value starts, and its bytes.
    carried: Vec<(usize, usize)>,
    carried_bytes: usize,
}

impl Rounds {
    fn bytes(&self) -> usize {
        2 * self.carried_bytes + self.plan.bytes
    }
}

impl Repeat {
    fn new(module: &Module, node: &Node, cpu: Cpu) -> Result<Self, String> {
        let op = op(node).clone();
        let Body { module: mut inner, sources, captured, types } = Body::new(module, node, &op)?;
        let disabled = inner.disabled_passes.clone();
        let level = inner.level;
        crate::pass::run(&mut inner, level, &disabled, Device::Cpu)
            .map_err(|error| error.to_string())?;
        let steps = inner.nodes.iter().map(|node| choose(&inner, node, cpu).prepared).collect();
        let body = Program::new(inner, steps).map_err(|error| error.to_string())?;
        let shared = |index: usize| {
            // What a run of unknown sizes may look at is kept outside, and counted there.
            (module.is_dynamic() || body.dynamic) && captured.get(index) == Some(&true)
        };
        let own = body.module.values.iter().enumerate().filter(|(index, _)| !shared(*index));
        let constants = own.filter_map(|(_, value)| value.constant.as_ref());
        let constant_bytes: usize = constants.map(Tensor::size_bytes).sum();
        let mut kernel = Self {
            name: node.name.clone(),
            op,
            sources,
            captured,
            shapes: types.into_iter().map(|value_type| value_type.shape).collect(),
            arena: Vec::new(),
            packed_bytes: body.packed_bytes() + constant_bytes,
            body,
            plans: Mutex::default(),
        };
        kernel.arena = kernel.terms()?;
        Ok(kernel)
    }

    /// What is carried on, as the body's module has it.
    fn carried(&self) -> &[crate::module::Id] {
        &self.body.module.outputs[1..=self.op.carried]
    }

    /// A bound of [`Rounds::bytes`] for all sizes, exact where none is a symbol.
    fn terms(&self) -> Result<Vec<SizeTerm>, String> {
        let Program { module, buffers, dynamic, .. } = &self.body;
        if *dynamic {
            return Ok(Vec::new());
        }
        let fixed = |bytes| SizeTerm { symbols: Vec::new(), bytes };
        if let Ok(rounds) = self.rounds(&Bindings::default()) {
            return Ok(vec![fixed(rounds.bytes())]);
        }
        let term = |id: &crate::module::Id| {
            let value = module.value(*id);
            SizeTerm::new(value.dtype.size_bytes(), &value.shape)
                .ok_or_else(|| format!("`{}` does not fit memory", value.name))
        };
        let carried: Vec<SizeTerm> = self.carried().iter().map(term).collect::<Result<_, _>>()?;
        let arena = buffers.list.iter().flat_map(|buffer| buffer.size.iter().cloned());
        // The last is not rounded up.
        Ok([carried.clone(), carried, arena.collect(), vec![fixed(ALIGNMENT)]].concat())
    }

    /// The plan for these sizes.
    fn rounds(&self, bindings: &Bindings) -> Result<Arc<Rounds>, String> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = plans.iter().find(|rounds| rounds.plan.bindings == *bindings) {
            return Ok(known.clone());
        }
        let plan = self.body.plan(bindings.clone()).map_err(|error| error.to_string())?;
        let mut carried_bytes = 0;
        let place = |id: &crate::module::Id| {
            let size = self.body.module.value(*id).dtype.size_bytes();
            let bytes = plan.shapes[id.0].iter().product::<usize>() * size;
            let start = carried_bytes;
            carried_bytes += bytes.next_multiple_of(ALIGNMENT);
            (start, bytes)
        };
        let carried = self.carried().iter().map(place).collect();
        let rounds = Arc::new(Rounds { plan, carried, carried_bytes });
        if plans.len() == MOST_PLANS {
            plans.remove(0);
        }
        plans.push(rounds.clone());
        Ok(rounds)
    }

    /// Runs the rounds in planned memory. Gives `each` what is collected in a round, and `last` what is
    /// carried in the end.
    fn run_planned(
        &self,
        rounds: &Rounds,
        inputs: &[Operand<'_>],
        memory: &mut [u8],
        mut each: impl FnMut(&[u8]) -> Result<(), String>,
        last: impl FnOnce(&[u8]),
    ) -> Result<(), String> {
        let memory =
            memory.get_mut(..rounds.bytes()).ok_or("expected memory of the planned size")?;
        let (before, rest) = memory.split_at_mut(rounds.carried_bytes);
        let (after, arena) = rest.split_at_mut(rounds.carried_bytes);
        let (mut before, mut after) = (before, after);
        let mut turns = Turns::new(inputs)?;
        while let Some(number) = turns.next()? {
            let round = Round {
                number,
                inputs,
                sources: &self.sources,
                carried: if number == 0 { &[] } else { &rounds.carried },
                states: before,
            };
            let body = Run::new(&self.body, &rounds.plan, Given::Round(&round));
            body.steps(arena, |_| ()).map_err(|error| error.to_string())?;
            let outputs = &self.body.module.outputs;
            let output = |index: usize| body.bytes(outputs[index], |range| &arena[range]);
            turns.going = holds(output(0))?;
            for (index, &(start, bytes)) in rounds.carried.iter().enumerate() {
                after[start..start + bytes].copy_from_slice(output(1 + index));
            }
            if self.op.output >= self.op.carried {
                each(output(1 + self.op.output))?;
            }
            std::mem::swap(&mut before, &mut after);
        }
        if self.op.output < self.op.carried {
            let (start, bytes) = rounds.carried[self.op.output];
            last(match turns.number {
                0 => inputs[2 + self.op.output].bytes,
                _ => &before[start..start + bytes],
            });
        }
        Ok(())
    }

    /// Computes the output where the body's sizes are known.
    fn compute_planned(&self, bindings: &Bindings, free: Free<'_>) -> Result<Tensor, String> {
        let rounds = self.rounds(bindings)?;
        let admit = |bytes: usize| {
            (free.admit)(&self.name, bytes.saturating_add(rounds.bytes()))
                .map_err(|error| error.to_string())
        };
        admit(0)?;
        let mut memory = zeros(rounds.bytes())?;
        let memory = bytemuck::cast_slice_mut(&mut memory);
        let inputs: Vec<Operand<'_>> = free.inputs.iter().map(|tensor| operand(tensor)).collect();
        let id = self.body.module.outputs[1 + self.op.output];
        let shape = rounds.plan.shapes[id.0].as_slice();
        let (mut count, mut found) = (0, Vec::new());
        let mut kept = Vec::new();
        let each = |bytes: &[u8]| {
            admit(found.len() + bytes.len())?;
            count += 1;
            found.extend_from_slice(bytes);
            Ok(())
        };
        self.run_planned(&rounds, &inputs, memory, each, |bytes| kept.extend_from_slice(bytes))?;
        let dtype = self.body.module.value(id).dtype;
        let tensor = if self.op.output < self.op.carried {
            Tensor::from_bytes(dtype, shape, &kept)
        } else {
            Tensor::from_bytes(dtype, &[&[count], shape].concat(), &found)
        };
        tensor.map_err(|error| error.to_string())
    }

    /// Computes the output node by node, each value in memory of its own.
    fn compute_unplanned(&self, bindings: &mut Bindings, free: Free<'_>) -> Result<Tensor, String> {
        let Free { inputs, admit, .. } = free;
        let operands = inputs.get(..2).ok_or("expected rounds and a condition")?;
        let operands: Vec<Operand<'_>> = operands.iter().map(|tensor| operand(tensor)).collect();
        let mut turns = Turns::new(&operands)?;
        let mut values = Values::new(&self.body);
        let first = &inputs[2..2 + self.op.carried];
        let mut carried: Vec<Tensor> = first.iter().map(|&tensor| tensor.clone()).collect();
        let mut collected = Vec::new();
        while let Some(number) = turns.next()? {
            let held: usize = carried.iter().chain(&collected).map(Tensor::size_bytes).sum();
            let admit = |node: &str, bytes: usize| admit(node, held.saturating_add(bytes));
            let given = self.sources.iter().map(|&source| match source {
                0 => Tensor::scalar(number),
                1 => Tensor::scalar(true),
                source => carried.get(source - 2).unwrap_or_else(|| inputs[source]).clone(),
            });
            let outputs = values.run(given, bindings, &admit, |_| ());
            let mut outputs = outputs.map_err(|error| error.to_string())?.into_iter();
            turns.going = holds(outputs.next().ok_or("expected a condition")?.bytes())?;
            for (value, shape) in carried.iter_mut().zip(&self.shapes[2..]) {
                *value = outputs.next().ok_or("expected what is carried on")?;
                bindings.bind(shape, value.shape())?;
            }
            collected.extend(outputs.nth(self.op.output.saturating_sub(self.op.carried)));
        }
        if self.op.output < self.op.carried {
            return Ok(carried.swap_remove(self.op.output));
        }
        if collected.is_empty() {
            return self.op.evaluate(inputs, free.bindings);
        }
        stacked(&collected)
    }
}

impl Kernel for Repeat {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let Call { inputs, shape, output, scratch, bindings, .. } = call;
        if self.body.dynamic {
            let tensors = inputs.iter().map(from_operand).collect::<Result<Vec<_>, _>>();
            let tensors = tensors.map_err(|error| error.to_string())?;
            let inputs: Vec<&Tensor> = tensors.iter().collect();
            let admit: Admit<'_> = &|_, _| Ok(());
            let found = self.compute(Free { inputs: &inputs, bindings, admit });
            let found = found.ok_or("expected a loop")??;
            if found.shape() != shape {
                return Err(format!("expected sizes {shape:?}, found {:?}", found.shape()));
            }
            output.copy_from_slice(found.bytes());
            return Ok(());
        }
        let rounds = self.rounds(bindings)?;
        if self.op.output < self.op.carried {
            return self.run_planned(
                &rounds,
                inputs,
                scratch,
                |_| Ok(()),
                |bytes| {
                    output.copy_from_slice(bytes);
                },
            );
        }
        let mut rest = output;
        let each = |bytes: &[u8]| {
            let (one, behind) = std::mem::take(&mut rest)
                .split_at_mut_checked(bytes.len())
                .ok_or_else(|| format!("expected {shape:?}, found more rounds"))?;
            one.copy_from_slice(bytes);
            rest = behind;
            Ok(())
        };
        self.run_planned(&rounds, inputs, scratch, each, |_| ())?;
        if rest.is_empty() {
            Ok(())
        } else {
            Err(format!("expected {shape:?}, found fewer rounds"))
        }
    }

    fn compute(&self, free: Free<'_>) -> Option<Result<Tensor, String>> {
        let mut bindings = free.bindings.clone();
        let given = free.inputs.iter().zip(&self.shapes).skip(2);
        let bound = given.zip(&self.captured[2..]).filter(|(_, captured)| !**captured);
        for ((tensor, shape), _) in bound {
            if let Err(reason) = bindings.bind(shape, tensor.shape()) {
                return Some(Err(reason));
            }
        }
        Some(if self.body.dynamic {
            self.compute_unplanned(&mut bindings, free)
        } else {
            self.compute_planned(&bindings, free)
        })
    }

    fn arena(&self) -> &[SizeTerm] {
        &self.arena
    }

    fn has_packed(&self, input: usize) -> bool {
        self.captured[input] && !self.body.dynamic
    }

    fn packed_bytes(&self) -> usize {
        self.packed_bytes
    }

    fn summary(&self) -> Option<String> {
        let Program { module, steps, dynamic, .. } = &self.body;
        let by_definition = steps.iter().filter(|step| step.is_definition()).count();
        let sizes = if *dynamic { ", sizes depend on values" } else { "" };
        Some(format!(
            "{} nodes in the body, {by_definition} by definition{sizes}",
            module.nodes.len()
        ))
    }
}

/// Counts rounds, until there have been enough or the condition holds no more.
struct Turns {
    /// Rounds that have begun.
    number: i64,
    most: i64,
    going: bool,
}

impl Turns {
    fn new(inputs: &[Operand<'_>]) -> Result<Self, String> {
        let [rounds, condition, ..] = inputs else {
            return Err("expected rounds and a condition".to_owned());
        };
        let &[most, ..] = rounds.elements::<i64>() else {
            return Err("expected a number of rounds".to_owned());
        };
        Ok(Self { number: 0, most, going: holds(condition.bytes)? })
    }

    /// The number of the round that begins.
    fn next(&mut self) -> Result<Option<i64>, String> {
        if self.number >= self.most || !self.going {
            return Ok(None);
        }
        if self.number == ROUND_LIMIT {
            return Err(format!("expected at most {ROUND_LIMIT} rounds"));
        }
        self.number += 1;
        Ok(Some(self.number - 1))
    }
}

/// The only element of a truth value.
fn holds(condition: &[u8]) -> Result<bool, String> {
    match condition {
        [condition] => Ok(*condition != 0),
        elements => Err(format!("expected one truth value, found {}", elements.len())),
    }
}

/// What a round of planned memory reads from outside.
struct Round<'a> {
    number: i64,
    /// Those of the node.
    inputs: &'a [Operand<'a>],
    sources: &'a [usize],
    /// Where carried values start in `states`, and their bytes; none in the first round.
    carried: &'a [(usize, usize)],
    states: &'a [u8],
}

impl Inputs for Round<'_> {
    fn bytes(&self, index: usize) -> &[u8] {
        match self.sources[index] {
            0 => bytemuck::bytes_of(&self.number),
            1 => HOLDS,
            source => match self.carried.get(source - 2) {
                Some(&(start, bytes)) => &self.states[start..start + bytes],
                None => self.inputs[source].bytes,
            },
        }
    }
}

/// Tensors of one shape under a new first dimension.
fn stacked(parts: &[Tensor]) -> Result<Tensor, String> {
    let [first, ..] = parts else { return Err("expected a part".to_owned()) };
    if parts.iter().any(|part| part.shape() != first.shape()) {
        return Err("a collected value changes its shape".to_owned());
    }
    let mut bytes = Vec::new();
    parts.iter().for_each(|part| bytes.extend_from_slice(part.bytes()));
    let shape = [&[parts.len()], first.shape()].concat();
    Tensor::from_bytes(first.dtype(), &shape, &bytes).map_err(|error| error.to_string())
}
