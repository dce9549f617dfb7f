//! Functions of two elements, broadcast: arithmetic, comparisons, truth.

use bytemuck::Pod;
use graph::op::Binary;
use graph::{DType, Element, Op};
use kernels::Cpu;
use kernels::broadcast::{
    AND, BROADCAST_RANK, Broadcast, DIV, MOD, Number, OR, POW, PRELU, Pairwise, REMAINDER,
    SHIFT_LEFT, SHIFT_RIGHT, Updating, Whole, XOR,
};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, few_dimensions, run};
use crate::module::{Module, Node, Operation};

/// Those of equal shapes are cheaper, see `elementwise`.
const fn arithmetic(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { cost: 4, ..pair(name, operation) }
}

const fn pair(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare: prepare_node }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    arithmetic("add.broadcast", "Add"),
    arithmetic("sub.broadcast", "Sub"),
    arithmetic("mul.broadcast", "Mul"),
    arithmetic("div.broadcast", "Div"),
    pair("pow.f32", "Pow"),
    pair("prelu.f32", "PRelu"),
    pair("mod", "Mod"),
    pair("bitwise-and", "BitwiseAnd"),
    pair("bitwise-or", "BitwiseOr"),
    pair("bitwise-xor", "BitwiseXor"),
    pair("bit-shift", "BitShift"),
    pair("max", "Max"),
    pair("min", "Min"),
    pair("equal", "Equal"),
    pair("greater", "Greater"),
    pair("greater-or-equal", "GreaterOrEqual"),
    pair("less", "Less"),
    pair("less-or-equal", "LessOrEqual"),
    pair("and", "And"),
    pair("or", "Or"),
    pair("xor", "Xor"),
];

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    prepare(module, node, module.cpu).map(|_| ())
}

fn prepare_node(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    prepare(module, node, cpu).expect("other nodes were not accepted")
}

fn prepare(module: &Module, node: &Node, cpu: Cpu) -> Result<Prepared, String> {
    few_dimensions(module, node.output, BROADCAST_RANK)?;
    let Operation::Graph(op) = &node.operation else {
        unreachable!("the table pairs this kernel with operators of the graph")
    };
    let types = [0, 1].map(|input| module.value(node.inputs[input]).dtype);
    if types[0] != types[1] {
        return Err(format!("takes two of one type, found {} and {}", types[0], types[1]));
    }
    let prepared = match types[0] {
        DType::F32 => floats(cpu, op).or_else(|| numbers::<f32>(cpu, op)),
        DType::I64 => integers::<i64>(cpu, op),
        DType::I32 => integers::<i32>(cpu, op),
        DType::I8 => integers::<i8>(cpu, op),
        DType::U8 => shifts(cpu, op).or_else(|| integers::<u8>(cpu, op)),
        DType::Bool => truth_values(cpu, op),
    };
    prepared.ok_or_else(|| format!("does not know the function for {}", types[0]))
}

fn floats(cpu: Cpu, op: &Op) -> Option<Prepared> {
    let function = match op {
        Op::Div => DIV,
        Op::Binary(Binary::Pow) => POW,
        Op::Binary(Binary::PRelu) => PRELU,
        Op::Binary(Binary::Mod) => MOD,
        Op::Binary(Binary::Remainder) => REMAINDER,
        _ => return None,
    };
    Some(run(Updates { cpu, function }))
}

fn shifts(cpu: Cpu, op: &Op) -> Option<Prepared> {
    let function = match op {
        Op::Binary(Binary::ShiftLeft) => SHIFT_LEFT,
        Op::Binary(Binary::ShiftRight) => SHIFT_RIGHT,
        _ => return None,
    };
    Some(run(Updates { cpu, function }))
}

fn integers<T: Whole + Element + Pod>(cpu: Cpu, op: &Op) -> Option<Prepared> {
    let divides = |function| Some(run(Divides(Updates { cpu, function })));
    let function = match op {
        Op::Div => return divides(T::QUOTIENT),
        Op::Binary(Binary::Mod) => return divides(T::MOD),
        Op::Binary(Binary::Remainder) => return divides(T::REMAINDER),
        Op::Binary(Binary::BitwiseAnd) => T::BITS_AND,
        Op::Binary(Binary::BitwiseOr) => T::BITS_OR,
        Op::Binary(Binary::BitwiseXor) => T::BITS_XOR,
        _ => return numbers::<T>(cpu, op),
    };
    Some(run(Updates { cpu, function }))
}

fn truth_values(cpu: Cpu, op: &Op) -> Option<Prepared> {
    let function = match op {
        Op::Binary(Binary::And) => AND,
        Op::Binary(Binary::Or) => OR,
        Op::Binary(Binary::Xor) => XOR,
        Op::Binary(Binary::Equal) => return Some(run(Pairs { cpu, function: u8::EQUAL })),
        _ => return None,
    };
    Some(run(Updates { cpu, function }))
}

fn numbers<T: Number + Element + Pod>(cpu: Cpu, op: &Op) -> Option<Prepared> {
    let function = match op {
        Op::Add => T::ADD,
        Op::Sub => T::SUB,
        Op::Mul => T::MUL,
        Op::Binary(Binary::Max) => T::MAX,
        Op::Binary(Binary::Min) => T::MIN,
        Op::Binary(op) => {
            let function = match op {
                Binary::Equal => T::EQUAL,
                Binary::Greater => T::GREATER,
                Binary::GreaterOrEqual => T::GREATER_OR_EQUAL,
                Binary::Less => T::LESS,
                Binary::LessOrEqual => T::LESS_OR_EQUAL,
                _ => return None,
            };
            return Some(run(Pairs { cpu, function }));
        }
        _ => return None,
    };
    Some(run(Updates { cpu, function }))
}

/// A function whose result is of another type, so that it never lies over a side.
struct Pairs<T, U> {
    cpu: Cpu,
    function: Pairwise<T, U>,
}

fn both<'a, T: Element>(call: &Call<'a>) -> (Broadcast<2>, [&'a [T]; 2]) {
    let inputs = [&call.inputs[0], &call.inputs[1]];
    let sides = inputs.map(|input| input.elements());
    (Broadcast::new(call.shape, inputs.map(|input| input.shape)), sides)
}

impl<T: Number + Element, U: Pod + Send + Sync> Kernel for Pairs<T, U> {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (broadcast, sides) = both(&call);
        self.function.run(self.cpu, &broadcast, sides, elements_mut(call.output));
        Ok(())
    }
}

/// A function whose result may lie over a side.
struct Updates<T> {
    cpu: Cpu,
    function: Updating<T>,
}

impl<T: Number + Element + Pod> Kernel for Updates<T> {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.in_place {
            None => {
                let (broadcast, sides) = both(&call);
                self.function.apart.run(self.cpu, &broadcast, sides, elements_mut(call.output));
            }
            Some(over) => {
                let other = &call.inputs[1 - over];
                let broadcast = Broadcast::new(call.shape, [other.shape]);
                let y = elements_mut(call.output);
                self.function.run(self.cpu, &broadcast, over, other.elements(), y);
            }
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0, 1]
    }
}

/// An [`Updates`] that divides by side 1.
struct Divides<T>(Updates<T>);

impl<T: Whole + Element + Pod> Kernel for Divides<T> {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let has_zero = |divisors: &[T]| divisors.iter().any(|divisor| divisor.is_zero());
        let divides_by_zero = match call.in_place {
            Some(1) => has_zero(elements_mut(call.output)),
            _ => !call.output.is_empty() && has_zero(call.inputs[1].elements()),
        };
        if divides_by_zero {
            return Err("an integer is divided by 0".to_owned());
        }
        self.0.run(call)
    }

    fn in_place(&self) -> &'static [usize] {
        self.0.in_place()
    }
}
