//! Models of images: convolution with what fuses into it, pooling, and a block of each kind.

use graph::op::{
    AspectRatio, AveragePadding, BatchNorm, Clip, Concat, Conv, ConvTranspose, Coordinates,
    Dequantize, GlobalPool, Interpolation, Nearest, Outside, Padding, Pool, PoolKind, Reduce,
    ReduceKind, Reshape, Resize, Rounding, Transpose, Unary, Window,
};
use graph::{Dim, Graph, Op, Tensor, ValueId};
use kernels::{Cpu, Tier};
use runtime::{CompileOptions, CompiledModel, Level, Precision, compile};

use crate::passes::check_pass;
use crate::{Sketch, check, floats, numbers, options, run};

/// f32 sums of a few hundred products in another order.
const FLOAT: f32 = 1e-4;

pub(crate) fn window(kernel: &[usize], stride: usize, pad: usize) -> Window {
    let each = |number: usize| vec![number; kernel.len()];
    Window {
        kernel: kernel.to_vec(),
        strides: each(stride),
        dilations: each(1),
        padding: Padding::Explicit { before: each(pad), after: each(pad) },
    }
}

/// A convolution with 3×3 weights of its own.
pub(crate) fn conv(
    sketch: &mut Sketch,
    x: ValueId,
    [channels, outputs, groups]: [usize; 3],
    stride: usize,
) -> ValueId {
    let weight = numbers(&[outputs, channels / groups, 3, 3], outputs as u64, 0.3);
    let weight = sketch.weight(weight);
    sketch.node(Op::Conv(Conv { window: window(&[3, 3], stride, 1), groups }), &[x, weight])
}

pub(crate) fn batch_norm(sketch: &mut Sketch, x: ValueId, channels: usize) -> ValueId {
    let parameters = [11, 12, 13].map(|seed| sketch.weight(numbers(&[channels], seed, 1.0)));
    let variance = Tensor::from_fn(&[channels], |index| 0.5 + index as f32 / 8.0);
    let variance = sketch.weight(variance);
    let [scale, bias, mean] = parameters;
    sketch.node(Op::BatchNorm(BatchNorm { epsilon: 1e-3 }), &[x, scale, bias, mean, variance])
}

pub(crate) fn images(batch: usize, channels: usize, size: usize) -> [(&'static str, Tensor); 1] {
    [("x", numbers(&[batch, channels, size, size + 1], 7, 1.0))]
}

pub(crate) fn sketch(channels: usize, size: usize) -> (Sketch, ValueId) {
    Sketch::shaped(vec![Dim::symbol("batch"), channels.into(), size.into(), (size + 1).into()])
}

/// The kernels that run.
pub(crate) fn kernels(model: &CompiledModel) -> Vec<&str> {
    model.explain().nodes.iter().map(|node| node.kernel.as_str()).collect()
}

/// Those of a convolution alone, whose channels are last.
const ALONE: [&str; 3] = ["transpose.f32", "channels-last.conv.f32", "transpose.f32"];

/// A residual block and a separable one, then a classifier.
pub(crate) fn network() -> Graph {
    let (mut sketch, x) = sketch(3, 12);
    let stem = conv(&mut sketch, x, [3, 8, 1], 2);
    let stem = batch_norm(&mut sketch, stem, 8);
    let stem = sketch.node(Op::Relu, &[stem]);
    let pool =
        Pool { kind: PoolKind::Max, window: window(&[3, 3], 1, 1), rounding: Rounding::Floor };
    let pooled = sketch.node(Op::Pool(pool), &[stem]);
    let inner = conv(&mut sketch, pooled, [8, 8, 1], 1);
    let inner = batch_norm(&mut sketch, inner, 8);
    let inner = sketch.node(Op::Relu, &[inner]);
    let inner = conv(&mut sketch, inner, [8, 8, 2], 1);
    let inner = batch_norm(&mut sketch, inner, 8);
    let sum = sketch.node(Op::Add, &[inner, pooled]);
    let sum = sketch.node(Op::Relu, &[sum]);
    let depthwise = conv(&mut sketch, sum, [8, 8, 8], 1);
    let depthwise = batch_norm(&mut sketch, depthwise, 8);
    let bounds = [0.0, 6.0].map(|bound: f32| sketch.weight(Tensor::scalar(bound)));
    let clip = Op::Clip(Clip { low: true, high: true });
    let depthwise = sketch.node(clip, &[depthwise, bounds[0], bounds[1]]);
    let weight = sketch.weight(numbers(&[12, 8, 1, 1], 5, 0.5));
    let bias = sketch.weight(numbers(&[12], 6, 0.5));
    let pointwise = Op::Conv(Conv { window: window(&[1, 1], 1, 0), groups: 1 });
    let pointwise = sketch.node(pointwise, &[depthwise, weight, bias]);
    let all = sketch.node(Op::Concat(Concat { axis: 1 }), &[pointwise, sum]);
    let mean = sketch.node(Op::GlobalPool(GlobalPool::Average), &[all]);
    let rows = sketch.node(Op::Reshape(Reshape { shape: vec![0, 20] }), &[mean]);
    let head = sketch.weight(numbers(&[20, 5], 9, 0.5));
    let bias = sketch.weight(numbers(&[5], 10, 0.5));
    let logits = sketch.node(Op::MatMul, &[rows, head]);
    let logits = sketch.node(Op::Add, &[logits, bias]);
    sketch.finish(&[logits])
}

#[test]
fn a_small_network_answers_the_same_at_every_level() {
    for batch in [1, 3] {
        let model = check(&network(), &images(batch, 3, 12), FLOAT);
        assert!(!kernels(&model).contains(&"reference"), "{:?}", kernels(&model));
        assert!(!kernels(&model).contains(&"batch-norm.f32"), "{:?}", kernels(&model));
        let activations = kernels(&model).into_iter().filter(|kernel| *kernel == "relu.f32");
        assert_eq!(activations.count(), 1, "that of the sum, since groups of 4 stay");
    }
}

/// What is pooled, added to and filtered channel by channel between convolutions of all channels.
fn residual() -> Graph {
    let (mut sketch, x) = sketch(3, 12);
    let stem = conv(&mut sketch, x, [3, 8, 1], 1);
    let stem = sketch.node(Op::Relu, &[stem]);
    let pool =
        Pool { kind: PoolKind::Max, window: window(&[3, 3], 2, 1), rounding: Rounding::Floor };
    let pooled = sketch.node(Op::Pool(pool), &[stem]);
    let inner = conv(&mut sketch, pooled, [8, 8, 8], 1);
    let inner = sketch.node(Op::Relu, &[inner]);
    let inner = conv(&mut sketch, inner, [8, 8, 1], 1);
    let sum = sketch.node(Op::Add, &[inner, pooled]);
    let last = conv(&mut sketch, sum, [8, 16, 1], 1);
    let mean = sketch.node(Op::GlobalPool(GlobalPool::Average), &[last]);
    sketch.finish(&[mean])
}

/// What is put together, shuffled, and scaled by channel between convolutions of groups.
fn shuffled() -> Graph {
    let (mut sketch, x) = sketch(3, 12);
    let stem = conv(&mut sketch, x, [3, 8, 1], 1);
    let branches = [0, 1].map(|_| conv(&mut sketch, stem, [8, 8, 2], 1));
    let all = sketch.node(Op::Concat(Concat { axis: 1 }), &branches);
    let all = sketch.node(Op::Relu, &[all]);
    let split = sketch.node(Op::Reshape(Reshape { shape: vec![-1, 2, 8, 12, 13] }), &[all]);
    let swap = Transpose { permutation: vec![0, 2, 1, 3, 4] };
    let swapped = sketch.node(Op::Transpose(swap), &[split]);
    let all = sketch.node(Op::Reshape(Reshape { shape: vec![-1, 16, 12, 13] }), &[swapped]);
    let all = conv(&mut sketch, all, [16, 16, 16], 1);
    let mean = Reduce {
        kind: ReduceKind::Mean,
        axes: Some(vec![2, 3]),
        keep_dims: true,
        empty_means_none: false,
    };
    let mean = sketch.node(Op::Reduce(mean), &[all]);
    let gate = sketch.node(Op::Unary(Unary::Sigmoid), &[mean]);
    let scaled = sketch.node(Op::Mul, &[gate, all]);
    let last = conv(&mut sketch, scaled, [16, 16, 2], 1);
    let mean = sketch.node(Op::GlobalPool(GlobalPool::Average), &[last]);
    sketch.finish(&[mean])
}

/// What a convolution reads, adds and writes is bf16 where all who read it know such images.
#[test]
fn convolutions_in_bf16() {
    let tiers = || Tier::ALL.into_iter().filter(|tier| tier.is_available());
    // Of the stem, the pool, the filters of single channels and the sum; what shuffles them are three nodes.
    for (graph, convolutions, narrow) in [(network(), 5, 4), (residual(), 4, 4), (shuffled(), 4, 8)]
    {
        tiers().for_each(|tier| check_bf16(&graph, tier, [convolutions, narrow]));
    }
}

fn check_bf16(graph: &Graph, tier: Tier, [convolutions, images_in_bf16]: [usize; 2]) {
    let precision = Precision::Bf16;
    let options = |level| CompileOptions { precision, tier: Some(tier), ..options(level) };
    let model = compile(graph, &options(Level::O3)).unwrap();
    let count = |kernel| kernels(&model).into_iter().filter(|name| *name == kernel).count();
    let in_bf16 = Cpu::with_tier(tier).unwrap().multiplies_bf16();
    let expected = if in_bf16 { convolutions } else { 0 };
    assert_eq!(count("channels-last.conv.bf16"), expected, "{tier}");
    let narrow = model.explain().nodes.iter().filter(|node| node.output.starts_with("bf16"));
    assert_eq!(narrow.count(), if in_bf16 { images_in_bf16 } else { 0 }, "{tier}");

    let whole =
        CompileOptions { disabled_passes: vec!["slice-batch".to_owned()], ..options(Level::O3) };
    let whole = compile(graph, &whole).unwrap();
    for batch in [1, 3, 9] {
        let inputs = images(batch, 3, 12);
        let found = &run(&model, &inputs)[0];
        assert_eq!(found, &run(&whole, &inputs)[0], "{tier}: slices");
        let expected = &graph::reference::evaluate(graph, &inputs).unwrap()[0];
        let most = floats(expected).iter().fold(0f32, |most, y| most.max(y.abs()));
        for (found, expected) in floats(found).iter().zip(floats(expected)) {
            assert!((found - expected).abs() < 0.02 * most, "{tier}: {found} for {expected}");
        }
    }
}

#[test]
fn batch_norm_goes_into_weights_and_bias() {
    for groups in [1, 2] {
        let (mut sketch, x) = sketch(4, 5);
        let y = conv(&mut sketch, x, [4, 6, groups], 1);
        let y = batch_norm(&mut sketch, y, 6);
        let y = batch_norm(&mut sketch, y, 6);
        let y = sketch.node(Op::Relu, &[y]);
        let graph = sketch.finish(&[y]);
        check_pass(&graph, &images(2, 4, 5), "batch-norm", 2);
        check_pass(&graph, &images(2, 4, 5), "conv-activation", 1);
        let model = compile(&graph, &options(Level::O3)).unwrap();
        // Groups of 3 filters are fewer than a panel is worth.
        let expected: &[&str] = if groups == 1 { &ALONE } else { &["conv.f32"] };
        assert_eq!(kernels(&model), expected);
        let position = kernels(&model).iter().position(|kernel| kernel.contains("conv")).unwrap();
        assert_eq!(
            model.explain().nodes[position].fused_from,
            ["node0", "node1", "node2", "node3"]
        );
    }
}

/// What is applied to each element of a convolution, as exporters write it.
#[test]
fn activations_of_image_networks_go_into_the_convolution() {
    type Build = fn(&mut Sketch, ValueId) -> ValueId;
    let relu6: Build = |sketch, x| {
        let [low, high] = [0f32, 6.0].map(|bound| sketch.weight(Tensor::scalar(bound)));
        sketch.node(Op::Clip(Clip { low: true, high: true }), &[x, low, high])
    };
    let silu: Build = |sketch, x| {
        let gate = sketch.node(Op::Unary(Unary::Sigmoid), &[x]);
        sketch.node(Op::Mul, &[gate, x])
    };
    let hard_swish: Build = |sketch, x| {
        let gate = Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };
        let gate = sketch.node(Op::Unary(gate), &[x]);
        sketch.node(Op::Mul, &[x, gate])
    };
    let clipped: Build = |sketch, x| {
        let [three, low, high] = [3f32, 0.0, 6.0].map(|n| sketch.weight(Tensor::scalar(n)));
        let sum = sketch.node(Op::Add, &[x, three]);
        let gate = sketch.node(Op::Clip(Clip { low: true, high: true }), &[sum, low, high]);
        let product = sketch.node(Op::Mul, &[x, gate]);
        sketch.node(Op::Div, &[product, high])
    };
    let leaky: Build = |sketch, x| sketch.node(Op::Unary(Unary::LeakyRelu { alpha: 0.1 }), &[x]);
    for (name, activation) in [
        ("relu6", relu6),
        ("silu", silu),
        ("hard swish", hard_swish),
        ("clipped", clipped),
        ("leaky", leaky),
    ] {
        for groups in [1, 4] {
            let (mut sketch, x) = sketch(4, 5);
            let y = conv(&mut sketch, x, [4, 4, groups], 1);
            let y = activation(&mut sketch, y);
            let graph = sketch.finish(&[y]);
            check_pass(&graph, &images(2, 4, 5), "conv-activation", 1);
            let model = compile(&graph, &options(Level::O3)).unwrap();
            assert_eq!(kernels(&model), ALONE, "{name}");
        }
    }
    // Another slope is no hard swish.
    let (mut sketch, x) = sketch(4, 5);
    let y = conv(&mut sketch, x, [4, 4, 1], 1);
    let gate = sketch.node(Op::Unary(Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }), &[y]);
    let y = sketch.node(Op::Mul, &[y, gate]);
    check_pass(&sketch.finish(&[y]), &images(2, 4, 5), "swish", 0);
}

#[test]
fn what_else_is_read_stays() {
    let build = |outputs: fn(&mut Sketch, [ValueId; 3]) -> Vec<ValueId>| {
        let (mut sketch, x) = sketch(4, 5);
        let product = conv(&mut sketch, x, [4, 6, 1], 1);
        let normal = batch_norm(&mut sketch, product, 6);
        let y = sketch.node(Op::Relu, &[normal]);
        let outputs = outputs(&mut sketch, [product, normal, y]);
        sketch.finish(&outputs)
    };
    let x = images(2, 4, 5);
    let product_out = build(|_, [product, _, y]| vec![y, product]);
    check_pass(&product_out, &x, "batch-norm", 0);
    let product_read = build(|sketch, [product, _, y]| vec![y, sketch.node(Op::Tanh, &[product])]);
    check_pass(&product_read, &x, "batch-norm", 0);
    let normal_out = build(|_, [_, normal, y]| vec![y, normal]);
    check_pass(&normal_out, &x, "batch-norm", 1);
    check_pass(&normal_out, &x, "conv-activation", 0);
    let normal_read = build(|sketch, [_, normal, y]| vec![sketch.node(Op::Add, &[y, normal])]);
    check_pass(&normal_read, &x, "conv-activation", 0);
}

/// A convolution of pixels with weights of its own.
fn pointwise(sketch: &mut Sketch, x: ValueId, [channels, outputs]: [usize; 2]) -> ValueId {
    let weight = sketch.weight(numbers(&[outputs, channels, 1, 1], outputs as u64, 0.3));
    sketch.node(Op::Conv(Conv { window: window(&[1, 1], 1, 0), groups: 1 }), &[x, weight])
}

/// Convolutions with much between them that is done by channel or by element.
pub(crate) fn mixed() -> Graph {
    let (mut sketch, x) = sketch(4, 9);
    let stem = conv(&mut sketch, x, [4, 16, 1], 2);
    // A gate by channel, as of squeeze and excitation.
    let mean = sketch.node(Op::GlobalPool(GlobalPool::Average), &[stem]);
    let gate = pointwise(&mut sketch, mean, [16, 4]);
    let gate = sketch.node(Op::Relu, &[gate]);
    let gate = pointwise(&mut sketch, gate, [4, 16]);
    let gate = sketch.node(Op::Unary(Unary::Sigmoid), &[gate]);
    let gated = sketch.node(Op::Mul, &[stem, gate]);
    // A sum of two branches, of which one has no convolution.
    let branch = conv(&mut sketch, gated, [16, 16, 1], 1);
    let sum = sketch.node(Op::Add, &[gated, branch]);
    let sum = sketch.node(Op::Relu, &[sum]);
    let pool = PoolKind::Average { padding: AveragePadding::Excluded };
    let pool = Pool { kind: pool, window: window(&[2, 2], 1, 1), rounding: Rounding::Floor };
    let pooled = sketch.node(Op::Pool(pool), &[sum]);
    // What no convolution takes in, and a factor and summand that go into it.
    let normal = batch_norm(&mut sketch, pooled, 16);
    let factor = sketch.weight(numbers(&[16, 1, 1], 21, 1.0));
    let summand = sketch.weight(numbers(&[1, 16, 1, 1], 22, 1.0));
    let normal = sketch.node(Op::Mul, &[normal, factor]);
    let normal = sketch.node(Op::Add, &[normal, summand]);
    let normal = sketch.node(Op::Relu, &[normal]);
    // Numbers by channel on their own, by place, and a single one.
    let shifted = sketch.node(Op::Sub, &[sum, factor]);
    let places = sketch.weight(numbers(&[1, 1, 5, 5], 23, 1.0));
    let shifted = sketch.node(Op::Add, &[shifted, places]);
    let half = sketch.weight(Tensor::scalar(0.5f32));
    let shifted = sketch.node(Op::Mul, &[half, shifted]);
    let large = conv(&mut sketch, normal, [16, 8, 1], 1);
    let all = sketch.node(Op::Concat(Concat { axis: 1 }), &[shifted, sum]);
    let flat = sketch.node(Op::Reshape(Reshape { shape: vec![0, -1] }), &[all]);
    let softmax = sketch.node(Op::Softmax(graph::op::Softmax {}), &[large]);
    sketch.finish(&[flat, large, softmax, gate])
}

#[test]
fn what_follows_a_convolution_has_its_channels_last_too() {
    let graph = mixed();
    for batch in [1, 3] {
        let model = check(&graph, &images(batch, 4, 9), FLOAT);
        let kernels = kernels(&model);
        let count = |name: &str| kernels.iter().filter(|kernel| **kernel == name).count();
        // The input, and what outputs or a reshape or softmax read; the gate is a view.
        assert_eq!(count("transpose.f32"), 3, "{kernels:?}");
        assert_eq!(count("channels-last.conv.f32"), 5, "{kernels:?}");
        assert_eq!(count("scale-shift.f32"), 1, "{kernels:?}");
        assert_eq!(count("relu.f32"), 0, "{kernels:?}");
    }
    check_pass(&graph, &images(2, 4, 9), "channels-last", 16);
    check_pass(&graph, &images(2, 4, 9), "conv-sum", 3);
}

#[test]
fn transpositions_that_a_model_has_itself_are_none() {
    // As ConvNeXt normalizes, and as a vision transformer makes rows of patches.
    let (mut sketch, x) = sketch(4, 9);
    let y = conv(&mut sketch, x, [4, 16, 1], 2);
    let last = Transpose { permutation: vec![0, 2, 3, 1] };
    let rows = sketch.node(Op::Transpose(last), &[y]);
    let [scale, bias] = [31, 32].map(|seed| sketch.weight(numbers(&[16], seed, 1.0)));
    let norm = Op::LayerNorm(graph::op::LayerNorm { epsilon: 1e-5 });
    let rows = sketch.node(norm, &[rows, scale, bias]);
    let first = Transpose { permutation: vec![0, 3, 1, 2] };
    let y = sketch.node(Op::Transpose(first), &[rows]);
    let y = conv(&mut sketch, y, [16, 24, 1], 1);
    let patches = sketch.node(Op::Reshape(Reshape { shape: vec![0, 24, 25] }), &[y]);
    let rows = Transpose { permutation: vec![0, 2, 1] };
    let rows = sketch.node(Op::Transpose(rows), &[patches]);
    let graph = sketch.finish(&[rows]);
    for batch in [1, 3] {
        let model = check(&graph, &images(batch, 4, 9), FLOAT);
        let transposed = kernels(&model).iter().filter(|name| **name == "transpose.f32").count();
        assert_eq!(transposed, 1, "that of the input: {:?}", kernels(&model));
    }
}

/// What has its channels last, but is read as something else than images.
#[test]
fn channels_are_first_where_they_have_to_be() {
    // Integers, which the pool of floats does not take.
    let (mut integers, x) = sketch(4, 9);
    let y = conv(&mut integers, x, [4, 16, 1], 1);
    let scale = integers.weight(Tensor::scalar(0.02f32));
    let zero = integers.weight(Tensor::scalar(3i8));
    let y = integers.node(Op::Quantize(graph::op::Quantize { axis: None }), &[y, scale, zero]);
    let pool =
        Pool { kind: PoolKind::Max, window: window(&[2, 2], 2, 0), rounding: Rounding::Floor };
    let y = integers.node(Op::Pool(pool), &[y]);
    let y = integers.node(Op::Dequantize(Dequantize { axis: None }), &[y, scale, zero]);
    // Half a step where a sum rounds otherwise.
    check(&integers.finish(&[y]), &images(2, 4, 9), 0.021);
    // A single number.
    let (mut number, x) = Sketch::shaped(vec![1.into(), 4.into(), 9.into(), 10.into()]);
    let y = conv(&mut number, x, [4, 16, 1], 1);
    let y = number.node(Op::GlobalPool(GlobalPool::Average), &[y]);
    let y = pointwise(&mut number, y, [16, 1]);
    let y = number.node(Op::Reshape(Reshape { shape: vec![] }), &[y]);
    check(&number.finish(&[y]), &images(1, 4, 9), FLOAT);
    // Sequences that are broadcast to images: their batch meets the channels.
    let (mut both, x) = Sketch::shaped(vec![1.into(), 4.into(), 8.into(), 9.into()]);
    let image = conv(&mut both, x, [4, 8, 1], 1);
    let rows = both.node(Op::Reshape(Reshape { shape: vec![8, 4, 9] }), &[x]);
    let weight = both.weight(numbers(&[8, 4, 3], 41, 0.3));
    let rows = both.node(Op::Conv(Conv { window: window(&[3], 1, 1), groups: 1 }), &[rows, weight]);
    let y = both.node(Op::Add, &[image, rows]);
    check(&both.finish(&[y]), &images(1, 4, 8), FLOAT);
}

#[test]
fn images_of_another_size() {
    let kinds = [
        (Interpolation::Nearest(Nearest::Floor), Coordinates::Asymmetric),
        (Interpolation::Linear, Coordinates::HalfPixel),
        (Interpolation::Linear, Coordinates::AlignCorners),
        (Interpolation::Cubic { a: -0.75 }, Coordinates::PytorchHalfPixel),
    ];
    for (interpolation, coordinates) in kinds {
        for scales in [
            [1.0, 1.0, 2.0, 2.0],
            [1.0, 1.0, 0.5, 1.7],
            [1.0, 1.0, 1.0, 3.0],
            [1.0, 1.0, 1.05, 1.0],
        ] {
            for after_conv in [false, true] {
                let (mut sketch, x) = sketch(4, 9);
                let x = if after_conv { conv(&mut sketch, x, [4, 16, 1], 1) } else { x };
                let resize = Resize {
                    interpolation,
                    coordinates,
                    outside: Outside::Edge,
                    antialias: false,
                    aspect: AspectRatio::Stretch,
                    axes: vec![0, 1, 2, 3],
                };
                let roi = sketch.weight(Tensor::from_fn(&[0], |_| 0f32));
                let scales = sketch.weight(Tensor::new(&[4], scales.to_vec()).unwrap());
                let y = sketch.node(Op::Resize(resize), &[x, roi, scales]);
                let y = if after_conv { conv(&mut sketch, y, [16, 16, 1], 1) } else { y };
                let model = check(&sketch.finish(&[y]), &images(2, 4, 9), FLOAT);
                let kernels = kernels(&model);
                assert!(kernels.contains(&"resize.f32"), "{:?}", model.explain().nodes);
                let transposed = kernels.iter().filter(|name| **name == "transpose.f32").count();
                assert_eq!(transposed, if after_conv { 2 } else { 0 }, "{kernels:?}");
            }
        }
    }
}

#[test]
fn transposed_convolutions() {
    for (kernel, stride, pad, dilation) in
        [(2, 2, 0, 1), (4, 2, 1, 1), (3, 1, 1, 1), (3, 3, 0, 2), (2, 3, 0, 1), (1, 2, 0, 1)]
    {
        for with_bias in [false, true] {
            let (mut sketch, x) = sketch(4, 9);
            let x = conv(&mut sketch, x, [4, 16, 1], 1);
            let weight = sketch.weight(numbers(&[16, 6, kernel, kernel], 51, 0.3));
            let bias = sketch.weight(numbers(&[6], 52, 1.0));
            let op = ConvTranspose {
                window: Window {
                    dilations: vec![dilation; 2],
                    ..window(&[kernel; 2], stride, pad)
                },
                groups: 1,
                output_padding: vec![0, usize::from(stride > 1)],
                output_shape: None,
            };
            let inputs = if with_bias { vec![x, weight, bias] } else { vec![x, weight] };
            let y = sketch.node(Op::ConvTranspose(op), &inputs);
            let y = sketch.node(Op::Relu, &[y]);
            let graph = sketch.finish(&[y]);
            for batch in [1, 3] {
                let model = check(&graph, &images(batch, 4, 9), FLOAT);
                assert!(!kernels(&model).contains(&"reference"), "{:?}", kernels(&model));
            }
        }
    }
}

/// Images that are made larger, in both ways.
pub(crate) fn growing() -> Graph {
    let (mut sketch, x) = sketch(4, 9);
    let y = conv(&mut sketch, x, [4, 16, 1], 1);
    let resize = Resize {
        interpolation: Interpolation::Linear,
        coordinates: Coordinates::HalfPixel,
        outside: Outside::Edge,
        antialias: false,
        aspect: AspectRatio::Stretch,
        axes: vec![0, 1, 2, 3],
    };
    let roi = sketch.weight(Tensor::from_fn(&[0], |_| 0f32));
    let scales = sketch.weight(Tensor::new(&[4], vec![1f32, 1.0, 2.0, 1.5]).unwrap());
    let y = sketch.node(Op::Resize(resize), &[y, roi, scales]);
    let weight = sketch.weight(numbers(&[16, 8, 2, 2], 41, 0.3));
    let bias = sketch.weight(numbers(&[8], 42, 0.3));
    let transposed = ConvTranspose {
        window: window(&[2, 2], 2, 0),
        groups: 1,
        output_padding: vec![0, 0],
        output_shape: None,
    };
    let y = sketch.node(Op::ConvTranspose(transposed), &[y, weight, bias]);
    let mean = sketch.node(Op::GlobalPool(GlobalPool::Max), &[y]);
    let y = sketch.node(Op::Sub, &[y, mean]);
    sketch.finish(&[y])
}

#[test]
fn images_grow() {
    check(&growing(), &images(2, 4, 9), FLOAT);
}

#[test]
fn channels_are_shuffled_where_they_are() {
    for output_of_a_step in [false, true] {
        let (mut sketch, x) = sketch(4, 9);
        let y = conv(&mut sketch, x, [4, 24, 1], 1);
        let split = sketch.node(Op::Reshape(Reshape { shape: vec![0, 3, 8, 9, 10] }), &[y]);
        let order = Transpose { permutation: vec![0, 2, 1, 3, 4] };
        let swapped = sketch.node(Op::Transpose(order), &[split]);
        let shuffled = sketch.node(Op::Reshape(Reshape { shape: vec![-1, 24, 9, 10] }), &[swapped]);
        let y = conv(&mut sketch, shuffled, [24, 24, 24], 1);
        let outputs = if output_of_a_step { vec![y, split, swapped] } else { vec![y] };
        let graph = sketch.finish(&outputs);
        for batch in [1, 3] {
            let model = check(&graph, &images(batch, 4, 9), FLOAT);
            let transposed =
                kernels(&model).iter().filter(|name| **name == "transpose.f32").count();
            // The input, the shuffle and the outputs.
            assert_eq!(transposed, 2 + outputs.len(), "{:?}", kernels(&model));
        }
    }
}

#[test]
fn sequences_have_their_channels_last() {
    let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("batch"), 4.into(), 11.into()]);
    let weight = sketch.weight(numbers(&[16, 4, 3], 1, 0.3));
    let op = Op::Conv(Conv { window: window(&[3], 2, 1), groups: 1 });
    let y = sketch.node(op, &[x, weight]);
    let shift = sketch.weight(numbers(&[16, 1], 2, 1.0));
    let y = sketch.node(Op::Add, &[y, shift]);
    let y = sketch.node(Op::Tanh, &[y]);
    let graph = sketch.finish(&[y]);
    let model = check(&graph, &[("x", numbers(&[3, 4, 11], 3, 1.0))], FLOAT);
    assert_eq!(kernels(&model), ALONE);
}

#[test]
fn parameters_that_are_no_constants_stay() {
    let (mut sketch, x) = sketch(4, 5);
    let scale = sketch.graph.add_input("scale", graph::DType::F32, vec![6.into()]).unwrap();
    let y = conv(&mut sketch, x, [4, 6, 1], 1);
    let parameters = [scale, sketch.weight(numbers(&[6], 3, 1.0))];
    let variance = sketch.weight(Tensor::from_fn(&[6], |_| 2f32));
    let norm = Op::BatchNorm(BatchNorm { epsilon: 1e-3 });
    let [scale, bias] = parameters;
    let y = sketch.node(norm, &[y, scale, bias, bias, variance]);
    let graph = sketch.finish(&[y]);
    let [x] = images(2, 4, 5);
    let scale = ("scale", numbers(&[6], 8, 1.0));
    check_pass(&graph, &[x, scale], "batch-norm", 0);
}

#[test]
fn sequences_and_symbolic_sizes() {
    let size = Dim::symbol("size");
    let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("batch"), 4.into(), size.clone()]);
    let weight = sketch.weight(numbers(&[6, 4, 3], 1, 0.3));
    let op = Op::Conv(Conv { window: window(&[3], 1, 1), groups: 1 });
    let y = sketch.node(op, &[x, weight]);
    let y = sketch.node(Op::Relu, &[y]);
    let graph = sketch.finish(&[y]);
    for shape in [[2, 4, 9], [1, 4, 700], [3, 4, 1]] {
        let model = check(&graph, &[("x", numbers(&shape, 3, 1.0))], FLOAT);
        assert_eq!(kernels(&model), ["conv.f32"]);
    }
    let (mut sketch, x) = Sketch::shaped(vec![1.into(), 4.into(), size.clone(), size]);
    let y = conv(&mut sketch, x, [4, 6, 1], 2);
    let y = batch_norm(&mut sketch, y, 6);
    let y = sketch.node(Op::Relu, &[y]);
    let graph = sketch.finish(&[y]);
    for size in [1, 6, 9] {
        check(&graph, &[("x", numbers(&[1, 4, size, size], 3, 1.0))], FLOAT);
    }
}

#[test]
fn volumes_are_laid_out_as_images() {
    let (mut sketch, x) =
        Sketch::shaped(vec![Dim::symbol("batch"), 2.into(), 3.into(), 4.into(), 5.into()]);
    let weight = sketch.weight(numbers(&[3, 2, 2, 2, 2], 1, 0.3));
    let op = Op::Conv(Conv { window: window(&[2, 2, 2], 1, 0), groups: 1 });
    let y = sketch.node(op, &[x, weight]);
    let y = sketch.node(Op::Relu, &[y]);
    let graph = sketch.finish(&[y]);
    let model = check(&graph, &[("x", numbers(&[2, 2, 3, 4, 5], 1, 1.0))], FLOAT);
    assert_eq!(kernels(&model), ["conv.packed-volumes"]);
}

#[test]
fn pools_of_every_kind() {
    let average = |padding| PoolKind::Average { padding };
    let kinds = [
        (PoolKind::Max, "max-pool.f32"),
        (average(AveragePadding::Excluded), "average-pool.f32"),
        (average(AveragePadding::Zeros), "average-pool.f32"),
        (PoolKind::Lp { p: 2.0 }, "reference"),
    ];
    for (kind, kernel) in kinds {
        for rounding in [Rounding::Floor, Rounding::Ceil] {
            for window in [
                window(&[3, 2], 2, 1),
                Window { padding: Padding::SameUpper, ..window(&[2, 2], 2, 0) },
            ] {
                let (mut sketch, x) = sketch(3, 20);
                let y = sketch.node(Op::Pool(Pool { kind, window, rounding }), &[x]);
                let model = check(&sketch.finish(&[y]), &images(2, 3, 20), FLOAT);
                assert_eq!(kernels(&model), [kernel]);
            }
        }
    }
    for (op, kernel) in
        [(GlobalPool::Max, "global-max-pool.f32"), (GlobalPool::Average, "global-average-pool.f32")]
    {
        let (mut sketch, x) = sketch(3, 20);
        let y = sketch.node(Op::GlobalPool(op), &[x]);
        let model = check(&sketch.finish(&[y]), &images(2, 3, 20), FLOAT);
        assert_eq!(kernels(&model), [kernel]);
    }
}

/// Borders of filters that only ever meet padding are left out, and no others.
#[test]
fn filters_wider_than_images() {
    let padded = |before: [usize; 2], after: [usize; 2]| Padding::Explicit {
        before: before.to_vec(),
        after: after.to_vec(),
    };
    let cases = [
        // One entry is left, then one of each row, of each column, and all.
        (5, 1, padded([5, 6], [5, 6]), 1),
        (6, 1, padded([6, 6], [6, 6]), 1),
        (5, 1, padded([5, 5], [5, 5]), 1),
        (4, 1, padded([4, 4], [4, 4]), 0),
        // Not so much padding that an image could be met without the border.
        (7, 1, padded([6, 6], [8, 8]), 1),
        (6, 3, padded([9, 7], [5, 9]), 1),
        (9, 2, Padding::SameUpper, 1),
        (9, 2, Padding::SameLower, 1),
        // Nothing is met at all.
        (1, 30, padded([20, 20], [0, 0]), 0),
    ];
    for (dilation, stride, padding, expected) in cases {
        for groups in [1, 8] {
            let (mut sketch, x) = sketch(8, 5);
            let weight = sketch.weight(numbers(&[16, 8 / groups, 3, 3], 1, 0.3));
            let window = Window {
                dilations: vec![dilation; 2],
                padding: padding.clone(),
                ..window(&[3, 3], stride, 0)
            };
            let y = sketch.node(Op::Conv(Conv { window, groups }), &[x, weight]);
            let y = sketch.node(Op::Relu, &[y]);
            check_pass(&sketch.finish(&[y]), &images(2, 8, 5), "filter-borders", expected);
        }
    }
}

/// Reductions of images leave their channels last, where they are along neighbours then.
#[test]
fn reductions_of_images() {
    let kinds = [ReduceKind::Mean, ReduceKind::Max];
    let cases: [(&[usize], usize); 6] =
        [(&[2, 3], 2), (&[3], 2), (&[1], 2), (&[1, 3], 2), (&[1, 2, 3], 2), (&[1, 2], 4)];
    for (kind, (axes, transposes)) in
        kinds.into_iter().flat_map(|kind| cases.map(|case| (kind, case)))
    {
        let (mut sketch, x) = sketch(3, 6);
        let stem = conv(&mut sketch, x, [3, 16, 1], 1);
        let op =
            Reduce { kind, axes: Some(axes.to_vec()), keep_dims: true, empty_means_none: false };
        let reduced = sketch.node(Op::Reduce(op), &[stem]);
        let y = sketch.node(Op::Mul, &[stem, reduced]);
        let model = check(&sketch.finish(&[y]), &images(2, 3, 6), FLOAT);
        let kernels = kernels(&model);
        assert!(kernels.contains(&"reduce.f32"), "{kernels:?}");
        let found = kernels.iter().filter(|kernel| kernel.starts_with("transpose")).count();
        assert_eq!(found, transposes, "{:#?}", model.explain().nodes);
    }
}
