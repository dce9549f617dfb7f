//! Convolution of images whose channels are last with images and filters rounded to bf16, where the compiler
//! was asked for it and the CPU gains by it.

use graph::Dim;
use kernels::Cpu;
use kernels::bf16::{Input, PARALLEL_WORK};
use kernels::channels_last::{Bf16Conv, Bf16Filters, bf16_conv2d, bf16_scratch_len};
use kernels::int8::Output;
use kernels::peaks::Numbers;

use super::channels_last::{conv_sizes, for_one_image, of};
use super::conv::bias;
use super::{Call, Kernel, KernelEntry, Prepared, Scratch, elements_mut, floats, run};
use crate::compile::Precision;
use crate::cost::{Parallel, Rate};
use crate::module::{ActivatedConv, ChannelsLast, Module, Node};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "channels-last.conv.bf16",
    operation: "ChannelsLastConv",
    tier: None,
    cost: 1,
    accepts,
    prepare,
}];

/// Outputs below which tiles are mostly empty.
const LEAST_OUTPUTS: usize = 8;

/// Channels of a group from which on f32 multiplies its windows where they lie with full registers.
const MANY_CHANNELS: usize = 8;

/// Channels that a row has from each tap from which on it is copied fast enough for bf16 to gain.
const LONG_ROW: usize = 32;

/// Whether filters see one channel each.
fn is_depthwise(groups: usize, [outputs, inner]: [usize; 2]) -> bool {
    inner == 1 && groups == outputs
}

pub(crate) fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    if module.precision != Precision::Bf16 {
        return Err("rounds to bf16, and the model was compiled for f32".to_owned());
    }
    if !module.cpu.multiplies_bf16() {
        return Err("this CPU multiplies bf16 no faster than f32".to_owned());
    }
    floats(module, node)?;
    let filters = module.constant(node.inputs[1]).map(graph::Tensor::shape);
    let (ChannelsLast::Conv { conv, .. }, Some(filters)) = (of(node), filters) else {
        return Err("takes a convolution with constant filters".to_owned());
    };
    gains(conv.op.groups, filters)
}

/// Whether filters of this shape, in so many groups, are multiplied faster than in f32.
pub(crate) fn gains(groups: usize, filters: &[usize]) -> Result<(), String> {
    let &[outputs, inner, ref kernel @ ..] = filters else {
        return Err("takes filters of channels".to_owned());
    };
    if is_depthwise(groups, [outputs, inner]) {
        return Ok(());
    }
    let row = Bf16Filters::channels_of_row(groups, [inner, outputs / groups.max(1)]);
    let is_copied = groups > 1 && kernel.iter().any(|&taps| taps > 1);
    if is_copied && inner >= MANY_CHANNELS && row < LONG_ROW {
        return Err(format!(
            "f32 multiplies windows of {row} channels faster than they are copied"
        ));
    }
    if outputs >= LEAST_OUTPUTS {
        return Ok(());
    }
    Err(format!("takes {LEAST_OUTPUTS} outputs at least, found {outputs}"))
}

struct Convolution {
    cpu: Cpu,
    conv: ActivatedConv,
    has_addend: bool,
    filters: Bf16Filters,
    /// Shape of the filters as the graph has them.
    weight: Vec<usize>,
    /// Which inputs lie in memory as bf16.
    reads_bf16: Vec<bool>,
    /// Whether the result does.
    rounds: bool,
}

fn prepare(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let ChannelsLast::Conv { conv, has_addend } = of(node) else {
        unreachable!("`accepts` saw a convolution")
    };
    let tensor = module.constant(node.inputs[1]).expect("`accepts` saw constant filters");
    let elements = tensor.elements().expect("`accepts` saw f32 filters");
    let weight = tensor.shape().to_vec();
    let taps = weight[2..].iter().product();
    let is_bf16 = |id| module.value(id).as_bf16;
    run(Convolution {
        cpu,
        conv: conv.clone(),
        has_addend: *has_addend,
        filters: Bf16Filters::new(elements, [weight[0], weight[1], taps], conv.op.groups),
        weight,
        reads_bf16: node.inputs.iter().map(|&id| is_bf16(id)).collect(),
        rounds: is_bf16(node.output),
    })
}

impl Convolution {
    fn input<'a>(&self, call: &Call<'a>, input: usize) -> Input<'a> {
        if self.reads_bf16[input] {
            Input::Bf16(call.inputs[input].bf16())
        } else {
            Input::F32(call.f32(input))
        }
    }
}

impl Kernel for Convolution {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let sizes = conv_sizes(&self.conv.op, call.inputs[0].shape, &self.weight)?;
        let filters = Bf16Conv {
            weight: &self.filters,
            bias: bias(&call, sizes.outputs)?,
            addend: self.has_addend.then(|| self.input(&call, 3)),
            activation: self.conv.activation,
        };
        let x = self.input(&call, 0);
        let output = if self.rounds {
            Output::Bf16(elements_mut(call.output))
        } else {
            Output::F32(elements_mut(call.output))
        };
        bf16_conv2d(self.cpu, &sizes, x, &filters, output, elements_mut(call.scratch));
        Ok(())
    }

    /// Filters of a channel each reuse nothing between channels.
    fn rate(&self) -> Rate {
        let parallel = Parallel::MultiplyAdds(PARALLEL_WORK);
        if is_depthwise(self.conv.op.groups, [self.weight[0], self.weight[1]]) {
            return Rate { numbers: Numbers::F32, share: 0.1, parallel };
        }
        Rate { numbers: Numbers::Bf16, share: 0.6, parallel }
    }

    /// An image and its padding.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        for_one_image(inputs, size_of::<u16>(), |x| {
            conv_sizes(&self.conv.op, x, &self.weight)
                .map(|sizes| bf16_scratch_len(&sizes, self.reads_bf16[0]))
        })
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.filters.size_bytes()
    }
}
