//! Integers and the floats that they stand for.

use super::super::models::{body, graph_attribute, import, int, model, node, typed, with};
use super::{
    NodeMessage, TensorMessage, assert_near, contrib, float, floats, list, refusal, run, text, wave,
};
use crate::{Tensor, reference};

/// Numbers of 8 bits that look unordered.
fn bytes(shape: &[usize], seed: usize) -> Tensor {
    Tensor::from_fn(shape, |index| ((index * 97 + seed * 31) % 256) as u8)
}

fn signed(shape: &[usize], seed: usize) -> Tensor {
    Tensor::from_fn(shape, |index| (((index * 97 + seed * 31) % 255) as i16 - 127) as i8)
}

fn scale(value: f32) -> Tensor {
    Tensor::scalar(value)
}

fn real(x: &Tensor, scale: f64, zero: f64) -> Vec<f64> {
    let numbers: Vec<f64> = match x.elements::<u8>() {
        Ok(numbers) => numbers.iter().map(|&x| x.into()).collect(),
        Err(_) => x.elements::<i8>().unwrap().iter().map(|&x| x.into()).collect(),
    };
    numbers.into_iter().map(|x| (x - zero) * scale).collect()
}

/// Checks numbers of 8 bits, which may be one step off where a float is between two.
#[track_caller]
fn assert_steps(found: &Tensor, expected: &[f64], scale: f64, zero: f64) {
    let found = found.elements::<u8>().unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let exact = (expected / scale + zero).clamp(0.0, 255.0);
        assert!((f64::from(*found) - exact).abs() < 0.501, "expected {exact}, found {found}");
    }
}

#[test]
fn functions_of_integers_are_those_of_their_floats() {
    let (a, b) = (bytes(&[2, 3], 1), bytes(&[3], 2));
    let zero = |zero: u8| Tensor::scalar(zero);
    let values = [("a", a.clone()), ("b", b.clone())];
    let constants = [
        ("as", scale(0.5)),
        ("az", zero(100)),
        ("bs", scale(0.25)),
        ("bz", zero(128)),
        ("ys", scale(2.0)),
        ("yz", zero(90)),
    ];
    let (x, y) = (real(&a, 0.5, 100.0), real(&b, 0.25, 128.0));
    let two = ["a", "as", "az", "b", "bs", "bz", "ys", "yz"];
    let sums: Vec<f64> = (0..6).map(|i| x[i] + y[i % 3]).collect();
    let found = run(contrib("QLinearAdd", &two, &["q"]), &values, &constants);
    assert_steps(&found[0], &sums, 2.0, 90.0);
    let products: Vec<f64> = (0..6).map(|i| x[i] * y[i % 3]).collect();
    let found = run(contrib("QLinearMul", &two, &["q"]), &values, &constants);
    assert_steps(&found[0], &products, 2.0, 90.0);
    let one = ["a", "as", "az", "ys", "yz"];
    let unary = |node, expected: &[f64]| {
        let found = run(node, &values[..1], &constants);
        assert_steps(&found[0], expected, 2.0, 90.0);
    };
    let leaky: Vec<f64> = x.iter().map(|&x| if x < 0.0 { 0.5 * x } else { x }).collect();
    unary(with(contrib("QLinearLeakyRelu", &one, &["q"]), float("alpha", 0.5)), &leaky);
    let sigmoid: Vec<f64> = x.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    unary(contrib("QLinearSigmoid", &one, &["q"]), &sigmoid);
    let means: Vec<f64> = x.chunks(3).map(|row| row.iter().sum::<f64>() / 3.0).collect();
    unary(with(contrib("QLinearReduceMean", &one, &["q"]), list("axes", &[1])), &means);
    // Along the first dimension, and over all in the form of before opset 13.
    // Without an axis, along the last one in both forms.
    for (axis, opset) in [(Some(0), 13), (Some(0), 11), (None, 13), (None, 11)] {
        let mut softmax = contrib("QLinearSoftmax", &one, &["q"]);
        softmax = axis.map_or(softmax.clone(), |axis| with(softmax, int("axis", axis)));
        let expected = (0..6).map(|i| {
            let goes_with = |other: &usize| match axis {
                None => other / 3 == i / 3,
                Some(_) => opset < 13 || other % 3 == i % 3,
            };
            let others = (0..6).filter(goes_with);
            x[i].exp() / others.map(|other| x[other].exp()).sum::<f64>()
        });
        unary(with(softmax, int("opset", opset)), &expected.collect::<Vec<_>>());
    }
    let joined = ["ys", "yz", "a", "as", "az", "c", "bs", "bz"];
    let c = bytes(&[2, 1], 5);
    let found = run(
        with(contrib("QLinearConcat", &joined, &["q"]), int("axis", 1)),
        &[values[0].clone(), ("c", c.clone())],
        &constants,
    );
    let c = real(&c, 0.25, 128.0);
    let rows = x.chunks(3).zip(&c).flat_map(|(row, &c)| [row, &[c]].concat());
    assert_steps(&found[0], &rows.collect::<Vec<_>>(), 2.0, 90.0);
    let condition = Tensor::new(&[2, 1], vec![true, false]).unwrap();
    let chosen = ["w", "a", "as", "az", "b", "bs", "bz", "ys", "yz"];
    let given = [values.to_vec(), vec![("w", condition)]].concat();
    let found = run(contrib("QLinearWhere", &chosen, &["q"]), &given, &constants);
    let expected: Vec<f64> = (0..6).map(|i| if i < 3 { x[i] } else { y[i % 3] }).collect();
    assert_steps(&found[0], &expected, 2.0, 90.0);
}

#[test]
fn images_may_have_their_channels_last() {
    // Two by two pixels of three channels.
    let first = bytes(&[1, 3, 2, 2], 1);
    let numbers = first.elements::<u8>().unwrap();
    let last = Tensor::from_fn(&[1, 2, 2, 3], |index| numbers[index % 3 * 4 + index / 3]);
    let x = real(&first, 0.5, 100.0);
    let constants = [
        ("xs", scale(0.5)),
        ("z", Tensor::scalar(100u8)),
        ("ws", scale(0.01)),
        ("wz", Tensor::scalar(0i8)),
    ];
    let inputs = ["x", "xs", "z", "xs", "z"];
    let means: Vec<f64> = x.chunks(4).map(|pixels| pixels.iter().sum::<f64>() / 4.0).collect();
    let weight = signed(&[2, 3, 1, 1], 4);
    let (w, bias) = (real(&weight, f64::from(0.01f32), 0.0), [700i32, -300]);
    let layer = ["x", "xs", "z", "w", "ws", "wz", "xs", "z", "b"];
    for (channels_last, image) in [(0, first.clone()), (1, last.clone())] {
        let at_end = |node| with(node, int("channels_last", channels_last));
        let given = [("x", image)];
        let global = at_end(contrib("QLinearGlobalAveragePool", &inputs, &["q"]));
        assert_steps(&run(global, &given, &constants)[0], &means, 0.5, 100.0);
        let pool =
            with(contrib("QLinearAveragePool", &inputs, &["q"]), list("kernel_shape", &[2, 2]));
        assert_steps(&run(at_end(pool), &given, &constants)[0], &means, 0.5, 100.0);
        let conv = at_end(contrib("QLinearConv", &layer, &["q"]));
        let bias_value = Tensor::new(&[2], bias.to_vec()).unwrap();
        let stored = [constants.to_vec(), vec![("w", weight.clone()), ("b", bias_value)]].concat();
        let y = run(conv, &given, &stored).remove(0);
        let element = |index: usize| {
            let (channel, pixel) = match channels_last {
                0 => (index / 4, index % 4),
                _ => (index % 2, index / 2),
            };
            let sum: f64 = (0..3).map(|c| x[c * 4 + pixel] * w[channel * 3 + c]).sum();
            sum + f64::from(bias[channel]) * 0.5 * f64::from(0.01f32)
        };
        assert_steps(&y, &(0..8).map(element).collect::<Vec<_>>(), 0.5, 100.0);
    }
    let pool = with(contrib("NhwcMaxPool", &["x"], &["q"]), list("kernel_shape", &[2, 2]));
    let y = run(pool, &[("x", last)], &[]);
    let largest: Vec<u8> = numbers.chunks(4).map(|pixels| *pixels.iter().max().unwrap()).collect();
    assert_eq!(y[0].elements::<u8>().unwrap(), largest);
}

/// `x · w + b` of floats for quantized x `[2, 3]` and w `[3, 2]`.
fn product(x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
    let element = |i: usize| -> f64 {
        (0..3).map(|k| x[i / 2 * 3 + k] * w[k * 2 + i % 2]).sum::<f64>() + bias[i % 2]
    };
    (0..4).map(element).collect()
}

#[test]
fn products_of_integers() {
    let (x, w) = (bytes(&[2, 3], 1), signed(&[3, 2], 2));
    let turned = Tensor::from_fn(&[2, 3], |i| w.elements::<i8>().unwrap()[i % 3 * 2 + i / 3]);
    let columns = Tensor::new(&[2], vec![0.5f32, 0.25]).unwrap();
    let zeros = Tensor::new(&[2], vec![1i8, -2]).unwrap();
    let numbers = w.elements::<i8>().unwrap();
    let weight: Vec<f64> =
        (0..6).map(|i| (f64::from(numbers[i]) - [1.0, -2.0][i % 2]) * [0.5, 0.25][i % 2]).collect();
    let reals = real(&x, 0.5, 100.0);
    let constants = [
        ("xs", scale(0.5)),
        ("xz", Tensor::scalar(100u8)),
        ("w", w.clone()),
        ("t", turned),
        ("ws", columns),
        ("wz", zeros),
        ("i", Tensor::new(&[2], vec![40i32, -80]).unwrap()),
        ("f", Tensor::new(&[2], vec![3f32, -5.0]).unwrap()),
        ("ys", scale(4.0)),
        ("yz", Tensor::scalar(128u8)),
    ];
    let given = [("x", x)];
    let integer_bias = [40.0 * 0.25, -80.0 * 0.125];
    let expected = product(&reals, &weight, &integer_bias);
    for (weight, turns) in [("w", 0), ("t", 1)] {
        let gemm = |inputs: &[&str]| with(contrib("QGemm", inputs, &["y"]), int("transB", turns));
        let inputs = ["x", "xs", "xz", weight, "ws", "wz", "i", "ys", "yz"];
        assert_near(&run(gemm(&inputs[..7]), &given, &constants)[0], &expected);
        assert_steps(&run(gemm(&inputs), &given, &constants)[0], &expected, 4.0, 128.0);
    }
    let inputs = ["x", "w", "xs", "ws", "xz", "wz", "f"];
    let y = run(contrib("MatMulIntegerToFloat", &inputs, &["y"]), &given, &constants);
    assert_near(&y[0], &product(&reals, &weight, &[3.0, -5.0]));
    // A range of 255 steps of 1, so that integers stay what they are.
    let whole = Tensor::new(&[2, 3], vec![0f32, 255.0, 7.0, 31.0, 64.0, 9.0]).unwrap();
    let reals = floats(&whole);
    let y = run(
        contrib("DynamicQuantizeMatMul", &["a", "w", "ws", "wz", "f"], &["y"]),
        &[("a", whole)],
        &constants,
    );
    let sum = product(&reals, &weight, &[3.0, -5.0]);
    let found = floats(&y[0]);
    assert!(found.iter().zip(&sum).all(|(found, sum)| (found - sum).abs() < 1e-2), "{found:?}");
}

#[test]
fn weights_of_few_bits_have_blocks() {
    let (inner, columns, block, blocks) = (20usize, 3usize, 16usize, 2usize);
    for bits in [2usize, 4, 8] {
        let blob = block * bits / 8;
        let packed = bytes(&[columns, blocks, blob], bits);
        let scales = wave(&[columns, blocks], 3);
        let row = (blocks * bits).div_ceil(8);
        let zeros = bytes(&[columns, row], 9);
        let unpack = |bytes: &[u8], index: usize| {
            let shift = index * bits % 8;
            f64::from((u32::from(bytes[index * bits / 8]) >> shift) as u8 & (255 >> (8 - bits)))
        };
        let x = wave(&[2, inner], 5);
        for has_zeros in [false, true] {
            let inputs = ["x", "w", "s", if has_zeros { "z" } else { "" }, "", "b"];
            let mut node = contrib("MatMulNBits", &inputs, &["y"]);
            let sizes = [("K", inner), ("N", columns), ("bits", bits), ("block_size", block)];
            for (name, size) in sizes {
                node = with(node, int(name, size as i64));
            }
            let constants = [
                ("w", packed.clone()),
                ("s", scales.clone()),
                ("z", zeros.clone()),
                ("b", wave(&[columns], 7)),
            ];
            let y = run(node, &[("x", x.clone())], &constants);
            let (x, scales, bias) = (floats(&x), floats(&scales), floats(&constants[3].1));
            let bytes_of = |tensor: &Tensor, from: usize, len: usize| -> Vec<u8> {
                tensor.elements::<u8>().unwrap()[from..][..len].to_vec()
            };
            let weight = |k: usize, column: usize| {
                let values = bytes_of(&packed, column * blocks * blob, blocks * blob);
                let points = bytes_of(&zeros, column * row, row);
                let middle = f64::from(1u32 << (bits - 1));
                let zero = if has_zeros { unpack(&points, k / block) } else { middle };
                (unpack(&values, k) - zero) * scales[column * blocks + k / block]
            };
            let element = |i: usize| -> f64 {
                let column = i % columns;
                let term = |k| x[i / columns * inner + k] * weight(k, column);
                (0..inner).map(term).sum::<f64>() + bias[column]
            };
            let expected: Vec<f64> = (0..2 * columns).map(element).collect();
            let found = floats(&y[0]);
            // The weights are rounded once.
            let near = |(found, expected): (&f64, &f64)| (found - expected).abs() < 1e-3;
            assert!(found.iter().zip(&expected).all(near), "{bits}: {found:?} {expected:?}");
        }
    }
}

#[test]
fn rows_of_few_bits_are_picked() {
    let (rows, block) = (3usize, 16usize);
    let indices = Tensor::new(&[2], vec![2i64, 0]).unwrap();
    let scales = wave(&[rows, 2], 3);
    for bits in [4usize, 8] {
        let data = bytes(&[rows, 2 * block * bits / 8], bits);
        let zeros = bytes(&[rows, (2 * bits).div_ceil(8)], 5);
        let unpack = |tensor: &Tensor, row: usize, index: usize| {
            let width = tensor.shape()[1];
            let bytes = &tensor.elements::<u8>().unwrap()[row * width..][..width];
            let shift = index * bits % 8;
            f64::from((u32::from(bytes[index * bits / 8]) >> shift) as u8 & (255 >> (8 - bits)))
        };
        for has_zeros in [false, true] {
            let inputs: &[&str] = if has_zeros { &["d", "i", "s", "z"] } else { &["d", "i", "s"] };
            let mut node = contrib("GatherBlockQuantized", inputs, &["y"]);
            for (name, size) in [("bits", bits), ("block_size", block)] {
                node = with(node, int(name, size as i64));
            }
            let constants = [("d", data.clone()), ("s", scales.clone()), ("z", zeros.clone())];
            let y = run(node, &[("i", indices.clone())], &constants);
            let element = |index: usize| {
                let (row, column) = ([2, 0][index / 32], index % 32);
                let middle = f64::from(1u32 << (bits - 1));
                let zero = if has_zeros { unpack(&zeros, row, column / block) } else { middle };
                (unpack(&data, row, column) - zero) * floats(&scales)[row * 2 + column / block]
            };
            assert_near(&y[0], &(0..64).map(element).collect::<Vec<_>>());
        }
    }
}

/// A tensor of four bits is as one of eight for what reads its numbers, and for nothing else.
#[test]
fn integers_of_four_bits_are_dequantized() {
    let weights = || {
        let halves = TensorMessage {
            dims: vec![2, 2],
            data_type: Some(22),
            name: Some("d".to_owned()),
            raw_data: Some(vec![0x9f, 0x70]),
            ..Default::default()
        };
        let scale = TensorMessage {
            dims: vec![2, 1],
            data_type: Some(1),
            name: Some("s".to_owned()),
            float_data: vec![0.5, 2.0],
            ..Default::default()
        };
        vec![halves, scale]
    };
    let of_node = |input, op: NodeMessage| {
        let mut message = model(vec![input], vec![op], &["y"]);
        message.graph.as_mut().unwrap().initializer = weights();
        import(&message)
    };
    let rows = || typed("i", 7, &[2]);
    let blocks = |node| with(with(node, int("block_size", 16)), int("axis", 1));
    let indices = Tensor::new(&[2], vec![0i64, 1]).unwrap();
    for op in [
        contrib("GatherBlockQuantized", &["d", "i", "s"], &["y"]),
        node("DequantizeLinear", &["d", "s"], &["y"]),
    ] {
        let graph = of_node(rows(), blocks(op)).unwrap();
        let y = reference::evaluate(&graph, &[("i", indices.clone())]).unwrap();
        assert_near(&y[0], &[-0.5, -3.5, 0.0, 14.0]);
    }
    // From outside of a branch, that is taken or not.
    let reads = |y: &str| blocks(node("DequantizeLinear", &["d", "s"], &[y]));
    let [yes, no] = ["yes", "no"].map(|name| body(&[], vec![reads(name)], &[name]));
    let choice = with(node("If", &["c"], &["y"]), graph_attribute("then_branch", yes));
    let choice = with(choice, graph_attribute("else_branch", no));
    let graph = of_node(typed("c", 9, &[]), choice).unwrap();
    let y = reference::evaluate(&graph, &[("c", Tensor::scalar(true))]).unwrap();
    assert_near(&y[0], &[-0.5, -3.5, 0.0, 14.0]);
    let unread = node("QuantizeLinear", &["s", "s", "d"], &["y"]);
    let error = of_node(rows(), unread).unwrap_err();
    let expected = "node `y` (QuantizeLinear): `d`, a tensor of 4-bit integers, is not supported";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn packed_weights_that_do_not_fit_are_refused() {
    let check = |sizes: [i64; 4], extra: &str, expected: &str| {
        let mut node = contrib("MatMulNBits", &["x", "w", "s", "", extra], &["y"]);
        for (name, size) in ["K", "N", "bits", "block_size"].into_iter().zip(sizes) {
            node = with(node, int(name, size));
        }
        let constants =
            [("w", bytes(&[2, 1, 8], 1)), ("s", wave(&[2, 1], 1)), ("g", wave(&[1], 1))];
        let error = refusal(node, &[("x", wave(&[1, 16], 1))], &constants);
        assert!(error.ends_with(expected), "{error}");
    };
    check([16, 2, 4, 16], "g", "g_idx is not supported");
    check([16, 2, 3, 16], "", "bits = 3 is not supported");
    check([16, 2, 4, 24], "", "block_size = 24 is not supported");
    check([16, 3, 4, 16], "", "expected 24 bytes of weights, found 16");
    check([0, 2, 4, 16], "", "expected K above 0, found 0");
    check([i64::MAX, i64::MAX, 8, 16], "", "576460752303423488, 16]");
}

/// The same layer in floats.
#[test]
fn weights_of_a_quantized_lstm_are_floats() {
    let (hidden, size) = (2usize, 3usize);
    let (w, r) = (signed(&[1, size, 4 * hidden], 1), signed(&[1, hidden, 4 * hidden], 2));
    let steps = Tensor::from_fn(&[1, 4 * hidden], |index| 0.002 + index as f32 * 0.001);
    let zeros = Tensor::from_fn(&[1, 4 * hidden], |index| index as i8 - 3);
    let (bias, x) = (wave(&[1, 8 * hidden], 3), wave(&[4, 2, size], 4));
    let constants = [
        ("w", w.clone()),
        ("r", r.clone()),
        ("b", bias.clone()),
        ("ws", steps.clone()),
        ("wz", zeros.clone()),
        ("rs", scale(0.01).reshaped(&[1]).unwrap()),
        ("rz", Tensor::new(&[1], vec![5i8]).unwrap()),
    ];
    let inputs = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"];
    let layer =
        with(contrib("DynamicQuantizeLSTM", &inputs, &["y", "h", "c"]), int("hidden_size", 2));
    let found = run(layer, &[("x", x.clone())], &constants);
    let turned = |x: &Tensor, rows: usize, value: &dyn Fn(i8, usize) -> f32| {
        let numbers = x.elements::<i8>().unwrap();
        let gates = 4 * hidden;
        Tensor::from_fn(&[1, gates, rows], |i| {
            value(numbers[i % rows * gates + i / rows], i / rows)
        })
    };
    let (steps, zeros) = (steps.elements::<f32>().unwrap(), zeros.elements::<i8>().unwrap());
    let w = turned(&w, size, &|x, gate| (f32::from(x) - f32::from(zeros[gate])) * steps[gate]);
    let r = turned(&r, hidden, &|x, _| (f32::from(x) - 5.0) * 0.01);
    let layer = with(node("LSTM", &["x", "w", "r", "b"], &["y", "h", "c"]), int("hidden_size", 2));
    let expected = run(layer, &[("x", x)], &[("w", w), ("r", r), ("b", bias)]);
    for (found, expected) in found.iter().zip(&expected) {
        assert_near(found, &floats(expected));
    }
}

#[test]
fn between_floats_and_integers() {
    let x = Tensor::new(&[3], vec![1.2f32, -3.0, 400.0]).unwrap();
    let constants = [("s", scale(0.5)), ("z", Tensor::scalar(10u8))];
    let node = contrib("QuantizeLinear", &["x", "s", "z"], &["q"]);
    let graph = super::graph(node, &[("x", x.clone())], &constants).unwrap();
    let q = reference::evaluate(&graph, &[("x", x)]).unwrap().remove(0);
    assert_eq!(q.elements::<u8>().unwrap(), [12, 4, 255]);
    let y = run(contrib("DequantizeLinear", &["q", "s", "z"], &["y"]), &[("q", q)], &constants);
    assert_near(&y[0], &[1.0, -3.0, 122.5]);
    let error = refusal(contrib("QOrderedGelu", &["x"], &["y"]), &[("x", wave(&[1], 1))], &[]);
    assert_eq!(error, "node `y` (com.microsoft.QOrderedGelu): this operator is not supported");
    let blocked = super::NodeMessage {
        domain: Some("com.microsoft.nchwc".to_owned()),
        ..contrib("Conv", &["x", "x"], &["y"])
    };
    let error = refusal(with(blocked, text("activation", "Relu")), &[("x", wave(&[1], 1))], &[]);
    assert_eq!(error, "node `y` (com.microsoft.nchwc.Conv): this operator is not supported");
}
