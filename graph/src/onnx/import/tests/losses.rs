//! Losses against their definitions.

use super::models::{import, int, model, node, typed, with};
use super::operators::text;
use crate::onnx::proto::{Model, NodeMessage};
use crate::{Tensor, reference};

const LOGARITHMS: [f32; 12] =
    [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -0.5, -1.5, -2.5, -3.5, -4.5, -5.5];

/// Two items, three classes, two places.
fn of(loss: NodeMessage) -> Model {
    let given = vec![typed("x", 1, &[2, 3, 2]), typed("t", 7, &[2, 2]), typed("w", 1, &[3])];
    model(given, vec![loss], &["y"])
}

fn evaluate(loss: NodeMessage) -> Vec<f32> {
    let graph = import(&of(loss)).unwrap();
    let x = Tensor::new(&[2, 3, 2], LOGARITHMS.to_vec()).unwrap();
    let t = Tensor::new(&[2, 2], vec![0i64, 2, 1, 1]).unwrap();
    let w = Tensor::new(&[3], vec![1f32, 10.0, 100.0]).unwrap();
    let y = reference::evaluate(&graph, &[("x", x), ("t", t), ("w", w)]).unwrap();
    y[0].elements::<f32>().unwrap().to_vec()
}

fn likelihood(inputs: &[&str], reduction: &str) -> NodeMessage {
    with(node("NegativeLogLikelihoodLoss", inputs, &["y"]), text("reduction", reduction))
}

#[test]
fn losses_are_those_of_the_targets() {
    let plain = |reduction| evaluate(likelihood(&["x", "t"], reduction));
    assert_eq!(plain("none"), [1.0, 6.0, 2.5, 3.5]);
    assert_eq!(plain("sum"), [13.0]);
    assert_eq!(plain("mean"), [3.25]);
    let weighted = |reduction| evaluate(likelihood(&["x", "t", "w"], reduction));
    assert_eq!(weighted("none"), [1.0, 600.0, 25.0, 35.0]);
    assert_eq!(weighted("mean"), [661.0 / 121.0]);
    let ignored = |inputs: &[&str], reduction| {
        evaluate(with(likelihood(inputs, reduction), int("ignore_index", 1)))
    };
    assert_eq!(ignored(&["x", "t"], "none"), [1.0, 6.0, 0.0, 0.0]);
    assert_eq!(ignored(&["x", "t"], "mean"), [3.5]);
    assert_eq!(ignored(&["x", "t", "w"], "mean"), [601.0 / 101.0]);
}

#[test]
fn cross_entropy_takes_the_logarithms_itself() {
    let loss = node("SoftmaxCrossEntropyLoss", &["x", "t"], &["y"]);
    let y = evaluate(with(loss, text("reduction", "none")));
    // Classes of a place are 2 apart.
    let rest = (1.0 + (-2f32).exp() + (-4f32).exp()).ln();
    let expected = [rest, 4.0 + rest, 2.0 + rest, 2.0 + rest];
    assert!(y.iter().zip(expected).all(|(y, expected)| (y - expected).abs() < 1e-5), "{y:?}");
    let error = import(&of(likelihood(&["x", "t"], "product"))).unwrap_err().to_string();
    let expected = "node `y` (NegativeLogLikelihoodLoss): reduction = `product` is not supported";
    assert_eq!(error, expected);
}
