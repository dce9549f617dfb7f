//! Convolutions and pools of volumes, `[batch, channels, depth, height, width]`, by those of images.
//!
//! The filters of a convolution lie in memory as those of images that have the entries of a window
//! along the depth as further channels; so an image is laid out for every place of the windows along
//! the depth, and what follows is transposed. Constant filters are packed, for images whose channels
//! are last. Transposed convolutions have those entries as further
//! outputs, which are added where they belong. A window's greatest element and its mean are found
//! along height and width, and then along the depth.

use graph::op::{Conv, ConvTranspose, Padding, Pool, Rounding, Window};
use graph::{DType, Dim, Op};
use kernels::channels_last::PackedFilters;
use kernels::float::PackedWeights;
use kernels::peaks::Numbers;
use kernels::{
    Activation, CONV_PARALLEL_WORK, Conv2d, Cpu, Filters, Pooling, Slide, channels_last, conv2d,
    for_each_row, permute, pool2d,
};

use super::channels_last::transposed_sizes;
use super::conv::{activated, bias, sizes, slides};
use super::conv_transpose::adds_nothing_before;
use super::pool::pooling;
use super::{Call, Kernel, KernelEntry, Prepared, Scratch, elements_mut, floats, run};
use crate::cost::{Parallel, Rate};
use crate::module::{Module, Node, Operation};

/// Dimensions of a batch of volumes.
const RANK: usize = 5;

pub(super) const KERNELS: &[KernelEntry] = &[
    packed_conv("Conv"),
    packed_conv("ActivatedConv"),
    KernelEntry {
        name: "conv.volumes",
        operation: "Conv",
        tier: None,
        cost: 2,
        accepts: known_volumes,
        prepare: prepare_conv,
    },
    KernelEntry {
        name: "conv-transpose.volumes",
        operation: "ConvTranspose",
        tier: None,
        cost: 2,
        accepts: accepts_transposed,
        prepare: prepare_transposed,
    },
    pools("max-pool.volumes", "MaxPool"),
    pools("average-pool.volumes", "AveragePool"),
];

const fn packed_conv(operation: &'static str) -> KernelEntry {
    KernelEntry {
        name: "conv.packed-volumes",
        operation,
        tier: None,
        cost: 1,
        accepts: packs,
        prepare: prepare_packed,
    }
}

const fn pools(name: &'static str, operation: &'static str) -> KernelEntry {
    let (accepts, prepare) = (accepts_pool, prepare_pool);
    KernelEntry { name, operation, tier: None, cost: 2, accepts, prepare }
}

fn volumes(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    match module.value(node.inputs[0]).shape.len() {
        RANK => Ok(()),
        rank => Err(format!("takes 3 spatial dimensions, found {rank} dimensions in all")),
    }
}

/// Accepts volumes and filters whose sizes are known before they are laid out, but for the batch.
fn known_volumes(module: &Module, node: &Node) -> Result<(), String> {
    volumes(module, node)?;
    let are_known = |dims: &[Dim]| dims.iter().all(|dim| dim.fixed().is_some());
    let [x, weight] = [0, 1].map(|input| &module.value(node.inputs[input]).shape);
    if module.is_dynamic() || (are_known(&x[1..]) && are_known(weight)) {
        return Ok(());
    }
    Err("takes volumes of known sizes".to_owned())
}

fn operator(node: &Node) -> &Op {
    match &node.operation {
        Operation::Graph(op) => op,
        _ => unreachable!("the table pairs this kernel with operators of the graph"),
    }
}

/// A window along some of the axes.
fn along(window: &Window, axes: std::ops::Range<usize>) -> Window {
    let part = |list: &[usize]| list[axes.clone()].to_vec();
    Window {
        kernel: part(&window.kernel),
        strides: part(&window.strides),
        dilations: part(&window.dilations),
        padding: match &window.padding {
            Padding::Explicit { before, after } => {
                Padding::Explicit { before: part(before), after: part(after) }
            }
            same => same.clone(),
        },
    }
}

/// How a window slides along the depth.
fn depth_slide(window: &Window, rounding: Rounding, depth: usize) -> Result<Slide, String> {
    slides(window, rounding, &[depth]).map(|[_, slide]| slide)
}

/// The numbers of a shape whose sizes are known.
fn numbers(shape: &[Dim]) -> Option<[usize; RANK]> {
    let mut numbers = [0; RANK];
    for (number, dim) in numbers.iter_mut().zip(shape) {
        *number = dim.fixed()?;
    }
    (shape.len() == RANK).then_some(numbers)
}

/// The same for one entry of a batch of any size.
fn of_one(shape: &[Dim]) -> Option<[usize; RANK]> {
    let mut one = [const { Dim::Fixed(1) }; RANK];
    one[1..].clone_from_slice(shape.get(1..RANK)?);
    numbers(&one)
}

fn scratch(elements: usize) -> Scratch {
    Scratch { element_bytes: DType::F32.size_bytes(), shape: vec![Dim::Fixed(elements)] }
}

fn shape_of<const N: usize>(operand: &[usize]) -> Result<[usize; N], String> {
    operand.try_into().map_err(|_| format!("expected {N} dimensions, found {operand:?}"))
}

struct Convolution {
    cpu: Cpu,
    /// Along height and width.
    op: Conv,
    depth: Window,
}

fn prepare_conv(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let Op::Conv(op) = operator(node) else {
        unreachable!("the table pairs this kernel with convolutions")
    };
    let image = Conv { window: along(&op.window, 1..3), groups: op.groups };
    run(Convolution { cpu, op: image, depth: along(&op.window, 0..1) })
}

impl Convolution {
    /// The convolution of the images that a volume is laid out as, and how they are.
    fn sizes(
        &self,
        [_, channels, depth, height, width]: [usize; RANK],
        [outputs, inner, taps, rows, columns]: [usize; RANK],
    ) -> Result<(Conv2d, Slide), String> {
        let slide = depth_slide(&self.depth, Rounding::Floor, depth)?;
        if taps != slide.kernel {
            return Err(format!("expected a kernel {} deep, found {taps}", slide.kernel));
        }
        let image = [slide.output, channels * taps, height, width];
        let sizes = sizes(&self.op, &image, &[outputs, inner * taps, rows, columns])?;
        Ok((sizes, slide))
    }

    /// Elements of the images, of what follows from them, and of what that takes.
    fn lens(&self, conv: &Conv2d) -> [usize; 3] {
        let area = |side: fn(&Slide) -> usize| conv.windows.iter().map(side).product::<usize>();
        let images = conv.batch * conv.channels * area(|slide| slide.input);
        let results = conv.batch * conv.outputs * area(|slide| slide.output);
        [images, results, conv.scratch_len()]
    }
}

impl Kernel for Convolution {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, weight) = (shape_of(call.inputs[0].shape)?, shape_of(call.inputs[1].shape)?);
        let (sizes, slide) = self.sizes(x, weight)?;
        let bias = bias(&call, sizes.outputs)?;
        let filters = Filters { weight: call.f32(1), bias, activation: Activation::Identity };
        let (x_values, [images, results, _]) = (call.f32(0), self.lens(&sizes));
        let (laid_out, rest) = elements_mut::<f32>(call.scratch).split_at_mut(images);
        let (found, rest) = rest.split_at_mut(results);
        let plane = x[3] * x[4];
        let volume = x[1] * x[2] * plane;
        let output: &mut [f32] = elements_mut(call.output);
        // A volume without elements has results, too, where there is padding.
        for (index, y) in output.chunks_exact_mut(results.max(1)).enumerate() {
            let x = &x_values[index * volume..][..volume];
            for_each_row(laid_out, plane, |row, image| {
                let (place, entry) = (row / sizes.channels, row % slide.kernel);
                let channel = row % sizes.channels / slide.kernel;
                let padded = place * slide.stride + entry * slide.dilation;
                let from = padded.checked_sub(slide.before).filter(|&from| from < slide.input);
                match from {
                    Some(from) => {
                        let start = (channel * slide.input + from) * plane;
                        image.copy_from_slice(&x[start..][..plane]);
                    }
                    None => image.fill(0.0),
                }
            });
            conv2d(self.cpu, &sizes, laid_out, &filters, found, rest);
            let shape =
                [slide.output, sizes.outputs, results / (slide.output * sizes.outputs).max(1)];
            permute(self.cpu, found, &shape, &[1, 0, 2], y);
        }
        Ok(())
    }

    /// For one volume of a batch.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        let &[x, weight, ..] = inputs else { return None };
        let (sizes, _) = self.sizes(of_one(x)?, numbers(weight)?).ok()?;
        Some(scratch(self.lens(&sizes).iter().sum()))
    }
}

/// Accepts volumes of known sizes with constant filters of one group.
pub(crate) fn packs(module: &Module, node: &Node) -> Result<(), String> {
    known_volumes(module, node)?;
    match activated(node).0.groups {
        1 if module.constant(node.inputs[1]).is_some() => Ok(()),
        groups => Err(format!("takes constant filters of one group, found {groups}")),
    }
}

/// A convolution whose images have their channels last, so that tiles of packed filters read them.
struct Packed {
    cpu: Cpu,
    /// Along height and width.
    op: Conv,
    depth: Window,
    activation: Activation,
    filters: PackedFilters,
    /// Shape of the filters.
    weight: [usize; RANK],
    /// Whether the filters lie along the depth alone. Volumes are seen as one image each, as high as they are
    /// deep, of whose pixels each row has all of a place along the depth; so nothing has to be laid out.
    is_turned: bool,
}

fn prepare_packed(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let (op, activation) = activated(node);
    let tensor = module.constant(node.inputs[1]).expect("`accepts` saw a constant");
    let &(mut weight @ [outputs, channels, taps, ..]) =
        <&[usize; RANK]>::try_from(tensor.shape()).expect("`accepts` saw volumes");
    let elements: &[f32] = tensor.elements().expect("`accepts` saw f32 filters");
    let turned = turned(&op.window);
    let is_turned = turned.is_some();
    if is_turned {
        weight = [outputs, channels, 1, taps, 1];
    }
    let window = turned.unwrap_or_else(|| op.window.clone());
    let [_, _, taps, rows, columns] = weight;
    let mut by_tap = vec![0.0; elements.len()];
    let shape = [outputs, channels, taps, rows * columns];
    permute(cpu, elements, &shape, &[0, 2, 1, 3], &mut by_tap);
    let filters = PackedFilters::new(&by_tap, [outputs, taps * channels, rows * columns], 1);
    let image = Conv { window: along(&window, 1..3), groups: 1 };
    let depth = along(&window, 0..1);
    run(Packed { cpu, op: image, depth, activation, filters, weight, is_turned })
}

/// A window along the depth alone, of a volume that is seen as an image, see [`Packed::is_turned`].
fn turned(window: &Window) -> Option<Window> {
    let turn = |list: &[usize], other: usize| vec![other, list[0], other];
    let padding = match &window.padding {
        Padding::Explicit { before, after } if before[1..] == [0; 2] && after[1..] == [0; 2] => {
            Padding::Explicit { before: turn(before, 0), after: turn(after, 0) }
        }
        Padding::Explicit { .. } => return None,
        same => same.clone(),
    };
    let is_along_depth = window.kernel[1..] == [1; 2] && window.strides[1..] == [1; 2];
    is_along_depth.then(|| Window {
        kernel: turn(&window.kernel, 1),
        strides: turn(&window.strides, 1),
        dilations: turn(&window.dilations, 1),
        padding,
    })
}

/// Elements of what a run of [`Packed`] takes.
struct PackedLens {
    volume: usize,
    /// 0 where they are the volume as it is.
    images: usize,
    results: usize,
    scratch: usize,
}

impl Packed {
    /// The shape that volumes are seen in.
    fn seen(&self, shape: [usize; RANK]) -> [usize; RANK] {
        match shape {
            [batch, channels, depth, height, width] if self.is_turned => {
                [batch, channels, 1, depth, height * width]
            }
            shape => shape,
        }
    }

    /// The convolution of the images that a volume, as it is seen, is laid out as, and how they are.
    fn sizes(
        &self,
        [_, channels, depth, height, width]: [usize; RANK],
    ) -> Result<(Conv2d, Slide, PackedLens), String> {
        let [outputs, _, taps, rows, columns] = self.weight;
        let slide = depth_slide(&self.depth, Rounding::Floor, depth)?;
        let image = [slide.output, channels * taps, height, width];
        let weight = [outputs, self.weight[1] * taps, rows, columns];
        let sizes = sizes(&self.op, &image, &weight)?;
        let area = |side: fn(&Slide) -> usize| sizes.windows.iter().map(side).product::<usize>();
        let is_image = (slide.kernel, slide.stride, slide.output) == (1, 1, depth);
        let images = sizes.batch * sizes.channels * area(|slide| slide.input);
        let lens = PackedLens {
            volume: channels * depth * height * width,
            images: if is_image { 0 } else { images },
            results: sizes.batch * sizes.outputs * area(|slide| slide.output),
            scratch: channels_last::scratch_len(&sizes),
        };
        Ok((sizes, slide, lens))
    }
}

impl Kernel for Packed {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let x = self.seen(shape_of(call.inputs[0].shape)?);
        let (sizes, slide, lens) = self.sizes(x)?;
        let filters = channels_last::Filters {
            weight: &self.filters,
            bias: bias(&call, sizes.outputs)?,
            addend: None,
            activation: self.activation,
        };
        let (x_values, channels, plane) = (call.f32(0), x[1], x[3] * x[4]);
        let (last, rest) = elements_mut::<f32>(call.scratch).split_at_mut(lens.volume);
        let (laid_out, rest) = rest.split_at_mut(lens.images);
        let (found, rest) = rest.split_at_mut(lens.results);
        let output: &mut [f32] = elements_mut(call.output);
        // A volume without elements has results, too, where there is padding.
        for (index, y) in output.chunks_exact_mut(lens.results.max(1)).enumerate() {
            let x = &x_values[index * lens.volume..][..lens.volume];
            permute(self.cpu, x, &[channels, slide.input * plane], &[1, 0], last);
            for_each_row(laid_out, channels, |row, pixel| {
                let (entry, at) = (row % slide.kernel, row / slide.kernel);
                let (place, at) = (at / plane, at % plane);
                let padded = place * slide.stride + entry * slide.dilation;
                let from = padded.checked_sub(slide.before).filter(|&from| from < slide.input);
                match from {
                    Some(from) => {
                        pixel.copy_from_slice(&last[(from * plane + at) * channels..][..channels]);
                    }
                    None => pixel.fill(0.0),
                }
            });
            let images: &[f32] = if lens.images == 0 { last } else { laid_out };
            channels_last::conv2d(self.cpu, &sizes, images, &filters, found, rest);
            let shape = [lens.results / sizes.outputs.max(1), sizes.outputs];
            permute(self.cpu, found, &shape, &[1, 0], y);
        }
        Ok(())
    }

    fn rate(&self) -> Rate {
        let parallel = Parallel::MultiplyAdds(CONV_PARALLEL_WORK);
        Rate { numbers: Numbers::F32, share: 0.6, parallel }
    }

    /// For one volume of a batch.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        let (_, _, lens) = self.sizes(self.seen(of_one(inputs.first()?)?)).ok()?;
        let PackedLens { volume, images, results, scratch: inner } = lens;
        Some(scratch(volume + images + results + inner))
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
    /// Along height and width.
    image: ConvTranspose,
    outputs: usize,
    weights: PackedWeights,
}

fn transposed(node: &Node) -> &ConvTranspose {
    match operator(node) {
        Op::ConvTranspose(op) => op,
        _ => unreachable!("the table pairs this kernel with transposed convolutions"),
    }
}

fn accepts_transposed(module: &Module, node: &Node) -> Result<(), String> {
    known_volumes(module, node)?;
    let op = transposed(node);
    if op.groups != 1 || module.constant(node.inputs[1]).is_none() {
        return Err("takes constant filters of one group".to_owned());
    }
    adds_nothing_before(op, &module.value(node.inputs[0]).shape[2..])
}

fn prepare_transposed(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let op = transposed(node).clone();
    let tensor = module.constant(node.inputs[1]).expect("`accepts` saw a constant");
    let &[channels, outputs, taps, rows, columns] = tensor.shape() else {
        unreachable!("`accepts` saw volumes, whose filters have as many dimensions")
    };
    let image = ConvTranspose {
        window: along(&op.window, 1..3),
        output_padding: op.output_padding[1..].to_vec(),
        output_shape: op.output_shape.as_ref().map(|sizes| sizes[1..].to_vec()),
        groups: 1,
    };
    let elements = tensor.elements().expect("`accepts` saw f32 filters");
    let sizes = [channels, outputs * taps, rows * columns];
    let weights = channels_last::pack_transposed(elements, sizes);
    run(Transposed { cpu, op, image, outputs, weights })
}

impl Transposed {
    /// The transposed convolution of the images of a volume.
    fn sizes(&self, [_, channels, depth, height, width]: [usize; RANK]) -> Result<Conv2d, String> {
        let outputs = self.outputs * self.op.window.kernel[0];
        transposed_sizes(&self.image, &[depth, height, width, channels], outputs)
    }

    /// Elements of a volume, of what its images add, and of what that takes.
    fn lens(&self, conv: &Conv2d) -> [usize; 3] {
        let area = |side: fn(&Slide) -> usize| conv.windows.iter().map(side).product::<usize>();
        let volume = conv.batch * conv.outputs * area(|slide| slide.output);
        let added = conv.batch * conv.channels * area(|slide| slide.input);
        [volume, added, channels_last::transposed_scratch_len(conv)]
    }
}

impl Kernel for Transposed {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, y) = (shape_of(call.inputs[0].shape)?, shape_of::<RANK>(call.shape)?);
        let sizes = self.sizes(x)?;
        let bias = bias(&call, self.outputs)?;
        let (_, cut) = self.op.axis(0, x[2])?;
        let cut = usize::try_from(cut).map_err(|_| "what is cut is negative")?;
        let window = &self.op.window;
        let (taps, stride, dilation) = (window.kernel[0], window.strides[0], window.dilations[0]);
        let (x_values, [volume, added, _]) = (call.f32(0), self.lens(&sizes));
        let (last, rest) = elements_mut::<f32>(call.scratch).split_at_mut(volume);
        let (added, rest) = rest.split_at_mut(added);
        let plane = y[3] * y[4];
        let output: &mut [f32] = elements_mut(call.output);
        let whole = (self.outputs * y[2] * plane).max(1);
        // A volume without elements has results, too, where entries are added.
        for (index, output) in output.chunks_exact_mut(whole).enumerate() {
            let values = &x_values[index * volume..][..volume];
            permute(self.cpu, values, &[x[1], x[2], x[3] * x[4]], &[1, 2, 0], last);
            channels_last::conv_transpose2d(
                self.cpu,
                &sizes,
                last,
                &self.weights,
                None,
                added,
                rest,
            );
            for_each_row(output, plane, |row, image| {
                let (channel, place) = (row / y[2], row % y[2]);
                image.fill(bias.map_or(0.0, |bias| bias[channel]));
                for tap in 0..taps {
                    let from = (place + cut).checked_sub(tap * dilation);
                    let from =
                        from.filter(|from| from.is_multiple_of(stride) && from / stride < x[2]);
                    let Some(from) = from else { continue };
                    let columns = self.outputs * taps;
                    let pixels = added[from / stride * plane * columns..].chunks_exact(columns);
                    for (sum, pixel) in image.iter_mut().zip(pixels) {
                        *sum += pixel[channel * taps + tap];
                    }
                }
            });
        }
        Ok(())
    }

    /// For one volume of a batch.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        let sizes = self.sizes(of_one(inputs.first()?)?).ok()?;
        Some(scratch(self.lens(&sizes).iter().sum()))
    }

    fn packed_bytes(&self) -> usize {
        self.weights.size_bytes()
    }
}

struct Pools {
    cpu: Cpu,
    pooling: Pooling,
    rounding: Rounding,
    image: Window,
    depth: Window,
}

fn pool(node: &Node) -> &Pool {
    match operator(node) {
        Op::Pool(op) => op,
        _ => unreachable!("the table pairs this kernel with pools"),
    }
}

fn accepts_pool(module: &Module, node: &Node) -> Result<(), String> {
    volumes(module, node)?;
    pooling(pool(node).kind).map(|_| ())
}

fn prepare_pool(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let op = pool(node);
    let pooling = pooling(op.kind).expect("other kinds were not accepted");
    let (image, depth) = (along(&op.window, 1..3), along(&op.window, 0..1));
    run(Pools { cpu, pooling, rounding: op.rounding, image, depth })
}

impl Kernel for Pools {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [batch, channels, depth, height, width] = shape_of(call.inputs[0].shape)?;
        let image = slides(&self.image, self.rounding, &[height, width])?;
        let deep = depth_slide(&self.depth, self.rounding, depth)?;
        let pixels = image[0].output * image[1].output;
        let (x, planes) = (call.f32(0), batch * channels);
        // Of a window whose first element is NaN that is the greatest; in two steps every row would have one.
        if self.pooling == Pooling::Max && x.iter().any(|x| x.is_nan()) {
            let windows = [deep, image[0], image[1]];
            greatest_one_by_one(&windows, x, elements_mut(call.output));
            return Ok(());
        }
        let pooled: &mut [f32] = elements_mut(call.scratch);
        pool2d(self.cpu, self.pooling, planes * depth, &image, x, pooled);
        let alone = Slide { input: pixels, output: pixels, ..Slide::ONE };
        pool2d(self.cpu, self.pooling, planes, &[deep, alone], pooled, elements_mut(call.output));
        Ok(())
    }

    /// What is pooled along height and width.
    fn scratch(&self, inputs: &[&[Dim]], output: &[Dim]) -> Option<Scratch> {
        let shape = [&inputs.first()?[..3], &output[3..]].concat();
        Some(Scratch { element_bytes: DType::F32.size_bytes(), shape })
    }
}

/// The greatest element of each window of each volume, found one by one: one that is NaN where it comes
/// first, minus infinity where there is none.
fn greatest_one_by_one(windows: &[Slide; 3], x: &[f32], y: &mut [f32]) {
    let [inputs, outputs] =
        [windows.each_ref().map(|slide| slide.input), windows.each_ref().map(|slide| slide.output)];
    let volumes = x.chunks_exact(inputs.iter().product::<usize>().max(1));
    for (x, y) in volumes.zip(y.chunks_exact_mut(outputs.iter().product::<usize>().max(1))) {
        for (index, y) in y.iter_mut().enumerate() {
            let places = [
                index / outputs[2] / outputs[1],
                index / outputs[2] % outputs[1],
                index % outputs[2],
            ];
            let entries = |axis: usize| {
                let slide = windows[axis];
                (0..slide.kernel).filter_map(move |tap| {
                    let padded = places[axis] * slide.stride + tap * slide.dilation;
                    padded.checked_sub(slide.before).filter(|&entry| entry < slide.input)
                })
            };
            let inside = entries(0).flat_map(|depth| {
                entries(1).flat_map(move |row| {
                    entries(2).map(move |column| (depth * inputs[1] + row) * inputs[2] + column)
                })
            });
            let greatest = inside.map(|at| x[at]).reduce(|y, x| if x > y { x } else { y });
            *y = greatest.unwrap_or(f32::NEG_INFINITY);
        }
    }
}
