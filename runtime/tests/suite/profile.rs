//! What a node has to do, and how long it should take.

use std::sync::LazyLock;

use runtime::{MachinePeaks, Profile, profile};

use super::*;

static PEAKS: LazyLock<MachinePeaks> = LazyLock::new(|| MachinePeaks::measure(2));

fn profile_of(graph: &Graph, level: Level, inputs: &[(&str, Tensor)]) -> (CompiledModel, Profile) {
    let model = compile(graph, &options(level)).unwrap();
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (*name, x)).collect();
    let found = profile(&model, &inputs, 0.0, &PEAKS).unwrap();
    assert_eq!(found.nodes.len(), model.explain().nodes.len());
    assert!(found.runs >= 5);
    (model, found)
}

#[test]
fn a_linear_layer_is_counted_and_predicted() {
    let (rows, k, n) = (8, 64, 48);
    let (mut sketch, x) = Sketch::new(k);
    let w = sketch.weight(numbers(&[k, n], 1, 0.5));
    let b = sketch.weight(numbers(&[n], 2, 0.5));
    let product = sketch.node(Op::MatMul, &[x, w]);
    let sum = sketch.node(Op::Add, &[product, b]);
    let graph = sketch.finish(&[sum]);
    let inputs = [("x", numbers(&[rows, k], 7, 1.0))];
    let (_, found) = profile_of(&graph, Level::O3, &inputs);
    let [node] = found.nodes.as_slice() else { panic!("one node is left: {found:?}") };
    let cost = node.cost.as_ref().unwrap();
    assert_eq!(node.shape.as_deref(), Some(&[rows, n][..]));
    assert_eq!(cost.flops, (2 * rows * k * n + rows * n) as u64);
    assert_eq!(found.flops, Some(cost.flops));
    // Input, weights, bias and output once each; packing pads the weights to whole panels.
    let least = 4 * (rows * k + k * n + n + rows * n) as u64;
    assert!((least..2 * least).contains(&cost.bytes), "{cost:?}");
    assert_eq!(cost.threads, 1, "too small for two");
    if found.peaks.is_empty() {
        assert_eq!((cost.predicted_ms, cost.peak_share), (None, None));
    } else {
        assert!(cost.predicted_ms.unwrap() > 0.0 && cost.peak_share.unwrap() > 0.0, "{cost:?}");
    }
}

#[test]
fn more_work_is_predicted_to_take_longer() {
    let (mut sketch, x) = Sketch::new(256);
    let w = sketch.weight(numbers(&[256, 256], 1, 0.5));
    let y = sketch.node(Op::MatMul, &[x, w]);
    let graph = sketch.finish(&[y]);
    let predicted = |level: Level, rows: usize| {
        let (_, found) = profile_of(&graph, level, &[("x", numbers(&[rows, 256], 7, 1.0))]);
        found.predicted_ms
    };
    if let (Some(few), Some(many)) = (predicted(Level::O3, 4), predicted(Level::O3, 256)) {
        assert!(few < many, "{few} ms for 4 rows, {many} ms for 256");
    }
}

#[test]
fn sizes_that_depend_on_values_are_timed_without_a_prediction() {
    let (mut sketch, x) = Sketch::new(4);
    let found = sketch.node(Op::NonZero, &[x]);
    let graph = sketch.finish(&[found]);
    let (model, found) = profile_of(&graph, Level::O3, &[("x", numbers(&[3, 4], 7, 1.0))]);
    assert!(model.explain().dynamic);
    assert_eq!((found.flops, found.predicted_ms), (None, None));
    assert!(found.nodes.iter().all(|node| node.cost.is_none() && node.measured_ms > 0.0));
}
