//! What is kept from one part of a sequence to the next.

use super::models::{import, int, model, node, typed, with};
use super::operators::text;
use crate::onnx::proto::{Model, NodeMessage, ValueInfo};
use crate::{Tensor, reference};

fn evaluate(model: &Model, inputs: &[(&'static str, Tensor)]) -> Vec<Vec<f32>> {
    let graph = import(model).unwrap();
    let outputs = reference::evaluate(&graph, inputs).unwrap();
    outputs.iter().map(|y| y.elements::<f32>().unwrap().to_vec()).collect()
}

fn list(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::new(shape, values.to_vec()).unwrap()
}

/// A sequence in two parts gives what it gives in one.
#[test]
fn convolutions_go_on_where_they_were() {
    let inputs = |length: i64, state: bool| -> Vec<ValueInfo> {
        let state = state.then(|| typed("s", 1, &[1, 2, 2]));
        let given = [typed("x", 1, &[1, 2, length]), typed("w", 1, &[2, 1, 3])];
        given.into_iter().chain(state).collect()
    };
    let of = |length: i64, state: bool| {
        let past = if state { "s" } else { "" };
        let conv = node("CausalConvWithState", &["x", "w", "", past], &["y", "next"]);
        model(inputs(length, state), vec![conv], &["y", "next"])
    };
    let w = list(&[1.0, 10.0, 100.0, 1.0, 1.0, 1.0], &[2, 1, 3]);
    let x = list(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1, 2, 3]);
    let whole = evaluate(&of(3, false), &[("x", x), ("w", w.clone())]);
    assert_eq!(whole[0], [100.0, 210.0, 321.0, 4.0, 9.0, 15.0]);
    assert_eq!(whole[1], [2.0, 3.0, 5.0, 6.0]);
    let first = list(&[1.0, 2.0, 4.0, 5.0], &[1, 2, 2]);
    let first = evaluate(&of(2, false), &[("x", first), ("w", w.clone())]);
    let last = list(&[3.0, 6.0], &[1, 2, 1]);
    let state = list(&first[1], &[1, 2, 2]);
    let last = evaluate(&of(1, true), &[("x", last), ("w", w), ("s", state)]);
    assert_eq!(last, [vec![321.0, 15.0], whole[1].clone()]);
    let relu = with(node("CausalConvWithState", &["x", "w"], &["y"]), text("activation", "relu"));
    let error = import(&model(inputs(3, false), vec![relu], &["y"])).unwrap_err().to_string();
    assert_eq!(error, "node `y` (CausalConvWithState): activation = `relu` is not supported");
}

#[test]
fn updates_are_written_from_their_places_on() {
    let of = |inputs: &[&str], mode: &str| {
        let given = vec![typed("cache", 1, &[2, 4, 1]), typed("update", 1, &[2, 2, 1])];
        let given = [given, vec![typed("starts", 7, &[2])]].concat();
        let write = with(node("TensorScatter", inputs, &["y"]), text("mode", mode));
        model(given, vec![write], &["y"])
    };
    let run = |model: &Model, starts: [i64; 2]| {
        let cache = list(&[0.0; 8], &[2, 4, 1]);
        let update = list(&[1.0, 2.0, 3.0, 4.0], &[2, 2, 1]);
        let starts = Tensor::new(&[2], starts.to_vec()).unwrap();
        let graph = import(model).unwrap();
        let given = [("cache", cache), ("update", update), ("starts", starts)];
        reference::evaluate(&graph, &given).map(|y| y[0].elements::<f32>().unwrap().to_vec())
    };
    let all = ["cache", "update", "starts"];
    let linear = of(&all, "linear");
    let expected = [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4.0];
    assert_eq!(run(&linear, [1, 2]).unwrap(), expected);
    assert!(run(&linear, [1, 3]).is_err());
    let around = [0.0, 1.0, 2.0, 0.0, 4.0, 0.0, 0.0, 3.0];
    assert_eq!(run(&of(&all, "circular"), [1, 3]).unwrap(), around);
    let first = run(&of(&all[..2], "linear"), [9, 9]).unwrap();
    assert_eq!(first, [1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0]);
}

fn attention(rule: &str, inputs: &[&str]) -> NodeMessage {
    let node = node("LinearAttention", inputs, &["y", "next"]);
    let node = with(with(node, int("q_num_heads", 2)), int("kv_num_heads", 1));
    with(node, text("update_rule", rule))
}

#[test]
fn attention_keeps_a_matrix() {
    let given = |node| {
        let sizes = [("q", [1, 2, 4]), ("k", [1, 2, 2]), ("v", [1, 2, 1]), ("g", [1, 2, 1])];
        let given = sizes.iter().map(|(name, sizes)| typed(name, 1, sizes)).collect();
        model(given, vec![node], &["y", "next"])
    };
    let gated = given(attention("gated", &["q", "k", "v", "", "g"]));
    let inputs = [
        ("q", list(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0], &[1, 2, 4])),
        ("k", list(&[1.0, 2.0, 0.0, 1.0], &[1, 2, 2])),
        ("v", list(&[3.0, 10.0], &[1, 2, 1])),
        ("g", list(&[0.5f32.ln(); 2], &[1, 2, 1])),
    ];
    let outputs = evaluate(&gated, &inputs);
    // The usual factor is 1/√2.
    let expected = [3.0, 6.0, 1.5, 13.0].map(|x: f32| (f64::from(x) / 2f64.sqrt()) as f32);
    assert_eq!(outputs, [expected.to_vec(), vec![1.5, 13.0]]);
    let error = import(&given(attention("squared", &["q", "k", "v"]))).unwrap_err().to_string();
    assert_eq!(error, "node `y` (LinearAttention): update_rule = `squared` is not supported");
    assert!(import(&given(attention("delta", &["q", "k", "v"]))).is_err());
}
