//! Networks of images quantized after training: what becomes integers, and how far answers move.

use graph::op::{
    Concat, Conv, Dequantize, GlobalPool, Pool, PoolKind, Reshape, Rounding, Slice, Unary,
};
use graph::rewrite::observer::Method;
use graph::rewrite::quantize::{PointKind, QuantizeOptions, points};
use graph::{DType, Graph, Op, Tensor, ValueId, dim, reference};
use kernels::Tier;
use runtime::calibrate::{compare, quantized};
use runtime::{CompileOptions, compile};

use crate::images::{batch_norm, conv, kernels, sketch, window};
use crate::passes::check_pass;
use crate::{Sketch, assert_close, numbers, run};

const SIZE: usize = 16;

/// A stem with a norm, a pool, a residual block, filters of single channels, branches that are put
/// together, one of which is a mean of windows, a squeeze of channels, and a head.
fn network() -> Graph {
    let (mut sketch, x) = sketch(3, SIZE);
    let relu = |sketch: &mut Sketch, x: ValueId| sketch.node(Op::Relu, &[x]);
    let stem = conv(&mut sketch, x, [3, 16, 1], 1);
    let stem = batch_norm(&mut sketch, stem, 16);
    let stem = relu(&mut sketch, stem);
    let greatest =
        Pool { kind: PoolKind::Max, window: window(&[3, 3], 2, 1), rounding: Rounding::Floor };
    let pooled = sketch.node(Op::Pool(greatest), &[stem]);
    let inner = conv(&mut sketch, pooled, [16, 24, 1], 1);
    let inner = relu(&mut sketch, inner);
    let inner = conv(&mut sketch, inner, [24, 16, 1], 1);
    let sum = sketch.node(Op::Add, &[pooled, inner]);
    let sum = relu(&mut sketch, sum);
    let depthwise = conv(&mut sketch, sum, [16, 16, 16], 1);
    let gate = sketch.node(Op::Unary(Unary::Sigmoid), &[depthwise]);
    let swish = sketch.node(Op::Mul, &[depthwise, gate]);
    let left = conv(&mut sketch, swish, [16, 8, 1], 1);
    let left = relu(&mut sketch, left);
    let right = conv(&mut sketch, sum, [16, 8, 1], 1);
    let right = relu(&mut sketch, right);
    let both = sketch.node(Op::Concat(Concat { axis: 1 }), &[left, right]);
    let last = conv(&mut sketch, both, [16, 32, 1], 2);
    let last = relu(&mut sketch, last);
    let mean = sketch.node(Op::GlobalPool(GlobalPool::Average), &[last]);
    let flat = Reshape { shape: vec![0, 32] };
    let flat = sketch.node(Op::Reshape(flat), &[mean]);
    let head = sketch.weight(numbers(&[32, 10], 5, 0.5));
    let logits = sketch.node(Op::MatMul, &[flat, head]);
    sketch.finish(&[logits])
}

fn samples(count: usize) -> Vec<Vec<(String, Tensor)>> {
    let image = |seed| numbers(&[1, 3, SIZE, SIZE + 1], seed, 1.0);
    (0..count as u64).map(|seed| vec![("x".to_owned(), image(seed))]).collect()
}

fn int8(graph: &Graph) -> Graph {
    let options = QuantizeOptions::default();
    quantized(graph, &options, Method::Mse, samples(12)).unwrap()
}

#[test]
fn images_stay_integers_from_the_first_filters_to_the_head() {
    let float = network();
    let graph = int8(&float);
    let differences = compare(&float, &graph, &samples(40)).unwrap();
    let [logits] = differences.as_slice() else { panic!("{differences:?}") };
    // Eight layers, each of which rounds to 1/255 of its range.
    assert!(logits.relative > 0.0 && logits.relative < 0.04, "{logits:?}");
    assert!(logits.same_class.unwrap() > 0.85, "{logits:?}");

    let points = points(&graph);
    let weights = points.iter().filter(|point| point.kind == PointKind::Weight).count();
    assert_eq!(weights, 8, "seven convolutions and the head");
    let is_unsigned = |id| graph.value_type(id).dtype == DType::U8;
    let activations = points.iter().filter(|point| point.kind == PointKind::Activation);
    // All but the head's input: x, the stem, its pool, within the block two, the sum, swish, both branches,
    // and them together.
    let unsigned: Vec<_> = activations.filter(|point| is_unsigned(point.zero_point)).collect();
    assert_eq!(unsigned.len(), 10);
    let scales = unsigned.iter().map(|point| graph.weight(point.scale).unwrap());
    let mut scales: Vec<f32> = scales.map(|scale| scale.elements().unwrap()[0]).collect();
    scales.sort_by(f32::total_cmp);
    scales.dedup();
    assert_eq!(scales.len(), 7, "the stem and its pool have one, and so do branches");

    let model = compile(&graph, &CompileOptions::default()).unwrap();
    let inputs = [("x", numbers(&[2, 3, SIZE, SIZE + 1], 70, 1.0))];
    let expected = reference::evaluate(&graph, &inputs).unwrap();
    // A number between two steps is rounded otherwise now and then.
    assert_close(&run(&model, &inputs), &expected, 0.02);
    if kernels::Cpu::from_environment().unwrap().tier() < Tier::Avx512 {
        return;
    }
    let kernels = kernels(&model);
    let count = |part: &str| kernels.iter().filter(|kernel| kernel.contains(part)).count();
    assert_eq!((count("integer-conv."), count("integer-depthwise.")), (6, 1), "{kernels:?}");
    assert_eq!((count("max-pool.int8"), count("integer-sum")), (1, 1), "{kernels:?}");
    // The image; what else is rounded is so by what writes or reads it.
    assert_eq!(count("quantize.int8"), 1, "{kernels:?}");
    check_pass(&graph, &inputs, "integer-movement", 2);
}

#[test]
fn named_layers_and_groups_stay_float() {
    let (mut sketch, x) = sketch(4, 8);
    let first = conv(&mut sketch, x, [4, 8, 1], 1);
    let groups = conv(&mut sketch, first, [8, 8, 2], 1);
    let last = conv(&mut sketch, groups, [8, 4, 1], 1);
    let float = sketch.finish(&[last]);
    let names: Vec<String> = float
        .nodes()
        .filter(|(_, node)| matches!(node.op, Op::Conv(_)))
        .map(|(_, node)| node.name.clone())
        .collect();
    let samples: Vec<_> =
        (0..4).map(|seed| vec![("x".to_owned(), numbers(&[1, 4, 8, 9], seed, 1.0))]).collect();
    let quantize = |float_layers: &[String]| {
        let options = QuantizeOptions { float: float_layers.to_vec(), embeddings: false };
        quantized(&float, &options, Method::Mse, samples.clone())
    };
    let graph = quantize(&names[2..]).unwrap();
    let points = points(&graph);
    let of = |kind| -> Vec<&str> {
        let points = points.iter().filter(|point| point.kind == kind);
        points.flat_map(|point| point.readers.iter().map(String::as_str)).collect()
    };
    assert_eq!(of(PointKind::Activation), [&names[0]]);
    assert_eq!(of(PointKind::Weight), [&names[0], &names[1]]);

    let error = quantize(&["cnv".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("no linear layer or convolution is called `cnv`"), "{error}");
    let error = quantize(&names).unwrap_err().to_string();
    assert!(error.contains("no layer"), "{error}");
}

/// What a model scales itself stays, and what is cut out of a value has a range of its own.
#[test]
fn scales_of_the_model_stay_and_parts_have_their_own() {
    let mut graph = Graph::new("bytes");
    let x = graph.add_input("x", DType::U8, dim::fixed(&[1, 2, 8, 9])).unwrap();
    let mut sketch = Sketch { graph };
    let scale = sketch.weight(Tensor::scalar(1f32 / 255.0));
    let zero = sketch.weight(Tensor::scalar(0u8));
    let x = sketch.node(Op::Dequantize(Dequantize::default()), &[x, scale, zero]);
    // Four channels of small numbers, and four of numbers a thousand times as large.
    let large = |i: usize| if i / 18 < 4 { 0.01 } else { 10.0 };
    let filters = Tensor::from_fn(&[8, 2, 3, 3], |i| ((i * 7 % 11) as f32 - 5.0) * large(i));
    let filters = sketch.weight(filters);
    let y = sketch.node(Op::Conv(Conv { window: window(&[3, 3], 1, 1), groups: 1 }), &[x, filters]);
    let y = sketch.node(Op::Slice(Slice { axis: 1, start: 0, end: 4.into() }), &[y]);
    let y = conv(&mut sketch, y, [4, 4, 1], 1);
    let float = sketch.finish(&[y]);
    let image = |seed: usize| Tensor::from_fn(&[1, 2, 8, 9], |i| (i * 37 + seed * 101) as u8);
    let samples: Vec<_> = (0..6).map(|seed| vec![("x".to_owned(), image(seed))]).collect();
    let graph =
        quantized(&float, &QuantizeOptions::default(), Method::Mse, samples.clone()).unwrap();
    let differences = compare(&float, &graph, &samples).unwrap();
    assert!(differences[0].relative < 0.03, "{differences:?}");
}
