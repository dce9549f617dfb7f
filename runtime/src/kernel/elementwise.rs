//! Arithmetic with broadcasting, and activations that stand alone.

use graph::Op;
use kernels::{Activation, Cpu, for_each_row};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, floats, run};
use crate::module::{Module, Node, Operation, same_sizes};
use crate::pass::activation_of;

const fn same_shape(name: &'static str, operation: &'static str) -> KernelEntry {
    let accepts = equal_shapes;
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare: prepare_same }
}

const fn broadcast(name: &'static str, operation: &'static str) -> KernelEntry {
    let accepts = few_dimensions;
    KernelEntry { name, operation, tier: None, cost: 4, accepts, prepare: prepare_broadcast }
}

const fn activation(name: &'static str, operation: &'static str) -> KernelEntry {
    let accepts = floats;
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare: prepare_activation }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    same_shape("add.f32", "Add"),
    same_shape("mul.f32", "Mul"),
    broadcast("add.broadcast", "Add"),
    broadcast("sub.broadcast", "Sub"),
    broadcast("mul.broadcast", "Mul"),
    broadcast("div.broadcast", "Div"),
    activation("relu.f32", "Relu"),
    activation("tanh.f32", "Tanh"),
    activation("gelu.f32", "Gelu"),
];

fn operator(node: &Node) -> &Op {
    match &node.operation {
        Operation::Graph(op) => op,
        _ => unreachable!("the table pairs this kernel with operators of the graph"),
    }
}

fn few_dimensions(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    match module.value(node.output).shape.len() {
        0..=RANK => Ok(()),
        rank => Err(format!("takes {RANK} dimensions at most, found {rank}")),
    }
}

fn equal_shapes(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    let [a, b] = [0, 1].map(|input| &module.value(node.inputs[input]).shape);
    if same_sizes(a, b) { Ok(()) } else { Err("takes equal shapes only".to_owned()) }
}

struct Same {
    cpu: Cpu,
    kernel: fn(Cpu, &[f32], &[f32], &mut [f32]),
    assign: fn(Cpu, &mut [f32], &[f32]),
}

fn prepare_same(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    run(match operator(node) {
        Op::Mul => Same { cpu, kernel: kernels::mul, assign: kernels::mul_assign },
        _ => Same { cpu, kernel: kernels::add, assign: kernels::add_assign },
    })
}

impl Kernel for Same {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.in_place {
            Some(over) => {
                let other = call.f32(1 - over);
                (self.assign)(self.cpu, elements_mut(call.output), other);
            }
            None => (self.kernel)(self.cpu, call.f32(0), call.f32(1), elements_mut(call.output)),
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0, 1]
    }
}

struct Stand {
    cpu: Cpu,
    activation: Activation,
}

fn prepare_activation(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let activation = activation_of(operator(node)).expect("the table names activations only");
    run(Stand { cpu, activation })
}

impl Kernel for Stand {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.in_place {
            Some(_) => {
                kernels::activate_in_place(self.cpu, self.activation, elements_mut(call.output));
            }
            None => {
                let x = call.f32(0);
                kernels::activate(self.cpu, self.activation, x, elements_mut(call.output));
            }
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

struct Broadcast(Arithmetic);

#[derive(Clone, Copy)]
enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
}

fn prepare_broadcast(_: &Module, node: &Node, _: Cpu) -> Prepared {
    run(Broadcast(match operator(node) {
        Op::Sub => Arithmetic::Sub,
        Op::Mul => Arithmetic::Mul,
        Op::Div => Arithmetic::Div,
        _ => Arithmetic::Add,
    }))
}

/// One side of a row of the output.
enum Row<'a> {
    /// One element for all of it.
    One(f32),
    Each(&'a [f32]),
}

/// Dimensions at most.
const RANK: usize = 16;

/// Sizes with the last dimensions merged into one.
struct Merged {
    sizes: [usize; RANK + 1],
    len: usize,
}

impl Merged {
    /// `shape` with its last `count` dimensions, of which it may lack some, as one of `size`.
    fn new(shape: &[usize], count: usize, size: usize) -> Self {
        let kept = shape.len().saturating_sub(count);
        let mut sizes = [size; RANK + 1];
        sizes[..kept].copy_from_slice(&shape[..kept]);
        Self { sizes, len: kept + 1 }
    }

    fn shape(&self) -> &[usize] {
        &self.sizes[..self.len]
    }
}

/// How many of the output's last dimensions a side has as it does, and over how many it repeats one
/// element.
fn trailing(side: &[usize], output: &[usize]) -> [usize; 2] {
    let pairs = side.iter().rev().zip(output.iter().rev());
    let same = pairs.clone().take_while(|(side, output)| side == output).count();
    let ones = side.iter().rev().take_while(|&&size| size == 1).count();
    [same, if ones == side.len() { output.len() } else { ones }]
}

/// A loop of its own for each operation.
fn broadcast_rows(call: Call<'_>, operation: impl Fn(f32, f32) -> f32 + Sync) {
    let (left, right, in_place) = (call.f32(0), call.f32(1), call.in_place);
    let output: &mut [f32] = elements_mut(call.output);
    // Rows as long as both sides go on in one way.
    let sides = [0, 1].map(|input| call.inputs[input].shape);
    let trailing = sides.map(|side| trailing(side, call.shape));
    let counts = trailing.map(|[same, ones]| same.max(ones));
    let count = counts[0].min(counts[1]).max(1);
    let columns = call.shape[call.shape.len().saturating_sub(count)..].iter().product::<usize>();
    let is_same = |input: usize| trailing[input][0] >= count;
    let merged = [0, 1]
        .map(|input| Merged::new(sides[input], count, if is_same(input) { columns } else { 1 }));
    let whole = Merged::new(call.shape, count, columns);
    let shape = whole.shape();
    let [a, b] = merged.each_ref().map(|merged| Side { shape: merged.shape() });
    let (a_step, b_step) = (a.step(columns), b.step(columns));
    for_each_row(output, columns, |row, output| {
        let of = |side: &Side<'_>, values, step| side.row(row, shape, values, step);
        let y = output.iter_mut();
        match in_place {
            Some(0) => match of(&b, right, b_step) {
                Row::One(b) => y.for_each(|y| *y = operation(*y, b)),
                Row::Each(b) => y.zip(b).for_each(|(y, &b)| *y = operation(*y, b)),
            },
            Some(_) => match of(&a, left, a_step) {
                Row::One(a) => y.for_each(|y| *y = operation(a, *y)),
                Row::Each(a) => y.zip(a).for_each(|(y, &a)| *y = operation(a, *y)),
            },
            None => match (of(&a, left, a_step), of(&b, right, b_step)) {
                (Row::One(a), Row::One(b)) => y.for_each(|y| *y = operation(a, b)),
                (Row::One(a), Row::Each(b)) => {
                    y.zip(b).for_each(|(y, &b)| *y = operation(a, b));
                }
                (Row::Each(a), Row::One(b)) => {
                    y.zip(a).for_each(|(y, &a)| *y = operation(a, b));
                }
                (Row::Each(a), Row::Each(b)) => {
                    y.zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = operation(a, b));
                }
            },
        }
    });
}

impl Kernel for Broadcast {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match self.0 {
            Arithmetic::Add => broadcast_rows(call, |a, b| a + b),
            Arithmetic::Sub => broadcast_rows(call, |a, b| a - b),
            Arithmetic::Mul => broadcast_rows(call, |a, b| a * b),
            Arithmetic::Div => broadcast_rows(call, |a, b| a / b),
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0, 1]
    }
}

/// One side of a broadcast: its dimensions are the last of the output's, or 1 and repeated.
pub(super) struct Side<'a> {
    pub(super) shape: &'a [usize],
}

impl Side<'_> {
    /// 0 where one element serves the whole row.
    pub(super) fn step(&self, columns: usize) -> usize {
        usize::from(self.shape.last().is_some_and(|&size| size == columns && size != 1))
    }

    /// The elements of `values` for `row` of the output.
    fn row<'v>(&self, row: usize, output: &[usize], values: &'v [f32], step: usize) -> Row<'v> {
        let start = self.start(row, output);
        match step {
            0 => Row::One(values[start]),
            _ => Row::Each(&values[start..start + self.shape[self.shape.len() - 1]]),
        }
    }

    /// Where the elements for `row` of the output start.
    pub(super) fn start(&self, row: usize, output: &[usize]) -> usize {
        let outer = output.len().saturating_sub(1);
        let (mut rest, mut start) = (row, 0);
        let mut stride = self.shape.last().copied().unwrap_or(1);
        for axis in (0..outer).rev() {
            let position = rest % output[axis];
            rest /= output[axis];
            if let Some(own) = (axis + self.shape.len()).checked_sub(output.len()) {
                if self.shape[own] != 1 {
                    start += position * stride;
                }
                stride *= self.shape[own];
            }
        }
        start
    }
}
