//! Convolution in int8 of images whose channels are last: of filters that see all channels, and of filters
//! that see one each.

use graph::Dim;
use kernels::channels_last::{self, DEPTHWISE_PIECE, PackedDepthwise};
use kernels::int8::{Layer, Output, PackedWeights};
use kernels::{Conv2d, Cpu, Tier};

use super::channels_last::{conv_sizes, for_one_image, of};
use super::conv::bias;
use super::integer::integer_rate;
use super::{Call, Kernel, KernelEntry, Prepared, Scratch, any, elements_mut, run};
use crate::compile::Precision;
use crate::cost::{Parallel, Rate};
use crate::module::{ChannelsLast, IntegerConv, Module, Node};

pub(super) const KERNELS: &[KernelEntry] = &[
    dense("integer-conv.portable", Tier::Portable, 200),
    dense("integer-conv.avx2", Tier::Avx2, 30),
    dense("integer-conv.avx512", Tier::Avx512, 15),
    dense("integer-conv.vnni", Tier::Vnni, 5),
    dense("integer-conv.amx", Tier::Amx, 1),
    depthwise("integer-depthwise.avx512", Tier::Avx512, 15),
    depthwise("integer-depthwise.vnni", Tier::Vnni, 5),
];

const fn dense(name: &'static str, tier: Tier, cost: u32) -> KernelEntry {
    let (operation, prepare) = ("ChannelsLastIntegerConv", prepare_dense);
    KernelEntry { name, operation, tier: Some(tier), cost, accepts: any, prepare }
}

const fn depthwise(name: &'static str, tier: Tier, cost: u32) -> KernelEntry {
    let (operation, prepare) = ("ChannelsLastIntegerDepthwise", prepare_depthwise);
    KernelEntry { name, operation, tier: Some(tier), cost, accepts: any, prepare }
}

/// A convolution in integers with its filters, packed.
struct Convolution<W> {
    cpu: Cpu,
    conv: IntegerConv,
    weights: W,
    /// Zero point of the input.
    zero_point: i8,
    /// Scale of the input times that of each filter.
    scales: Vec<f32>,
    /// Shape of the filters as the graph has them.
    weight: Vec<usize>,
    /// Whether the model was compiled for bf16, so that nothing holds it to what was trained.
    coarse: bool,
}

impl<W> Convolution<W> {
    /// `pack` gets the filters and their shape.
    fn new(module: &Module, node: &Node, cpu: Cpu, pack: fn(&[i8], &[usize]) -> W) -> Self {
        let ChannelsLast::IntegerConv(conv) = of(node) else {
            unreachable!("the table pairs this kernel with convolutions in integers")
        };
        let tensor = module.constant(node.inputs[1]).expect("the pass takes constants only");
        let elements = tensor.elements().expect("the pass takes int8 filters only");
        let weight = tensor.shape().to_vec();
        let input = conv.layer.input.given().expect("the pass takes given scales only");
        let scales = conv.layer.weight_scales.iter().map(|scale| input.scale * scale).collect();
        let zero_point = input.zero_point;
        let coarse = module.precision == Precision::Bf16;
        let weights = pack(elements, &weight);
        Self { cpu, conv: conv.clone(), weights, zero_point, scales, weight, coarse }
    }

    fn sizes(&self, x: &[usize]) -> Result<Conv2d, String> {
        conv_sizes(&self.conv.op, x, &self.weight)
    }

    fn layer<'a>(&'a self, bias: Option<&'a [f32]>) -> Layer<'a, W> {
        let activation = self.conv.layer.activation;
        let Self { weights, scales, coarse, .. } = self;
        Layer { weights, scales, bias, activation, coarse: *coarse }
    }

    /// Where the result goes.
    fn result<'a>(&self, output: &'a mut [u8]) -> Output<'a> {
        match self.conv.layer.output {
            Some(to) => Output::Int8(elements_mut(output), to),
            None => Output::F32(elements_mut(output)),
        }
    }
}

fn prepare_dense(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    run(Convolution::new(module, node, cpu, |elements, weight| {
        let sizes = [weight[0], weight[1], weight[2..].iter().product()];
        channels_last::pack_integer_filters(elements, sizes)
    }))
}

impl Kernel for Convolution<PackedWeights> {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let sizes = self.sizes(call.inputs[0].shape)?;
        let layer = self.layer(bias(&call, sizes.outputs)?);
        let x = (call.inputs[0].elements(), self.zero_point);
        let (y, scratch) = (self.result(call.output), elements_mut(call.scratch));
        channels_last::integer_conv2d(self.cpu, &sizes, x, &layer, y, scratch);
        Ok(())
    }

    fn rate(&self) -> Rate {
        integer_rate(self.cpu)
    }

    /// An image and its padding.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        for_one_image(inputs, size_of::<i8>(), |x| {
            self.sizes(x).map(|sizes| channels_last::integer_scratch_len(&sizes))
        })
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.weights.size_bytes() + size_of_val(self.scales.as_slice())
    }
}

fn prepare_depthwise(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    run(Convolution::new(module, node, cpu, |elements, weight| {
        // The missing dimension of a sequence comes first.
        let kernel = match weight[2..] {
            [rows, columns] => [rows, columns],
            _ => [1, weight[2]],
        };
        PackedDepthwise::new(elements, weight[0], kernel)
    }))
}

impl Kernel for Convolution<PackedDepthwise> {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let sizes = self.sizes(call.inputs[0].shape)?;
        let layer = self.layer(bias(&call, sizes.outputs)?);
        let x = (call.inputs[0].elements(), self.zero_point);
        let y = self.result(call.output);
        channels_last::integer_depthwise(self.cpu, &sizes, x, &layer, y);
        Ok(())
    }

    /// Most of the time goes to what follows the sums.
    fn rate(&self) -> Rate {
        let parallel = Parallel::Elements(DEPTHWISE_PIECE);
        Rate { share: 0.1, parallel, ..integer_rate(self.cpu) }
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.weights.size_bytes() + size_of_val(self.scales.as_slice())
    }
}
