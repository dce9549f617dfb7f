//! Fourier transforms against their sums.

use std::f64::consts::TAU;

use super::models::{floats, import, int, model, node, typed, with};
use crate::onnx::proto::{Model, NodeMessage, TensorMessage};
use crate::{Dim, Graph, Tensor, reference};

fn integer(name: &str, value: i64) -> TensorMessage {
    TensorMessage { data_type: Some(7), int64_data: vec![value], ..floats(name, &[], &[]) }
}

fn signal(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.4).collect()
}

/// A model of one node that reads `x` of these sizes.
fn single(node: NodeMessage, sizes: &[i64], constants: Vec<TensorMessage>) -> Model {
    let mut model = model(vec![typed("x", 1, sizes)], vec![node], &["y"]);
    model.graph.as_mut().unwrap().initializer = constants;
    model
}

fn evaluate(graph: &Graph, shape: &[usize], x: &[f32]) -> Tensor {
    let x = Tensor::new(shape, x.to_vec()).unwrap();
    reference::evaluate(graph, &[("x", x)]).unwrap().remove(0)
}

#[track_caller]
fn assert_near(found: &Tensor, expected: impl Iterator<Item = f64>) {
    let expected: Vec<f64> = expected.collect();
    let found = found.elements::<f32>().unwrap();
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(off < 1e-5, "element {index}: expected {expected}, found {found}");
    }
}

#[test]
fn frames_are_weighted_and_transformed() {
    let (length, step, batch, len) = (6usize, 2usize, 2usize, 11usize);
    let window: Vec<f32> = (0..length).map(|i| 0.5 + i as f32 / 10.0).collect();
    let x = signal(batch * len);
    for (onesided, bins) in [(1, 4), (0, 6)] {
        for has_window in [true, false] {
            let inputs = ["x", "step", if has_window { "window" } else { "" }, "length"];
            let node = with(node("STFT", &inputs, &["y"]), int("onesided", onesided));
            let constants = vec![
                integer("step", step as i64),
                floats("window", &[length as i64], &window),
                integer("length", length as i64),
            ];
            let graph = import(&single(node, &[2, 11, 1], constants)).unwrap();
            let y = evaluate(&graph, &[batch, len, 1], &x);
            let frames = (len - length) / step + 1;
            assert_eq!(y.shape(), [batch, frames, bins, 2]);
            let element = |place: usize| {
                let (part, bin) = (place % 2, place / 2 % bins);
                let (frame, item) = (place / 2 / bins % frames, place / 2 / bins / frames);
                let term = |entry: usize| {
                    let angle = -TAU * (entry * bin) as f64 / length as f64;
                    let factor = if part == 0 { angle.cos() } else { angle.sin() };
                    let weight = if has_window { f64::from(window[entry]) } else { 1.0 };
                    f64::from(x[item * len + frame * step + entry]) * weight * factor
                };
                (0..length).map(term).sum::<f64>()
            };
            assert_near(&y, (0..batch * frames * bins * 2).map(element));
        }
    }
}

/// A transform of two or one part along an axis.
fn transform(sizes: &[i64], axis: i64, [inverse, onesided]: [i64; 2], length: i64) -> Model {
    let node = node("DFT", &["x", "length", "axis"], &["y"]);
    let node = with(with(node, int("inverse", inverse)), int("onesided", onesided));
    single(node, sizes, vec![integer("length", length), integer("axis", axis)])
}

#[test]
fn transforms_are_undone() {
    let x = signal(30);
    for axis in [0, 1, -2] {
        let length = if axis == 0 { 3 } else { 5 };
        let there = import(&transform(&[3, 5, 1], axis, [0, 0], length)).unwrap();
        let y = evaluate(&there, &[3, 5, 1], &x[..15]);
        assert_eq!(y.shape(), [3, 5, 2]);
        let back = import(&transform(&[3, 5, 2], axis, [1, 0], length)).unwrap();
        let undone = evaluate(&back, &[3, 5, 2], y.elements().unwrap());
        assert_near(&undone, x[..15].iter().flat_map(|&x| [f64::from(x), 0.0]));
        // Of complex numbers.
        let there = import(&transform(&[3, 5, 2], axis, [0, 0], length)).unwrap();
        let y = evaluate(&there, &[3, 5, 2], &x);
        let undone = evaluate(&back, &[3, 5, 2], y.elements().unwrap());
        assert_near(&undone, x.iter().map(|&x| f64::from(x)));
    }
    for length in [6, 5] {
        let (size, half) = (length as usize, length as usize / 2 + 1);
        let there = import(&transform(&[2, length, 1], 1, [0, 1], length)).unwrap();
        let y = evaluate(&there, &[2, size, 1], &x[..2 * size]);
        assert_eq!(y.shape(), [2, half, 2]);
        let back = import(&transform(&[2, half as i64, 2], 1, [1, 1], length)).unwrap();
        let undone = evaluate(&back, &[2, half, 2], y.elements().unwrap());
        assert_near(&undone, x[..2 * size].iter().map(|&x| f64::from(x)));
    }
}

/// A signal is cut, or goes on in zeros, to the length of its transform.
#[test]
fn signals_have_the_length_asked_for() {
    let x = signal(5);
    let first = |length: i64| {
        let graph = import(&transform(&[1, 5, 1], 1, [0, 0], length)).unwrap();
        assert_eq!(graph.value_type(graph.outputs()[0]).shape[1], Dim::Fixed(length as usize));
        evaluate(&graph, &[1, 5, 1], &x).elements::<f32>().unwrap()[0]
    };
    let sum = |count: usize| x[..count].iter().sum::<f32>();
    for (length, count) in [(3, 3), (5, 5), (8, 5)] {
        assert!((first(length) - sum(count)).abs() < 1e-5);
    }
}

#[test]
fn windows_are_sums_of_cosines() {
    let window = |op: &str, periodic: i64| {
        let node = with(node(op, &["size"], &["y"]), int("periodic", periodic));
        let graph = import(&single(node, &[1], vec![integer("size", 8)])).unwrap();
        evaluate(&graph, &[1], &[0.0])
    };
    let angle = |i: usize, period: f64| TAU * i as f64 / period;
    for (periodic, period) in [(1, 8.0), (0, 7.0)] {
        let hann = |i| 0.5 - 0.5 * angle(i, period).cos();
        assert_near(&window("HannWindow", periodic), (0..8).map(hann));
        let hamming = |i| (25.0 - 21.0 * angle(i, period).cos()) / 46.0;
        assert_near(&window("HammingWindow", periodic), (0..8).map(hamming));
        let blackman =
            |i| 0.42 - 0.5 * angle(i, period).cos() + 0.08 * (2.0 * angle(i, period)).cos();
        assert_near(&window("BlackmanWindow", periodic), (0..8).map(blackman));
    }
}

/// Each band rises to 1 at its middle and falls to where the next one's middle is.
#[test]
fn bands_are_triangles_on_the_mel_scale() {
    let names = ["bands", "size", "rate", "low", "high"];
    let mel = |size: i64, edges: [f32; 2]| {
        let numbers = [("bands", 8), ("size", size), ("rate", 8192)];
        let numbers = numbers.map(|(name, value)| integer(name, value)).to_vec();
        let edges = [floats("low", &[], &edges[..1]), floats("high", &[], &edges[1..])];
        let node = node("MelWeightMatrix", &names, &["y"]);
        single(node, &[1], [numbers, edges.to_vec()].concat())
    };
    let graph = import(&mel(16, [0.0, 4096.0])).unwrap();
    let y = evaluate(&graph, &[1], &[0.0]);
    assert_eq!(y.shape(), [9, 8]);
    let y = y.elements::<f32>().unwrap();
    // The example of the operator's documentation.
    let rows = [
        "11000000", "00110000", "00001000", "00000100", "00000010", "00000001", "00000000",
        "00000000", "00000000",
    ];
    for (row, expected) in y.chunks(8).zip(rows) {
        let whole: String = row.iter().map(|&x| if x == 1.0 { '1' } else { '0' }).collect();
        assert_eq!(whole, expected, "{y:?}");
    }
    let refused = import(&mel(16, [0.0, 1e9])).unwrap_err().to_string();
    assert!(refused.contains("expected edges inside 9 frequencies"), "{refused}");
    let large = import(&mel(1 << 60, [0.0, 4096.0])).unwrap_err().to_string();
    assert!(large.contains("(MelWeightMatrix)") && large.contains("entries"), "{large}");
}

#[test]
fn what_cannot_be_a_product_is_named() {
    let refused = |model: &Model| import(model).unwrap_err().to_string();
    let half = refused(&transform(&[1, 5, 2], 1, [0, 1], 5));
    assert!(half.contains("(DFT)") && half.contains("half of a transform"), "{half}");
    let large = refused(&transform(&[1, 1 << 20, 1], 1, [0, 0], 1 << 20));
    assert!(large.contains("1048576 entries"), "{large}");
    let constants = vec![integer("step", 1), integer("length", 1 << 62)];
    let frames = node("STFT", &["x", "step", "", "length"], &["y"]);
    let large = refused(&single(frames, &[1, 5, 1], constants));
    assert!(large.contains("(STFT)") && large.contains("entries"), "{large}");
    let zero = refused(&transform(&[1, 5, 1], 1, [0, 0], 0));
    assert!(zero.contains("not a constant above 0"), "{zero}");
}
