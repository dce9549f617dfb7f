//! Graphs and inputs that the tests of rewrites share.

use crate::bert::{self, BertConfig, BertLayer};
use crate::{Graph, Tensor, reference};

/// Sizes of [`bert`]: hidden 4, 2 heads of 2, 6 units, 3 layers, 11 words.
pub(crate) fn config() -> BertConfig {
    let layer = BertLayer { heads: 2, intermediate: 6 };
    BertConfig { positions: 8, ..BertConfig::uniform(11, 4, 3, layer) }
}

/// A small encoder with weights large enough that every part shows in the answer.
pub(crate) fn bert() -> Graph {
    build(&config())
}

/// An encoder of these sizes with random weights.
pub(crate) fn build(config: &BertConfig) -> Graph {
    bert::build(config, &mut |name, shape| Ok(bert::normal(7, name, shape, 0.5))).unwrap()
}

/// The logits for two texts, one of them padded.
pub(crate) fn logits(graph: &Graph) -> Vec<f32> {
    logits_of(graph, &[1, 5, 7, 2, 3, 4, 0, 0])
}

/// The logits for two texts of four ids, the second padded after two.
pub(crate) fn logits_of(graph: &Graph, ids: &[i64; 8]) -> Vec<f32> {
    let ids = Tensor::new(&[2, 4], ids.to_vec()).unwrap();
    let mask = Tensor::new(&[2, 4], vec![1i64, 1, 1, 1, 1, 1, 0, 0]).unwrap();
    let inputs = [("input_ids", ids), ("attention_mask", mask)];
    reference::evaluate(graph, &inputs).unwrap()[0].elements::<f32>().unwrap().to_vec()
}

/// Zeroes entries of a weight's dimension.
pub(crate) fn zero(graph: &mut Graph, name: &str, axis: usize, indices: &[usize]) {
    let id = graph.find(name).unwrap();
    let tensor = graph.weight(id).unwrap().clone();
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let elements = tensor.elements::<f32>().unwrap();
    let zeroed = Tensor::from_fn(tensor.shape(), |flat| {
        if indices.contains(&(flat / inner % tensor.shape()[axis])) { 0.0 } else { elements[flat] }
    });
    graph.set_weight(id, zeroed);
}

/// The greatest difference between two answers.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
