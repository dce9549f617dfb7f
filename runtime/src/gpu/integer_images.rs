//! int8 images whose channels are last.

use graph::DType;
use graph::op::{Conv, Pool, PoolKind};
use kernels::Conv2d;
use kernels::gpu::{
    Buffer, Gpu, IntegerGroupFilters, Weights, greatest2d, integer_conv2d_of_groups,
    integer_linear_of_windows,
};

use super::channels_last::{expect_bias, images, within_reach};
use super::float::zeros;
use super::integer::{IntegerWeights, given_scales, output};
use super::{Call, GpuEntry, GpuKernel};
use crate::kernel::channels_last::{conv_sizes, of};
use crate::kernel::conv::slides;
use crate::kernel::expect_type;
use crate::module::{self, ChannelsLast, IntegerConv, Module, Node};

pub(super) const KERNELS: &[GpuEntry] = &[
    GpuEntry {
        name: "gpu.channels-last.integer-conv",
        operation: "ChannelsLastIntegerConv",
        prepare: prepare_dense,
    },
    GpuEntry {
        name: "gpu.channels-last.integer-depthwise",
        operation: "ChannelsLastIntegerDepthwise",
        prepare: prepare_groups,
    },
    GpuEntry {
        name: "gpu.channels-last.integer-max-pool",
        operation: "ChannelsLastPool",
        prepare: prepare_pool,
    },
];

/// A convolution in integers and its filters `[outputs, channels, taps]`.
struct Found<'m> {
    conv: &'m IntegerConv,
    elements: &'m [i8],
    /// Shape of the filters as the graph has them.
    weight: &'m [usize],
    sizes: [usize; 3],
}

fn found<'m>(module: &'m Module, node: &'m Node) -> Result<Found<'m>, String> {
    let ChannelsLast::IntegerConv(conv) = of(node) else {
        return Err("takes convolutions in integers only".to_owned());
    };
    expect_type(module, node, 0, DType::I8)?;
    let tensor = module.constant(node.inputs[1]).ok_or("takes constant filters only")?;
    let elements = tensor.elements().map_err(|error| error.to_string())?;
    let weight = tensor.shape();
    let &[outputs, channels, ref kernel @ ..] = weight else {
        return Err("takes filters of images only".to_owned());
    };
    Ok(Found { conv, elements, weight, sizes: [outputs, channels, kernel.iter().product()] })
}

/// The sizes of a launch.
fn sizes(op: &Conv, call: &Call<'_>, weight: &[usize]) -> Result<Conv2d, String> {
    let sizes = conv_sizes(op, call.inputs[0].shape, weight)?;
    within_reach(&sizes.windows)?;
    expect_bias(call, sizes.outputs)?;
    Ok(sizes)
}

struct Dense {
    op: Conv,
    filters: IntegerWeights,
    weight: Vec<usize>,
}

fn prepare_dense(gpu: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    let Found { conv, elements, weight, sizes } = found(module, node)?;
    let given = given_scales(&conv.layer)?;
    let sum = |filter: &[i8]| filter.iter().map(|&weight| i32::from(weight)).sum();
    let mut sums: Vec<i32> = elements.chunks_exact((sizes[1] * sizes[2]).max(1)).map(sum).collect();
    sums.resize(sizes[0], 0);
    let weights = Weights::integer_filters(gpu, elements, sizes);
    let filters = IntegerWeights::new(gpu, &conv.layer, given, weights, &sums);
    Ok(Box::new(Dense { op: conv.op.clone(), filters, weight: weight.to_vec() }))
}

impl GpuKernel for Dense {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let sizes = sizes(&self.op, call, &self.weight)?;
        let (x, y) = (&call.inputs[0].buffer, self.filters.output(call));
        integer_linear_of_windows(gpu, &sizes, x, &self.filters.layer(call), y);
        Ok(())
    }

    fn writes_bf16(&self) -> bool {
        self.filters.writes_bf16()
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.filters.bytes()
    }
}

struct Groups {
    op: Conv,
    layer: module::IntegerLinear,
    filters: IntegerGroupFilters,
    no_bias: Buffer,
    weight: Vec<usize>,
}

fn prepare_groups(gpu: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    const MOST: usize = IntegerGroupFilters::MOST_PRODUCTS;
    let Found { conv, elements, weight, sizes } = found(module, node)?;
    let [outputs, channels, taps] = sizes;
    let products = channels * taps;
    if products > MOST {
        return Err(format!("takes sums of at most {MOST} products, found {products}"));
    }
    let (input, scales) = given_scales(&conv.layer)?;
    Ok(Box::new(Groups {
        op: conv.op.clone(),
        layer: conv.layer.clone(),
        filters: IntegerGroupFilters::new(gpu, elements, sizes, &scales, input.zero_point),
        no_bias: zeros(gpu, outputs),
        weight: weight.to_vec(),
    }))
}

impl GpuKernel for Groups {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let sizes = sizes(&self.op, call, &self.weight)?;
        let bias = call.inputs.get(2).map_or(&self.no_bias, |bias| &bias.buffer);
        let (x, y) = (&call.inputs[0].buffer, output(&self.layer, call));
        integer_conv2d_of_groups(gpu, &sizes, x, &self.filters, bias, self.layer.activation, y);
        Ok(())
    }

    fn writes_bf16(&self) -> bool {
        self.layer.output.is_none()
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.filters.bytes() + self.no_bias.len()
    }
}

struct Greatest(Pool);

fn prepare_pool(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    expect_type(module, node, 0, DType::I8)?;
    match of(node) {
        ChannelsLast::Pool(op) if op.kind == PoolKind::Max => Ok(Box::new(Greatest(op.clone()))),
        _ => Err("takes maxima only".to_owned()),
    }
}

impl GpuKernel for Greatest {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let (batch, spatial, channels) = images(call)?;
        let slides = slides(&self.0.window, self.0.rounding, spatial)?;
        within_reach(&slides)?;
        greatest2d(gpu, [batch, channels], &slides, &call.inputs[0].buffer, &call.output);
        Ok(())
    }
}
