//! Convolution, pooling and scaling of images whose channels are last, in f32.

use graph::Dim;
use graph::op::{Conv, ConvTranspose, GlobalPool, Pool};
use kernels::channels_last::{self, Filters, PackedFilters, pool2d};
use kernels::float::PackedWeights;
use kernels::peaks::Numbers;
use kernels::{Activation, CONV_PARALLEL_WORK, Conv2d, Cpu, Pooling, Slide};

use super::conv::{bias, sizes, slides};
use super::pool::pooling;
use super::{Call, Kernel, KernelEntry, Prepared, Scratch, elements_mut, floats, run};
use crate::cost::{Parallel, Rate};
use crate::module::{ActivatedConv, ChannelsLast, Id, Module, Node, Operation, same_sizes};

pub(super) const KERNELS: &[KernelEntry] = &[
    KernelEntry { cost: 2, ..entry("channels-last.conv.f32", "ChannelsLastConv", prepare_conv) },
    entry("channels-last.conv-transpose.f32", "ChannelsLastConvTranspose", prepare_transposed),
    entry("channels-last.pool.f32", "ChannelsLastPool", prepare_pool),
    entry("channels-last.global-pool.f32", "ChannelsLastGlobalPool", prepare_global),
    entry("scale-shift.f32", "ScaleShift", prepare_scale),
    KernelEntry {
        accepts: accepts_image_scale,
        ..entry("channels-last.scale.bf16", "Mul", prepare_image_scale)
    },
];

const fn entry(
    name: &'static str,
    operation: &'static str,
    prepare: fn(&Module, &Node, Cpu) -> Prepared,
) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts: floats, prepare }
}

pub(crate) fn of(node: &Node) -> &ChannelsLast {
    match &node.operation {
        Operation::ChannelsLast(operation) => operation,
        _ => unreachable!("the table pairs these kernels with images whose channels are last"),
    }
}

/// Scratch of so many elements as images of a known size need, whatever their number.
pub(super) fn for_one_image(
    inputs: &[&[Dim]],
    element_bytes: usize,
    len: impl FnOnce(&[usize]) -> Result<usize, String>,
) -> Option<Scratch> {
    let (_, image) = inputs.first()?.split_first()?;
    let image = image.iter().map(Dim::fixed).collect::<Option<Vec<_>>>()?;
    let shape = vec![Dim::Fixed(len(&[&[1], &image[..]].concat()).ok()?)];
    Some(Scratch { element_bytes, shape })
}

struct Convolution {
    cpu: Cpu,
    conv: ActivatedConv,
    has_addend: bool,
    filters: PackedFilters,
    /// Shape of the filters as the graph has them.
    weight: Vec<usize>,
}

fn prepare_conv(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let ChannelsLast::Conv { conv, has_addend } = of(node) else {
        unreachable!("the table pairs this kernel with convolutions")
    };
    let tensor = module.constant(node.inputs[1]).expect("the pass takes constants only");
    let elements = tensor.elements().expect("`accepts` saw f32 filters");
    let weight = tensor.shape().to_vec();
    let taps = weight[2..].iter().product();
    let filters = PackedFilters::new(elements, [weight[0], weight[1], taps], conv.op.groups);
    run(Convolution { cpu, conv: conv.clone(), has_addend: *has_addend, filters, weight })
}

/// The sizes of a convolution of images whose channels are last with filters as the graph has them.
///
/// # Errors
/// When they do not fit.
pub(crate) fn conv_sizes(op: &Conv, x: &[usize], weight: &[usize]) -> Result<Conv2d, String> {
    let [batch, spatial @ .., channels] = x else {
        return Err("expected a batch of images".to_owned());
    };
    // The same images with channels first.
    let first = &match *spatial {
        [width] => [*batch, *channels, width, 0],
        [height, width] => [*batch, *channels, height, width],
        _ => return Err(format!("expected 1 or 2 spatial dimensions, found {x:?}")),
    }[..x.len()];
    sizes(op, first, weight)
}

impl Convolution {
    fn sizes(&self, x: &[usize]) -> Result<Conv2d, String> {
        conv_sizes(&self.conv.op, x, &self.weight)
    }
}

impl Kernel for Convolution {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let sizes = self.sizes(call.inputs[0].shape)?;
        let bias = bias(&call, sizes.outputs)?;
        let addend = self.has_addend.then(|| call.f32(3));
        let filters =
            Filters { weight: &self.filters, bias, addend, activation: self.conv.activation };
        let (x, y) = (call.f32(0), elements_mut(call.output));
        let scratch = elements_mut(call.scratch);
        channels_last::conv2d(self.cpu, &sizes, x, &filters, y, scratch);
        Ok(())
    }

    /// Filters of one channel reuse nothing between channels.
    fn rate(&self) -> Rate {
        let share = if self.weight.get(1) == Some(&1) { 0.1 } else { 0.8 };
        let parallel = Parallel::MultiplyAdds(CONV_PARALLEL_WORK);
        Rate { numbers: Numbers::F32, share, parallel }
    }

    /// An image and its padding.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        for_one_image(inputs, size_of::<f32>(), |x| {
            self.sizes(x).map(|sizes| channels_last::scratch_len(&sizes))
        })
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.filters.size_bytes()
    }
}

struct Transposed {
    cpu: Cpu,
    op: ConvTranspose,
    weights: PackedWeights,
}

fn prepare_transposed(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let ChannelsLast::ConvTranspose(op) = of(node) else {
        unreachable!("the table pairs this kernel with transposed convolutions")
    };
    let tensor = module.constant(node.inputs[1]).expect("the pass takes constants only");
    let elements = tensor.elements().expect("`accepts` saw f32 filters");
    let shape = tensor.shape();
    let sizes = [shape[0], shape[1], shape[2..].iter().product()];
    let weights = channels_last::pack_transposed(elements, sizes);
    run(Transposed { cpu, op: op.clone(), weights })
}

/// The convolution whose transpose a transposed convolution to so many outputs is.
///
/// # Errors
/// When the sizes do not fit.
pub(crate) fn transposed_sizes(
    op: &ConvTranspose,
    x: &[usize],
    outputs: usize,
) -> Result<Conv2d, String> {
    let [batch, spatial @ .., channels] = x else {
        return Err("expected a batch of images".to_owned());
    };
    let window = &op.window;
    let mut windows = [Slide::ONE; 2];
    let missing = windows.len().checked_sub(spatial.len());
    let missing = missing.ok_or("expected at most 2 spatial dimensions")?;
    for (axis, (slide, &size)) in windows[missing..].iter_mut().zip(spatial).enumerate() {
        let (output, cut) = op.axis(axis, size)?;
        let before = usize::try_from(cut).map_err(|_| "what is cut is negative")?;
        *slide = Slide {
            input: output,
            kernel: window.kernel[axis],
            stride: window.strides[axis],
            dilation: window.dilations[axis],
            before,
            after: 0,
            output: size,
        };
    }
    Ok(Conv2d { batch: *batch, channels: outputs, outputs: *channels, groups: 1, windows })
}

impl Transposed {
    fn sizes(&self, x: &[usize]) -> Result<Conv2d, String> {
        let taps: usize = self.op.window.kernel.iter().product();
        transposed_sizes(&self.op, x, self.weights.outputs() / taps.max(1))
    }
}

impl Kernel for Transposed {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let sizes = self.sizes(call.inputs[0].shape)?;
        let bias = call.inputs.get(2).map(|bias| bias.elements());
        let (x, y) = (call.f32(0), elements_mut(call.output));
        let scratch = elements_mut(call.scratch);
        channels_last::conv_transpose2d(self.cpu, &sizes, x, &self.weights, bias, y, scratch);
        Ok(())
    }

    fn rate(&self) -> Rate {
        let parallel = Parallel::MultiplyAdds(CONV_PARALLEL_WORK);
        Rate { numbers: Numbers::F32, share: 0.3, parallel }
    }

    /// What every pixel adds.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        for_one_image(inputs, size_of::<f32>(), |x| {
            self.sizes(x).map(|sizes| channels_last::transposed_scratch_len(&sizes))
        })
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.weights.size_bytes()
    }
}

/// Whether the images that are an input, and the output, lie in memory as bf16.
fn as_bf16(module: &Module, node: &Node, input: usize) -> [bool; 2] {
    [node.inputs[input], node.output].map(|id| module.value(id).as_bf16)
}

/// Evaluates what is done with the elements of images and of what becomes of them, of whichever types
/// they are.
macro_rules! on_elements {
    ($as_bf16:expr, $images:expr, $output:expr, |$x:ident, $y:ident| $body:expr) => {
        match $as_bf16 {
            [false, false] => on_elements!($images.elements::<f32>(), $output, f32, $x, $y, $body),
            [false, true] => on_elements!($images.elements::<f32>(), $output, u16, $x, $y, $body),
            [true, false] => on_elements!($images.bf16(), $output, f32, $x, $y, $body),
            [true, true] => on_elements!($images.bf16(), $output, u16, $x, $y, $body),
        }
    };
    ($images:expr, $output:expr, $type:ty, $x:ident, $y:ident, $body:expr) => {{
        let ($x, $y) = ($images, elements_mut::<$type>($output));
        $body
    }};
}

struct Windows {
    cpu: Cpu,
    op: Pool,
    pooling: Pooling,
    /// Whether the images, and what becomes of them, lie in memory as bf16.
    as_bf16: [bool; 2],
}

fn prepare_pool(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let ChannelsLast::Pool(op) = of(node) else {
        unreachable!("the table pairs this kernel with pools")
    };
    let pooling = pooling(op.kind).expect("the pass takes no other kinds");
    run(Windows { cpu, op: op.clone(), pooling, as_bf16: as_bf16(module, node, 0) })
}

impl Kernel for Windows {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [batch, spatial @ .., channels] = call.inputs[0].shape else {
            return Err("expected a batch of images".to_owned());
        };
        let slides = slides(&self.op.window, self.op.rounding, spatial)?;
        let (cpu, pooling, sizes) = (self.cpu, self.pooling, [*batch, *channels]);
        on_elements!(self.as_bf16, call.inputs[0], call.output, |x, y| {
            pool2d(cpu, pooling, sizes, &slides, x, y);
        });
        Ok(())
    }
}

struct Images {
    cpu: Cpu,
    pooling: Pooling,
    /// Whether they lie in memory as bf16.
    reads_bf16: bool,
}

fn prepare_global(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let reads_bf16 = module.value(node.inputs[0]).as_bf16;
    run(Images { cpu, pooling: global_pooling(node), reads_bf16 })
}

/// What a pool over whole images makes of them.
pub(crate) fn global_pooling(node: &Node) -> Pooling {
    match of(node) {
        ChannelsLast::GlobalPool(GlobalPool::Max) => Pooling::Max,
        _ => Pooling::Average,
    }
}

impl Kernel for Images {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [batch, spatial @ .., channels] = call.inputs[0].shape else {
            return Err("expected a batch of images".to_owned());
        };
        let sizes = [*batch, spatial.iter().product(), *channels];
        let (x, y) = (&call.inputs[0], elements_mut(call.output));
        if self.reads_bf16 {
            channels_last::global_pool(self.cpu, self.pooling, sizes, x.bf16(), y);
        } else {
            channels_last::global_pool::<f32>(self.cpu, self.pooling, sizes, x.elements(), y);
        }
        Ok(())
    }
}

struct Scale {
    cpu: Cpu,
    activation: Activation,
    /// Whether the images, and what becomes of them, lie in memory as bf16.
    as_bf16: [bool; 2],
}

fn prepare_scale(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let ChannelsLast::ScaleShift { activation } = *of(node) else {
        unreachable!("the table pairs this kernel with factors and summands")
    };
    run(Scale { cpu, activation, as_bf16: as_bf16(module, node, 0) })
}

impl Kernel for Scale {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [scale, shift] = [1, 2].map(|input| call.f32(input));
        if [scale.len(), shift.len()].map(Some) != [call.shape.last().copied(); 2] {
            return Err(format!("expected a factor and a summand for each of {:?}", call.shape));
        }
        let Self { cpu, activation, as_bf16 } = *self;
        on_elements!(as_bf16, call.inputs[0], call.output, |x, y| {
            channels_last::scale_shift(cpu, x, scale, shift, activation, y);
        });
        Ok(())
    }
}

/// The images among the inputs of a product of such with a factor for each image and channel: which of
/// the two they are.
pub(crate) fn scaled_images(module: &Module, node: &Node) -> Option<usize> {
    let [a, b] = *node.inputs.as_slice() else { return None };
    let is_scaled = |images: Id, factors: Id| {
        let mut shape = module.value(images).shape.clone();
        let pixels = shape.len().saturating_sub(1);
        let spatial = shape.get_mut(1..pixels).unwrap_or_default();
        spatial.fill(Dim::Fixed(1));
        !spatial.is_empty() && same_sizes(&shape, &module.value(factors).shape)
    };
    [(a, b), (b, a)].iter().position(|&(images, factors)| is_scaled(images, factors))
}

struct ImageScale {
    cpu: Cpu,
    images: usize,
    as_bf16: [bool; 2],
}

fn accepts_image_scale(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    let images = scaled_images(module, node).ok_or("takes images and a factor for each channel")?;
    match as_bf16(module, node, images) {
        [false, false] => Err("takes or writes images that lie in memory as bf16".to_owned()),
        _ => Ok(()),
    }
}

fn prepare_image_scale(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let images = scaled_images(module, node).expect("`accepts` saw images");
    run(ImageScale { cpu, images, as_bf16: as_bf16(module, node, images) })
}

impl Kernel for ImageScale {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (cpu, scale) = (self.cpu, call.f32(1 - self.images));
        let [batch, spatial @ .., channels] = call.shape else {
            return Err("expected a batch of images".to_owned());
        };
        let sizes = [*batch, spatial.iter().product(), *channels];
        on_elements!(self.as_bf16, call.inputs[self.images], call.output, |x, y| {
            channels_last::scale_images(cpu, sizes, x, scale, y);
        });
        Ok(())
    }
}
