//! Sums and products of equal shapes, and activations that stand alone.

use graph::Op;
use kernels::{Activation, Cpu};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, floats, run};
use crate::module::{Module, Node, Operation, same_sizes};
use crate::pass::activation_of;

const fn same_shape(name: &'static str, operation: &'static str) -> KernelEntry {
    let accepts = equal_shapes;
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare: prepare_same }
}

const fn activation(name: &'static str, operation: &'static str) -> KernelEntry {
    let accepts = floats;
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare: prepare_activation }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    same_shape("add.f32", "Add"),
    same_shape("mul.f32", "Mul"),
    KernelEntry { accepts: in_f32, ..activation("relu.f32", "Relu") },
    KernelEntry {
        name: "relu.bf16",
        operation: "Relu",
        tier: None,
        cost: 1,
        accepts: |module, node| match in_f32(module, node) {
            Ok(()) => Err("takes what lies in memory as bf16".to_owned()),
            Err(_) => floats(module, node),
        },
        prepare: |_, _, cpu| run(NarrowRelu(cpu)),
    },
    activation("tanh.f32", "Tanh"),
    activation("gelu.f32", "Gelu"),
];

fn operator(node: &Node) -> &Op {
    match &node.operation {
        Operation::Graph(op) => op,
        _ => unreachable!("the table pairs this kernel with operators of the graph"),
    }
}

fn in_f32(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    if module.value(node.output).as_bf16 {
        return Err("takes what lies in memory as f32".to_owned());
    }
    Ok(())
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

/// [`Activation::Relu`] of a value that lies in memory as bf16, to such.
struct NarrowRelu(Cpu);

impl Kernel for NarrowRelu {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        kernels::bf16::relu(self.0, call.inputs[0].bf16(), elements_mut(call.output));
        Ok(())
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
