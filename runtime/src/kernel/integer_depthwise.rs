//! Convolution in int8 of images whose channels are last, where every output sees one channel of its own.

use kernels::channels_last::{self, DEPTHWISE_PIECE, IntegerFilters, PackedDepthwise};
use kernels::{Cpu, Tier};

use super::channels_last::{conv_sizes, of, result, scales};
use super::conv::bias;
use super::integer::integer_rate;
use super::{Call, Kernel, KernelEntry, Prepared, any, run};
use crate::compile::Precision;
use crate::cost::{Parallel, Rate};
use crate::module::{ChannelsLast, IntegerConv, IntegerLinear, Module, Node};

pub(super) const KERNELS: &[KernelEntry] = &[
    entry("integer-depthwise.avx512", Tier::Avx512, 15),
    entry("integer-depthwise.vnni", Tier::Vnni, 5),
];

const fn entry(name: &'static str, tier: Tier, cost: u32) -> KernelEntry {
    let (operation, prepare) = ("ChannelsLastIntegerDepthwise", prepare);
    KernelEntry { name, operation, tier: Some(tier), cost, accepts: any, prepare }
}

/// A convolution in integers whose filters see one channel each.
struct IntegerDepthwise {
    cpu: Cpu,
    conv: IntegerConv,
    weights: PackedDepthwise,
    /// Scale of the input times that of each filter.
    scales: Vec<f32>,
    /// Shape of the filters as the graph has them.
    weight: Vec<usize>,
    /// Whether the model was compiled for bf16, so that nothing holds it to what was trained.
    coarse: bool,
}

fn prepare(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let ChannelsLast::IntegerConv(conv) = of(node) else {
        unreachable!("the table pairs this kernel with convolutions in integers")
    };
    let tensor = module.constant(node.inputs[1]).expect("the pass takes constants only");
    let elements = tensor.elements().expect("the pass takes int8 filters only");
    let weight = tensor.shape().to_vec();
    // The missing dimension of a sequence comes first.
    let kernel = match weight[2..] {
        [rows, columns] => [rows, columns],
        _ => [1, weight[2]],
    };
    let weights = PackedDepthwise::new(elements, weight[0], kernel);
    let scales = scales(&conv.layer);
    let coarse = module.precision == Precision::Bf16;
    run(IntegerDepthwise { cpu, conv: conv.clone(), weights, scales, weight, coarse })
}

impl Kernel for IntegerDepthwise {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let sizes = conv_sizes(&self.conv.op, call.inputs[0].shape, &self.weight)?;
        let bias = bias(&call, sizes.outputs)?;
        let IntegerLinear { input, activation, .. } = self.conv.layer;
        let filters = IntegerFilters {
            weights: &self.weights,
            scales: &self.scales,
            bias,
            activation,
            coarse: self.coarse,
        };
        let x = (call.inputs[0].elements(), input.zero_point);
        let y = result(&self.conv.layer, call.output);
        channels_last::integer_depthwise(self.cpu, &sizes, x, &filters, y);
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
