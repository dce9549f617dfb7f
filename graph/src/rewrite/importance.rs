//! Which parts matter least, judged by the magnitude of their weights (Li et al. 2016,
//! arXiv:1608.08710): the L1 norm of everything that goes with a part.

use super::{RewriteError, floats};
use crate::structure::{Axes, EncoderLayer, encoder_layers, word_embedding};
use crate::{Graph, ValueId};

/// L1 norm of each feed-forward unit, by layer: its column of the first matrix and its row of the
/// second.
///
/// # Errors
///
/// When the graph has no encoder layers with float weights.
pub fn units(graph: &Graph) -> Result<Vec<Vec<f64>>, RewriteError> {
    each_layer(graph, |layer| {
        let block = &layer.feed_forward;
        let mut scores = vec![0.0; block.units];
        add_norms(graph, (block.up.weight, 1), &mut scores)?;
        add_norms(graph, (block.down.weight, 0), &mut scores)?;
        Ok(scores)
    })
}

/// L1 norm of each attention head, by layer: its columns of query, key and value and its rows of
/// the output.
///
/// # Errors
///
/// When the graph has no encoder layers with float weights.
pub fn heads(graph: &Graph) -> Result<Vec<Vec<f64>>, RewriteError> {
    each_layer(graph, |layer| {
        let block = &layer.attention;
        let mut columns = vec![0.0; block.heads * block.head_size];
        for linear in [&block.query, &block.key, &block.value] {
            add_norms(graph, (linear.weight, 1), &mut columns)?;
        }
        add_norms(graph, (block.output.weight, 0), &mut columns)?;
        Ok(columns.chunks(block.head_size).map(|head| head.iter().sum()).collect())
    })
}

/// L1 norm of each dimension of the residual stream, over every weight that has it.
///
/// # Errors
///
/// When the graph has no word embedding, or its weights are not float.
pub fn hidden(graph: &Graph) -> Result<Vec<f64>, RewriteError> {
    let table = word_embedding(graph)?.table;
    let width = graph.weight(table).expect("a table is a weight").shape()[1];
    let mut scores = vec![0.0; width];
    for axis in Axes::of(graph).tied((table, 1)) {
        if graph.weight(axis.0).is_some() {
            add_norms(graph, axis, &mut scores)?;
        }
    }
    Ok(scores)
}

/// The indices of `scores`, greatest first; equal ones in order.
pub fn descending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// The indices of the `count` greatest scores (all, where there are fewer), ascending.
pub fn greatest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut best = descending(scores);
    best.truncate(count);
    best.sort_unstable();
    best
}

fn each_layer(
    graph: &Graph,
    score: impl Fn(&EncoderLayer) -> Result<Vec<f64>, RewriteError>,
) -> Result<Vec<Vec<f64>>, RewriteError> {
    encoder_layers(graph)?.iter().map(score).collect()
}

/// Adds the L1 norm of each slice along a weight's dimension to `scores`.
fn add_norms(
    graph: &Graph,
    (weight, axis): (ValueId, usize),
    scores: &mut [f64],
) -> Result<(), RewriteError> {
    let tensor = graph.weight(weight).expect("linear layers and axes name weights");
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let elements = floats(graph.value_name(weight), tensor)?;
    for (index, element) in elements.iter().enumerate() {
        scores[index / inner % tensor.shape()[axis]] += f64::from(element.abs());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::rewrite::samples;

    #[test]
    fn norms_are_those_of_the_slices() {
        let graph = samples::bert();
        let tensor = |name: &str| graph.weight(graph.find(name).unwrap()).unwrap().clone();
        let norm = |tensor: Tensor| -> f64 {
            tensor.elements::<f32>().unwrap().iter().map(|x| f64::from(x.abs())).sum()
        };
        let prefix = "encoder.layer.1";
        let up = tensor(&format!("{prefix}.intermediate.dense.weight")).select(1, &[4]);
        let down = tensor(&format!("{prefix}.output.dense.weight")).select(0, &[4]);
        assert!((units(&graph).unwrap()[1][4] - norm(up) - norm(down)).abs() < 1e-6);
        let columns: f64 = ["query", "key", "value"]
            .map(|part| format!("{prefix}.attention.self.{part}.weight"))
            .iter()
            .map(|name| norm(tensor(name).select(1, &[2, 3])))
            .sum();
        let name = format!("{prefix}.attention.output.dense.weight");
        let rows = norm(tensor(&name).select(0, &[2, 3]));
        assert!((heads(&graph).unwrap()[1][1] - columns - rows).abs() < 1e-6);
        assert_eq!(hidden(&graph).unwrap().len(), 4);
    }

    #[test]
    fn ties_keep_their_order() {
        assert_eq!(descending(&[1.0, 3.0, 1.0, 2.0]), [1, 3, 0, 2]);
        assert_eq!(greatest(&[1.0, 3.0, 1.0, 2.0], 3), [0, 1, 3]);
        assert_eq!(greatest(&[1.0], 3), [0]);
    }
}
