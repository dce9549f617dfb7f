//! Rotary position embedding.

use graph::Op;
use graph::op::{RotaryEmbedding, RotaryPairs};
use kernels::{Cpu, Rotation, rotate};

use super::{Call, Kernel, KernelEntry, elements_mut, run};
use crate::module::Operation;

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "rotary.f32",
    operation: "RotaryEmbedding",
    tier: None,
    cost: 1,
    accepts: super::any,
    prepare: |_, node, cpu| match &node.operation {
        Operation::Graph(Op::RotaryEmbedding(op)) => run(Rotary { cpu, op: *op }),
        _ => unreachable!("the table pairs this kernel with rotary embeddings"),
    },
}];

struct Rotary {
    cpu: Cpu,
    op: RotaryEmbedding,
}

impl Kernel for Rotary {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let &[batch, heads, sequence, size] = call.shape else {
            return Err(format!("expected 4 dimensions, found {:?}", call.shape));
        };
        let (cos_shape, sin_shape) = (call.inputs[1].shape, call.inputs[2].shape);
        let width = self.op.width.unwrap_or(size);
        let pairs = width / 2;
        let fits = width <= size && width.is_multiple_of(2) && cos_shape.last() == Some(&pairs);
        if !fits || cos_shape != sin_shape {
            return Err(format!(
                "{width} of {size} entries do not go with {cos_shape:?} and {sin_shape:?}"
            ));
        }
        let angles: usize = cos_shape[..cos_shape.len() - 1].iter().product();
        let positions: Option<&[i64]> = call.inputs.get(3).map(|input| input.elements());
        let found = positions.map_or(angles, <[_]>::len);
        if found != batch * sequence {
            return Err(format!("expected {batch} · {sequence} places, found {found}"));
        }
        let is_there = |&place: &i64| usize::try_from(place).is_ok_and(|place| place < angles);
        if pairs > 0 && !positions.is_none_or(|positions| positions.iter().all(is_there)) {
            return Err("a position beyond the angles".to_owned());
        }
        let place = |row: usize| {
            let token = row / (heads * sequence) * sequence + row % sequence;
            positions.map_or(token, |positions| positions[token] as usize)
        };
        let y: &mut [f32] = elements_mut(call.output);
        if call.in_place.is_none() {
            y.copy_from_slice(call.inputs[0].elements());
        }
        let rotation = Rotation {
            cos: call.inputs[1].elements(),
            sin: call.inputs[2].elements(),
            pairs,
            interleaved: self.op.pairs == RotaryPairs::Interleaved,
        };
        rotate(self.cpu, y, size, &rotation, place);
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
