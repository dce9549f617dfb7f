use super::*;
use crate::bert::{self, BertConfig, Pooling};
use crate::rewrite::quantize::{QuantizeOptions, insert};
use crate::rewrite::samples::{self, distance, logits, logits_of, zero};
use crate::{Dim, Tensor, reference};

#[test]
fn removed_units_count_as_zero() {
    for layer in 0..3 {
        let (mut pruned, mut masked) = (samples::bert(), samples::bert());
        keep_units(&mut pruned, layer, &[0, 2, 5]).unwrap();
        let prefix = format!("encoder.layer.{layer}");
        for (name, axis) in [
            ("intermediate.dense.weight", 1),
            ("intermediate.dense.bias", 0),
            ("output.dense.weight", 0),
        ] {
            zero(&mut masked, &format!("{prefix}.{name}"), axis, &[1, 3, 4]);
        }
        assert_eq!(logits(&pruned), logits(&masked));
        assert_ne!(logits(&pruned), logits(&samples::bert()));
        let config = BertConfig::of(&pruned).unwrap();
        assert_eq!(config.layers[layer].intermediate, 3);
        assert_eq!(pruned.weight_count(), samples::bert().weight_count() - 3 * (4 + 1 + 4));
    }
}

#[test]
fn removed_heads_count_as_zero() {
    for (layer, kept, gone) in [(0, 1, 0), (2, 0, 1)] {
        let (mut pruned, mut masked) = (samples::bert(), samples::bert());
        keep_heads(&mut pruned, layer, &[kept]).unwrap();
        let name = format!("encoder.layer.{layer}.attention.output.dense.weight");
        zero(&mut masked, &name, 0, &[2 * gone, 2 * gone + 1]);
        assert_eq!(logits(&pruned), logits(&masked));
        assert_ne!(logits(&pruned), logits(&samples::bert()));
        let config = BertConfig::of(&pruned).unwrap();
        assert_eq!((config.layers[layer].heads, config.head_size), (1, 2));
        let columns = 3 * (4 * 2 + 2) + 2 * 4;
        assert_eq!(pruned.weight_count(), samples::bert().weight_count() - columns);
    }
}

#[test]
fn another_order_does_not_change_the_answer() {
    // Products sum in another order: a few units in the last place.
    let mut graph = samples::bert();
    keep_units(&mut graph, 1, &[3, 0, 5, 4, 1, 2]).unwrap();
    keep_heads(&mut graph, 1, &[1, 0]).unwrap();
    keep_hidden(&mut graph, &[2, 3, 0, 1]).unwrap();
    assert!(graph != samples::bert());
    assert!(distance(&logits(&graph), &logits(&samples::bert())) < 1e-5);
}

#[test]
fn hidden_dimensions_go_everywhere() {
    let (mut pruned, full) = (samples::bert(), samples::bert());
    let kept = [3, 0, 1];
    keep_hidden(&mut pruned, &kept).unwrap();
    let small = BertConfig { hidden: 3, ..samples::config() };
    assert_eq!(BertConfig::of(&pruned).unwrap(), small);
    let built = bert::build(&small, &mut |name, shape| {
        let mut tensor = full.weight(full.find(name).unwrap()).unwrap().clone();
        for (axis, &size) in shape.iter().enumerate() {
            if tensor.shape()[axis] != size {
                tensor = tensor.select(axis, &kept);
            }
        }
        Ok(tensor)
    });
    assert!(pruned == built.unwrap());
}

#[test]
fn a_pooler_keeps_its_own_width() {
    let mut graph = samples::build(&BertConfig { pooling: Pooling::Cls, ..samples::config() });
    keep_hidden(&mut graph, &[0, 2, 3]).unwrap();
    let weight = graph.weight(graph.find("pooler.dense.weight").unwrap()).unwrap();
    assert_eq!(weight.shape(), [3, 4]);
    assert!(logits(&graph).iter().all(|x| x.is_finite()));
    assert_eq!(BertConfig::of(&graph).unwrap_err().what, "classifier as wide as the layers");
}

#[test]
fn words_that_stay_have_their_vectors() {
    let mut graph = samples::bert();
    let before = logits_of(&graph, &[1, 5, 7, 2, 10, 5, 1, 1]);
    keep_vocabulary(&mut graph, &[1, 2, 5, 7, 10]).unwrap();
    assert_eq!(logits_of(&graph, &[0, 2, 3, 1, 4, 2, 0, 0]), before);
    assert_eq!(BertConfig::of(&graph).unwrap().vocabulary_size, 5);
}

#[test]
fn dropping_layers_leaves_the_others() {
    for dropped in [&[1][..], &[0, 1], &[2, 1], &[2]] {
        let mut graph = samples::bert();
        drop_layers(&mut graph, dropped).unwrap();
        let left: Vec<usize> = (0..3).filter(|layer| !dropped.contains(layer)).collect();
        let mut config = samples::config();
        config.layers.truncate(left.len());
        let built = bert::subnetwork(&samples::bert(), &samples::config(), &config, &left).unwrap();
        assert_eq!(logits(&graph), logits(&built), "without {dropped:?}");
        assert_eq!(graph.weight_count(), built.weight_count());
    }
    let mut graph = samples::bert();
    drop_layers(&mut graph, &[]).unwrap();
    assert!(graph == samples::bert());
}

#[test]
fn another_encoder_can_be_pruned() {
    let answer = |graph: &Graph| {
        let ids = Tensor::new(&[1, 4], vec![1i64, 3, 5, 7]).unwrap();
        let answer = reference::evaluate(graph, &[("tokens", ids)]).unwrap();
        answer[0].elements::<f32>().unwrap().to_vec()
    };
    let full = structure::tests::foreign();
    let (mut pruned, mut masked) = (full.clone(), full.clone());
    keep_units(&mut pruned, 0, &[4, 1]).unwrap();
    keep_heads(&mut pruned, 1, &[1]).unwrap();
    keep_vocabulary(&mut pruned, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    zero(&mut masked, "W_down0", 0, &[0, 2, 3]);
    zero(&mut masked, "W_o1", 0, &[0, 1, 2]);
    assert!(distance(&answer(&pruned), &answer(&masked)) < 1e-6);
    keep_hidden(&mut pruned, &[0, 2, 3]).unwrap();
    drop_layers(&mut pruned, &[0]).unwrap();
    assert_eq!(encoder_layers(&pruned).unwrap().len(), 1);
    assert_eq!(answer(&pruned).len(), 2);
}

#[test]
fn a_per_head_weight_is_cut_with_the_heads() {
    let mut graph = samples::bert();
    let bias = graph.add_weight("bias", bert::normal(9, "bias", &[2, 1, 1], 1.0)).unwrap();
    let scores = graph.find("encoder.layer.0.attention.self.scores").unwrap();
    let softmax = graph.consumers(scores)[0];
    let biased = graph.add_node("biased", Op::Mul, &[scores, bias]).unwrap();
    graph.set_node_input(softmax, 0, biased);
    graph.refresh().unwrap();
    let mut masked = graph.clone();
    keep_heads(&mut graph, 0, &[1]).unwrap();
    zero(&mut masked, "encoder.layer.0.attention.output.dense.weight", 0, &[0, 1]);
    assert_eq!(logits(&graph), logits(&masked));
    assert_eq!(graph.weight(graph.find("bias").unwrap()).unwrap().shape(), [1, 1, 1]);
}

#[test]
fn bad_indices_are_refused_and_change_nothing() {
    let check = |edit: &dyn Fn(&mut Graph) -> Result<(), RewriteError>, expected: &str| {
        let mut graph = samples::bert();
        assert_eq!(edit(&mut graph).unwrap_err().to_string(), expected);
        assert!(graph == samples::bert());
    };
    check(
        &|graph| keep_units(graph, 0, &[6]),
        "feed-forward units: expected distinct indices below 6, at least one; found 6",
    );
    check(
        &|graph| keep_heads(graph, 0, &[1, 1]),
        "attention heads: expected distinct indices below 2, at least one; found 1",
    );
    check(
        &|graph| keep_hidden(graph, &[]),
        "hidden dimensions: expected distinct indices below 4, at least one; found none",
    );
    check(
        &|graph| keep_units(graph, 3, &[0]),
        "encoder layers: expected distinct indices below 3, at least one; found 3",
    );
    check(
        &|graph| drop_layers(graph, &[0, 1, 2]),
        "encoder layers that stay: expected distinct indices below 3, at least one; found none",
    );
    check(
        &|graph| drop_layers(graph, &[4]),
        "encoder layers to remove: expected distinct indices below 3, at least one; found 4",
    );
}

#[test]
fn dimensions_that_others_see_stay() {
    let units = |graph: &Graph| graph.find("encoder.layer.0.intermediate").unwrap();
    let check = |mut graph: Graph, reason: &str| {
        let before = graph.clone();
        let error = keep_units(&mut graph, 0, &[0]).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(graph == before);
    };
    let mut graph = samples::bert();
    let outputs = [graph.outputs()[0], units(&graph)];
    graph.set_outputs(&outputs);
    check(graph, "is an input or output");

    let split = Op::Reshape(crate::op::Reshape { shape: vec![0, 0, 2, 3] });
    let range = Op::Slice(crate::op::Slice { axis: 2, start: 0, end: Dim::Fixed(2) });
    let softmax = Op::Softmax(crate::op::Softmax {});
    for (op, reason) in [
        (softmax, "is a softmax over that dimension"),
        (range, "takes a range of it"),
        (split, "puts that dimension together with others"),
    ] {
        let mut graph = samples::bert();
        let units = units(&graph);
        let mut side = graph.add_node("side", op, &[units]).unwrap();
        for rank in (1..graph.value_type(side).shape.len()).rev() {
            let sum = Op::ReduceSum(crate::op::ReduceSum { axis: 1 });
            side = graph.add_node(&format!("sum{rank}"), sum, &[side]).unwrap();
        }
        let outputs = [graph.outputs()[0], side];
        graph.set_outputs(&outputs);
        check(graph, reason);
    }
}

#[test]
fn quantized_graphs_are_refused() {
    let mut graph = samples::bert();
    insert(&mut graph, &QuantizeOptions::default()).unwrap();
    for result in [
        keep_units(&mut graph, 0, &[0]),
        keep_heads(&mut graph, 0, &[0]),
        keep_hidden(&mut graph, &[0]),
        keep_vocabulary(&mut graph, &[0]),
        drop_layers(&mut graph, &[0]),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("prune the float graph, then quantize it"), "{error}");
    }
}
