//! Quantization and dequantization that no integer kernel took in.

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
