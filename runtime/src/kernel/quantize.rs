//! Quantization and dequantization that no integer kernel took in.

use graph::op::DynamicQuantization;
use graph::{DType, Op};
use kernels::Cpu;
use kernels::int8::{self, Quantization};

use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, run};
use crate::module::{Module, Node, Operation};
use crate::pass::per_tensor;

const fn entry(
    name: &'static str,
    operation: &'static str,
    prepare: fn(&Module, &Node, Cpu) -> Prepared,
) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    entry("quantize.int8", "QuantizeLinear", |module, node, cpu| {
        run(Quantize { cpu, to: parameters(module, node) })
    }),
    KernelEntry {
        name: "quantize.u8",
        operation: "QuantizeLinear",
        tier: None,
        cost: 2,
        accepts: accepts_unsigned,
        prepare: |_, _, cpu| run(QuantizeUnsigned { cpu }),
    },
    KernelEntry {
        name: "range.u8",
        operation: "DynamicQuantizeLinear",
        tier: None,
        cost: 1,
        accepts: super::any,
        prepare: |_, node, cpu| match &node.operation {
            Operation::Graph(Op::DynamicQuantization(part)) => run(OfRange { cpu, part: *part }),
            _ => unreachable!("the table pairs this kernel with quantizations of ranges"),
        },
    },
    KernelEntry {
        name: "dequantize.columns",
        operation: "DequantizeLinear",
        tier: None,
        cost: 1,
        accepts: accepts_columns,
        prepare: |_, _, cpu| run(DequantizeColumns { cpu }),
    },
    entry("dequantize.int8", "DequantizeLinear", |module, node, cpu| {
        run(Dequantize { cpu, from: parameters(module, node) })
    }),
];

pub(crate) fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    let axis = match &node.operation {
        Operation::Graph(Op::Quantize(op)) => op.axis,
        Operation::Graph(Op::Dequantize(op)) => op.axis,
        _ => None,
    };
    if axis.is_some() {
        return Err("takes one scale for the whole tensor only".to_owned());
    }
    let zero_point = module.value(node.inputs[2]).dtype;
    if zero_point != DType::I8 {
        return Err(format!("takes i8 only, found {zero_point}"));
    }
    let found = per_tensor(module, node.inputs[1], node.inputs[2]);
    found.map(|_| ()).ok_or_else(|| "takes a constant scale > 0 and zero point only".to_owned())
}

/// One scale and zero point, which a run may find out.
fn accepts_unsigned(module: &Module, node: &Node) -> Result<(), String> {
    let value = |input: usize| module.value(node.inputs[input]);
    let is_one = |input: usize| value(input).shape.iter().all(|dim| dim.fixed() == Some(1));
    let one = matches!(&node.operation, Operation::Graph(Op::Quantize(op)) if op.axis.is_none())
        && is_one(1)
        && is_one(2);
    let typed = value(0).dtype == DType::F32 && value(2).dtype == DType::U8;
    match one && typed {
        true => Ok(()),
        false => Err("takes f32 to u8 with one scale for the whole tensor only".to_owned()),
    }
}

pub(crate) fn accepts_columns(module: &Module, node: &Node) -> Result<(), String> {
    let Operation::Graph(Op::Dequantize(op)) = &node.operation else {
        return Err("takes dequantizations only".to_owned());
    };
    let rank = module.value(node.inputs[0]).shape.len();
    if op.axis.is_none_or(|axis| axis + 1 != rank) {
        return Err("takes one scale for each entry of the last dimension only".to_owned());
    }
    let zeros = module.constant(node.inputs[2]).and_then(|zeros| zeros.elements::<i8>().ok());
    match zeros.is_some_and(|zeros| zeros.iter().all(|&zero| zero == 0)) {
        true => Ok(()),
        false => Err("takes constant i8 zero points of 0 only".to_owned()),
    }
}

pub(crate) fn parameters(module: &Module, node: &Node) -> Quantization {
    per_tensor(module, node.inputs[1], node.inputs[2]).expect("`accepts` found them")
}

struct Quantize {
    cpu: Cpu,
    to: Quantization,
}

impl Kernel for Quantize {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        int8::quantize(self.cpu, call.f32(0), self.to, elements_mut(call.output));
        Ok(())
    }
}

/// 128 steps below or above in two's complement.
const HIGHEST_BIT: u8 = 0x80;

struct QuantizeUnsigned {
    cpu: Cpu,
}

impl Kernel for QuantizeUnsigned {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (&[scale], &[zero]) = (call.f32(1), call.inputs[2].bytes) else {
            return Err("expected one scale and one zero point".to_owned());
        };
        let zero_point = (zero ^ HIGHEST_BIT).cast_signed();
        let to = Quantization { zero_point, ..Quantization::symmetric(scale) };
        int8::quantize(self.cpu, call.f32(0), to, elements_mut(call.output));
        call.output.iter_mut().for_each(|y| *y ^= HIGHEST_BIT);
        Ok(())
    }
}

/// A part of the quantization that meets the range of all numbers.
struct OfRange {
    cpu: Cpu,
    part: DynamicQuantization,
}

impl Kernel for OfRange {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let found = int8::range_quantization(self.cpu, call.f32(0));
        match self.part {
            DynamicQuantization::Scale => elements_mut(call.output).fill(found.scale),
            DynamicQuantization::ZeroPoint => {
                call.output.fill(found.zero_point.cast_unsigned() ^ HIGHEST_BIT);
            }
        }
        Ok(())
    }
}

struct Dequantize {
    cpu: Cpu,
    from: Quantization,
}

impl Kernel for Dequantize {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let x = call.inputs[0].elements();
        int8::dequantize(self.cpu, x, self.from, elements_mut(call.output));
        Ok(())
    }
}

struct DequantizeColumns {
    cpu: Cpu,
}

impl Kernel for DequantizeColumns {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, scales) = (call.inputs[0].elements(), call.f32(1));
        int8::dequantize_columns(self.cpu, x, scales, elements_mut(call.output));
        Ok(())
    }
}
