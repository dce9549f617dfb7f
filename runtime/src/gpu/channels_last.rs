//! Images whose channels are last, and images of another size.

use graph::DType;
use graph::op::{Conv, ConvTranspose, Pool};
use kernels::gpu::{
    Buffer, Gpu, GroupFilters, Layer, Samples, TransposedFilters, Weights, conv_transpose2d,
    conv2d_of_groups, global_pool, linear_of_windows, pool2d, resample, scale_shift,
};
use kernels::{Activation, Pooling, Sample, Slide};

use super::float::zeros;
use super::{Call, GpuEntry, GpuKernel, Prepare};
use crate::compile::Precision;
use crate::kernel::channels_last::{conv_sizes, global_pooling, of, transposed_sizes};
use crate::kernel::conv::slides;
use crate::kernel::pool::pooling;
use crate::kernel::resize::{Step, steps};
use crate::kernel::{expect_type, floats};
use crate::module::{ActivatedConv, ChannelsLast, Module, Node};

const fn entry(name: &'static str, operation: &'static str, prepare: Prepare) -> GpuEntry {
    GpuEntry { name, operation, prepare }
}

pub(super) const KERNELS: &[GpuEntry] = &[
    entry("gpu.channels-last.conv", "ChannelsLastConv", prepare_conv),
    entry("gpu.channels-last.conv-transpose", "ChannelsLastConvTranspose", prepare_transposed),
    entry("gpu.channels-last.pool", "ChannelsLastPool", prepare_pool),
    entry("gpu.channels-last.global-pool", "ChannelsLastGlobalPool", prepare_global),
    entry("gpu.scale-shift", "ScaleShift", prepare_scale),
    entry("gpu.resize", "Resize", prepare_resize),
];

/// Accepts windows whose places, padding and all, a GPU can count.
pub(super) fn within_reach(windows: &[Slide; 2]) -> Result<(), String> {
    const MOST: usize = 1 << 30;
    let reach = |slide: &Slide| {
        let span = slide.kernel.saturating_mul(slide.dilation);
        let places = slide.output.saturating_mul(slide.stride).saturating_add(span);
        places.saturating_add(slide.before).saturating_add(slide.input).saturating_add(slide.after)
    };
    match windows.iter().find(|slide| reach(slide) > MOST) {
        Some(slide) => Err(format!("takes windows that reach {MOST} places, found {slide:?}")),
        None => Ok(()),
    }
}

/// Fails on a bias of another length.
pub(super) fn expect_bias(call: &Call<'_>, outputs: usize) -> Result<(), String> {
    match call.inputs.get(2).map(|bias| bias.shape.iter().product::<usize>()) {
        Some(bias) if bias != outputs => Err(format!("expected a bias for {outputs} outputs")),
        _ => Ok(()),
    }
}

/// The images that a call reads: how many, their sizes, their channels.
pub(super) fn images<'a>(call: &Call<'a>) -> Result<(usize, &'a [usize], usize), String> {
    match call.inputs[0].shape {
        [batch, spatial @ .., channels] => Ok((*batch, spatial, *channels)),
        _ => Err("expected a batch of images".to_owned()),
    }
}

/// A constant's shape and elements.
fn constant<'m>(
    module: &'m Module,
    node: &Node,
    input: usize,
) -> Result<(&'m [usize], &'m [f32]), String> {
    expect_type(module, node, input, DType::F32)?;
    let tensor = module.constant(node.inputs[input]).ok_or("takes constant filters only")?;
    Ok((tensor.shape(), tensor.elements().map_err(|error| error.to_string())?))
}

/// The constant bias of a node that has one.
fn constant_bias<'m>(module: &'m Module, node: &Node) -> Result<Option<&'m [f32]>, String> {
    let bias = node.inputs.get(2).map(|_| constant(module, node, 2)).transpose()?;
    Ok(bias.map(|(_, elements)| elements))
}

/// Filters on the device: of one group, or of several.
enum Filters {
    Dense { weights: Weights, no_bias: Buffer },
    Groups(GroupFilters),
}

struct Convolution {
    op: Conv,
    activation: Activation,
    has_addend: bool,
    filters: Filters,
    /// Shape of the filters as the graph has them.
    weight: Vec<usize>,
    in_bf16: bool,
}

fn prepare_conv(gpu: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    let ChannelsLast::Conv { conv, has_addend } = of(node) else {
        return Err("takes convolutions only".to_owned());
    };
    let ActivatedConv { op, activation } = conv.clone();
    let (shape, elements) = constant(module, node, 1)?;
    let &[outputs, channels, ref kernel @ ..] = shape else {
        return Err("takes filters of images only".to_owned());
    };
    let sizes = [outputs, channels, kernel.iter().product()];
    let in_bf16 = module.precision == Precision::Bf16;
    let filters = if op.groups == 1 {
        let weights = Weights::filters(gpu, elements, sizes, in_bf16);
        Filters::Dense { weights, no_bias: zeros(gpu, outputs) }
    } else {
        let bias = constant_bias(module, node)?;
        Filters::Groups(GroupFilters::new(gpu, elements, sizes, bias, in_bf16))
    };
    let (has_addend, weight) = (*has_addend, shape.to_vec());
    Ok(Box::new(Convolution { op, activation, has_addend, filters, weight, in_bf16 }))
}

impl GpuKernel for Convolution {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let x = &call.inputs[0];
        let sizes = conv_sizes(&self.op, x.shape, &self.weight)?;
        within_reach(&sizes.windows)?;
        expect_bias(call, sizes.outputs)?;
        let addend = self.has_addend.then(|| &call.inputs[3].buffer);
        let activation = self.activation;
        let (x, y) = (x.floats(), call.floats());
        match &self.filters {
            Filters::Dense { weights, no_bias } => {
                let bias = call.inputs.get(2).map_or(no_bias, |bias| &bias.buffer);
                let layer = Layer { weights, bias, activation };
                linear_of_windows(gpu, &sizes, x, &layer, addend, y);
            }
            Filters::Groups(filters) => {
                conv2d_of_groups(gpu, &sizes, x, filters, activation, addend, y);
            }
        }
        Ok(())
    }

    fn reads_bf16(&self, input: usize) -> bool {
        input == 0
            && match &self.filters {
                Filters::Dense { weights, .. } => weights.reads_bf16(),
                Filters::Groups(_) => self.in_bf16,
            }
    }

    fn writes_bf16(&self) -> bool {
        match &self.filters {
            Filters::Dense { weights, .. } => weights.writes_bf16(),
            Filters::Groups(_) => true,
        }
    }

    fn writes_both(&self) -> bool {
        matches!(&self.filters, Filters::Dense { weights, .. } if weights.writes_bf16())
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        match &self.filters {
            Filters::Dense { weights, no_bias } => weights.bytes() + no_bias.len(),
            Filters::Groups(filters) => filters.bytes(),
        }
    }
}

struct Transposed {
    op: ConvTranspose,
    filters: TransposedFilters,
    outputs: usize,
}

fn prepare_transposed(
    gpu: &Gpu,
    module: &Module,
    node: &Node,
) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    let ChannelsLast::ConvTranspose(op) = of(node) else {
        return Err("takes transposed convolutions only".to_owned());
    };
    let (shape, elements) = constant(module, node, 1)?;
    let &[channels, outputs, ref kernel @ ..] = shape else {
        return Err("takes filters of images only".to_owned());
    };
    let sizes = [channels, outputs, kernel.iter().product()];
    let filters = TransposedFilters::new(gpu, elements, sizes, constant_bias(module, node)?);
    Ok(Box::new(Transposed { op: op.clone(), filters, outputs }))
}

impl GpuKernel for Transposed {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let x = &call.inputs[0];
        let sizes = transposed_sizes(&self.op, x.shape, self.outputs)?;
        within_reach(&sizes.windows)?;
        conv_transpose2d(gpu, &sizes, &x.buffer, &self.filters, &call.output);
        Ok(())
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.filters.bytes()
    }
}

struct Windows {
    op: Pool,
    pooling: Pooling,
}

fn prepare_pool(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    let ChannelsLast::Pool(op) = of(node) else { return Err("takes pools only".to_owned()) };
    Ok(Box::new(Windows { op: op.clone(), pooling: pooling(op.kind)? }))
}

impl GpuKernel for Windows {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let (batch, spatial, channels) = images(call)?;
        let slides = slides(&self.op.window, self.op.rounding, spatial)?;
        within_reach(&slides)?;
        let (x, y) = (&call.inputs[0].buffer, &call.output);
        pool2d(gpu, self.pooling, [batch, channels], &slides, x, y);
        Ok(())
    }
}

struct Images(Pooling);

fn prepare_global(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    Ok(Box::new(Images(global_pooling(node))))
}

impl GpuKernel for Images {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let (batch, spatial, channels) = images(call)?;
        let sizes = [batch, spatial.iter().product(), channels];
        global_pool(gpu, self.0, sizes, &call.inputs[0].buffer, &call.output);
        Ok(())
    }
}

struct Scale(Activation);

fn prepare_scale(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    match of(node) {
        ChannelsLast::ScaleShift { activation } => Ok(Box::new(Scale(*activation))),
        _ => Err("takes factors and summands only".to_owned()),
    }
}

impl GpuKernel for Scale {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let [x, scale, shift] = [0, 1, 2].map(|input| &call.inputs[input].buffer);
        let channels = call.shape.last().map(|channels| channels * size_of::<f32>());
        if [scale, shift].map(|buffer| Some(buffer.len())) != [channels; 2] {
            return Err(format!("expected a factor and a summand for each of {:?}", call.shape));
        }
        scale_shift(gpu, x, [scale, shift], self.0, &call.output);
        Ok(())
    }
}

struct Resizing {
    /// The first that changes.
    axis: usize,
    /// How many do, neighbours.
    dims: usize,
    /// Of a second that is not there, its one entry is left.
    samples: [Samples; 2],
}

fn prepare_resize(gpu: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    let same = [Sample::Weighted(vec![(0, 1.0)])];
    let steps = steps(module, node)?;
    let (axis, samples) = match steps.as_slice() {
        [Step { axis, samples }] => (*axis, [samples.as_slice(), &same]),
        [first, second] if first.axis + 1 == second.axis => {
            (first.axis, [&first.samples[..], &second.samples[..]])
        }
        _ => return Err("takes neighbouring dimensions only".to_owned()),
    };
    let samples = samples.map(|samples| Samples::new(gpu, samples));
    Ok(Box::new(Resizing { axis, dims: steps.len(), samples }))
}

impl GpuKernel for Resizing {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let x = &call.inputs[0];
        let (outer, rest) = x.shape.split_at(self.axis);
        let (changing, inner) = rest.split_at(self.dims);
        let second = changing.get(1).copied().unwrap_or(1);
        let size = [outer.iter().product(), changing[0], second, inner.iter().product()];
        let [first, second] = &self.samples;
        resample(gpu, &x.buffer, size, [first, second], &call.output);
        Ok(())
    }

    fn packed_bytes(&self) -> usize {
        self.samples.iter().map(Samples::bytes).sum()
    }
}
