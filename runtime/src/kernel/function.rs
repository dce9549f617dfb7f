//! Functions of single f32 elements.

use graph::Op;
use graph::op::{Clip, Unary};
use kernels::{Cpu, Function, map, map_in_place};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, floats, run};
use crate::module::{Module, Node, Operation};

const fn entry(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    entry("abs.f32", "Abs"),
    entry("neg.f32", "Neg"),
    entry("reciprocal.f32", "Reciprocal"),
    entry("floor.f32", "Floor"),
    entry("ceil.f32", "Ceil"),
    entry("sqrt.f32", "Sqrt"),
    entry("exp.f32", "Exp"),
    entry("log.f32", "Log"),
    entry("erf.f32", "Erf"),
    entry("sigmoid.f32", "Sigmoid"),
    entry("swish.f32", "Swish"),
    entry("hard-sigmoid.f32", "HardSigmoid"),
    entry("hard-swish.f32", "HardSwish"),
    entry("leaky-relu.f32", "LeakyRelu"),
    entry("elu.f32", "Elu"),
    KernelEntry {
        name: "clip.f32",
        operation: "Clip",
        tier: None,
        cost: 1,
        accepts: floats,
        prepare: |_, node, cpu| match &node.operation {
            Operation::Graph(Op::Clip(op)) => run(Clipped { cpu, op: *op }),
            _ => unreachable!("the table pairs this kernel with clips"),
        },
    },
];

/// The kernels' name for an operator on single numbers.
pub(crate) fn function_of(op: &Op) -> Option<Function> {
    let &Op::Unary(op) = op else { return None };
    Some(match op {
        Unary::Abs => Function::Abs,
        Unary::Neg => Function::Neg,
        Unary::Reciprocal => Function::Reciprocal,
        Unary::Floor => Function::Floor,
        Unary::Ceil => Function::Ceil,
        Unary::Sqrt => Function::Sqrt,
        Unary::Exp => Function::Exp,
        Unary::Log => Function::Log,
        Unary::Erf => Function::Erf,
        Unary::Sigmoid => Function::Sigmoid,
        Unary::Swish { alpha } => Function::Swish { alpha },
        Unary::HardSigmoid { alpha, beta } => Function::HardSigmoid { alpha, beta },
        Unary::HardSwish => Function::HardSwish,
        Unary::LeakyRelu { alpha } => Function::LeakyRelu { alpha },
        Unary::Elu { alpha } => Function::Elu { alpha },
        _ => return None,
    })
}

fn function(node: &Node) -> Option<Function> {
    match &node.operation {
        Operation::Graph(op) => function_of(op),
        _ => None,
    }
}

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    function(node).map(|_| ()).ok_or_else(|| "does not know the function".to_owned())
}

struct Mapped {
    cpu: Cpu,
    function: Function,
}

fn prepare(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let function = function(node).expect("other functions were not accepted");
    run(Mapped { cpu, function })
}

/// Applies a function where the output is, or from the first input to there.
fn apply(cpu: Cpu, function: Function, call: Call<'_>) {
    match call.in_place {
        Some(_) => map_in_place(cpu, function, elements_mut(call.output)),
        None => map(cpu, function, call.f32(0), elements_mut(call.output)),
    }
}

impl Kernel for Mapped {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        apply(self.cpu, self.function, call);
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

struct Clipped {
    cpu: Cpu,
    op: Clip,
}

impl Kernel for Clipped {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let bound = |input: usize| match call.f32(input) {
            [bound] => Ok(*bound),
            other => Err(format!("expected a bound of one element, found {}", other.len())),
        };
        let low = if self.op.low { bound(1)? } else { f32::NEG_INFINITY };
        let high = if self.op.high { bound(1 + usize::from(self.op.low))? } else { f32::INFINITY };
        apply(self.cpu, Function::Clip { low, high }, call);
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
