//! Products of integers whose scales follow from the values, as tools write them that quantize finished
//! models.

use graph::op::{Cast, ConvInteger, DynamicQuantization, Quantize};
use graph::{DType, Dim, Graph, Op, Tensor, ValueId};
use runtime::{Level, compile};

use crate::images::window;
use crate::passes::check_pass;
use crate::{Sketch, numbers, options};

/// The quantized input, its scale and its zero point.
fn quantized(sketch: &mut Sketch, x: ValueId) -> [ValueId; 3] {
    let scale = sketch.node(Op::DynamicQuantization(DynamicQuantization::Scale), &[x]);
    let zero = sketch.node(Op::DynamicQuantization(DynamicQuantization::ZeroPoint), &[x]);
    [sketch.node(Op::Quantize(Quantize { axis: None }), &[x, scale, zero]), scale, zero]
}

/// What a layer's weights are.
#[derive(Clone, Copy, PartialEq)]
enum Weights {
    /// i8 with a scale for all, or for each column.
    Signed { by_column: bool },
    /// u8 around this number.
    Unsigned(u8),
}

/// Layers of 6 to 5 of one quantized input.
fn build(weights: Weights, layers: usize) -> Graph {
    let (mut sketch, x) = Sketch::new(6);
    let [integers, scale, zero] = quantized(&mut sketch, x);
    let by_column = weights == Weights::Signed { by_column: true };
    let outputs: Vec<ValueId> = (0..layers)
        .map(|layer| {
            let at = |i: usize| (i * 37 + layer * 11) % 255;
            let (w, w_zero) = match weights {
                Weights::Signed { .. } => {
                    (Tensor::from_fn(&[6, 5], |i| (at(i) as i16 - 127) as i8), Tensor::scalar(0i8))
                }
                Weights::Unsigned(zero) => {
                    (Tensor::from_fn(&[6, 5], |i| at(i) as u8), Tensor::scalar(zero))
                }
            };
            let [w, w_zero] = [w, w_zero].map(|tensor| sketch.weight(tensor));
            let shape: &[usize] = if by_column { &[5] } else { &[] };
            let w_scale = sketch.weight(Tensor::from_fn(shape, |i| 0.01 + 0.003 * i as f32));
            let bias = sketch.weight(numbers(&[5], 3, 1.0));
            let product = sketch.node(Op::MatMulInteger, &[integers, w, zero, w_zero]);
            let floats = sketch.node(Op::Cast(Cast { to: DType::F32 }), &[product]);
            let both = sketch.node(Op::Mul, &[scale, w_scale]);
            let scaled = sketch.node(Op::Mul, &[floats, both]);
            let y = sketch.node(Op::Add, &[scaled, bias]);
            sketch.node(Op::Relu, &[y])
        })
        .collect();
    sketch.finish(&outputs)
}

#[test]
fn products_of_dynamically_quantized_inputs_are_layers() {
    let inputs = [("x", numbers(&[7, 6], 1, 3.0))];
    for by_column in [false, true] {
        check_pass(&build(Weights::Signed { by_column }, 2), &inputs, "dynamic-quantization", 2);
    }
    let model = compile(&build(Weights::Signed { by_column: true }, 1), &options(Level::O3));
    let model = model.unwrap();
    let nodes = &model.explain().nodes;
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    assert!(nodes[0].kernel.starts_with("integer-linear."), "{}", nodes[0].kernel);
    // An input of zeros only has a scale all the same.
    let zeros = [("x", Tensor::zeros(DType::F32, &[7, 6]))];
    check_pass(&build(Weights::Signed { by_column: false }, 1), &zeros, "dynamic-quantization", 1);
}

/// Of a model whose sizes depend on values, kernels' memory is as large as they ask for.
#[test]
fn layers_run_where_sizes_depend_on_values() {
    let mut graph = Graph::new("classifier");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("n")]).unwrap();
    let sizes = graph.add_input("sizes", DType::I64, vec![2.into()]).unwrap();
    let reshape = Op::ReshapeTo(graph::op::ReshapeTo { allow_zero: false });
    let rows = graph.add_node("rows", reshape, &[x, sizes]).unwrap();
    let mut sketch = Sketch { graph };
    let [integers, scale, zero] = quantized(&mut sketch, rows);
    let weights = Tensor::from_fn(&[4, 3], |i| i as i8 * 9 - 50);
    let [w, w_zero] = [weights, Tensor::scalar(0i8)].map(|tensor| sketch.weight(tensor));
    let w_scale = sketch.weight(Tensor::scalar(0.01f32));
    let product = sketch.node(Op::MatMulInteger, &[integers, w, zero, w_zero]);
    let floats = sketch.node(Op::Cast(Cast { to: DType::F32 }), &[product]);
    let both = sketch.node(Op::Mul, &[scale, w_scale]);
    let y = sketch.node(Op::Mul, &[floats, both]);
    let sizes = Tensor::new(&[2], vec![5i64, 4]).unwrap();
    let inputs = [("x", numbers(&[20], 1, 3.0)), ("sizes", sizes)];
    check_pass(&sketch.finish(&[y]), &inputs, "dynamic-quantization", 1);
}

#[test]
fn weights_beyond_int8_are_multiplied_in_floats() {
    let inputs = [("x", numbers(&[7, 6], 1, 3.0))];
    check_pass(&build(Weights::Unsigned(128), 1), &inputs, "dynamic-quantization", 1);
    check_pass(&build(Weights::Unsigned(20), 1), &inputs, "dynamic-quantization", 0);
    check_pass(&build(Weights::Unsigned(20), 1), &inputs, "float-products", 1);
}

#[test]
fn convolutions_of_integers_are_multiplied_in_floats() {
    let (mut sketch, x) = Sketch::shaped(vec![1.into(), 3.into(), 6.into(), 6.into()]);
    let [integers, scale, zero] = quantized(&mut sketch, x);
    let filters = Tensor::from_fn(&[4, 3, 3, 3], |i| ((i * 37) % 251) as u8);
    let [filters, filter_zero] = [filters, Tensor::scalar(120u8)].map(|t| sketch.weight(t));
    let conv = Op::ConvInteger(ConvInteger { window: window(&[3, 3], 1, 1), groups: 1 });
    let product = sketch.node(conv, &[integers, filters, zero, filter_zero]);
    let floats = sketch.node(Op::Cast(Cast { to: DType::F32 }), &[product]);
    let y = sketch.node(Op::Mul, &[floats, scale]);
    let inputs = [("x", numbers(&[1, 3, 6, 6], 1, 3.0))];
    check_pass(&sketch.finish(&[y]), &inputs, "float-products", 1);
}

#[test]
fn ranges_are_found_and_met() {
    let (mut sketch, x) = Sketch::new(40);
    let outputs = quantized(&mut sketch, x);
    let graph = sketch.finish(&outputs);
    for (rows, magnitude) in [(1, 3.0), (7, 1e-3), (0, 1.0), (900, 2.0)] {
        let inputs = [("x", numbers(&[rows, 40], 5, magnitude))];
        let model = crate::check(&graph, &inputs, 1e-6);
        let kernels: Vec<_> = model.explain().nodes.iter().map(|n| n.kernel.as_str()).collect();
        assert_eq!(kernels, ["range.u8", "range.u8", "quantize.u8"]);
    }
}

/// As older tools write it: the bias is an integer, and floats come behind it.
#[test]
fn integers_that_are_added_first_are_multiplied_in_floats() {
    for (size, expected) in [(2usize, 1), (400, 0)] {
        let shape = vec![1.into(), size.into(), 3.into(), 3.into()];
        let (mut sketch, x) = Sketch::shaped(shape);
        let [integers, scale, zero] = quantized(&mut sketch, x);
        let filters = Tensor::from_fn(&[4, size, 3, 3], |i| ((i * 37) % 251) as u8);
        let [filters, filter_zero] = [filters, Tensor::scalar(0u8)].map(|t| sketch.weight(t));
        let conv = Op::ConvInteger(ConvInteger { window: window(&[3, 3], 1, 1), groups: 1 });
        let product = sketch.node(conv, &[integers, filters, zero, filter_zero]);
        let bias = sketch.weight(Tensor::from_fn(&[4, 1, 1], |i| i as i32 * 100 - 150));
        let sum = sketch.node(Op::Add, &[product, bias]);
        let floats = sketch.node(Op::Cast(Cast { to: DType::F32 }), &[sum]);
        let y = sketch.node(Op::Mul, &[floats, scale]);
        let inputs = [("x", numbers(&[1, size, 3, 3], 1, 3.0))];
        check_pass(&sketch.finish(&[y]), &inputs, "float-products", expected);
    }
}
