//! Functions of single elements, most of them f32.

use bytemuck::Pod;
use graph::op::{Clip, Unary};
use graph::{DType, Element, Op};
use kernels::{Cpu, Function, Trigonometric, map, map_in_place};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, floats, run};
use crate::module::{Module, Node, Operation};

const fn entry(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare }
}

/// Gives truth values.
const fn test(name: &'static str, operation: &'static str) -> KernelEntry {
    let accepts = super::any;
    let prepare = |_: &Module, node: &Node, _: Cpu| match node.operation {
        Operation::Graph(Op::Unary(op)) => run(Test(op)),
        _ => unreachable!("the table pairs this kernel with functions of single elements"),
    };
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare }
}

const fn trigonometric(name: &'static str, operation: &'static str) -> KernelEntry {
    let (accepts, prepare) = (floats, prepare_trigonometric);
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
    entry("sign.f32", "Sign"),
    entry("round.f32", "Round"),
    entry("sin.f32", "Sin"),
    entry("cos.f32", "Cos"),
    entry("softplus.f32", "Softplus"),
    entry("softsign.f32", "Softsign"),
    entry("mish.f32", "Mish"),
    entry("celu.f32", "Celu"),
    entry("selu.f32", "Selu"),
    test("is-nan.f32", "IsNaN"),
    test("is-infinite.f32", "IsInf"),
    test("not", "Not"),
    trigonometric("tan.f32", "Tan"),
    trigonometric("asin.f32", "Asin"),
    trigonometric("acos.f32", "Acos"),
    trigonometric("atan.f32", "Atan"),
    trigonometric("sinh.f32", "Sinh"),
    trigonometric("cosh.f32", "Cosh"),
    trigonometric("asinh.f32", "Asinh"),
    trigonometric("acosh.f32", "Acosh"),
    trigonometric("atanh.f32", "Atanh"),
    KernelEntry {
        name: "clip.integers",
        operation: "Clip",
        tier: None,
        cost: 1,
        accepts: |module, node| match module.value(node.inputs[0]).dtype {
            DType::F32 | DType::Bool => Err("takes integers only".to_owned()),
            _ => Ok(()),
        },
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::Clip(op)) => run(ClippedIntegers(*op)),
            _ => unreachable!("the table pairs this kernel with clips"),
        },
    },
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
        Unary::Sign => Function::Sign,
        Unary::Round => Function::Round,
        Unary::Sin => Function::Sin,
        Unary::Cos => Function::Cos,
        Unary::Softplus => Function::Softplus,
        Unary::Softsign => Function::Softsign,
        Unary::Mish => Function::Mish,
        Unary::Celu { alpha } if alpha > 0.0 => Function::Celu { alpha },
        Unary::Selu { alpha, gamma } => Function::Selu { alpha, gamma },
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

struct MappedTrigonometric {
    cpu: Cpu,
    function: Trigonometric,
}

fn prepare_trigonometric(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let Operation::Graph(Op::Unary(op)) = node.operation else {
        unreachable!("the table pairs this kernel with functions of single elements")
    };
    let function = match op {
        Unary::Tan => Trigonometric::Tan,
        Unary::Asin => Trigonometric::Asin,
        Unary::Acos => Trigonometric::Acos,
        Unary::Atan => Trigonometric::Atan,
        Unary::Sinh => Trigonometric::Sinh,
        Unary::Cosh => Trigonometric::Cosh,
        Unary::Asinh => Trigonometric::Asinh,
        Unary::Acosh => Trigonometric::Acosh,
        Unary::Atanh => Trigonometric::Atanh,
        _ => unreachable!("the table pairs this kernel with these functions"),
    };
    run(MappedTrigonometric { cpu, function })
}

impl Kernel for MappedTrigonometric {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.in_place {
            Some(_) => self.function.map_in_place(self.cpu, elements_mut(call.output)),
            None => self.function.map(self.cpu, call.f32(0), elements_mut(call.output)),
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

/// The bounds of a clip that has them.
fn bounds<T: Element>(op: Clip, call: &Call<'_>) -> Result<[Option<T>; 2], String> {
    let bound = |input: usize| match call.inputs[input].elements::<T>() {
        [bound] => Ok(*bound),
        other => Err(format!("expected a bound of one element, found {}", other.len())),
    };
    let low = op.low.then(|| bound(1)).transpose()?;
    let high = op.high.then(|| bound(1 + usize::from(op.low))).transpose()?;
    Ok([low, high])
}

struct ClippedIntegers(Clip);

impl ClippedIntegers {
    fn clip<T: Element + Pod + Ord>(&self, call: Call<'_>) -> Result<(), String> {
        let [low, high] = bounds::<T>(self.0, &call)?;
        let y: &mut [T] = elements_mut(call.output);
        if call.in_place.is_none() {
            y.copy_from_slice(call.inputs[0].elements());
        }
        // The upper bound wins.
        if let Some(low) = low {
            y.iter_mut().for_each(|y| *y = low.max(*y));
        }
        if let Some(high) = high {
            y.iter_mut().for_each(|y| *y = high.min(*y));
        }
        Ok(())
    }
}

impl Kernel for ClippedIntegers {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.inputs[0].dtype {
            DType::I64 => self.clip::<i64>(call),
            DType::I32 => self.clip::<i32>(call),
            DType::I8 => self.clip::<i8>(call),
            _ => self.clip::<u8>(call),
        }
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
        let [low, high] = bounds(self.op, &call)?;
        let low = low.unwrap_or(f32::NEG_INFINITY);
        let high = high.unwrap_or(f32::INFINITY);
        apply(self.cpu, Function::Clip { low, high }, call);
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

struct Test(Unary);

impl Kernel for Test {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let floats = || call.inputs[0].elements::<f32>().iter();
        let y = call.output.iter_mut();
        match self.0 {
            Unary::Not => {
                y.zip(call.inputs[0].bytes).for_each(|(y, &x)| *y = u8::from(x == 0));
            }
            Unary::IsNan => y.zip(floats()).for_each(|(y, x)| *y = u8::from(x.is_nan())),
            Unary::IsInf { negative, positive } => y.zip(floats()).for_each(|(y, &x)| {
                let found = x == f32::INFINITY && positive || x == f32::NEG_INFINITY && negative;
                *y = u8::from(found);
            }),
            other => return Err(format!("expected a test, found {other:?}")),
        }
        Ok(())
    }
}
