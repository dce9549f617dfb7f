//! Loops: the body is compiled as a model is, once, and runs round by round.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use graph::op::{Loop, Operator as _, ROUND_LIMIT, stacked};
use graph::{Bindings, Op, Shape, Tensor};
use kernels::Cpu;

use super::{
    Call, Free, Kernel, KernelEntry, Operand, choose, from_operand, run, side_by_side, written,
};
use crate::body::Body;
use crate::dynamic::{Values, operand, zeros};
use crate::module::{Id, Module, Node};
use crate::pass;
use crate::plan::{ALIGNMENT, Plan, SizeTerm};
use crate::program::Program;
use crate::session::{Given, Inputs, Run};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "loop",
    operation: "Loop",
    tier: None,
    cost: 1,
    accepts: |module, node| Body::new(module, node, loop_of(node)).map(|_| ()),
    prepare: |module, node, cpu| run(Repeat::new(module, node, cpu)),
}];

/// Sizes for which a loop keeps plans at the same time.
const MOST_PLANS: usize = 64;

/// What holds in every round.
const HOLDS: &[u8] = &[1];

/// The loops of a node, each for another output.
fn loops_of(node: &Node) -> impl Iterator<Item = &Loop> {
    node.operation.operators().map(|op| match op {
        Op::Loop(op) => op,
        _ => unreachable!("the table pairs this kernel with loops"),
    })
}

/// The loop that a node runs.
fn loop_of(node: &Node) -> &Loop {
    loops_of(node).next().expect("the table pairs this kernel with loops")
}

/// A loop whose body is compiled.
struct Repeat {
    name: String,
    op: Loop,
    /// Which outputs it gives.
    outputs: Vec<usize>,
    body: Program,
    /// For each input of the body's module, which of the node's inputs it is.
    sources: Vec<usize>,
    /// For each input of the node, whether it is a constant of the body's module now.
    captured: Vec<bool>,
    /// Shapes of what the body gets, see [`Loop::given`].
    shapes: Vec<Shape>,
    /// See [`written`].
    written: Vec<SizeTerm>,
    arena: Vec<SizeTerm>,
    packed_bytes: usize,
    plans: Mutex<Vec<Arc<Rounds>>>,
}

/// Where everything lies for one set of sizes. The memory of a loop holds what is carried into a round,
/// what is carried out of it, and the arena of the body.
struct Rounds {
    plan: Plan,
    /// Where each carried value lies among all.
    carried: Vec<Range<usize>>,
    carried_bytes: usize,
    /// Where each output lies in what is written.
    outputs: Vec<Range<usize>>,
}

impl Rounds {
    fn bytes(&self) -> usize {
        2 * self.carried_bytes + self.plan.bytes
    }
}

/// What the rounds give: an output, by its place among those that are wanted, in a round or in the end.
type Give<'a> = &'a mut dyn FnMut(usize, Option<usize>, &[u8]) -> Result<(), String>;

impl Repeat {
    fn new(module: &Module, node: &Node, cpu: Cpu) -> Self {
        let op = loop_of(node);
        let body = Body::new(module, node, op).expect("`accepts` saw the body");
        let Body { module: mut inner, sources, captured, types } = body;
        let level = inner.level;
        // A body that no plan fits hands on tensors, which know no bf16.
        let narrow = std::iter::once("narrow".to_owned());
        let disabled: Vec<String> = inner.disabled_passes.iter().cloned().chain(narrow).collect();
        pass::run(&mut inner, level, &disabled).expect("the model's passes ran");
        let steps = inner.nodes.iter().map(|node| choose(&inner, node, cpu).prepared).collect();
        let mut body = Program::new(inner, steps);
        // Sizes that fit no memory are met node by node, if at all.
        let _unplanned = body.plan_memory();
        let kept_outside = |index: usize| {
            // What a run of unknown sizes may look at is counted there.
            (module.is_dynamic() || body.dynamic) && captured.get(index) == Some(&true)
        };
        let own = body.module.values.iter().enumerate().filter(|(index, _)| !kept_outside(*index));
        let constants = own.filter_map(|(_, value)| value.constant.as_ref());
        let constant_bytes: usize = constants.map(Tensor::size_bytes).sum();
        let mut kernel = Self {
            name: node.name.clone(),
            op: op.clone(),
            outputs: loops_of(node).map(|op| op.output).collect(),
            sources,
            captured,
            shapes: types.into_iter().map(|value_type| value_type.shape).collect(),
            written: written(module, node),
            arena: Vec::new(),
            packed_bytes: body.packed_bytes() + constant_bytes,
            body,
            plans: Mutex::default(),
        };
        kernel.arena = kernel.terms();
        kernel
    }

    /// What is carried on, as the body's module has it.
    fn carried(&self) -> &[Id] {
        &self.body.module.outputs[1..=self.op.carried]
    }

    /// A bound of [`Rounds::bytes`] for all sizes, exact where none is a symbol.
    fn terms(&self) -> Vec<SizeTerm> {
        let Program { module, buffers, dynamic, .. } = &self.body;
        if *dynamic {
            return Vec::new();
        }
        let fixed = |bytes| SizeTerm { symbols: Vec::new(), bytes };
        if let Ok(plan) = self.body.plan(Bindings::default()) {
            let carried = self.carried().iter().map(|&id| self.bytes_of(&plan, id));
            return vec![fixed(2 * side_by_side(carried).1 + plan.bytes)];
        }
        let carried = self.carried().iter().map(|id| module.value(*id).value_type());
        let carried = carried.filter_map(|value_type| SizeTerm::of_type(&value_type));
        let carried: Vec<SizeTerm> = carried.collect();
        let arena = buffers.list.iter().flat_map(|buffer| buffer.size.iter().cloned());
        // The last is not rounded up.
        [carried.clone(), carried, arena.collect(), vec![fixed(ALIGNMENT)]].concat()
    }

    /// Where everything lies, the body's part of it being planned.
    fn places(&self, plan: Plan) -> Result<Rounds, String> {
        let carried = self.carried().iter().map(|&id| self.bytes_of(&plan, id));
        let (carried, carried_bytes) = side_by_side(carried);
        let written = self.written.iter().map(|term| term.evaluate(&plan.bindings));
        let written = written.collect::<Result<Vec<_>, _>>()?;
        let (outputs, _) = side_by_side(written.into_iter());
        Ok(Rounds { plan, carried, carried_bytes, outputs })
    }

    /// Bytes of a value of the body.
    fn bytes_of(&self, plan: &Plan, id: Id) -> usize {
        plan.shapes[id.0].iter().product::<usize>() * self.body.module.value(id).dtype.size_bytes()
    }

    /// The places for these sizes.
    fn rounds(&self, bindings: &Bindings) -> Result<Arc<Rounds>, String> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = plans.iter().find(|rounds| rounds.plan.bindings == *bindings) {
            return Ok(known.clone());
        }
        let plan = self.body.plan(bindings.clone()).map_err(|error| error.to_string())?;
        let rounds = Arc::new(self.places(plan)?);
        if plans.len() == MOST_PLANS {
            plans.remove(0);
        }
        plans.push(rounds.clone());
        Ok(rounds)
    }

    /// Runs the rounds in planned memory; returns how many there were.
    fn run_planned(
        &self,
        rounds: &Rounds,
        inputs: &[Operand<'_>],
        memory: &mut [u8],
        give: Give<'_>,
    ) -> Result<usize, String> {
        let memory =
            memory.get_mut(..rounds.bytes()).ok_or("expected memory of the planned size")?;
        let (before, rest) = memory.split_at_mut(rounds.carried_bytes);
        let (after, arena) = rest.split_at_mut(rounds.carried_bytes);
        let (mut before, mut after) = (before, after);
        let mut turns = Turns::new(inputs)?;
        let mut count = 0;
        while let Some(number) = turns.next()? {
            let carried: &[Range<usize>] = if count == 0 { &[] } else { &rounds.carried };
            let states = &*before;
            let round = Round { number, inputs, sources: &self.sources, carried, states };
            let body = Run::new(&self.body, &rounds.plan, Given::Round(&round));
            body.steps(arena, |_| ()).map_err(|error| error.to_string())?;
            let outputs = &self.body.module.outputs;
            let output = |index: usize| body.bytes(outputs[1 + index], |range| &arena[range]);
            turns.going = holds(body.bytes(outputs[0], |range| &arena[range]))?;
            for (index, place) in rounds.carried.iter().enumerate() {
                after[place.clone()].copy_from_slice(output(index));
            }
            for (place, &wanted) in self.outputs.iter().enumerate() {
                if wanted >= self.op.carried {
                    give(place, Some(count), output(wanted))?;
                }
            }
            std::mem::swap(&mut before, &mut after);
            count += 1;
        }
        for (place, &wanted) in self.outputs.iter().enumerate() {
            if let Some(state) = rounds.carried.get(wanted) {
                let first = inputs[2 + wanted].bytes;
                give(place, None, if count == 0 { first } else { &before[state.clone()] })?;
            }
        }
        Ok(count)
    }

    /// Computes the outputs where the body's sizes are known.
    fn compute_planned(&self, bindings: &Bindings, free: Free<'_>) -> Result<Vec<Tensor>, String> {
        let rounds = self.rounds(bindings)?;
        let admit = |bytes: usize| {
            (free.admit)(&self.name, bytes.saturating_add(rounds.bytes()))
                .map_err(|error| error.to_string())
        };
        admit(0)?;
        let mut memory = zeros(rounds.bytes())?;
        let memory = bytemuck::cast_slice_mut(&mut memory);
        let inputs: Vec<Operand<'_>> = free.inputs.iter().map(|tensor| operand(tensor)).collect();
        let mut found = vec![Vec::new(); self.outputs.len()];
        let mut total = 0;
        let count = self.run_planned(&rounds, &inputs, memory, &mut |place, _, bytes| {
            total += bytes.len();
            admit(total)?;
            found[place].extend_from_slice(bytes);
            Ok(())
        })?;
        let tensor = |(&wanted, bytes): (&usize, &Vec<u8>)| {
            let id = self.body.module.outputs[1 + wanted];
            let (dtype, shape) = (self.body.module.value(id).dtype, &rounds.plan.shapes[id.0]);
            let list: &[usize] = if wanted < self.op.carried { &[] } else { &[count] };
            Tensor::from_bytes(dtype, &[list, shape].concat(), bytes)
        };
        let tensors: Result<_, _> = self.outputs.iter().zip(&found).map(tensor).collect();
        tensors.map_err(|error| error.to_string())
    }

    /// Computes the outputs node by node, each value in memory of its own.
    fn compute_unplanned(
        &self,
        bindings: &mut Bindings,
        free: Free<'_>,
    ) -> Result<Vec<Tensor>, String> {
        let Free { inputs, admit, .. } = free;
        let operands = inputs.get(..2).ok_or("expected rounds and a condition")?;
        let operands: Vec<Operand<'_>> = operands.iter().map(|tensor| operand(tensor)).collect();
        let mut turns = Turns::new(&operands)?;
        let mut values = Values::new(&self.body);
        let mut states: Vec<Tensor> = Vec::new();
        let first = inputs[2..2 + self.op.carried].iter().map(|&tensor| tensor.clone());
        states.extend(first);
        let mut collected = vec![Vec::new(); self.op.body.outputs.len() - 1 - self.op.carried];
        let mut held = states.iter().map(Tensor::size_bytes).sum::<usize>();
        while let Some(number) = turns.next()? {
            let admit = |node: &str, bytes: usize| admit(node, held.saturating_add(bytes));
            let given = self.sources.iter().map(|&source| match source {
                0 => Tensor::scalar(number),
                1 => Tensor::scalar(true),
                source => states.get(source - 2).unwrap_or_else(|| inputs[source]).clone(),
            });
            let outputs = values.run(given, bindings, &admit, |_| ());
            let mut outputs = outputs.map_err(|error| error.to_string())?.into_iter();
            turns.going = holds(outputs.next().ok_or("expected a condition")?.bytes())?;
            for (state, shape) in states.iter_mut().zip(&self.shapes[2..]) {
                held -= state.size_bytes();
                *state = outputs.next().ok_or("expected what is carried on")?;
                held += state.size_bytes();
                bindings.bind(shape, state.shape())?;
            }
            for (list, tensor) in collected.iter_mut().zip(outputs) {
                held += tensor.size_bytes();
                list.push(tensor);
            }
        }
        let output = |&output: &usize| match output.checked_sub(self.op.carried) {
            None => Ok(states[output].clone()),
            Some(place) if collected[place].is_empty() => {
                Loop { output, ..self.op.clone() }.evaluate(inputs, free.bindings)
            }
            Some(place) => stacked(&collected[place]),
        };
        self.outputs.iter().map(output).collect()
    }

    /// Writes outputs that were computed node by node to their places.
    fn run_unplanned(&self, call: Call<'_>) -> Result<(), String> {
        let Call { inputs, shape, output, bindings, .. } = call;
        let tensors = inputs.iter().map(from_operand).collect::<Result<Vec<_>, _>>();
        let tensors = tensors.map_err(|error| error.to_string())?;
        let inputs: Vec<&Tensor> = tensors.iter().collect();
        let free = Free { inputs: &inputs, bindings, admit: &|_, _| Ok(()) };
        let found = self.compute(free).ok_or("expected a loop")??;
        let written = self.written.iter().map(|term| term.evaluate(bindings));
        let written = written.collect::<Result<Vec<_>, _>>()?;
        for (tensor, place) in found.iter().zip(side_by_side(written.into_iter()).0) {
            if tensor.size_bytes() != place.len() {
                let found = tensor.shape();
                return Err(format!("expected {} bytes, found {found:?}", place.len()));
            }
            output[place].copy_from_slice(tensor.bytes());
        }
        match found.first() {
            Some(first) if first.shape() != shape => {
                Err(format!("expected sizes {shape:?}, found {:?}", first.shape()))
            }
            _ => Ok(()),
        }
    }
}

impl Kernel for Repeat {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        if self.body.dynamic {
            return self.run_unplanned(call);
        }
        let Call { inputs, output, scratch, bindings, .. } = call;
        let rounds = self.rounds(bindings)?;
        let count = self.run_planned(&rounds, inputs, scratch, &mut |place, round, bytes| {
            let whole = &mut output[rounds.outputs[place].clone()];
            let start = round.unwrap_or(0) * bytes.len();
            let part = whole.get_mut(start..start + bytes.len());
            part.ok_or("found more rounds than the output has room for")?.copy_from_slice(bytes);
            Ok(())
        })?;
        let is_short = |(&wanted, place): (&usize, &Range<usize>)| {
            let bytes = self.bytes_of(&rounds.plan, self.body.module.outputs[1 + wanted]);
            wanted >= self.op.carried && count * bytes != place.len()
        };
        if self.outputs.iter().zip(&rounds.outputs).any(is_short) {
            return Err(format!("found {count} rounds, fewer than the output has room for"));
        }
        Ok(())
    }

    fn compute(&self, free: Free<'_>) -> Option<Result<Vec<Tensor>, String>> {
        let mut bindings = free.bindings.clone();
        let given = free.inputs.iter().zip(&self.shapes).skip(2);
        for ((tensor, shape), _) in given.zip(&self.captured[2..]).filter(|(_, known)| !**known) {
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
        let nodes = module.nodes.iter().zip(steps);
        let by_definition = nodes.filter(|(_, step)| step.is_definition());
        let mut kinds: Vec<&str> = by_definition.map(|(node, _)| node.operation.kind()).collect();
        let count = kinds.len();
        kinds.sort_unstable();
        kinds.dedup();
        let kinds = if count > 0 { format!(" ({})", kinds.join(", ")) } else { String::new() };
        let sizes = if *dynamic { ", sizes depend on values" } else { "" };
        let nodes = module.nodes.len();
        Some(format!("{nodes} nodes in the body, {count} by definition{kinds}{sizes}"))
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
    /// Where carried values lie in `states`; nowhere in the first round.
    carried: &'a [Range<usize>],
    states: &'a [u8],
}

impl Inputs for Round<'_> {
    fn bytes(&self, index: usize) -> &[u8] {
        match self.sources[index] {
            0 => bytemuck::bytes_of(&self.number),
            1 => HOLDS,
            source => match self.carried.get(source - 2) {
                Some(place) => &self.states[place.clone()],
                None => self.inputs[source].bytes,
            },
        }
    }
}
