//! Smaller models inside a larger one: their weights are leading slices of its weights.

use super::{BertConfig, build};
use crate::rewrite::RewriteError;
use crate::structure::{EncoderLayer, encoder_layers};
use crate::{Graph, GraphError, Tensor};

/// Where a weight of a subnetwork comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSlice {
    /// Name in the subnetwork.
    pub name: String,
    /// Name in the supernet.
    pub source: String,
    /// Its shape: the leading entries of each dimension of the source.
    pub sizes: Vec<usize>,
}

/// The graph of `config` whose weights are the leading slices of the supernet's: the first heads,
/// units, hidden dimensions and words. Its layer `i` is the supernet's layer `layers[i]`, counted
/// from the input whatever its name. Weights that are not cut are shared, not copied.
///
/// # Errors
///
/// When `config` is larger than the supernet anywhere, differs in what cannot be sliced (head size,
/// labels, pooling), `layers` does not name a supernet layer for each of its layers, ascending, or
/// `supernet_config` is another graph's.
pub fn subnetwork(
    supernet: &Graph,
    supernet_config: &BertConfig,
    config: &BertConfig,
    layers: &[usize],
) -> Result<Graph, RewriteError> {
    check(supernet_config, config, layers)?;
    let numbers = layer_numbers(supernet)?;
    let named = layers.iter().map(|&layer| numbers.get(layer).copied().unwrap_or(layer));
    let named: Vec<usize> = named.collect();
    let graph = build(config, &mut |name, sizes| {
        let source = source_name(name, &named);
        let id = supernet.find(&source).ok_or_else(|| GraphError::Missing(source.clone()))?;
        let tensor = supernet.weight(id).ok_or(GraphError::Missing(source))?;
        leading(tensor, sizes)
            .map_err(|reason| GraphError::Weight { name: name.to_owned(), reason })
    })?;
    Ok(graph)
}

/// Where each weight of a [`subnetwork`] comes from, in the order of its weights. `layers` is what
/// it was made with; the supernet's layers have to be named by their positions, as [`build`] does.
pub fn weight_slices(subnetwork: &Graph, layers: &[usize]) -> Vec<WeightSlice> {
    let weights = subnetwork.weights().map(|(id, tensor)| {
        let name = subnetwork.value_name(id).to_owned();
        let source = source_name(&name, layers);
        WeightSlice { name, source, sizes: tensor.shape().to_vec() }
    });
    weights.collect()
}

/// Layers of a teacher for a student to start from or to match: evenly spaced, the last one
/// included.
///
/// # Errors
///
/// When there are no layers, or the student has more than the teacher.
pub fn choose_layers(n_teacher: usize, n_student: usize) -> Result<Vec<usize>, RewriteError> {
    if n_student == 0 || n_student > n_teacher {
        let expected = format!("1 to {n_teacher}, the teacher's number of layers");
        let found = n_student.to_string();
        return Err(RewriteError::Range { what: "student layers", expected, found });
    }
    Ok((1..=n_student).map(|layer| layer * n_teacher / n_student - 1).collect())
}

const PREFIX: &str = "encoder.layer.";

/// The number in the name of each layer: not its position where layers have been removed.
fn layer_numbers(graph: &Graph) -> Result<Vec<usize>, RewriteError> {
    let layers = encoder_layers(graph)?;
    let number = |(position, layer): (usize, &EncoderLayer)| {
        let name = graph.value_name(layer.attention.query.weight);
        indexed(name).map_or(position, |(number, _)| number)
    };
    Ok(layers.iter().enumerate().map(number).collect())
}

/// The name with the number of the supernet's layer.
fn source_name(name: &str, layers: &[usize]) -> String {
    match indexed(name).and_then(|(index, rest)| Some((layers.get(index)?, rest))) {
        Some((layer, rest)) => format!("{PREFIX}{layer}.{rest}"),
        None => name.to_owned(),
    }
}

/// The layer's number in a weight's name, and what follows it.
fn indexed(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.strip_prefix(PREFIX)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn check(supernet: &BertConfig, config: &BertConfig, layers: &[usize]) -> Result<(), RewriteError> {
    let range =
        |what, expected: String, found: String| Err(RewriteError::Range { what, expected, found });
    let ascending = layers.windows(2).all(|pair| pair[0] < pair[1]);
    let inside = layers.iter().all(|&layer| layer < supernet.layers.len());
    if !(ascending && inside && layers.len() == config.layers.len()) {
        let (n, of) = (config.layers.len(), supernet.layers.len());
        let expected = format!("{n} ascending layers of the supernet's {of}");
        return range("layers of the subnetwork", expected, format!("{layers:?}"));
    }
    let mut sizes = vec![
        ("vocabulary", config.vocabulary_size, supernet.vocabulary_size),
        ("positions", config.positions, supernet.positions),
        ("hidden width", config.hidden, supernet.hidden),
    ];
    for (layer, &source) in config.layers.iter().zip(layers) {
        let source = supernet.layers[source];
        sizes.push(("attention heads", layer.heads, source.heads));
        sizes.push(("feed-forward units", layer.intermediate, source.intermediate));
    }
    for (what, size, most) in sizes {
        if !(1..=most).contains(&size) {
            return range(what, format!("1 to {most}, as the supernet has"), size.to_string());
        }
    }
    let fixed = |config: &BertConfig| {
        let BertConfig { head_size, labels, pooling, activation, layer_norm_epsilon, .. } = config;
        format!(
            "head size {head_size}, {labels} labels, {pooling:?} pooling, {activation:?} Gelu, \
             epsilon {layer_norm_epsilon}"
        )
    };
    if fixed(config) != fixed(supernet) {
        let expected = format!("{}, as the supernet has", fixed(supernet));
        return range("parts that cannot be sliced", expected, fixed(config));
    }
    Ok(())
}

/// The leading entries of each dimension.
fn leading(tensor: &Tensor, sizes: &[usize]) -> Result<Tensor, String> {
    let shape = tensor.shape();
    let fits = shape.len() == sizes.len() && shape.iter().zip(sizes).all(|(all, size)| size <= all);
    if !fits {
        return Err(format!("expected at least {sizes:?} in the supernet, found {tensor:?}"));
    }
    if shape == sizes {
        return Ok(tensor.clone());
    }
    let elements = tensor.elements::<f32>().map_err(|error| error.to_string())?;
    let slice = match (shape, sizes) {
        (&[_, columns], &[rows, width]) => {
            let rows = elements.chunks_exact(columns).take(rows);
            rows.flat_map(|row| &row[..width]).copied().collect()
        }
        (_, &[size]) => elements[..size].to_vec(),
        _ => return Err(format!("expected a vector or matrix to slice, found {tensor:?}")),
    };
    Tensor::new(sizes, slice).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
