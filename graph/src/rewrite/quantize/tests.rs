use super::*;
use crate::rewrite::samples::{self, distance, logits};
use crate::structure::tests::foreign;
use crate::{DType, reference};

const ALL: QuantizeOptions = QuantizeOptions { float: Vec::new(), embeddings: true };

/// Quantized, with scales from the very texts that [`logits`] uses.
fn calibrated(options: &QuantizeOptions) -> Graph {
    let mut graph = samples::bert();
    insert(&mut graph, options).unwrap();
    let ids = Tensor::new(&[2, 4], vec![1i64, 5, 7, 2, 3, 4, 0, 0]).unwrap();
    let mask = Tensor::new(&[2, 4], vec![1i64, 1, 1, 1, 1, 1, 0, 0]).unwrap();
    let inputs = [("input_ids", ids), ("attention_mask", mask)];
    let float = samples::bert();
    let seen = reference::trace(&float, &inputs).unwrap();
    for point in points(&graph) {
        if point.kind == PointKind::Activation {
            let value = float.find(graph.value_name(point.input)).unwrap();
            let numbers = seen[&value].elements::<f32>().unwrap();
            let greatest = numbers.iter().fold(0f32, |greatest, x| greatest.max(x.abs()));
            let name = graph.value_name(point.scale).to_owned();
            set_activation_scale(&mut graph, &name, scale_for(greatest)).unwrap();
        }
    }
    graph
}

fn activations(graph: &Graph) -> Vec<(String, Vec<String>)> {
    points(graph)
        .into_iter()
        .filter(|point| point.kind == PointKind::Activation)
        .map(|point| (graph.value_name(point.scale).to_owned(), point.readers))
        .collect()
}

#[test]
fn answers_stay_close_to_float() {
    let float = logits(&samples::bert());
    let found = logits(&calibrated(&ALL));
    let size = float.iter().fold(0f32, |size, x| size.max(x.abs()));
    // 19 products in a row, each with 1/254 of its range as error at most.
    let error = distance(&float, &found) / size;
    assert!(error > 0.0 && error < 0.08, "{error}: {float:?} {found:?}");
}

#[test]
fn every_linear_has_its_points_and_shares_inputs() {
    let mut graph = samples::bert();
    insert(&mut graph, &ALL).unwrap();
    let activations = activations(&graph);
    assert_eq!(activations.len(), 3 * 4 + 1);
    let part = |part: &str| format!("encoder.layer.0.attention.self.{part}");
    let readers = ["query", "key", "value"].map(part).to_vec();
    assert_eq!(activations[0], (format!("{}.input.scale", part("query")), readers));
    let weights = points(&graph).into_iter().filter(|point| point.kind == PointKind::Weight);
    assert_eq!(weights.count(), 3 * 6 + 1 + 1);
    let rows = graph.find("embeddings.word_embeddings.weight.scale").unwrap();
    assert_eq!(graph.weight(rows).unwrap().shape(), [11]);
    let columns = graph.find("encoder.layer.0.intermediate.dense.weight.scale").unwrap();
    assert_eq!(graph.weight(columns).unwrap().shape(), [6]);
    // A pair stands just before its first reader.
    let names: Vec<&str> = graph.nodes().map(|(_, node)| node.name.as_str()).collect();
    let at = |name: &str| names.iter().position(|other| *other == name).unwrap();
    assert_eq!(at("classifier.product") - at("classifier.input.quantized"), 4);
}

#[test]
fn what_is_named_float_stays_float() {
    let name = "encoder.layer.0.attention.self.query".to_owned();
    let graph = calibrated(&QuantizeOptions { float: vec![name.clone()], embeddings: false });
    assert!(points(&graph).iter().all(|point| !point.readers.contains(&name)));
    assert!(graph.find("embeddings.word_embeddings.weight.scale").is_none());
    assert_eq!(activations(&graph)[0].1.len(), 2);

    let mut graph = samples::bert();
    let options = QuantizeOptions { float: vec!["classifer".to_owned()], embeddings: false };
    let error = insert(&mut graph, &options).unwrap_err().to_string();
    let expected = "no linear layer or convolution is called `classifer`; there are: ";
    assert!(error.starts_with(expected), "{error}");
    assert!(graph == samples::bert());
}

#[test]
fn inserting_twice_is_inserting_once() {
    let once = calibrated(&ALL);
    let mut twice = once.clone();
    insert(&mut twice, &ALL).unwrap();
    assert!(twice == once);
}

#[test]
fn folding_shrinks_and_does_not_change_a_bit() {
    let graph = calibrated(&ALL);
    let mut folded = graph.clone();
    fold(&mut folded).unwrap();
    assert_eq!(logits(&folded), logits(&graph));
    let weight = |name: &str| folded.weight(folded.find(name).unwrap()).unwrap();
    assert_eq!(weight("classifier.weight").dtype(), DType::I8);
    assert_eq!(weight("embeddings.word_embeddings.weight").dtype(), DType::I8);
    assert_eq!(weight("embeddings.position_embeddings.weight").dtype(), DType::F32);
    assert!(folded.find("classifier.weight.quantized").is_none());
    let saved: usize = points(&folded)
        .iter()
        .filter(|point| point.kind == PointKind::Weight)
        .map(|point| {
            assert_eq!(point.quantize, None);
            3 * folded.weight(point.input).unwrap().len()
        })
        .sum();
    assert_eq!(folded.weight_bytes() + saved, graph.weight_bytes());
    let again = folded.clone();
    fold(&mut folded).unwrap();
    assert!(folded == again);
}

#[test]
fn folding_keeps_a_float_weight_that_others_read() {
    let mut graph = samples::bert();
    insert(&mut graph, &QuantizeOptions::default()).unwrap();
    let weight = graph.find("classifier.weight").unwrap();
    let relu = graph.add_node("relu", Op::Relu, &[weight]).unwrap();
    let outputs = [graph.outputs()[0], relu];
    graph.set_outputs(&outputs);
    let before = logits(&graph);
    fold(&mut graph).unwrap();
    assert_eq!(logits(&graph), before);
    let weight = |name: &str| graph.weight(graph.find(name).unwrap()).unwrap();
    assert_eq!(weight("classifier.weight").dtype(), DType::F32);
    assert_eq!(weight("classifier.weight.quantized.integers").dtype(), DType::I8);
}

#[test]
fn a_float_graph_has_nothing_to_fold() {
    let mut graph = samples::bert();
    fold(&mut graph).unwrap();
    assert!(graph == samples::bert());
    assert_eq!(points(&graph), []);
}

#[test]
fn reverting_everything_gives_the_float_graph() {
    let mut graph = calibrated(&ALL);
    let key = "encoder.layer.1.attention.self.key";
    revert(&mut graph, key).unwrap();
    assert!(points(&graph).iter().all(|point| !point.readers.contains(&key.to_owned())));
    assert_eq!(points(&graph).len(), 33 - 1);
    for linear in linears(&graph) {
        revert(&mut graph, &linear.name).unwrap();
    }
    revert(&mut graph, "embeddings.word_embeddings").unwrap();
    assert!(graph == samples::bert());
}

#[test]
fn reverting_needs_the_float_weights() {
    let mut graph = calibrated(&ALL);
    let error = revert(&mut graph, "nobody").unwrap_err().to_string();
    assert!(error.starts_with("no linear layer is called `nobody`"), "{error}");
    fold(&mut graph).unwrap();
    let error = revert(&mut graph, "classifier").unwrap_err().to_string();
    assert!(error.contains("revert before folding"), "{error}");
    let error = revert(&mut graph, "embeddings.word_embeddings").unwrap_err().to_string();
    assert!(error.contains("revert before folding"), "{error}");
}

#[test]
fn scales_are_set_by_name_and_checked() {
    let mut graph = samples::bert();
    insert(&mut graph, &ALL).unwrap();
    set_activation_scale(&mut graph, "classifier.input.scale", 0.25).unwrap();
    let scale = graph.weight(graph.find("classifier.input.scale").unwrap()).unwrap();
    assert_eq!(*scale, Tensor::scalar(0.25f32));
    for (name, scale) in [
        ("classifier.weight.scale", 1.0),
        ("classifier.input.scale", 0.0),
        ("classifier.input.scale", f32::NAN),
    ] {
        assert!(set_activation_scale(&mut graph, name, scale).is_err(), "{name} {scale}");
    }
}

#[test]
fn weight_scales_reach_the_greatest_and_survive_zeros() {
    let weight = Tensor::new(&[2, 3], vec![1.0f32, 0.0, 1e-44, -2.54, 0.0, 0.0]).unwrap();
    let scales = weight_scales(&weight, 1).unwrap();
    assert_eq!(scales.elements::<f32>().unwrap(), [2.54 / 127.0, 1.0 / 127.0, 1.0 / 127.0]);
    assert_eq!(weight_scales(&weight, 0).unwrap().shape(), [2]);
    assert!(weight_scales(&weight, 2).is_err());
    let broken = Tensor::new(&[1, 1], vec![f32::NAN]).unwrap();
    let error = weight_scales(&broken, 1).unwrap_err().to_string();
    assert!(error.contains("expected finite numbers, found NaN at 0"), "{error}");
}

#[test]
fn another_encoder_can_be_quantized() {
    let mut graph = foreign();
    insert(&mut graph, &ALL).unwrap();
    assert_eq!(activations(&graph).len(), 2 * 4 + 1);
    assert!(graph.find("W_up1.scale").is_some() && graph.find("W_up1.input.scale").is_some());
}
