//! Recurrent layers in f32, with the functions and layouts that exporters write.

use graph::op::{ActivationKind, Cell, Direction, Recurrent, RecurrentInput, RecurrentOutput};
use graph::{DType, Dim, Op};
use kernels::peaks::Numbers;
use kernels::{Cpu, Recurrence, State, float, recurrent};

use super::several::split;
use super::{
    Call, Kernel, KernelEntry, Operand, Prepared, Scratch, elements_mut, expect_type, run,
};
use crate::cost::{Parallel, Rate};
use crate::module::{Module, Node};

pub(super) const KERNELS: &[KernelEntry] =
    &[entry("rnn.f32", "RNN"), entry("gru.f32", "GRU"), entry("lstm.f32", "LSTM")];

const fn entry(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare }
}

/// The layer, for each output that is wanted.
fn ops(node: &Node) -> impl Iterator<Item = &Recurrent> {
    node.operation.operators().map(|op| match op {
        Op::Recurrent(op) => op,
        _ => unreachable!("the table pairs this kernel with recurrent layers"),
    })
}

fn op(node: &Node) -> &Recurrent {
    ops(node).next().expect("the table pairs this kernel with recurrent layers")
}

/// The equations, where the kernels have them.
fn cell(op: &Recurrent) -> Result<kernels::Cell, String> {
    match op.cell {
        Cell::Rnn => Ok(kernels::Cell::Rnn),
        Cell::Gru { linear_before_reset: true } => Ok(kernels::Cell::Gru),
        Cell::Gru { .. } => Err("takes a reset gate after the product only".to_owned()),
        Cell::Lstm { input_forget: false } => Ok(kernels::Cell::Lstm),
        Cell::Lstm { .. } => Err("takes a forget gate of its own only".to_owned()),
    }
}

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    let op = op(node);
    let cell = cell(op)?;
    let functions: &[ActivationKind] = match cell {
        kernels::Cell::Rnn => &[ActivationKind::Tanh],
        kernels::Cell::Gru => &[ActivationKind::Sigmoid, ActivationKind::Tanh],
        kernels::Cell::Lstm => {
            &[ActivationKind::Sigmoid, ActivationKind::Tanh, ActivationKind::Tanh]
        }
    };
    let expected = functions.iter().cycle();
    if !op.activations.iter().zip(expected).all(|(function, &kind)| function.kind == kind) {
        return Err("takes sigmoids and hyperbolic tangents only".to_owned());
    }
    if op.clip.is_some() || op.batch_first {
        return Err("takes no clipping, and the time first".to_owned());
    }
    let extra = [RecurrentInput::Lengths, RecurrentInput::Peepholes];
    if let Some(extra) = op.optional.iter().find(|input| extra.contains(input)) {
        return Err(format!("takes no {extra:?}"));
    }
    expect_type(module, node, 0, DType::F32)?;
    let bias = place(op, RecurrentInput::Bias);
    let packed = [Some(1), Some(2), bias].into_iter().flatten();
    match packed.into_iter().find(|&input| module.constant(node.inputs[input]).is_none()) {
        Some(input) => Err(format!("takes a constant for input {input}")),
        None => Ok(()),
    }
}

/// The place of an optional input, where it is there.
fn place(op: &Recurrent, which: RecurrentInput) -> Option<usize> {
    op.optional.iter().position(|&known| known == which).map(|index| 3 + index)
}

struct Layer {
    cpu: Cpu,
    op: Recurrent,
    outputs: Vec<RecurrentOutput>,
    /// One for each direction.
    directions: Vec<Recurrence>,
}

fn prepare(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let op = op(node).clone();
    let cell = cell(&op).expect("`accepts` saw the equations");
    let elements = |input: usize| -> &[f32] {
        let tensor = module.constant(node.inputs[input]).expect("`accepts` saw constants");
        tensor.elements().expect("the operator takes f32 only")
    };
    let (w, r) = (elements(1), elements(2));
    let bias = place(&op, RecurrentInput::Bias).map(elements);
    let count = op.directions.len();
    let rows = op.cell.gates() * op.hidden;
    let inputs = w.len() / (count * rows).max(1);
    let direction = |index: usize| {
        let of = |list| part(list, index, count);
        Recurrence::new(cell, [inputs, op.hidden], [of(w), of(r)], bias.map(of))
    };
    let directions = (0..count).map(direction).collect();
    run(Layer { cpu, op, outputs: ops(node).map(|op| op.output).collect(), directions })
}

/// One of as many equal parts.
fn part(list: &[f32], index: usize, count: usize) -> &[f32] {
    let len = list.len() / count;
    &list[index * len..][..len]
}

impl Layer {
    /// Each output in what the node writes: so many elements are states, and so many last ones.
    fn outputs<'a>(
        &'a self,
        written: &'a mut [u8],
        states: usize,
        last: usize,
    ) -> impl Iterator<Item = (RecurrentOutput, &'a mut [f32])> {
        let sizes = self.outputs.iter().map(move |which| match which {
            RecurrentOutput::States => states * size_of::<f32>(),
            RecurrentOutput::LastState | RecurrentOutput::LastCell => last * size_of::<f32>(),
        });
        self.outputs.iter().copied().zip(split(written, sizes).map(elements_mut))
    }

    /// The first state of a direction, zeros where none is given.
    fn first(&self, inputs: &[Operand<'_>], which: RecurrentInput, index: usize, y: &mut [f32]) {
        match place(&self.op, which) {
            Some(input) => {
                y.copy_from_slice(part(inputs[input].elements(), index, self.directions.len()));
            }
            None => y.fill(0.0),
        }
    }
}

impl Kernel for Layer {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let Call { inputs, output, scratch, .. } = call;
        let &[time, batch, _] = inputs[0].shape else { return Err("expected rank 3".to_owned()) };
        let (count, len) = (self.directions.len(), batch * self.op.hidden);
        let states = time * count * len;
        let scratch: &mut [f32] = elements_mut(scratch);
        for (index, (layer, direction)) in
            self.directions.iter().zip(&self.op.directions).enumerate()
        {
            let part = index * len..(index + 1) * len;
            if time == 0 {
                for (which, y) in self.outputs(output, states, count * len) {
                    let first = match which {
                        RecurrentOutput::States => continue,
                        RecurrentOutput::LastState => RecurrentInput::InitialState,
                        RecurrentOutput::LastCell => RecurrentInput::InitialCell,
                    };
                    self.first(inputs, first, index, &mut y[part.clone()]);
                }
                continue;
            }
            let (products, rest) = scratch.split_at_mut(time * batch * layer.scratch_len());
            let (hidden, rest) = rest.split_at_mut(len);
            let cell =
                if matches!(self.op.cell, Cell::Lstm { .. }) { &mut rest[..len] } else { &mut [] };
            self.first(inputs, RecurrentInput::InitialState, index, hidden);
            self.first(inputs, RecurrentInput::InitialCell, index, cell);
            let x = (inputs[0].elements(), [time, batch]);
            let state = State { hidden: &mut *hidden, cell: &mut *cell };
            let reversed = *direction == Direction::Reverse;
            recurrent(self.cpu, layer, x, reversed, state, products, |at, h| {
                for (which, y) in self.outputs(output, states, count * len) {
                    if which == RecurrentOutput::States {
                        y[(at * count + index) * len..][..len].copy_from_slice(h);
                    }
                }
            });
            for (which, y) in self.outputs(output, states, count * len) {
                match which {
                    RecurrentOutput::States => {}
                    RecurrentOutput::LastState => y[part.clone()].copy_from_slice(hidden),
                    RecurrentOutput::LastCell => y[part.clone()].copy_from_slice(cell),
                }
            }
        }
        Ok(())
    }

    /// Products of a direction for all times, and a state and a cell, which have room where there is
    /// one time.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        let layer = self.directions.first()?;
        let element_bytes = (layer.scratch_len() + 2 * self.op.hidden) * size_of::<f32>();
        Some(Scratch { element_bytes, shape: inputs.first()?.get(..2)?.to_vec() })
    }

    fn rate(&self) -> Rate {
        Rate {
            numbers: Numbers::F32,
            share: 0.2,
            parallel: Parallel::MultiplyAdds(float::PARALLEL_WORK),
        }
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.directions.iter().map(Recurrence::size_bytes).sum()
    }
}
