//! Fused attention.

use kernels::int8::Output;
use kernels::peaks::Numbers;
use kernels::{
    ATTENTION_PARALLEL_WORK, Attention, Cpu, HeadData, Heads, Mask, Products, Tier, attention_into,
};

use super::{Call, Kernel, KernelEntry, Operand, Prepared, any, elements_mut, run};
use crate::compile::Precision;
use crate::cost::{Parallel, Rate};
use crate::module::{HeadPlace, HeadSplit, Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[
    KernelEntry {
        name: "attention.tiled",
        operation: "FusedAttention",
        tier: None,
        cost: 3,
        accepts: any,
        prepare: |module, node, cpu| run(Tiled::new(module, node, cpu, Products::F32)),
    },
    KernelEntry {
        name: "attention.bf16-dot",
        operation: "FusedAttention",
        tier: Some(Tier::Vnni),
        cost: 2,
        accepts: |module, _| {
            if module.precision == Precision::F32 {
                return Err("multiplies in bf16, and the model is compiled for f32".into());
            }
            let is_fast = module.cpu.has_fast_bf16_dot();
            is_fast.then_some(()).ok_or_else(|| "this CPU gains nothing by bf16".into())
        },
        prepare: |module, node, cpu| run(Tiled::new(module, node, cpu, Products::Bf16)),
    },
    KernelEntry {
        name: "attention.amx",
        operation: "FusedAttention",
        tier: Some(Tier::Amx),
        cost: 1,
        accepts: |module, node| products(module, node).map(drop),
        prepare: prepare_amx,
    },
];

struct Tiled {
    cpu: Cpu,
    split: HeadSplit,
    products: Products,
    /// Which of query, key and value lie in memory as bf16.
    as_bf16: [bool; 3],
}

fn split(node: &Node) -> &HeadSplit {
    let Operation::Attention(split) = &node.operation else {
        unreachable!("the table pairs these kernels with attention nodes")
    };
    split
}

/// How exact products in bf16 have to be. Those of operands in two parts err by a hundredth of what
/// rounding the result to 8 bits does.
fn products(module: &Module, node: &Node) -> Result<Products, String> {
    match (module.precision, split(node).output) {
        (Precision::Bf16, _) => Ok(Products::Bf16),
        (Precision::F32, Some(_)) => Ok(Products::Split),
        (Precision::F32, None) => {
            Err("multiplies in bf16, and the result is f32 of a model compiled for f32".into())
        }
    }
}

fn prepare_amx(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let products = products(module, node).expect("only such nodes are accepted");
    run(Tiled::new(module, node, cpu, products))
}

impl Tiled {
    fn new(module: &Module, node: &Node, cpu: Cpu, products: Products) -> Self {
        let as_bf16 = [0, 1, 2].map(|part| module.value(node.inputs[part]).as_bf16);
        Self { cpu, split: split(node).clone(), products, as_bf16 }
    }
}

impl Tiled {
    /// The heads of query, key or value.
    fn heads<'a>(&self, part: usize, operand: &Operand<'a>) -> Heads<'a> {
        let (shape, size) = (operand.shape, self.split.head_size);
        let product = |sizes: &[usize]| sizes.iter().product::<usize>();
        let (start, strides) = match self.split.places[part] {
            HeadPlace::InRows { column } => {
                let row = product(&shape[2..]);
                (column, [shape[1] * row, size, row])
            }
            HeadPlace::Apart => (0, [product(&shape[1..]), shape[2] * size, size]),
        };
        let data = if self.as_bf16[part] {
            let data = operand.bf16();
            HeadData::Bf16(&data[start.min(data.len())..])
        } else {
            let data: &[f32] = operand.elements();
            HeadData::F32(&data[start.min(data.len())..])
        };
        Heads { data, strides, sharing: if part == 0 { 1 } else { self.split.sharing } }
    }
}

impl Kernel for Tiled {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let tokens = |part: usize| call.inputs[part].shape[self.split.places[part].token_axis()];
        let sizes = Attention {
            batch: call.inputs[0].shape[0],
            heads: self.split.heads,
            queries: tokens(0),
            keys: tokens(1),
            head_size: self.split.head_size,
            scale: self.split.scale,
            no_keys: self.split.no_keys,
            products: self.products,
        };
        let heads = [0, 1, 2].map(|part| self.heads(part, &call.inputs[part]));
        let mask = call.inputs.get(3).map(mask);
        let output = match self.split.output {
            Some(to) => Output::Int8(elements_mut(call.output), to),
            None => Output::F32(elements_mut(call.output)),
        };
        attention_into(self.cpu, &sizes, heads, mask, output);
        Ok(())
    }

    /// Wider registers and tiles make the products faster than softmax.
    fn rate(&self) -> Rate {
        let (numbers, share) = match self.products {
            Products::F32 if self.cpu.tier() >= Tier::Avx512 => (Numbers::F32, 0.25),
            Products::F32 => (Numbers::F32, 0.4),
            Products::Split => (Numbers::Bf16, 0.025),
            Products::Bf16 if self.cpu.has_fast_bf16_dot() => (Numbers::Bf16, 0.45),
            Products::Bf16 => (Numbers::Bf16, 0.045),
        };
        Rate { numbers, share, parallel: Parallel::MultiplyAdds(ATTENTION_PARALLEL_WORK) }
    }
}

fn mask<'a>(operand: &Operand<'a>) -> Mask<'a> {
    Mask { data: operand.elements(), strides: mask_strides(operand.shape) }
}

/// Elements from batch to batch, head to head and query to query of a mask of four dimensions; those
/// of size 1 repeat.
pub(crate) fn mask_strides(shape: &[usize]) -> [usize; 3] {
    let mut strides = [0; 3];
    let mut stride = shape[3];
    for dim in (0..3).rev() {
        if shape[dim] != 1 {
            strides[dim] = stride;
            stride *= shape[dim];
        }
    }
    strides
}
