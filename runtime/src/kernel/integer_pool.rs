//! The greatest of windows of int8 images whose channels are last.

use graph::DType;
use graph::op::{Pool, PoolKind};
use kernels::Cpu;
use kernels::channels_last::greatest2d;

use super::channels_last::of;
use super::conv::slides;
use super::{Call, Kernel, KernelEntry, elements_mut, expect_type, run};
use crate::module::{ChannelsLast, Module, Node};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "channels-last.max-pool.int8",
    operation: "ChannelsLastPool",
    tier: None,
    cost: 1,
    accepts,
    prepare: |_, node, cpu| run(Windows { cpu, op: pool(node).clone() }),
}];

fn pool(node: &Node) -> &Pool {
    match of(node) {
        ChannelsLast::Pool(op) => op,
        _ => unreachable!("the table pairs this kernel with pools"),
    }
}

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    expect_type(module, node, 0, DType::I8)?;
    match pool(node).kind {
        PoolKind::Max => Ok(()),
        other => Err(format!("takes maxima, found {other:?}")),
    }
}

struct Windows {
    cpu: Cpu,
    op: Pool,
}

impl Kernel for Windows {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [batch, spatial @ .., channels] = call.inputs[0].shape else {
            return Err("expected a batch of images".to_owned());
        };
        let slides = slides(&self.op.window, self.op.rounding, spatial)?;
        let (x, y) = (call.inputs[0].elements(), elements_mut(call.output));
        greatest2d(self.cpu, [*batch, *channels], &slides, x, y);
        Ok(())
    }
}
