//! Fused attention.

use kernels::int8::Output;
use kernels::peaks::Numbers;
use kernels::{ATTENTION_PARALLEL_WORK, Attention, Cpu, Heads, Mask, Tier, attention_into};

use super::{Call, Kernel, KernelEntry, Operand, Prepared, any, elements_mut, run};
use crate::cost::{Parallel, Rate};
use crate::module::{HeadSplit, Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "attention.tiled",
    operation: "FusedAttention",
    tier: None,
    cost: 1,
    accepts: any,
    prepare,
}];

struct Tiled {
    cpu: Cpu,
    split: HeadSplit,
}

fn prepare(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let Operation::Attention(split) = &node.operation else {
        unreachable!("the table pairs this kernel with attention nodes")
    };
    run(Tiled { cpu, split: split.clone() })
}

impl Kernel for Tiled {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let tokens = |operand: &Operand<'_>| operand.shape[1];
        let sizes = Attention {
            batch: call.inputs[0].shape[0],
            heads: self.split.heads,
            queries: tokens(&call.inputs[0]),
            keys: tokens(&call.inputs[1]),
            head_size: self.split.head_size,
            scale: self.split.scale,
            no_keys: self.split.no_keys,
        };
        let heads = [0, 1, 2].map(|part| {
            let data = call.f32(part);
            let row_stride = call.inputs[part].shape[2];
            Heads { data: &data[self.split.offsets[part].min(data.len())..], row_stride }
        });
        let mask = call.inputs.get(3).map(mask);
        let output = match self.split.output {
            Some(to) => Output::Int8(elements_mut(call.output), to),
            None => Output::F32(elements_mut(call.output)),
        };
        attention_into(self.cpu, &sizes, heads, mask, output);
        Ok(())
    }

    /// Wider registers make the products faster than softmax.
    fn rate(&self) -> Rate {
        Rate {
            numbers: Numbers::F32,
            share: if self.cpu.tier() >= Tier::Avx512 { 0.25 } else { 0.4 },
            parallel: Parallel::MultiplyAdds(ATTENTION_PARALLEL_WORK),
        }
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
