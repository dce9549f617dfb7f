use super::*;
use crate::bert::{self, BertConfig, BertLayer};
use crate::{DType, Dim, Tensor};

fn sizes(batch: usize, sequence: usize) -> Bindings {
    Bindings::new([("batch", batch), ("sequence", sequence)])
}

#[test]
fn a_small_graph_counts_as_by_hand() {
    let mut graph = Graph::new("small");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch"), 2.into()]).unwrap();
    let w = graph.add_weight("w", Tensor::from_fn(&[2, 3], |_| 0f32)).unwrap();
    let a = graph.add_node("a", Op::MatMul, &[x, w]).unwrap();
    let b = graph.add_node("b", Op::Relu, &[a]).unwrap();
    let c = graph.add_node("c", Op::Add, &[b, b]).unwrap();
    let flat = Op::Reshape(crate::op::Reshape { shape: vec![-1, 3] });
    let d = graph.add_node("d", flat, &[c]).unwrap();
    graph.set_outputs(&[d]);
    let counts = count(&graph, &Bindings::new([("batch", 5)])).unwrap();
    assert_eq!((counts.weight_elements, counts.weight_bytes), (6, 24));
    // 2·2·15 for the product, 15 for each of ReLU and the sum.
    assert_eq!(counts.flops, 60 + 15 + 15);
    assert_eq!(counts.activation_bytes, 4 * 60);
    assert_eq!(counts.peak_activation_bytes, 2 * 60, "input and output of one node");
    assert_eq!(counts.nodes[0].name, "a");
    assert_eq!(counts.nodes[0].op, "MatMul");
    assert_eq!(counts.nodes[0].weight_elements, 6);
}

#[test]
fn an_encoder_counts_as_its_formula() {
    let layer = BertLayer { heads: 12, intermediate: 1536 };
    let config = BertConfig::uniform(100, 384, 6, layer);
    let zeros = |_: &str, shape: &[usize]| Ok(Tensor::from_fn(shape, |_| 0f32));
    let graph = bert::build(&config, &mut { zeros }).unwrap();
    let (batch, sequence) = (3, 64);
    let counts = count(&graph, &sizes(batch, sequence)).unwrap();
    let products: u64 =
        counts.nodes.iter().filter(|node| node.op == "MatMul").map(|node| node.flops).sum();
    let linear = 4 * 384 * 384 + 2 * 384 * 1536;
    let attention = 2 * sequence * 384;
    let expected = batch * sequence * 6 * 2 * (linear + attention) + batch * 2 * 384 * 2;
    assert_eq!(products, expected as u64);
    assert!(products as f64 > 0.95 * counts.flops as f64);
    // Feed-forward units in and out of GELU are the widest pair, beside the residual.
    assert_eq!(
        counts.peak_activation_bytes,
        (batch * sequence * (2 * 1536 + 384) * 4 + 2 * batch * sequence * 4) as u64
    );
}

#[test]
fn costs_grow_with_batch_and_sequence() {
    let layer = BertLayer { heads: 2, intermediate: 6 };
    let config = BertConfig { positions: 64, ..BertConfig::uniform(11, 4, 2, layer) };
    let graph = bert::build(&config, &mut bert::initial_weights(1)).unwrap();
    let one = count(&graph, &sizes(1, 16)).unwrap();
    let four = count(&graph, &sizes(4, 16)).unwrap();
    let long = count(&graph, &sizes(1, 64)).unwrap();
    assert!(four.flops > 3 * one.flops && four.flops <= 4 * one.flops);
    assert!(long.flops > 4 * one.flops, "attention grows with the square");
    assert_eq!(one.weight_bytes, long.weight_bytes);
}

#[test]
fn an_unbound_symbol_is_named() {
    let layer = BertLayer { heads: 2, intermediate: 6 };
    let graph =
        bert::build(&BertConfig::uniform(11, 4, 1, layer), &mut bert::initial_weights(1)).unwrap();
    let error = count(&graph, &Bindings::new([("batch", 1)])).unwrap_err().to_string();
    assert!(error.contains("dimension `sequence` is not bound"), "{error}");
    let error = count(&graph, &sizes(usize::MAX, 2)).unwrap_err().to_string();
    assert!(error.contains("too large to count"), "{error}");
}
