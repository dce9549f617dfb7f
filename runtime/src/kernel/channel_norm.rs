//! Normalization of images by channel: by given statistics where no convolution takes it in, and by
//! those of each channel or group of channels.

use graph::Op;
use kernels::{BatchNorm, Cpu, GroupNorm, batch_norm, group_norm};

use super::{Call, Kernel, KernelEntry, elements_mut, floats, run};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[
    KernelEntry {
        name: "batch-norm.f32",
        operation: "BatchNormalization",
        tier: None,
        cost: 1,
        accepts: |module, node| match &node.operation {
            Operation::Graph(Op::BatchNorm(_)) => floats(module, node),
            _ => Err("takes given statistics only".to_owned()),
        },
        prepare: |_, node, cpu| match &node.operation {
            Operation::Graph(Op::BatchNorm(op)) => run(Given { cpu, epsilon: op.epsilon }),
            _ => unreachable!("other operators were not accepted"),
        },
    },
    own("instance-norm.f32", "InstanceNormalization"),
    own("group-norm.f32", "GroupNormalization"),
];

/// By an image's own statistics.
const fn own(name: &'static str, operation: &'static str) -> KernelEntry {
    let prepare = |_: &Module, node: &Node, cpu| match &node.operation {
        Operation::Graph(Op::InstanceNorm(op)) => {
            run(Own { cpu, groups: None, epsilon: op.epsilon })
        }
        Operation::Graph(Op::GroupNorm(op)) => {
            run(Own { cpu, groups: Some(op.groups), epsilon: op.epsilon })
        }
        _ => unreachable!("the table pairs this kernel with norms of instances and groups"),
    };
    KernelEntry { name, operation, tier: None, cost: 1, accepts: floats, prepare }
}

/// The channels and elements a channel, where every parameter has one number a channel.
fn channels(call: &Call<'_>) -> Result<(usize, usize), String> {
    let [_, channels, spatial @ ..] = call.shape else {
        return Err("expected a batch with channels".to_owned());
    };
    match call.inputs[1..].iter().find(|input| input.shape != [*channels]) {
        Some(wrong) => Err(format!("expected {channels} numbers, found shape {:?}", wrong.shape)),
        None => Ok((*channels, spatial.iter().product())),
    }
}

struct Given {
    cpu: Cpu,
    epsilon: f32,
}

impl Kernel for Given {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (_, image) = channels(&call)?;
        let norm = BatchNorm {
            scale: call.f32(1),
            bias: call.f32(2),
            mean: call.f32(3),
            variance: call.f32(4),
            epsilon: self.epsilon,
        };
        batch_norm(self.cpu, call.f32(0), &norm, image, elements_mut(call.output));
        Ok(())
    }
}

struct Own {
    cpu: Cpu,
    /// Groups of channels; `None` where each channel is one.
    groups: Option<usize>,
    epsilon: f32,
}

impl Kernel for Own {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (channels, image) = channels(&call)?;
        let groups = self.groups.unwrap_or(channels);
        if !call.output.is_empty() && (groups == 0 || !channels.is_multiple_of(groups)) {
            return Err(format!("{channels} channels do not fall into {groups} groups"));
        }
        let (scale, bias) = (call.f32(1), call.f32(2));
        let norm = GroupNorm { scale, bias, groups, epsilon: self.epsilon };
        group_norm(self.cpu, call.f32(0), &norm, image, elements_mut(call.output));
        Ok(())
    }
}
