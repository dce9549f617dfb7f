//! Each pass: fires where it must, keeps off where it must not, and changes no result.

use graph::op::{
    Binary, Cast, Dequantize, Gather, Gelu, InstanceNorm, LayerNorm, Quantize, Reduce, ReduceKind,
    Reshape, ReshapeTo, Transpose, Unary,
};
use graph::{DType, Dim, Graph, Op, Tensor, ValueId};
use runtime::{CompileOptions, Level, Precision, check_passes, compile, dump_after, pass_names};

use crate::attention::AttentionSketch;
use crate::{Sketch, assert_close, check, fired, floats, numbers, options, run};

/// f32 sums of a few hundred products in another order.
const FLOAT: f32 = 1e-4;

/// Checks the results at every level and with the pass alone disabled, and how often it fired.
#[track_caller]
pub(crate) fn check_pass(graph: &Graph, inputs: &[(&str, Tensor)], pass: &str, expected: usize) {
    let model = check(graph, inputs, FLOAT);
    assert_eq!(fired(&model, pass), expected, "{pass}: {:#?}", model.explain().nodes);
    let disabled = CompileOptions { disabled_passes: vec![pass.to_owned()], ..options(Level::O3) };
    let without = compile(graph, &disabled).unwrap();
    assert_eq!(fired(&without, pass), 0);
    assert_close(&run(&without, inputs), &run(&model, inputs), FLOAT);
}

fn rows(count: usize, columns: usize) -> [(&'static str, Tensor); 1] {
    [("x", numbers(&[count, columns], 7, 1.0))]
}

#[test]
fn linear_bias_activation() {
    for (op, passes) in
        [(Op::Gelu(Gelu::Erf), 1), (Op::Gelu(Gelu::Tanh), 1), (Op::Relu, 1), (Op::Tanh, 1)]
    {
        let (mut sketch, x) = Sketch::new(12);
        let w = sketch.weight(numbers(&[12, 7], 1, 0.5));
        let b = sketch.weight(numbers(&[7], 2, 0.5));
        let product = sketch.node(Op::MatMul, &[x, w]);
        let sum = sketch.node(Op::Add, &[b, product]);
        let y = sketch.node(op, &[sum]);
        let graph = sketch.finish(&[y]);
        for pass in ["linear", "bias", "activation"] {
            check_pass(&graph, &rows(5, 12), pass, passes);
        }
        let model = compile(&graph, &options(Level::O3)).unwrap();
        let nodes = &model.explain().nodes;
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].fused_from, ["node0", "node1", "node2"]);
        assert_eq!(nodes[0].kernel, "linear.f32");
    }
}

#[test]
fn float_layers_multiply_in_the_precision_asked_for() {
    let (rows, k, n) = (5, 48, 7);
    let (mut sketch, x) = Sketch::new(k);
    let w = sketch.weight(numbers(&[k, n], 1, 0.5));
    let y = sketch.node(Op::MatMul, &[x, w]);
    let graph = sketch.finish(&[y]);
    let inputs = [("x", numbers(&[rows, k], 7, 1.0))];
    let expected = &graph::reference::evaluate(&graph, &inputs).unwrap()[0];
    let bf16 = CompileOptions { precision: Precision::Bf16, ..options(Level::O3) };
    let model = compile(&graph, &bf16).unwrap();
    assert_eq!(model.explain().precision, Precision::Bf16);
    let node = &model.explain().nodes[0];
    assert_eq!(node.kernel, "linear.bf16");
    assert_eq!(node.rejected[0].kernel, "linear.f32");
    assert_eq!(model.explain().constant_bytes, 0);

    // Each operand is off by at most 2⁻⁹ of itself, and so each product by a little more than 2⁻⁸.
    let found = &run(&model, &inputs)[0];
    let (x, w) = (floats(&inputs[0].1), numbers(&[k, n], 1, 0.5));
    for (index, (&y, &exact)) in floats(found).iter().zip(floats(expected)).enumerate() {
        let products = (0..k).map(|i| x[index / n * k + i] * floats(&w)[i * n + index % n]);
        let bound = products.map(f32::abs).sum::<f32>() * 2f32.powi(-8) * 1.01;
        assert!((y - exact).abs() <= bound, "element {index}: {y} for {exact}");
        assert!(y != exact, "element {index} was not rounded");
    }

    let model = compile(&graph, &options(Level::O3)).unwrap();
    let node = &model.explain().nodes[0];
    assert_eq!(node.rejected[0].reason, "rounds to bf16, and the model was compiled for f32");
}

#[test]
fn intermediates_that_are_outputs_or_read_elsewhere_stay() {
    let build = |extra: fn(&mut Sketch, [ValueId; 2]) -> Vec<ValueId>| {
        let (mut sketch, x) = Sketch::new(12);
        let w = sketch.weight(numbers(&[12, 7], 1, 0.5));
        let b = sketch.weight(numbers(&[7], 2, 0.5));
        let product = sketch.node(Op::MatMul, &[x, w]);
        let sum = sketch.node(Op::Add, &[product, b]);
        let y = sketch.node(Op::Relu, &[sum]);
        let mut outputs = vec![y];
        outputs.extend(extra(&mut sketch, [product, sum]));
        sketch.finish(&outputs)
    };
    let product_out = build(|_, [product, _]| vec![product]);
    check_pass(&product_out, &rows(3, 12), "bias", 0);
    let sum_out = build(|_, [_, sum]| vec![sum]);
    check_pass(&sum_out, &rows(3, 12), "bias", 1);
    check_pass(&sum_out, &rows(3, 12), "activation", 0);
    let sum_read = build(|sketch, [_, sum]| vec![sketch.node(Op::Tanh, &[sum])]);
    check_pass(&sum_read, &rows(3, 12), "activation", 0);
}

#[test]
fn a_bias_is_a_constant_row() {
    let (mut sketch, x) = Sketch::new(7);
    let w = sketch.weight(numbers(&[7, 7], 1, 0.5));
    let product = sketch.node(Op::MatMul, &[x, w]);
    let y = sketch.node(Op::Add, &[product, x]);
    check_pass(&sketch.finish(&[y]), &rows(3, 7), "bias", 0);
    let (mut sketch, x) = Sketch::new(7);
    let w = sketch.weight(numbers(&[7, 7], 1, 0.5));
    let one = sketch.weight(numbers(&[1], 1, 0.5));
    let product = sketch.node(Op::MatMul, &[x, w]);
    let y = sketch.node(Op::Add, &[product, one]);
    check_pass(&sketch.finish(&[y]), &rows(3, 7), "bias", 0);
}

#[test]
fn products_of_two_values_are_no_linear_layers() {
    let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("batch"), 4.into(), 4.into()]);
    let y = sketch.node(Op::MatMul, &[x, x]);
    let graph = sketch.finish(&[y]);
    check_pass(&graph, &[("x", numbers(&[3, 4, 4], 1, 1.0))], "linear", 0);
}

#[test]
fn constants_fold_and_dead_nodes_go() {
    let (mut sketch, x) = Sketch::new(6);
    let [a, b] = [1, 2].map(|seed| sketch.weight(numbers(&[6], seed, 1.0)));
    let sum = sketch.node(Op::Add, &[a, b]);
    let twice = sketch.node(Op::Mul, &[sum, sum]);
    let y = sketch.node(Op::Mul, &[x, twice]);
    sketch.node(Op::Relu, &[x]);
    let graph = sketch.finish(&[y]);
    check_pass(&graph, &rows(3, 6), "fold-constants", 2);
    check_pass(&graph, &rows(3, 6), "dead-code", 1);
    let (mut sketch, x) = Sketch::new(6);
    let y = sketch.node(Op::Relu, &[x]);
    let graph = sketch.finish(&[y]);
    check_pass(&graph, &rows(3, 6), "fold-constants", 0);
    check_pass(&graph, &rows(3, 6), "dead-code", 0);
}

#[test]
fn no_ops_go_but_outputs_stay() {
    let build = |output_too: bool| {
        let (mut sketch, x) = Sketch::new(6);
        let a = sketch.node(Op::Transpose(Transpose { permutation: vec![0, 1] }), &[x]);
        let b = sketch.node(Op::Reshape(Reshape { shape: vec![0, 6] }), &[a]);
        let c = sketch.node(Op::Cast(Cast { to: DType::F32 }), &[b]);
        let y = sketch.node(Op::Relu, &[c]);
        sketch.finish(&[y, c][..1 + usize::from(output_too)])
    };
    check_pass(&build(false), &rows(3, 6), "no-ops", 3);
    check_pass(&build(true), &rows(3, 6), "no-ops", 2);
    let (mut sketch, x) = Sketch::new(6);
    let y = sketch.node(Op::Transpose(Transpose { permutation: vec![1, 0] }), &[x]);
    check_pass(&sketch.finish(&[y]), &rows(3, 6), "no-ops", 0);
}

#[test]
fn residual_layer_norm() {
    let build = |shape: Option<&[usize]>, output_too: bool| {
        let (mut sketch, x) = Sketch::new(10);
        let residual = match shape {
            Some(shape) => sketch.weight(numbers(shape, 3, 1.0)),
            None => sketch.node(Op::Tanh, &[x]),
        };
        let sum = sketch.node(Op::Add, &[residual, x]);
        let [scale, bias] = [1, 2].map(|seed| sketch.weight(numbers(&[10], seed, 1.0)));
        let norm = Op::LayerNorm(LayerNorm { epsilon: 1e-5 });
        let y = sketch.node(norm, &[sum, scale, bias]);
        sketch.finish(&[y, sum][..1 + usize::from(output_too)])
    };
    check_pass(&build(None, false), &rows(4, 10), "residual-layer-norm", 1);
    check_pass(&build(Some(&[10]), false), &rows(4, 10), "residual-layer-norm", 1);
    check_pass(&build(Some(&[1]), false), &rows(4, 10), "residual-layer-norm", 0);
    check_pass(&build(Some(&[]), false), &rows(4, 10), "residual-layer-norm", 0);
    check_pass(&build(None, true), &rows(4, 10), "residual-layer-norm", 0);
}

/// `x → Q → DQ → ·int8 weight → + bias → relu → (Q → DQ → ·int8 weight)`.
fn quantized(sketch: &mut Sketch, x: ValueId, between: bool) -> ValueId {
    let q = sketch.quantize(x, 0.0625);
    let dq = sketch.dequantize(q, 0.0625);
    let w = sketch.int8_weight([12, 20]);
    let b = sketch.weight(numbers(&[20], 2, 0.5));
    let product = sketch.node(Op::MatMul, &[dq, w]);
    let sum = sketch.node(Op::Add, &[product, b]);
    let hidden = sketch.node(Op::Relu, &[sum]);
    let q = sketch.quantize(hidden, 0.03125);
    let dq = sketch.dequantize(q, 0.03125);
    let w = sketch.int8_weight([20, 5]);
    let y = sketch.node(Op::MatMul, &[dq, w]);
    if between { sketch.node(Op::MatMul, &[hidden, w]) } else { y }
}

#[test]
fn integer_linear_with_quantize_epilogue() {
    let (mut sketch, x) = Sketch::new(12);
    let y = quantized(&mut sketch, x, false);
    let graph = sketch.finish(&[y]);
    check_pass(&graph, &rows(6, 12), "integer-linear", 2);
    check_pass(&graph, &rows(6, 12), "quantize-epilogue", 1);
    check_pass(&graph, &rows(6, 12), "quantize-prologue", 1);
    check_pass(&graph, &rows(6, 12), "dequantize-weights", 0);
    let model = compile(&graph, &options(Level::O3)).unwrap();
    let kinds: Vec<_> = model.explain().nodes.iter().map(|node| node.operation.as_str()).collect();
    assert_eq!(kinds, ["IntegerLinear", "IntegerLinear"]);
}

#[test]
fn an_input_that_is_read_twice_is_quantized_once() {
    let (mut sketch, x) = Sketch::new(12);
    let q = sketch.quantize(x, 0.0625);
    let dq = sketch.dequantize(q, 0.0625);
    let [a, b] = [(); 2].map(|()| {
        let w = sketch.int8_weight([12, 12]);
        sketch.node(Op::MatMul, &[dq, w])
    });
    let y = sketch.node(Op::Mul, &[a, b]);
    check_pass(&sketch.finish(&[y]), &rows(6, 12), "quantize-prologue", 0);
    let (mut sketch, x) = Sketch::new(12);
    let q = sketch.quantize(x, 0.0625);
    let dq = sketch.dequantize(q, 0.0625);
    let w = sketch.int8_weight([12, 12]);
    let y = sketch.node(Op::MatMul, &[dq, w]);
    check_pass(&sketch.finish(&[y, q]), &rows(6, 12), "quantize-prologue", 0);
}

#[test]
fn attention_writes_int8_for_the_layer_behind() {
    let build = |float_too: bool| {
        let attention = AttentionSketch::PLAIN.build();
        let y = attention.outputs()[0];
        let mut sketch = Sketch { graph: attention };
        let q = sketch.quantize(y, 0.0625);
        let dq = sketch.dequantize(q, 0.0625);
        let w = sketch.int8_weight([12, 5]);
        let z = sketch.node(Op::MatMul, &[dq, w]);
        sketch.finish(&[z, y][..1 + usize::from(float_too)])
    };
    let inputs = AttentionSketch::PLAIN.inputs();
    let model = compile(&build(false), &options(Level::O3)).unwrap();
    assert_eq!(fired(&model, "quantize-epilogue"), 1);
    // Rounding on the border of a step falls to either side: fused or not, one step of w apart.
    let plain = compile(&build(false), &options(Level::O1)).unwrap();
    assert_close(&run(&model, &inputs), &run(&plain, &inputs), 0.25);
    let kinds: Vec<_> = model.explain().nodes.iter().map(|node| node.operation.as_str()).collect();
    assert_eq!(kinds, ["Linear", "Unsqueeze", "FusedAttention", "IntegerLinear"]);
    let model = compile(&build(true), &options(Level::O3)).unwrap();
    assert_eq!(fired(&model, "quantize-epilogue"), 0);
}

#[test]
fn exact_scales_give_the_bits_of_the_reference() {
    let (mut sketch, x) = Sketch::new(12);
    let q = sketch.quantize(x, 0.0625);
    let dq = sketch.dequantize(q, 0.0625);
    let w = sketch.int8_weight([12, 20]);
    let y = sketch.node(Op::MatMul, &[dq, w]);
    // Powers of two: products and sums are exact in the reference too.
    let model = check(&sketch.finish(&[y]), &rows(9, 12), 0.0);
    assert_eq!(fired(&model, "integer-linear"), 1);
}

#[test]
fn a_value_that_is_read_as_float_too_is_not_written_as_int8() {
    let (mut sketch, x) = Sketch::new(12);
    let q = sketch.quantize(x, 0.0625);
    let dq = sketch.dequantize(q, 0.0625);
    let w = sketch.int8_weight([12, 12]);
    let hidden = sketch.node(Op::MatMul, &[dq, w]);
    let q = sketch.quantize(hidden, 0.03125);
    let dq = sketch.dequantize(q, 0.03125);
    let y = sketch.node(Op::MatMul, &[dq, w]);
    let z = sketch.node(Op::Add, &[y, hidden]);
    let graph = sketch.finish(&[z]);
    check_pass(&graph, &rows(6, 12), "integer-linear", 2);
    check_pass(&graph, &rows(6, 12), "quantize-epilogue", 0);
}

#[test]
fn weights_without_quantized_activations_run_as_floats() {
    let (mut sketch, x) = Sketch::new(12);
    let w = sketch.int8_weight([12, 5]);
    let y = sketch.node(Op::MatMul, &[x, w]);
    let graph = sketch.finish(&[y]);
    check_pass(&graph, &rows(6, 12), "integer-linear", 0);
    check_pass(&graph, &rows(6, 12), "dequantize-weights", 1);
    check_pass(&graph, &rows(6, 12), "linear", 1);
}

#[test]
fn unsigned_activations_become_signed() {
    let build = |is_read: bool| {
        let (mut sketch, x) = Sketch::new(12);
        let [scale, zero] =
            [Tensor::scalar(0.0625f32), Tensor::scalar(7u8)].map(|tensor| sketch.weight(tensor));
        let q = sketch.node(Op::Quantize(Quantize::default()), &[x, scale, zero]);
        let dq = sketch.node(Op::Dequantize(Dequantize::default()), &[q, scale, zero]);
        let w = sketch.int8_weight([12, 5]);
        let y = sketch.node(Op::MatMul, &[dq, w]);
        let outputs = if is_read { vec![y, q] } else { vec![y] };
        sketch.finish(&outputs)
    };
    check_pass(&build(false), &rows(6, 12), "signed-integers", 1);
    check_pass(&build(false), &rows(6, 12), "integer-linear", 1);
    // As an output it has to stay what it is.
    check_pass(&build(true), &rows(6, 12), "signed-integers", 0);
    let model = compile(&build(true), &options(Level::O3)).unwrap();
    let node = &model.explain().nodes[0];
    assert_eq!(node.kernel, "quantize.u8");
    assert_eq!(node.rejected[0].reason, "takes i8 only, found u8");
}

#[test]
fn transposed_weights_multiply_in_integers() {
    for per_column in [false, true] {
        let (mut sketch, x) = Sketch::new(12);
        let q = sketch.quantize(x, 0.0625);
        let dq = sketch.dequantize(q, 0.0625);
        // As `Gemm` has them: a row an output.
        let count = if per_column { vec![5] } else { vec![] };
        let integers = Tensor::from_fn(&[5, 12], |i| ((i * 37 + 5) % 255) as u8 as i8);
        let scales = Tensor::from_fn(&count, |i| 2f32.powi(-6 - (i % 3) as i32));
        let zeros = Tensor::from_fn(&count, |_| 0i8);
        let inputs = [integers, scales, zeros].map(|tensor| sketch.weight(tensor));
        let op = Dequantize { axis: per_column.then_some(0) };
        let w = sketch.node(Op::Dequantize(op), &inputs);
        let w = sketch.node(Op::Transpose(Transpose { permutation: vec![1, 0] }), &[w]);
        let y = sketch.node(Op::MatMul, &[dq, w]);
        let graph = sketch.finish(&[y]);
        let model = check(&graph, &rows(6, 12), 0.0);
        let kinds: Vec<_> = model.explain().nodes.iter().map(|node| &node.operation).collect();
        assert_eq!(kinds, ["IntegerLinear"], "{per_column}");
    }
}

#[test]
fn integer_gather() {
    let build = |ids: DType, axis: Option<usize>, gather_axis: usize| {
        let mut graph = Graph::new("gather");
        let shape = vec![Dim::symbol("batch"), Dim::symbol("sequence")];
        let ids = graph.add_input("ids", ids, shape).unwrap();
        let mut sketch = Sketch { graph };
        let size = axis.map_or(vec![], |axis| vec![[30, 8][axis]]);
        let table = sketch.weight(Tensor::from_fn(&[30, 8], |i| (i * 7 % 251) as u8 as i8));
        let scale = sketch.weight(Tensor::from_fn(&size, |i| 0.01 + i as f32 * 0.001));
        let zero = sketch.weight(Tensor::from_fn(&size, |_| 0i8));
        let op = Op::Dequantize(Dequantize { axis });
        let table = sketch.node(op, &[table, scale, zero]);
        let y = sketch.node(Op::Gather(Gather { axis: gather_axis }), &[table, ids]);
        sketch.finish(&[y])
    };
    let ids = [("ids", Tensor::new(&[2, 3], vec![0i64, 7, 3, 1, 5, 7]).unwrap())];
    for axis in [None, Some(0), Some(1)] {
        check_pass(&build(DType::I64, axis, 0), &ids, "integer-gather", 1);
    }
    check_pass(&build(DType::I64, Some(0), 1), &ids, "integer-gather", 0);
    let ids = [("ids", Tensor::new(&[2, 3], vec![0i32, 7, 3, 1, 5, 7]).unwrap())];
    check_pass(&build(DType::I32, None, 0), &ids, "integer-gather", 0);
}

#[test]
fn passes_have_names_of_their_own() {
    let names: Vec<_> = pass_names().collect();
    for (index, name) in names.iter().enumerate() {
        assert!(!names[..index].contains(name));
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
    }
}

#[test]
fn an_unknown_pass_is_refused_with_the_known_ones() {
    let (sketch, x) = Sketch::new(2);
    let graph = sketch.finish(&[x]);
    let disabled = vec!["atention".to_owned()];
    let options = CompileOptions { disabled_passes: disabled, ..CompileOptions::default() };
    let error = compile(&graph, &options).unwrap_err().to_string();
    assert!(
        error.starts_with("no pass is named `atention`; the passes are choices, dead-code, "),
        "{error}"
    );
}

#[test]
fn the_same_is_computed_once() {
    let (mut sketch, x) = Sketch::new(6);
    let [a, b] = [1, 2].map(|seed| sketch.weight(numbers(&[6], seed, 1.0)));
    let [first, second] = [(); 2].map(|()| sketch.node(Op::Add, &[x, a]));
    let [left, right] = [first, second].map(|x| sketch.node(Op::Tanh, &[x]));
    let y = sketch.node(Op::Mul, &[left, right]);
    check_pass(&sketch.finish(&[y]), &rows(3, 6), "common-subexpressions", 2);

    let (mut sketch, x) = Sketch::new(6);
    let [left, right] = [a, b].map(|_| sketch.node(Op::Tanh, &[x]));
    check_pass(&sketch.finish(&[left, right]), &rows(3, 6), "common-subexpressions", 0);
    let (mut sketch, x) = Sketch::new(6);
    let [left, right] = [Op::Tanh, Op::Relu].map(|op| sketch.node(op, &[x]));
    let y = sketch.node(Op::Mul, &[left, right]);
    check_pass(&sketch.finish(&[y]), &rows(3, 6), "common-subexpressions", 0);
}

fn scalar(sketch: &mut Sketch, value: f32) -> ValueId {
    sketch.weight(Tensor::scalar(value))
}

/// `0.5·x·(1 + erf(x/√2))` in three orders of its factors.
#[test]
fn gelu_written_out_with_erf() {
    for order in 0..3 {
        for (half, expected) in [(0.5, 1), (0.6, 0)] {
            let (mut sketch, x) = Sketch::new(8);
            let constants = [half, 1.0, std::f32::consts::SQRT_2];
            let [half, one, root] = constants.map(|value| scalar(&mut sketch, value));
            let argument = sketch.node(Op::Div, &[x, root]);
            let erf = sketch.node(Op::Unary(Unary::Erf), &[argument]);
            let gate = sketch.node(Op::Add, &[erf, one]);
            let [first, second] = match order {
                0 => [[x, gate], [half, x]],
                1 => [[half, x], [gate, x]],
                _ => [[gate, half], [x, x]],
            };
            let partial = sketch.node(Op::Mul, &first);
            let last = [second[0], partial];
            let last = if order == 1 { [partial, gate] } else { last };
            let y = sketch.node(Op::Mul, &last);
            check_pass(&sketch.finish(&[y]), &rows(3, 8), "gelu", expected);
        }
    }
}

#[test]
fn gelu_written_out_with_tanh() {
    for power in [true, false] {
        let (mut sketch, x) = Sketch::new(8);
        let constants = [0.5, 1.0, (2.0 / std::f32::consts::PI).sqrt(), 0.044_715, 3.0];
        let [half, one, root, small, three] = constants.map(|value| scalar(&mut sketch, value));
        let cube = if power {
            sketch.node(Op::Binary(Binary::Pow), &[x, three])
        } else {
            let square = sketch.node(Op::Mul, &[x, x]);
            sketch.node(Op::Mul, &[square, x])
        };
        let cubic = sketch.node(Op::Mul, &[cube, small]);
        let sum = sketch.node(Op::Add, &[x, cubic]);
        let argument = sketch.node(Op::Mul, &[sum, root]);
        let tanh = sketch.node(Op::Tanh, &[argument]);
        let gate = sketch.node(Op::Add, &[one, tanh]);
        let scaled = sketch.node(Op::Mul, &[x, half]);
        let y = sketch.node(Op::Mul, &[scaled, gate]);
        check_pass(&sketch.finish(&[y]), &rows(3, 8), "gelu", 1);
    }
}

#[test]
fn a_gelu_whose_parts_are_outputs_stays() {
    let (mut sketch, x) = Sketch::new(8);
    let constants = [0.5, 1.0, std::f32::consts::SQRT_2];
    let [half, one, root] = constants.map(|value| scalar(&mut sketch, value));
    let argument = sketch.node(Op::Div, &[x, root]);
    let erf = sketch.node(Op::Unary(Unary::Erf), &[argument]);
    let gate = sketch.node(Op::Add, &[erf, one]);
    let scaled = sketch.node(Op::Mul, &[x, half]);
    let y = sketch.node(Op::Mul, &[scaled, gate]);
    check_pass(&sketch.finish(&[y, erf]), &rows(3, 8), "gelu", 0);
}

#[test]
fn layer_norm_written_out() {
    // Reduced over the last axis, over another, with the centred value asked for.
    for (axis, centred_out, expected) in [(1, false, 1), (0, false, 0), (1, true, 0)] {
        for power in [true, false] {
            let (mut sketch, x) = Sketch::new(8);
            let mean = || {
                let axes = Some(vec![axis]);
                let kind = ReduceKind::Mean;
                Op::Reduce(Reduce { kind, axes, keep_dims: true, empty_means_none: false })
            };
            let [two, epsilon] = [2.0, 1e-5].map(|value| scalar(&mut sketch, value));
            let [scale, bias] = [1, 2].map(|seed| sketch.weight(numbers(&[8], seed, 1.0)));
            let average = sketch.node(mean(), &[x]);
            let centred = sketch.node(Op::Sub, &[x, average]);
            let square = match power {
                true => sketch.node(Op::Binary(Binary::Pow), &[centred, two]),
                false => sketch.node(Op::Mul, &[centred, centred]),
            };
            let variance = sketch.node(mean(), &[square]);
            let sum = sketch.node(Op::Add, &[variance, epsilon]);
            let root = sketch.node(Op::Unary(Unary::Sqrt), &[sum]);
            let normal = sketch.node(Op::Div, &[centred, root]);
            let scaled = sketch.node(Op::Mul, &[normal, scale]);
            let y = sketch.node(Op::Add, &[scaled, bias]);
            let outputs = if centred_out { vec![y, centred] } else { vec![y] };
            check_pass(&sketch.finish(&outputs), &rows(3, 8), "layer-norm", expected);
        }
    }
}

#[test]
fn passes_are_checked_as_they_run() {
    // Rows may be as many as a value says, and a number that is none stays so.
    let mut graph = Graph::new("checked");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("n")]).unwrap();
    let sizes = graph.add_input("sizes", DType::I64, vec![2.into()]).unwrap();
    let op = Op::ReshapeTo(ReshapeTo { allow_zero: false });
    let table = graph.add_node("table", op, &[x, sizes]).unwrap();
    let same = graph.add_node("same", Op::Identity, &[table]).unwrap();
    let w = graph.add_weight("w", numbers(&[2, 3], 1, 1.0)).unwrap();
    let product = graph.add_node("product", Op::MatMul, &[same, w]).unwrap();
    let y = graph.add_node("y", Op::Unary(Unary::Log), &[product]).unwrap();
    graph.set_outputs(&[y]);
    let (x, sizes) = (numbers(&[8], 3, 1.0), Tensor::new(&[2], vec![4i64, 2]).unwrap());
    let inputs = [("x", &x), ("sizes", &sizes)];
    let checks = check_passes(&graph, &options(Level::O3), &inputs).unwrap();
    assert!(checks.iter().any(|check| check.name == "no-ops"), "{checks:?}");
    assert!(checks.iter().all(|check| check.worst_error < FLOAT), "{checks:?}");
    let text = dump_after(&graph, &options(Level::O3), "activation").unwrap();
    assert!(text.contains("f32[?, 3] = Linear("), "{text}");
}

#[test]
fn root_mean_square_norm_written_out() {
    // A quotient, a product with a reciprocal, one with a quotient of 1; the last with a root that is
    // read again.
    for (form, root_out, expected) in [(0, false, 1), (1, false, 1), (2, false, 1), (1, true, 0)] {
        let (mut sketch, x) = Sketch::new(8);
        let [two, epsilon, one] = [2.0, 1e-5, 1.0].map(|value| scalar(&mut sketch, value));
        let scale = sketch.weight(numbers(&[8], 1, 1.0));
        let square = sketch.node(Op::Binary(Binary::Pow), &[x, two]);
        let (kind, axes) = (ReduceKind::Mean, Some(vec![1]));
        let mean = Reduce { kind, axes, keep_dims: true, empty_means_none: false };
        let mean = sketch.node(Op::Reduce(mean), &[square]);
        let sum = sketch.node(Op::Add, &[mean, epsilon]);
        let root = sketch.node(Op::Unary(Unary::Sqrt), &[sum]);
        let normal = match form {
            0 => sketch.node(Op::Div, &[x, root]),
            1 => {
                let inverse = sketch.node(Op::Unary(Unary::Reciprocal), &[root]);
                sketch.node(Op::Mul, &[x, inverse])
            }
            _ => {
                let inverse = sketch.node(Op::Div, &[one, root]);
                sketch.node(Op::Mul, &[inverse, x])
            }
        };
        let y = sketch.node(Op::Mul, &[scale, normal]);
        let outputs = if root_out { vec![y, root] } else { vec![y] };
        check_pass(&sketch.finish(&outputs), &rows(3, 8), "rms-norm", expected);
    }
}

#[test]
fn group_norm_written_out() {
    // One that scales as an instance already, groups that no channels fall into, one that is read again.
    for (groups, own_scale, normal_out, expected) in [
        (3, 1.0, false, 1),
        (1, 1.0, false, 1),
        (3, 2.0, false, 0),
        (4, 1.0, false, 0),
        (3, 1.0, true, 0),
    ] {
        let shape = [Dim::symbol("batch"), 6.into(), 4.into(), 5.into()];
        let (mut sketch, x) = Sketch::shaped(shape.to_vec());
        let to = |shape: &[i64]| Op::Reshape(Reshape { shape: shape.to_vec() });
        let ones = sketch.weight(Tensor::from_fn(&[groups], |_| own_scale));
        let zeros = sketch.weight(Tensor::from_fn(&[groups], |_| 0f32));
        let scale = sketch.weight(numbers(&[6, 1, 1], 1, 1.0));
        let bias = sketch.weight(numbers(&[1, 6, 1, 1], 2, 1.0));
        let split = sketch.node(to(&[0, groups as i64, -1]), &[x]);
        let norm = Op::InstanceNorm(InstanceNorm { epsilon: 1e-5 });
        let normal = sketch.node(norm, &[split, ones, zeros]);
        let merged = sketch.node(to(&[-1, 6, 4, 5]), &[normal]);
        let scaled = sketch.node(Op::Mul, &[merged, scale]);
        let y = sketch.node(Op::Add, &[bias, scaled]);
        let outputs = if normal_out { vec![y, merged] } else { vec![y] };
        let inputs = [("x", numbers(&[2, 6, 4, 5], 7, 1.0))];
        check_pass(&sketch.finish(&outputs), &inputs, "group-norm", expected);
    }
}
