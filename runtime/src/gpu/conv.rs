//! Convolutions.

use graph::Dim;
use graph::op::Conv;
use kernels::Activation;
use kernels::gpu::{Buffer, Filters, Gpu, conv2d};

use super::channels_last::within_reach;
use super::float::zeros;
use super::{Call, GpuEntry, GpuKernel};
use crate::kernel::conv::{accepts, activated, sizes};
use crate::module::{Module, Node};

pub(super) const KERNELS: &[GpuEntry] = &[
    GpuEntry { name: "gpu.conv", operation: "Conv", prepare },
    GpuEntry { name: "gpu.conv", operation: "ActivatedConv", prepare },
];

struct Convolution {
    op: Conv,
    activation: Activation,
    no_bias: Buffer,
}

fn prepare(gpu: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    accepts(module, node)?;
    let (op, activation) = activated(node);
    let outputs = module.value(node.inputs[1]).shape.first().and_then(Dim::fixed);
    let outputs = outputs.ok_or("takes a known number of filters only")?;
    Ok(Box::new(Convolution { op, activation, no_bias: zeros(gpu, outputs) }))
}

impl GpuKernel for Convolution {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let [x, weight] = [0, 1].map(|input| &call.inputs[input]);
        let sizes = sizes(&self.op, x.shape, weight.shape)?;
        within_reach(&sizes.windows)?;
        let bias = call.inputs.get(2).map_or(&self.no_bias, |bias| &bias.buffer);
        if bias.len() != sizes.outputs * size_of::<f32>() {
            return Err(format!("expected a bias for {} outputs", sizes.outputs));
        }
        let filters = Filters { weight: &weight.buffer, bias, activation: self.activation };
        conv2d(gpu, &sizes, &x.buffer, &filters, &call.output);
        Ok(())
    }

    fn packed_bytes(&self) -> usize {
        self.no_bias.len()
    }
}
