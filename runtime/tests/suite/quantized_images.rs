//! Quantized image networks: convolutions and sums in integers.

use graph::op::{
    Clip, Conv, Dequantize, GlobalPool, Padding, Pool, PoolKind, Quantize, Rounding, Window,
};
use graph::{Dim, Graph, Op, Tensor, ValueId, reference};
use runtime::{CompileOptions, Level, compile};

use crate::images::{images, kernels, sketch, window};
use crate::passes::check_pass;
use crate::{Sketch, assert_close, check, numbers, options, run};

/// Dequantized int8 filters with powers of two as scales, so that sums are exact in f32 as well.
pub(crate) fn int8_filters(sketch: &mut Sketch, shape: [usize; 4]) -> ValueId {
    let integers = Tensor::from_fn(&shape, |i| ((i * 37 + 5) % 255) as u8 as i8);
    let scales = Tensor::from_fn(&[shape[0]], |i| 2f32.powi(-8 - (i % 3) as i32));
    let zeros = Tensor::from_fn(&[shape[0]], |_| 0i8);
    let inputs = [integers, scales, zeros].map(|tensor| sketch.weight(tensor));
    sketch.node(Op::Dequantize(Dequantize { axis: Some(0) }), &inputs)
}

/// A residual block as exporters of quantized networks write it.
pub(crate) fn quantized() -> Graph {
    let (mut sketch, x) = sketch(3, 12);
    let through = |sketch: &mut Sketch, x: ValueId| {
        let x = sketch.quantize(x, 0.25);
        sketch.dequantize(x, 0.25)
    };
    let convolution = |sketch: &mut Sketch, x: ValueId, sizes: [usize; 3], stride: usize| {
        let [channels, outputs, size] = sizes;
        let weight = int8_filters(sketch, [outputs, channels, size, size]);
        let bias = Tensor::from_fn(&[outputs], |i| (i * 300) as i32 - 1000);
        let scale = sketch.weight(Tensor::from_fn(&[outputs], |_| 2f32.powi(-10)));
        let zeros = sketch.weight(Tensor::from_fn(&[outputs], |_| 0i32));
        let inputs = [sketch.weight(bias), scale, zeros];
        let bias = sketch.node(Op::Dequantize(Dequantize { axis: Some(0) }), &inputs);
        let window = window(&[size; 2], stride, size / 2);
        sketch.node(Op::Conv(Conv { window, groups: 1 }), &[x, weight, bias])
    };
    let x = through(&mut sketch, x);
    let stem = convolution(&mut sketch, x, [3, 8, 3], 2);
    let stem = sketch.node(Op::Relu, &[stem]);
    let stem = through(&mut sketch, stem);
    let pool =
        Pool { kind: PoolKind::Max, window: window(&[3, 3], 1, 1), rounding: Rounding::Floor };
    let pooled = sketch.node(Op::Pool(pool), &[stem]);
    let pooled = through(&mut sketch, pooled);
    let inner = convolution(&mut sketch, pooled, [8, 20, 3], 1);
    let inner = sketch.node(Op::Relu, &[inner]);
    let inner = through(&mut sketch, inner);
    let inner = convolution(&mut sketch, inner, [20, 8, 1], 1);
    let inner = through(&mut sketch, inner);
    let sum = sketch.node(Op::Add, &[inner, pooled]);
    let sum = sketch.node(Op::Relu, &[sum]);
    let sum = through(&mut sketch, sum);
    let mean = sketch.node(Op::GlobalPool(GlobalPool::Average), &[sum]);
    sketch.finish(&[mean, sum])
}

#[test]
fn quantized_networks_multiply_in_integers() {
    if !multiplies_integers() {
        return;
    }
    let graph = quantized();
    for batch in [1, 3] {
        let model = check(&graph, &images(batch, 3, 12), 1e-6);
        let kernels = kernels(&model);
        let count = |part: &str| kernels.iter().filter(|kernel| kernel.contains(part)).count();
        assert_eq!(count("integer-conv."), 3, "{kernels:?}");
        assert_eq!(count("conv.f32"), 0, "{kernels:?}");
        // The input, in int8, and the output.
        assert_eq!(count("transpose"), 2, "{kernels:?}");
        assert_eq!(count("integer-sum"), 1, "{kernels:?}");
        // The input, and before the mean.
        assert_eq!((count("quantize.int8"), count("dequantize.int8")), (2, 1), "{kernels:?}");
        assert_eq!(count("max-pool.int8"), 1, "{kernels:?}");
    }
    check_pass(&graph, &images(2, 3, 12), "integer-conv", 3);
    check_pass(&graph, &images(2, 3, 12), "integer-sum", 1);
    check_pass(&graph, &images(2, 3, 12), "quantize-epilogue", 3);
    // Without the pass that follows, there are transpositions around each.
    let disabled = vec!["channels-last".to_owned()];
    let options = CompileOptions { disabled_passes: disabled, ..options(Level::O3) };
    let model = compile(&graph, &options).unwrap();
    let inputs = images(2, 3, 12);
    let expected = reference::evaluate(&graph, &inputs).unwrap();
    assert_close(&run(&model, &inputs), &expected, 1e-6);
}

/// Whether that is so for filters that see one channel each; says so where not.
#[allow(clippy::print_stdout, reason = "says what is not tested")]
pub(crate) fn multiplies_single_channels() -> bool {
    let fits = kernels::Cpu::from_environment().unwrap().tier() >= kernels::Tier::Avx512;
    if !fits {
        println!("skipped: without AVX-512, floats are as fast");
    }
    fits
}

/// Images of `channels` through filters that see one channel each, between quantizations.
fn depthwise(
    sketch: &mut Sketch,
    x: ValueId,
    channels: usize,
    size: usize,
    stride: usize,
) -> ValueId {
    let x = sketch.quantize(x, 0.25);
    let x = sketch.dequantize(x, 0.25);
    let weight = int8_filters(sketch, [channels, 1, size, size]);
    let bias = sketch.weight(Tensor::from_fn(&[channels], |i| i as f32 * 0.125 - 1.0));
    let window = window(&[size; 2], stride, size / 2);
    sketch.node(Op::Conv(Conv { window, groups: channels }), &[x, weight, bias])
}

/// What mobile networks are made of: filters that see one channel each, which limit their results to 0..=6.
#[test]
fn filters_of_single_channels_multiply_in_integers() {
    if !multiplies_single_channels() {
        return;
    }
    let (mut sketch, x) = sketch(20, 12);
    let [none, six] = [0f32, 6.0].map(|limit| sketch.weight(Tensor::scalar(limit)));
    let mut y = x;
    for (size, stride) in [(3, 1), (3, 2), (5, 1)] {
        y = depthwise(&mut sketch, y, 20, size, stride);
        y = sketch.node(Op::Clip(Clip { low: true, high: true }), &[y, none, six]);
    }
    y = sketch.quantize(y, 0.25);
    y = sketch.dequantize(y, 0.25);
    let graph = sketch.finish(&[y]);
    for batch in [1, 3] {
        let model = check(&graph, &images(batch, 20, 12), 1e-6);
        let kernels = kernels(&model);
        let count = |part: &str| kernels.iter().filter(|kernel| kernel.contains(part)).count();
        assert_eq!(count("integer-depthwise."), 3, "{kernels:?}");
        assert_eq!((count("conv.f32"), count("clip")), (0, 0), "{kernels:?}");
        // The input, and the output.
        assert_eq!((count("quantize.int8"), count("dequantize.int8")), (2, 1), "{kernels:?}");
        assert_eq!(count("transpose"), 2, "{kernels:?}");
    }
    check_pass(&graph, &images(2, 20, 12), "integer-conv", 3);
    check_pass(&graph, &images(2, 20, 12), "quantize-epilogue", 3);
}

/// Activations that no limit of integers is, results in f32, sequences; several filters for a channel and
/// groups of several channels stay in f32.
#[test]
fn filters_of_single_channels_of_every_kind() {
    if !multiplies_single_channels() {
        return;
    }
    let (mut sketch, x) = sketch(6, 9);
    let y = depthwise(&mut sketch, x, 6, 3, 1);
    let y = sketch.node(Op::Tanh, &[y]);
    let y = depthwise(&mut sketch, y, 6, 3, 2);
    let grouped = |sketch: &mut Sketch, shape: [usize; 4], groups: usize| {
        let x = sketch.quantize(y, 0.25);
        let x = sketch.dequantize(x, 0.25);
        let weight = int8_filters(sketch, shape);
        sketch.node(Op::Conv(Conv { window: window(&[1, 1], 1, 0), groups }), &[x, weight])
    };
    let several = grouped(&mut sketch, [12, 1, 1, 1], 6);
    let pairs = grouped(&mut sketch, [6, 2, 1, 1], 3);
    let graph = sketch.finish(&[y, several, pairs]);
    let model = check(&graph, &images(2, 6, 9), 1e-6);
    let found = kernels(&model);
    let count = |part: &str| found.iter().filter(|kernel| kernel.contains(part)).count();
    assert_eq!((count("integer-depthwise."), count("integer-conv.")), (2, 0), "{found:?}");
    assert_eq!((count("conv.f32"), count("tanh")), (2, 0), "{found:?}");

    let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("batch"), 7.into(), 30.into()]);
    let y = sketch.quantize(x, 0.25);
    let y = sketch.dequantize(y, 0.25);
    let integers = Tensor::from_fn(&[7, 1, 5], |i| (i * 37 % 255) as u8 as i8);
    let inputs = [integers, Tensor::scalar(2f32.powi(-8)), Tensor::scalar(0i8)];
    let inputs = inputs.map(|tensor| sketch.weight(tensor));
    let weight = sketch.node(Op::Dequantize(Dequantize::default()), &inputs);
    let y = sketch.node(Op::Conv(Conv { window: window(&[5], 1, 2), groups: 7 }), &[y, weight]);
    let graph = sketch.finish(&[y]);
    let model = check(&graph, &[("x", numbers(&[3, 7, 30], 7, 1.0))], 1e-6);
    let found = kernels(&model);
    assert_eq!(found.iter().filter(|kernel| kernel.contains("integer-depthwise.")).count(), 1);
}

/// Whether convolutions are multiplied in integers here; says so where not.
#[allow(clippy::print_stdout, reason = "says what is not tested")]
fn multiplies_integers() -> bool {
    let tier = kernels::Cpu::from_environment().unwrap().tier();
    if tier == kernels::Tier::Portable {
        println!("skipped: one number at a time, floats are faster");
    }
    tier != kernels::Tier::Portable
}

/// Zero points other than 0, dilations, one-sided padding, a value that several read, sequences, and
/// unsigned activations.
#[test]
fn quantized_convolutions_of_every_kind() {
    if !multiplies_integers() {
        return;
    }
    for unsigned in [false, true] {
        let (mut sketch, x) = sketch(4, 9);
        let zero = match unsigned {
            true => Tensor::scalar(131u8),
            false => Tensor::scalar(3i8),
        };
        let zero = sketch.weight(zero);
        let scale = sketch.weight(Tensor::scalar(0.25f32));
        let through = |sketch: &mut Sketch, x: ValueId| {
            let x = sketch.node(Op::Quantize(Quantize::default()), &[x, scale, zero]);
            sketch.node(Op::Dequantize(Dequantize::default()), &[x, scale, zero])
        };
        let x = through(&mut sketch, x);
        let weight = int8_filters(&mut sketch, [6, 4, 3, 3]);
        let dilated = Window {
            kernel: vec![3, 3],
            strides: vec![1, 2],
            dilations: vec![2, 1],
            padding: Padding::Explicit { before: vec![2, 0], after: vec![1, 1] },
        };
        let a = sketch.node(Op::Conv(Conv { window: dilated, groups: 1 }), &[x, weight]);
        let six = sketch.weight(Tensor::scalar(6f32));
        let none = sketch.weight(Tensor::scalar(0f32));
        let clip = Op::Clip(Clip { low: true, high: true });
        let a = sketch.node(clip, &[a, none, six]);
        let a = through(&mut sketch, a);
        let weight = int8_filters(&mut sketch, [5, 4, 1, 1]);
        let b =
            sketch.node(Op::Conv(Conv { window: window(&[1, 1], 1, 0), groups: 1 }), &[x, weight]);
        let graph = sketch.finish(&[a, b]);
        let model = check(&graph, &images(2, 4, 9), 1e-6);
        let kernels = kernels(&model);
        let count = |part: &str| kernels.iter().filter(|kernel| kernel.contains(part)).count();
        assert_eq!((count("integer-conv."), count("reference")), (2, 0), "{kernels:?}");
        // The input, which both read, and both outputs.
        assert_eq!(count("transpose"), 3, "{kernels:?}");
    }
    let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("batch"), 4.into(), 30.into()]);
    let mut y = x;
    for (channels, outputs) in [(4, 6), (6, 5)] {
        y = sketch.quantize(y, 0.25);
        y = sketch.dequantize(y, 0.25);
        let integers = Tensor::from_fn(&[outputs, channels, 5], |i| (i * 37 % 255) as u8 as i8);
        let inputs = [integers, Tensor::scalar(2f32.powi(-8)), Tensor::scalar(0i8)];
        let inputs = inputs.map(|tensor| sketch.weight(tensor));
        let weight = sketch.node(Op::Dequantize(Dequantize::default()), &inputs);
        y = sketch.node(Op::Conv(Conv { window: window(&[5], 1, 2), groups: 1 }), &[y, weight]);
        y = sketch.node(Op::Relu, &[y]);
    }
    let graph = sketch.finish(&[y]);
    let model = check(&graph, &[("x", numbers(&[3, 4, 30], 7, 1.0))], 1e-6);
    let kernels = kernels(&model);
    let count = |part: &str| kernels.iter().filter(|kernel| kernel.contains(part)).count();
    assert_eq!(
        (count("integer-conv."), count("transpose"), count("relu")),
        (2, 2, 0),
        "{kernels:?}"
    );
}
