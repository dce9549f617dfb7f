//! Every operator against the reference evaluation, forward and by finite differences, with the
//! CPU's one-node operations and with the composed ones that other devices use.

use std::collections::BTreeSet;

use graph::bert::{BertConfig, BertLayer, Pooling};
use graph::op::{
    Cast, Dequantize, Gather, Gelu, LayerNorm, Quantize, ReduceSum, Reshape, Slice, Softmax,
    Transpose, Unsqueeze,
};
use graph::rewrite::quantize::{self, QuantizeOptions};
use graph::{DType, Graph, Op, Tensor, bert, reference};

use super::floats::Floats;
use crate::device::Device;
use crate::examples::{Examples, Inputs};
use crate::network::{Mode, Network, NetworkOptions};

const TRAIN: Mode = Mode::Train { dropout: 0.0, seed: 0 };

fn normal(name: &str, shape: &[usize]) -> Tensor {
    bert::normal(9, name, shape, 1.0)
}

/// A graph of one operator over weights of these shapes.
fn single(op: Op, shapes: &[&[usize]]) -> Graph {
    let mut graph = Graph::new("single");
    let weights: Vec<_> = ["a", "b", "c"]
        .iter()
        .zip(shapes)
        .map(|(name, shape)| graph.add_weight(name, normal(name, shape)).unwrap())
        .collect();
    let y = graph.add_node("y", op, &weights).unwrap();
    graph.set_outputs(&[y]);
    graph
}

fn network(graph: &Graph, fuse: bool) -> Network {
    let mut network = Network::new(graph, &Device::cpu(), &NetworkOptions::default()).unwrap();
    network.set_fuse(fuse);
    network
}

fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let bound = tolerance * expected.abs().max(1.0);
        assert!((found - expected).abs() <= bound, "{what}[{index}]: {found}, not {expected}");
    }
}

/// Σ y · coefficient, the coefficients fixed.
fn weighted(y: &[f32]) -> f64 {
    let coefficients = normal("coefficients", &[y.len()]);
    let coefficients = coefficients.elements::<f32>().unwrap();
    y.iter().zip(coefficients).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum()
}

fn output(graph: &Graph, inputs: &[(&str, Tensor)]) -> Vec<f32> {
    reference::evaluate(graph, inputs).unwrap()[0].elements::<f32>().unwrap().to_vec()
}

/// Forward against the reference; gradients of all trained weights against finite differences.
fn check(graph: &Graph, inputs: &[(&str, Tensor)], what: &str) {
    let expected = output(graph, inputs);
    let given =
        Inputs(inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect());
    let name = graph.value_name(graph.outputs()[0]);
    for fuse in [true, false] {
        let network = network(graph, fuse);
        let what = format!("{what}, fuse {fuse}");
        let y = network.forward(&given, &[name], TRAIN).unwrap().floats(name).unwrap();
        close(&y.to_vec(), &expected, 2e-5, &what);
        let shape = y.shape();
        let coefficients = normal("coefficients", &[expected.len()]);
        let coefficients = coefficients.elements::<f32>().unwrap().to_vec();
        let coefficients = Floats(network.device().upload(&shape, coefficients));
        let gradients = network.gradients(&y.mul(coefficients).sum().typed());
        for (id, tensor) in graph.weights().filter(|(_, tensor)| !tensor.shape().is_empty()) {
            let Ok(elements) = tensor.elements::<f32>() else { continue };
            let name = graph.value_name(id);
            let gradient = gradients.get(name).unwrap_or_else(|| panic!("{what}: {name}"));
            let differences = (0..elements.len().min(12)).map(|index| {
                let index = index * elements.len() / elements.len().min(12);
                let at = |step: f32| {
                    let mut moved = elements.to_vec();
                    moved[index] += step;
                    let mut graph = graph.clone();
                    graph.set_weight(id, Tensor::new(tensor.shape(), moved).unwrap());
                    weighted(&output(&graph, inputs))
                };
                // The step balances f32 rounding (1e-7 / step) against curvature (step²).
                (index, ((at(4e-3) - at(-4e-3)) / 8e-3) as f32)
            });
            for (index, difference) in differences {
                let found = gradient.elements::<f32>().unwrap()[index];
                close(&[found], &[difference], 2e-3, &format!("{what}: d{name}[{index}]"));
            }
        }
    }
}

#[test]
fn every_operator_and_its_gradient_follow_the_reference() {
    let gelu = |gelu| Op::Gelu(gelu);
    let cases: Vec<(Op, Vec<&[usize]>)> = vec![
        (Op::Add, vec![&[2, 3, 4], &[3, 1]]),
        (Op::Add, vec![&[2, 3], &[2, 3]]),
        (Op::Sub, vec![&[2, 3], &[3]]),
        (Op::Mul, vec![&[4], &[2, 3, 4]]),
        (Op::Mul, vec![&[2, 1, 4], &[1, 3, 1]]),
        (Op::Sub, vec![&[3, 1], &[2, 3, 4]]),
        (Op::Add, vec![&[1], &[1]]),
        (Op::Div, vec![&[2, 3], &[2, 1]]),
        (Op::Relu, vec![&[3, 5]]),
        (Op::Tanh, vec![&[3, 5]]),
        (gelu(Gelu::Erf), vec![&[3, 5]]),
        (gelu(Gelu::Tanh), vec![&[3, 5]]),
        (Op::MatMul, vec![&[2, 3, 4], &[4, 5]]),
        (Op::MatMul, vec![&[2, 3, 4], &[2, 4, 5]]),
        (Op::MatMul, vec![&[3, 4], &[2, 4, 5]]),
        (Op::Softmax(Softmax {}), vec![&[2, 3, 7]]),
        (Op::LayerNorm(LayerNorm { epsilon: 1e-5 }), vec![&[2, 3, 6], &[6], &[6]]),
        (Op::Reshape(Reshape { shape: vec![0, -1, 2] }), vec![&[2, 3, 4]]),
        (Op::Transpose(Transpose { permutation: vec![2, 0, 1] }), vec![&[2, 3, 4]]),
        (Op::Unsqueeze(Unsqueeze { axes: vec![0, 2] }), vec![&[2, 3]]),
        (Op::Slice(Slice { axis: 1, start: 1, end: 3.into() }), vec![&[2, 4, 3]]),
        (Op::Cast(Cast { to: DType::F32 }), vec![&[2, 3]]),
        (Op::ReduceSum(ReduceSum { axis: 1 }), vec![&[2, 3, 4]]),
    ];
    let mut covered = BTreeSet::new();
    for (op, shapes) in cases {
        covered.insert(op.operator().onnx_type());
        check(&single(op.clone(), &shapes), &[], &format!("{op:?}"));
    }
    for axis in [0, 1] {
        let mut graph = Graph::new("gather");
        let table = graph.add_weight("a", normal("a", &[5, 3])).unwrap();
        let ids = graph.add_input("ids", DType::I64, vec![2.into(), 2.into()]).unwrap();
        let op = Op::Gather(Gather { axis });
        covered.insert(op.operator().onnx_type());
        let y = graph.add_node("y", op, &[table, ids]).unwrap();
        graph.set_outputs(&[y]);
        let ids = Tensor::new(&[2, 2], vec![2i64, 0, 2, 1]).unwrap();
        check(&graph, &[("ids", ids)], "gather");
    }
    // Their own tests are below: a straight-through gradient is not the function's.
    covered.extend(["QuantizeLinear", "DequantizeLinear"]);
    let every = [
        "Add",
        "Cast",
        "DequantizeLinear",
        "Div",
        "Gather",
        "Gelu",
        "LayerNormalization",
        "MatMul",
        "Mul",
        "QuantizeLinear",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Slice",
        "Softmax",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    ];
    assert!(covered.into_iter().eq(every));
}

#[test]
fn an_index_outside_the_table_is_an_error_that_names_the_node() {
    let mut graph = Graph::new("gather");
    let table = graph.add_weight("a", normal("a", &[5, 3])).unwrap();
    let ids = graph.add_input("ids", DType::I64, vec![1.into()]).unwrap();
    let y = graph.add_node("y", Op::Gather(Gather { axis: 0 }), &[table, ids]).unwrap();
    graph.set_outputs(&[y]);
    let inputs = Inputs(vec![("ids".to_owned(), Tensor::new(&[1], vec![5i64]).unwrap())]);
    let error = network(&graph, true).forward(&inputs, &["y"], TRAIN).unwrap_err();
    assert_eq!(error.to_string(), "node `y` (Gather): index 5 is outside dimension 0 of size 5");
}

pub(crate) fn tiny(pooling: Pooling) -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 10 };
    let config = BertConfig { positions: 8, pooling, ..BertConfig::uniform(13, 8, 2, layer) };
    bert::build(&config, &mut |name, shape| Ok(bert::normal(3, name, shape, 0.4))).unwrap()
}

fn texts() -> Examples {
    Examples { ids: vec![vec![1, 5, 7, 2], vec![3, 4], vec![12, 0, 3]], labels: vec![0, 1, 0] }
}

#[test]
fn a_whole_encoder_follows_the_reference() {
    let batch = texts().batch(&[0, 1, 2]);
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let graph = tiny(pooling);
        let Inputs(inputs) = batch.inputs();
        let inputs: Vec<(&str, Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        check(&graph, &inputs, &format!("{pooling:?}"));
    }
}

#[test]
fn taps_inside_an_attention_do_not_change_the_answer() {
    let graph = tiny(Pooling::Mean);
    let network = network(&graph, true);
    let inputs = texts().batch(&[0, 1, 2]).inputs();
    let scores = "encoder.layer.1.attention.self.scores";
    let plain = network.forward(&inputs, &["logits"], Mode::Evaluate).unwrap();
    let tapped = network.forward(&inputs, &[scores, "logits"], Mode::Evaluate).unwrap();
    assert_eq!(tapped.get::<4>(scores).unwrap().dims(), [3, 2, 4, 4]);
    let logits = |values: crate::network::Values| values.floats("logits").unwrap().to_vec();
    close(&logits(tapped), &logits(plain), 1e-5, "logits");
}

/// Where what attention writes is rounded to int8, the runtime's products may be less exact.
#[test]
fn attention_multiplies_as_it_will_at_the_runtime() {
    let products = |graph: &Graph| -> Vec<kernels::Products> {
        let plan = super::plan::Plan::new(graph, graph.outputs()).unwrap();
        let kernels = plan.instructions.into_iter().map(|instruction| instruction.kernel);
        let attention = |kernel| match kernel {
            super::plan::Kernel::Attention(attention) => Some(attention.products),
            _ => None,
        };
        kernels.filter_map(attention).collect()
    };
    let mut graph = tiny(Pooling::Mean);
    assert_eq!(products(&graph), [kernels::Products::F32; 2]);
    quantize::insert(&mut graph, &QuantizeOptions::default()).unwrap();
    assert_eq!(products(&graph), [kernels::Products::Split; 2]);
}

#[test]
fn dropout_changes_training_only() {
    let graph = tiny(Pooling::Mean);
    let network = network(&graph, true);
    let inputs = texts().batch(&[0, 1, 2]).inputs();
    let logits = |mode| {
        network.forward(&inputs, &["logits"], mode).unwrap().floats("logits").unwrap().to_vec()
    };
    let train = |seed| logits(Mode::Train { dropout: 0.3, seed });
    assert_ne!(train(1), logits(Mode::Evaluate));
    assert_ne!(train(1), train(2));
    assert_eq!(train(1), train(1));
    close(&logits(TRAIN), &logits(Mode::Evaluate), 0.0, "without dropout");
}

fn quantized(axis: Option<usize>, zero_point: u8) -> Graph {
    let mut graph = Graph::new("fake");
    let shape = [3, 4, 5];
    let x = graph.add_weight("x", normal("x", &shape)).unwrap();
    let sizes: Vec<usize> = axis.iter().map(|&axis| shape[axis]).collect();
    let scale = Tensor::from_fn(&sizes, |index| 0.011 + 0.003 * index as f32);
    let scale = graph.add_weight("scale", scale).unwrap();
    let zero = if zero_point == 0 {
        Tensor::from_fn(&sizes, |_| 0i8)
    } else {
        Tensor::from_fn(&sizes, |_| zero_point)
    };
    let zero = graph.add_weight("zero", zero).unwrap();
    let q = graph.add_node("q", Op::Quantize(Quantize { axis }), &[x, scale, zero]).unwrap();
    let y = graph.add_node("y", Op::Dequantize(Dequantize { axis }), &[q, scale, zero]).unwrap();
    graph.set_outputs(&[y]);
    graph
}

#[test]
fn fake_quantization_is_the_reference_to_the_bit_with_a_masked_straight_gradient() {
    for (axis, zero_point) in [(None, 0), (None, 90), (Some(0), 0), (Some(1), 0), (Some(2), 7)] {
        let graph = quantized(axis, zero_point);
        let x = graph.weight(graph.find("x").unwrap()).unwrap().clone();
        let expected = output(&graph, &[]);
        for fuse in [true, false] {
            // A frozen weight keeps the graph's scale; its gradient is taken through the leaf.
            let plan = super::plan::Plan::new(&graph, graph.outputs()).unwrap();
            let super::plan::Kernel::FakeQuantize(quantization) = &plan.instructions[0].kernel
            else {
                panic!("expected a fake quantization, found {:?}", plan.instructions)
            };
            let device = Device::cpu();
            let leaf =
                Floats(device.upload(x.shape(), x.elements::<f32>().unwrap().to_vec())).leaf();
            let scale = graph.weight(graph.find("scale").unwrap()).unwrap();
            let scale = scale.elements::<f32>().unwrap().to_vec();
            let scale = Floats(device.upload(&[scale.len()], scale));
            let y =
                super::quantize::fake_quantize(fuse, &device, quantization, leaf.clone(), scale);
            assert_eq!(y.to_vec(), expected, "{axis:?} {zero_point} fuse {fuse}");
            let mut gradients = y.sum().typed::<1>().backward();
            let gradient = leaf.typed::<1>().grad_remove(&mut gradients).unwrap();
            let gradient = Floats(gradient.into_dispatch()).to_vec();
            // Half a step is the most that rounding moves a value that is not cut off.
            for ((gradient, x), y) in
                gradient.iter().zip(x.elements::<f32>().unwrap()).zip(&expected)
            {
                let (least, most) = (0.5 * 0.011, 0.5 * 0.026);
                let passes = (gradient - 1.0).abs() < 1e-6;
                assert!(passes || *gradient == 0.0, "{x} {y} {gradient}");
                assert!(passes || (x - y).abs() >= least - 1e-6, "{x} {y} {gradient}");
                assert!(!passes || (x - y).abs() <= most + 1e-6, "{x} {y} {gradient}");
            }
            let cut = gradient.iter().filter(|&&gradient| gradient == 0.0).count();
            assert!(cut > 0 && cut < gradient.len(), "{axis:?} {zero_point}: {cut}");
        }
    }
}

/// A training that went wrong has to show it.
#[test]
fn activations_pass_on_what_is_no_number() {
    for op in [Op::Relu, Op::Tanh, Op::Gelu(Gelu::Erf), Op::Gelu(Gelu::Tanh)] {
        let mut graph = Graph::new("single");
        let x = Tensor::new(&[2], vec![f32::NAN, -1.0]).unwrap();
        let x = graph.add_weight("x", x).unwrap();
        let y = graph.add_node("y", op.clone(), &[x]).unwrap();
        graph.set_outputs(&[y]);
        let values = network(&graph, true)
            .forward(&Inputs([].into_iter().collect()), &["y"], TRAIN)
            .unwrap();
        let y = values.floats("y").unwrap().to_vec();
        assert!(y[0].is_nan() && y[1].is_finite(), "{op:?}: {y:?}");
    }
}
