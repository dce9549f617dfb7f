//! What nodes draw: the same at every run, and not what others draw.

use super::models::{body, floats, graph_attribute, import, int, model, node, typed, with};
use super::operators::ints;
use crate::onnx::proto::{Attribute, Model, NodeMessage};
use crate::{Tensor, onnx, reference};

fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: Some(name.to_owned()), f: Some(value), ..Default::default() }
}

fn evaluate(model: &Model, x: &Tensor) -> Vec<Tensor> {
    let graph = import(model).unwrap();
    let y = reference::evaluate(&graph, &[("x", x.clone())]).unwrap();
    let bytes = onnx::export(&graph).unwrap();
    let back = onnx::import_bytes(&bytes, None, &onnx::ImportOptions::default()).unwrap();
    assert_eq!(reference::evaluate(&back, &[("x", x.clone())]).unwrap(), y);
    y
}

fn of(nodes: Vec<NodeMessage>, outputs: &[&str]) -> Vec<Tensor> {
    let x = Tensor::from_fn(&[2, 500], |_| 0.25f32);
    evaluate(&model(vec![typed("x", 1, &[2, 500])], nodes, outputs), &x)
}

#[test]
fn nodes_without_seeds_differ_and_seeds_repeat() {
    let like = |name: &str| node("RandomNormalLike", &["x"], &[name]);
    let drawn = of(vec![like("a"), like("b")], &["a", "b"]);
    assert_ne!(drawn[0], drawn[1]);
    assert_eq!(drawn, of(vec![like("a"), like("b")], &["a", "b"]));
    let seeded = |name: &str| with(like(name), float("seed", 3.5));
    let drawn = of(vec![seeded("a"), seeded("b")], &["a", "b"]);
    assert_eq!(drawn[0], drawn[1]);
    let shaped = with(node("RandomUniform", &[], &["y"]), ints("shape", &[2, 3]));
    let shaped = with(with(shaped, float("low", 5.0)), float("high", 6.0));
    let y = of(vec![shaped], &["y"]).remove(0);
    assert_eq!(y.shape(), [2, 3]);
    assert!(y.elements::<f32>().unwrap().iter().all(|y| (5.0..6.0).contains(y)));
}

#[test]
fn a_quarter_of_quarters_is_hit() {
    for (dtype, cast) in [(9, true), (1, false)] {
        let y = of(vec![with(node("Bernoulli", &["x"], &["y"]), int("dtype", dtype))], &["y"]);
        let hits = match cast {
            true => y[0].elements::<bool>().unwrap().iter().filter(|&&hit| hit).count(),
            false => y[0].elements::<f32>().unwrap().iter().sum::<f32>() as usize,
        };
        // The deviation of the count is √(1000 · ¼ · ¾) = 14.
        assert!(hits.abs_diff(250) < 50, "{hits}");
    }
}

#[test]
fn classes_are_drawn_as_often_as_they_are_likely() {
    let draw = with(node("Multinomial", &["x"], &["y"]), int("sample_size", 1000));
    let odds = [0.0, 0.5f32.ln(), f32::NEG_INFINITY, 0.5f32.ln(), f32::NEG_INFINITY];
    let x = Tensor::new(&[2, 5], [odds, odds].concat()).unwrap();
    let y = evaluate(&model(vec![typed("x", 1, &[2, 5])], vec![draw], &["y"]), &x).remove(0);
    assert_eq!(y.shape(), [2, 1000]);
    let y = y.elements::<i32>().unwrap();
    assert_ne!(y[..1000], y[1000..]);
    let count = |class: i32| y.iter().filter(|&&drawn| drawn == class).count();
    let counts = [0, 1, 2, 3, 4].map(count);
    assert_eq!((counts[2], counts[4], counts.iter().sum::<usize>()), (0, 0, 2000));
    assert!(counts[0].abs_diff(1000) < 80 && counts[1].abs_diff(500) < 80, "{counts:?}");
}

#[test]
fn what_would_differ_from_round_to_round_is_refused() {
    let draw = node("RandomNormalLike", &["state"], &["noise"]);
    let add = node("Add", &["state", "noise"], &["next"]);
    let same = node("Identity", &["condition"], &["on"]);
    let inner = body(&["round", "condition", "state"], vec![draw, add, same], &["on", "next"]);
    let repeat = with(node("Loop", &["rounds", "", "x"], &["y"]), graph_attribute("body", inner));
    let mut looped = model(vec![typed("x", 1, &[2])], vec![repeat], &["y"]);
    let mut rounds = floats("rounds", &[], &[]);
    (rounds.data_type, rounds.int64_data) = (Some(7), vec![3]);
    looped.graph.as_mut().unwrap().initializer.push(rounds);
    let error = import(&looped).unwrap_err().to_string();
    let expected =
        "node `noise` (RandomNormalLike): drawing anew in every round of a loop is not supported";
    assert_eq!(error, expected);
    let integers = with(node("RandomUniformLike", &["x"], &["y"]), int("dtype", 6));
    let error = import(&model(vec![typed("x", 1, &[2])], vec![integers], &["y"])).unwrap_err();
    assert!(error.to_string().contains("numbers of type i32 is not supported"), "{error}");
    let huge = with(node("RandomNormal", &[], &["y"]), ints("shape", &[1 << 40, 1 << 40]));
    if let Ok(graph) = import(&model(vec![typed("x", 1, &[2])], vec![huge], &["y"])) {
        let x = Tensor::zeros(crate::DType::F32, &[2]);
        assert!(reference::evaluate(&graph, &[("x", x)]).is_err());
    }
}
