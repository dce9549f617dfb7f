//! Activations, products and normalizations.

use super::super::models::{int, node, with};
use super::{assert_near, contrib, float, floats, refusal, run, text, wave};
use crate::Tensor;
use crate::op::erf;

fn gelu(x: f64) -> f64 {
    x * 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn activations_take_a_bias() {
    let tanh = |x: f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    let (x, bias) = (wave(&[2, 3], 1), wave(&[3], 2));
    let biased: Vec<f64> = {
        let bias = floats(&bias);
        floats(&x).iter().enumerate().map(|(index, x)| x + bias[index % 3]).collect()
    };
    let check = |op: &str, has_bias: bool, function: &dyn Fn(f64) -> f64| {
        let inputs: &[&str] = if has_bias { &["x", "b"] } else { &["x"] };
        let values = [("x", x.clone()), ("b", bias.clone())];
        let y = run(contrib(op, inputs, &["y"]), &values[..inputs.len()], &[]);
        let from = if has_bias { biased.clone() } else { floats(&x) };
        assert_near(&y[0], &from.into_iter().map(function).collect::<Vec<_>>());
    };
    check("Gelu", false, &gelu);
    check("BiasGelu", true, &gelu);
    check("FastGelu", false, &tanh);
    check("FastGelu", true, &tanh);
    check("QuickGelu", false, &|x| x * sigmoid(f64::from(1.702f32) * x));
    let node = with(contrib("QuickGelu", &["x"], &["y"]), float("alpha", 0.5));
    let y = run(node, &[("x", x.clone())], &[]);
    assert_near(&y[0], &floats(&x).iter().map(|x| x * sigmoid(0.5 * x)).collect::<Vec<_>>());
}

#[test]
fn half_of_a_row_gates_the_other() {
    let (x, bias) = (wave(&[2, 1, 4], 1), wave(&[4], 2));
    let values = [("x", x.clone()), ("b", bias.clone())];
    let y = run(contrib("BiasSplitGelu", &["x", "b"], &["y"]), &values, &[]);
    let (x, b) = (floats(&x), floats(&bias));
    let at = |row: usize, column: usize| x[row * 4 + column] + b[column];
    let expected: Vec<f64> =
        (0..4).map(|i| at(i / 2, i % 2) * gelu(at(i / 2, i % 2 + 2))).collect();
    assert_near(&y[0], &expected);
    let skip = wave(&[2, 1, 4], 5);
    let values = [values.to_vec(), vec![("s", skip.clone())]].concat();
    let y = run(contrib("BiasAdd", &["x", "b", "s"], &["y"]), &values, &[]);
    let skip = floats(&skip);
    assert_near(&y[0], &(0..8).map(|i| at(i / 4, i % 4) + skip[i]).collect::<Vec<_>>());
}

/// `a[i, batch, k] · b[i, batch, k]ᵀ` however the dimensions of both lie.
#[test]
fn sides_of_a_product_are_transposed() {
    let (batch, rows, inner, columns) = (2usize, 3usize, 4usize, 2usize);
    // Element of a side at matrix `m`, row `r` and column `c`.
    let side = |swap: bool, between: bool, r: usize, c: usize| -> (Vec<usize>, [usize; 3]) {
        let (first, last) = if swap { (c, r) } else { (r, c) };
        let shape = if between { vec![first, batch, last] } else { vec![batch, first, last] };
        let strides = if between { [last, batch * last, 1] } else { [first * last, last, 1] };
        let [m, one, two] = strides;
        (shape, if swap { [m, two, one] } else { [m, one, two] })
    };
    for flags in 0..16usize {
        let flag = |bit: usize| flags >> bit & 1 == 1;
        let (a_shape, a_stride) = side(flag(0), flag(1), rows, inner);
        let (b_shape, b_stride) = side(flag(2), flag(3), inner, columns);
        let (a, b) = (wave(&a_shape, 3), wave(&b_shape, 4));
        let mut node = with(contrib("FusedMatMul", &["a", "b"], &["y"]), float("alpha", 0.5));
        for (bit, name) in ["transA", "transBatchA", "transB", "transBatchB"].iter().enumerate() {
            node = with(node, int(name, flag(bit).into()));
        }
        let y = run(node, &[("a", a.clone()), ("b", b.clone())], &[]);
        assert_eq!(y[0].shape(), [batch, rows, columns]);
        let (a, b) = (floats(&a), floats(&b));
        let at = |stride: [usize; 3], m: usize, r: usize, c: usize| {
            m * stride[0] + r * stride[1] + c * stride[2]
        };
        let element = |index: usize| {
            let (m, r, c) = (index / columns / rows, index / columns % rows, index % columns);
            let term = |k| a[at(a_stride, m, r, k)] * b[at(b_stride, m, k, c)];
            0.5 * (0..inner).map(term).sum::<f64>()
        };
        assert_near(&y[0], &(0..batch * rows * columns).map(element).collect::<Vec<_>>());
    }
    let node = with(contrib("TransposeMatMul", &["a", "b"], &["y"]), int("transB", 1));
    let (a, b) = (wave(&[1, 2], 3), wave(&[1, 2], 4));
    let y = run(node, &[("a", a.clone()), ("b", b.clone())], &[]);
    assert_near(&y[0], &[floats(&a).iter().zip(floats(&b)).map(|(a, b)| a * b).sum()]);
}

#[test]
fn products_and_convolutions_end_in_activations() {
    type Function = fn(f64) -> f64;
    let cases: [(&str, &[f32], Function); 7] = [
        ("Relu", &[], |x| x.max(0.0)),
        ("Tanh", &[], f64::tanh),
        ("Sigmoid", &[], sigmoid),
        ("LeakyRelu", &[0.5], |x| if x < 0.0 { 0.5 * x } else { x }),
        ("HardSigmoid", &[0.5, 0.25], |x| (0.5 * x + 0.25).clamp(0.0, 1.0)),
        ("Elu", &[2.0], |x| if x < 0.0 { 2.0 * x.exp_m1() } else { x }),
        ("", &[], |x| x),
    ];
    let (x, w, b) = (wave(&[2, 3], 1), wave(&[3, 2], 2), wave(&[2], 3));
    let product = |x: &[f64], w: &[f64], row: usize, column: usize| -> f64 {
        (0..3).map(|k| x[row * 3 + k] * w[k * 2 + column]).sum()
    };
    for (name, parameters, function) in cases {
        let values = [("x", x.clone()), ("w", w.clone()), ("b", b.clone())];
        let mut gemm = with(contrib("FusedGemm", &["x", "w", "b"], &["y"]), float("alpha", 2.0));
        gemm = with(gemm, text("activation", name));
        for (attribute, &value) in ["activation_alpha", "activation_beta"].iter().zip(parameters) {
            gemm = with(gemm, float(attribute, value));
        }
        let y = run(gemm, &values, &[]);
        let (x, w, b) = (floats(&x), floats(&w), floats(&b));
        let expected = (0..4).map(|i| function(2.0 * product(&x, &w, i / 2, i % 2) + b[i % 2]));
        assert_near(&y[0], &expected.collect::<Vec<_>>());
    }
    // A convolution of one pixel: three channels in, two out.
    let weight =
        Tensor::from_fn(&[2, 3, 1, 1], |i| w.elements::<f32>().unwrap()[i % 3 * 2 + i / 3]);
    let (image, z) = (x.reshaped(&[2, 3, 1, 1]).unwrap(), wave(&[2, 2, 1, 1], 4));
    let mut clip =
        with(contrib("FusedConv", &["x", "w", "b", "z"], &["y"]), text("activation", "Clip"));
    let floats_of = |values: &[f32]| super::Attribute {
        name: Some("activation_params".to_owned()),
        floats: values.to_vec(),
        ..Default::default()
    };
    clip = with(clip, floats_of(&[-0.5, 0.25]));
    let values = [("x", image), ("w", weight), ("b", b.clone()), ("z", z.clone())];
    let y = run(clip, &values, &[]);
    let (x, w, b, z) = (floats(&x), floats(&w), floats(&b), floats(&z));
    let expected =
        (0..4).map(|i| (product(&x, &w, i / 2, i % 2) + b[i % 2] + z[i]).clamp(-0.5, 0.25));
    assert_near(&y[0], &expected.collect::<Vec<_>>());
    let unknown = with(contrib("FusedConv", &["x", "w"], &["y"]), text("activation", "Cube"));
    let error = refusal(unknown, &values[..2], &[]);
    assert_eq!(error, "node `y` (com.microsoft.FusedConv): activation = `Cube` is not supported");
}

/// Mean and inverse deviation of a row.
fn statistics(row: &[f64], epsilon: f64) -> (f64, f64) {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// Rows of as many numbers as `scale`, normalized.
fn normalized(x: &[f64], scale: &[f64], bias: &[f64], epsilon: f64) -> Vec<f64> {
    let row = |row: &[f64]| -> Vec<f64> {
        let (mean, inverse) = statistics(row, epsilon);
        let entries = row.iter().zip(scale).zip(bias);
        entries.map(|((x, scale), bias)| (x - mean) * inverse * scale + bias).collect()
    };
    x.chunks(scale.len()).flat_map(row).collect()
}

#[test]
fn sums_are_normalized() {
    let names = ["x", "skip", "scale", "beta", "bias"];
    let shapes: [&[usize]; 5] = [&[2, 2, 4], &[2, 4], &[4], &[4], &[4]];
    let tensors: Vec<Tensor> = shapes.iter().enumerate().map(|(i, shape)| wave(shape, i)).collect();
    let values: Vec<(&str, Tensor)> = names.into_iter().zip(tensors.iter().cloned()).collect();
    let [x, skip, scale, beta, bias] = [0, 1, 2, 3, 4].map(|index: usize| floats(&tensors[index]));
    let sum: Vec<f64> = (0..16).map(|i| x[i] + skip[i % 8] + bias[i % 4]).collect();
    let node = contrib("SkipLayerNormalization", &names, &["y", "mean", "inverse", "sum"]);
    let outputs = run(with(node, float("epsilon", 0.5)), &values, &[]);
    assert_near(&outputs[0], &normalized(&sum, &scale, &beta, 0.5));
    let of_rows: Vec<(f64, f64)> = sum.chunks(4).map(|row| statistics(row, 0.5)).collect();
    assert_near(&outputs[1], &of_rows.iter().map(|row| row.0).collect::<Vec<_>>());
    assert_near(&outputs[2], &of_rows.iter().map(|row| row.1).collect::<Vec<_>>());
    assert_near(&outputs[3], &sum);
    let simplified = |x: &[f64], epsilon: f64| -> Vec<f64> {
        let row = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / 4.0;
            row.iter().zip(&scale).map(|(x, s)| x / (mean + epsilon).sqrt() * s).collect()
        };
        x.chunks(4).flat_map(row).collect()
    };
    let inputs = ["x", "skip", "scale", "bias"];
    let node = contrib("SkipSimplifiedLayerNormalization", &inputs, &["y", "", "", "sum"]);
    let given: Vec<_> = values.iter().filter(|(name, _)| inputs.contains(name)).cloned().collect();
    let outputs = run(node, &given, &[]);
    assert_near(&outputs[0], &simplified(&sum, 1e-12));
    assert_near(&outputs[1], &sum);
    let alone = [values[0].clone(), values[2].clone()];
    for make in [contrib, node_of_onnx] {
        let node = make("SimplifiedLayerNormalization", &["x", "scale"], &["y"]);
        assert_near(&run(node, &alone, &[])[0], &simplified(&x, 1e-5));
    }
    let node = contrib("LayerNormalization", &["x", "scale"], &["y"]);
    assert_near(&run(node, &alone, &[])[0], &normalized(&x, &scale, &[0.0; 4], 1e-5));
    let node = contrib("SkipSimplifiedLayerNormalization", &inputs, &["y", "mean"]);
    assert!(refusal(node, &given, &[]).contains("an output of statistics is not supported"));
}

fn node_of_onnx(op: &str, inputs: &[&str], outputs: &[&str]) -> super::NodeMessage {
    node(op, inputs, outputs)
}

#[test]
fn embeddings_are_added_and_normalized() {
    let ids = Tensor::new(&[2, 3], vec![1i32, 4, 0, 2, 2, 3]).unwrap();
    let segments = Tensor::new(&[2, 3], vec![0i32, 1, 1, 0, 0, 1]).unwrap();
    let mask = Tensor::new(&[2, 3], vec![1i32, 1, 0, 1, 0, 0]).unwrap();
    let places = Tensor::new(&[2, 3], vec![3i32, 2, 1, 0, 0, 1]).unwrap();
    let tables = [wave(&[5, 4], 1), wave(&[4, 4], 2), wave(&[2, 4], 3)];
    let (scale, bias) = (wave(&[4], 4), wave(&[4], 5));
    let values = [
        ("ids", ids.clone()),
        ("segments", segments.clone()),
        ("words", tables[0].clone()),
        ("positions", tables[1].clone()),
        ("kinds", tables[2].clone()),
        ("scale", scale.clone()),
        ("bias", bias.clone()),
        ("mask", mask),
        ("places", places.clone()),
    ];
    let tables = tables.map(|table| floats(&table));
    let number = |tensor: &Tensor, index: usize| tensor.elements::<i32>().unwrap()[index] as usize;
    let sum = |given: bool, typed: bool| -> Vec<f64> {
        let element = |index: usize| {
            let (place, column) = (index / 4, index % 4);
            let position = if given { number(&places, place) } else { place % 3 };
            let kind = tables[2][number(&segments, place) * 4 + column];
            tables[0][number(&ids, place) * 4 + column]
                + tables[1][position * 4 + column]
                + if typed { kind } else { 0.0 }
        };
        (0..24).map(element).collect()
    };
    let name = "EmbedLayerNormalization";
    let all = ["ids", "segments", "words", "positions", "kinds", "scale", "bias", "mask", "places"];
    let outputs = run(contrib(name, &all, &["y", "counts", "sum"]), &values, &[]);
    let expected = normalized(&sum(true, true), &floats(&scale), &floats(&bias), 1e-12);
    assert_near(&outputs[0], &expected);
    assert_eq!(outputs[1].elements::<i32>().unwrap(), [2, 1]);
    assert_near(&outputs[2], &sum(true, true));
    let few = ["ids", "", "words", "positions", "", "scale", "bias"];
    let given: Vec<_> = values.iter().filter(|(name, _)| few.contains(name)).cloned().collect();
    let outputs = run(contrib(name, &few, &["y", "counts"]), &given, &[]);
    let expected = normalized(&sum(false, false), &floats(&scale), &floats(&bias), 1e-12);
    assert_near(&outputs[0], &expected);
    assert_eq!(outputs[1].elements::<i32>().unwrap(), [0, 0]);
}

/// The same as of the floats that the integers stand for.
#[test]
fn embeddings_of_integers_are_floats() {
    let tables: [&[usize]; 5] = [&[5, 4], &[4, 4], &[2, 4], &[4], &[4]];
    let names = ["words", "positions", "kinds", "scale", "bias"];
    let (mut integers, mut reals) = (Vec::new(), Vec::new());
    for (index, (shape, name)) in tables.into_iter().zip(names).enumerate() {
        let table = Tensor::from_fn(shape, |i| ((i * 71 + index * 29) % 256) as u8);
        let numbers = table.elements::<u8>().unwrap();
        let real = Tensor::from_fn(shape, |i| (f32::from(numbers[i]) - 100.0) * 0.5);
        reals.push((name, real));
        integers.push((name, table));
    }
    integers.push(("s", Tensor::scalar(0.5f32)));
    integers.push(("z", Tensor::scalar(100u8)));
    let ids = Tensor::new(&[2, 3], vec![1i32, 4, 0, 2, 2, 3]).unwrap();
    let segments = Tensor::new(&[2, 3], vec![0i32, 1, 1, 0, 0, 1]).unwrap();
    let given = [("ids", ids), ("segments", segments)];
    let inputs = [&["ids", "segments"][..], &names, &[""], &["s"; 5], &["z"; 5]].concat();
    let found =
        run(contrib("QEmbedLayerNormalization", &inputs, &["y", "counts"]), &given, &integers);
    let plain = contrib("EmbedLayerNormalization", &inputs[..7], &["y", "counts"]);
    assert_near(&found[0], &floats(&run(plain, &given, &reals)[0]));
}

#[test]
fn groups_of_channels_are_normalized() {
    // Two pixels of four channels, the last dimension, in two groups.
    let shape = [1, 1, 2, 4];
    let (x, skip) = (wave(&shape, 1), wave(&[1, 4], 2));
    let (scale, beta, bias) = (wave(&[4], 3), wave(&[4], 4), wave(&[4], 5));
    let values = [
        ("x", x.clone()),
        ("scale", scale.clone()),
        ("beta", beta.clone()),
        ("skip", skip.clone()),
        ("bias", bias.clone()),
    ];
    let grouped = |x: &[f64]| -> Vec<f64> {
        let (scale, beta) = (floats(&scale), floats(&beta));
        let element = |index: usize| {
            let (channel, group) = (index % 4, index % 4 / 2);
            let members = [0, 1, 4, 5].map(|place| x[place + 2 * group]);
            let (mean, inverse) = statistics(&members, 1e-5);
            (x[index] - mean) * inverse * scale[channel] + beta[channel]
        };
        (0..8).map(element).collect()
    };
    let with_groups = |node| with(with(node, int("groups", 2)), int("activation", 1));
    let silu = |y: Vec<f64>| y.into_iter().map(|y| y * sigmoid(y)).collect::<Vec<_>>();
    let node = with_groups(contrib("GroupNorm", &["x", "scale", "beta"], &["y"]));
    assert_near(&run(node, &values[..3], &[])[0], &silu(grouped(&floats(&x))));
    let inputs = ["x", "scale", "beta", "skip", "bias"];
    let node = with_groups(contrib("SkipGroupNorm", &inputs, &["y", "sum"]));
    let outputs = run(node, &values, &[]);
    let (x, skip, bias) = (floats(&x), floats(&skip), floats(&bias));
    let sum: Vec<f64> = (0..8).map(|i| x[i] + skip[i % 4] + bias[i % 4]).collect();
    assert_near(&outputs[0], &silu(grouped(&sum)));
    assert_near(&outputs[1], &sum);
}

#[test]
fn older_forms_of_what_onnx_has() {
    let one = |x: f32| Tensor::new(&[1], vec![x]).unwrap();
    let values = [("a", one(1.0)), ("b", one(7.0)), ("c", one(2.5))];
    let y = run(contrib("Range", &["a", "b", "c"], &["y"]), &values, &[]);
    assert_near(&y[0], &[1.0, 3.5, 6.0]);
    let y = run(contrib("Range", &["a", "b"], &["y"]), &values[..2], &[]);
    assert_near(&y[0], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let x = Tensor::new(&[1, 2], vec![1f32, 2.0]).unwrap();
    let pads = Tensor::new(&[1, 4], vec![0i64, 1, 1, 0]).unwrap();
    let values = [("x", x), ("p", pads), ("v", one(9.0))];
    let y = run(contrib("Pad", &["x", "p", "v"], &["y"]), &values, &[]);
    assert_near(&y[0], &[9.0, 1.0, 2.0, 9.0, 9.0, 9.0]);
    let x = Tensor::new(&[2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
    let y = run(with(contrib("Trilu", &["x"], &["y"]), int("upper", 0)), &[("x", x)], &[]);
    assert_near(&y[0], &[1.0, 0.0, 3.0, 4.0]);
    let x = Tensor::new(&[6], vec![2f32, 1.0, 1.0, 3.0, 4.0, 3.0]).unwrap();
    let y = run(contrib("Unique", &["x"], &["y", "inverse", "counts"]), &[("x", x)], &[]);
    assert_near(&y[0], &[2.0, 1.0, 3.0, 4.0]);
    assert_eq!(y[1].elements::<i64>().unwrap(), [0, 1, 1, 2, 3, 2]);
    assert_eq!(y[2].elements::<i64>().unwrap(), [1, 2, 2, 1]);
}
