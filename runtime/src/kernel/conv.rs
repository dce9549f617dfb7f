//! f32 convolution of images and of sequences, alone and with an activation.

use graph::op::{Conv, Rounding, Window};
use graph::{Dim, Op};
use kernels::peaks::Numbers;
use kernels::{Activation, CONV_PARALLEL_WORK, Conv2d, Cpu, Filters, Slide, conv2d};

use super::{Call, Kernel, KernelEntry, Prepared, Scratch, elements_mut, floats, run};
use crate::cost::{Parallel, Rate};
use crate::module::{ActivatedConv, Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] =
    &[entry("conv.f32", "Conv"), entry("conv.f32", "ActivatedConv")];

const fn entry(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare }
}

pub(crate) fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    one_or_two_dimensions(&module.value(node.inputs[0]).shape)
}

/// Accepts `[batch, channels, width]` and `[batch, channels, height, width]`.
pub(super) fn one_or_two_dimensions(x: &[Dim]) -> Result<(), String> {
    match x.len() {
        3 | 4 => Ok(()),
        rank => Err(format!("takes 1 or 2 spatial dimensions, found {rank} dimensions in all")),
    }
}

/// The convolution of a node that is one, and what follows it.
pub(crate) fn activated(node: &Node) -> (Conv, Activation) {
    match &node.operation {
        Operation::Graph(Op::Conv(op)) => (op.clone(), Activation::Identity),
        Operation::Conv(ActivatedConv { op, activation }) => (op.clone(), *activation),
        _ => unreachable!("the table pairs this kernel with convolutions"),
    }
}

fn prepare(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let (op, activation) = activated(node);
    run(Convolution { cpu, op, activation })
}

/// How a window slides along height and width; sequences have height 1.
pub(crate) fn slides(
    window: &Window,
    rounding: Rounding,
    spatial: &[usize],
) -> Result<[Slide; 2], String> {
    let mut slides = [Slide::ONE; 2];
    let missing = slides.len().checked_sub(spatial.len());
    let missing = missing.ok_or("expected at most 2 spatial dimensions")?;
    for (axis, (slide, &size)) in slides[missing..].iter_mut().zip(spatial).enumerate() {
        let found = window.axis(axis, size, rounding)?;
        *slide = Slide {
            input: found.input,
            kernel: found.kernel,
            stride: found.stride,
            dilation: found.dilation,
            before: found.before,
            after: found.after,
            output: found.output,
        };
    }
    Ok(slides)
}

/// A batch for which the scratch, which stops growing, is enough for every batch.
const ANY_BATCH: usize = 1 << 10;

struct Convolution {
    cpu: Cpu,
    op: Conv,
    activation: Activation,
}

/// The sizes of a convolution of images with filters.
///
/// # Errors
/// When they do not fit.
pub(crate) fn sizes(op: &Conv, x: &[usize], weight: &[usize]) -> Result<Conv2d, String> {
    let ([batch, channels, spatial @ ..], [outputs, inner, kernel @ ..]) = (x, weight) else {
        return Err("expected images and filters".to_owned());
    };
    let groups = op.groups;
    let fits = groups > 0 && outputs.is_multiple_of(groups) && inner * groups == *channels;
    if !fits || *kernel != op.window.kernel {
        return Err(format!("{groups} groups of filters {weight:?} do not fit images {x:?}"));
    }
    Ok(Conv2d {
        batch: *batch,
        channels: *channels,
        outputs: *outputs,
        groups,
        windows: slides(&op.window, Rounding::Floor, spatial)?,
    })
}

/// The bias of a convolution that has one.
///
/// # Errors
/// When there is none for each output.
pub(super) fn bias<'a>(call: &Call<'a>, outputs: usize) -> Result<Option<&'a [f32]>, String> {
    let bias: Option<&[f32]> = call.inputs.get(2).map(|bias| bias.elements());
    match bias {
        Some(bias) if bias.len() != outputs => {
            Err(format!("expected a bias for {outputs} outputs"))
        }
        bias => Ok(bias),
    }
}

impl Convolution {
    /// Elements of scratch, when all sizes but the batch are numbers.
    fn exact(&self, x: &[Dim], weight: &[Dim]) -> Option<usize> {
        let numbers = |shape: &[Dim]| shape.iter().map(Dim::fixed).collect::<Option<Vec<_>>>();
        let (batch, image) = x.split_first()?;
        let x = [vec![batch.fixed().unwrap_or(ANY_BATCH)], numbers(image)?].concat();
        let sizes = sizes(&self.op, &x, &numbers(weight)?).ok()?;
        Some(sizes.scratch_len())
    }

    /// Elements of scratch that are enough for any images, as factors.
    fn bound(weight: &[Dim]) -> Vec<Dim> {
        let depth = weight.get(1..).unwrap_or_default();
        let fixed = depth.iter().try_fold(1usize, |product, dim| product.checked_mul(dim.fixed()?));
        match fixed {
            Some(depth) => vec![Dim::Fixed(Conv2d::scratch_bound(depth))],
            None => [&[Dim::Fixed(Conv2d::scratch_bound(1))], depth].concat(),
        }
    }
}

impl Kernel for Convolution {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let sizes = sizes(&self.op, call.inputs[0].shape, call.inputs[1].shape)?;
        let bias = bias(&call, sizes.outputs)?;
        let filters = Filters { weight: call.f32(1), bias, activation: self.activation };
        let (x, y) = (call.f32(0), elements_mut(call.output));
        conv2d(self.cpu, &sizes, x, &filters, y, elements_mut(call.scratch));
        Ok(())
    }

    /// Depthwise filters reuse nothing between channels.
    fn rate(&self) -> Rate {
        let share = if self.op.groups > 1 { 0.15 } else { 0.5 };
        let parallel = Parallel::MultiplyAdds(CONV_PARALLEL_WORK);
        Rate { numbers: Numbers::F32, share, parallel }
    }

    /// The columns that windows are laid out as, see [`Conv2d::scratch_len`].
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        let &[x, weight, ..] = inputs else { return None };
        let shape = match self.exact(x, weight) {
            Some(len) => vec![Dim::Fixed(len)],
            None => Self::bound(weight),
        };
        Some(Scratch { element_bytes: size_of::<f32>(), shape })
    }
}
