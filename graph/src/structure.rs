//! What a graph is made of: linear layers, encoder layers, embeddings – found by pattern.
//!
//! Nothing here knows a model by name. A linear layer is a product with a constant matrix, attention
//! is a softmax between two products, and so on; quantize/dequantize pairs are looked through. A
//! graph that does not have the pattern is refused with an error that names what was not found.
//! Both orders of normalization are understood (after the residual sum, as in BERT, and before).
//!
//! Ids are those of the graph at the time of the search: search anew after an edit.

mod axes;
mod encoder;

use std::collections::BTreeSet;

pub(crate) use axes::{Axes, same_dimensions};
pub use encoder::{Attention, EncoderLayer, FeedForward, encoder_layers};

use crate::{Graph, NodeId, Op, ValueId};

/// A pattern that a graph does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {what} found in graph `{graph}`: at `{at}`, expected {expected}")]
pub struct StructureError {
    /// What was looked for.
    pub what: &'static str,
    /// Name of the graph.
    pub graph: String,
    /// Name of the value or node where the search ended.
    pub at: String,
    /// What the pattern has there.
    pub expected: String,
}

impl StructureError {
    pub(crate) fn new(
        graph: &Graph,
        what: &'static str,
        at: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self { what, graph: graph.name.clone(), at: at.into(), expected: expected.into() }
    }
}

/// A product with a constant matrix, and the bias that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// The weight's name without `.weight`; the product's name where two layers share a weight.
    pub name: String,
    /// What is multiplied, before a quantize/dequantize pair, `[…, inputs]`.
    pub input: ValueId,
    /// The matrix, `[inputs, outputs]`: `f32`, or `i8` once quantization is folded.
    pub weight: ValueId,
    /// Added afterwards, `f32[outputs]`.
    pub bias: Option<ValueId>,
    /// The `MatMul`.
    pub product: NodeId,
    /// The result, after the bias, `[…, outputs]`.
    pub output: ValueId,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
}

/// A convolution with constant filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// The node's name.
    pub name: String,
    /// The `Conv`.
    pub node: NodeId,
    /// The images, before a quantize/dequantize pair, `[batch, channels, …]`.
    pub input: ValueId,
    /// The filters, `[outputs, channels / groups, …]`: `f32`, or `i8` once quantization is folded.
    pub filters: ValueId,
    /// Groups of channels.
    pub groups: usize,
}

/// The table that token ids are looked up in, and what follows up to the first layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// The table's name without `.weight`.
    pub name: String,
    /// The table, `[rows, width]`: `f32`, or `i8` once quantization is folded.
    pub table: ValueId,
    /// The graph input that holds the ids, `i64`.
    pub ids: ValueId,
    /// The `Gather`.
    pub lookup: NodeId,
    /// The table of positions that is added, `f32[positions, width]`, where there is one.
    pub positions: Option<ValueId>,
    /// What the first layer reads: after positions and normalization, `[batch, sequence, width]`.
    pub output: ValueId,
}

/// The linear layers, in the order of their products.
pub fn linears(graph: &Graph) -> Vec<Linear> {
    let mut names = BTreeSet::new();
    let products = graph.nodes().filter(|(_, node)| node.op == Op::MatMul);
    products.filter_map(|(id, _)| linear(graph, id, &mut names)).collect()
}

/// The convolutions whose filters are constants and whose images are not, in the order of their nodes.
pub fn convolutions(graph: &Graph) -> Vec<Convolution> {
    let found = graph.nodes().filter_map(|(node, operation)| {
        let (Op::Conv(conv), [input, filters, ..]) = (&operation.op, &operation.inputs[..]) else {
            return None;
        };
        let [input, filters] = [*input, *filters].map(|value| float_source(graph, value));
        let (name, groups) = (operation.name.clone(), conv.groups);
        let fits = graph.weight(filters).is_some() && graph.weight(input).is_none();
        fits.then_some(Convolution { name, node, input, filters, groups })
    });
    found.collect()
}

fn linear(graph: &Graph, product: NodeId, names: &mut BTreeSet<String>) -> Option<Linear> {
    let node = graph.node(product);
    let weight = float_source(graph, node.inputs[1]);
    let &[inputs, outputs] = graph.weight(weight)?.shape() else { return None };
    let input = float_source(graph, node.inputs[0]);
    if graph.weight(input).is_some() {
        return None;
    }
    let bias = bias_after(graph, node.output, outputs);
    let name = stem(graph.value_name(weight));
    let name = if names.contains(name) { node.name.clone() } else { name.to_owned() };
    names.insert(name.clone());
    Some(Linear {
        name,
        input,
        weight,
        bias: bias.map(|(bias, _)| bias),
        product,
        output: bias.map_or(node.output, |(_, sum)| sum),
        inputs,
        outputs,
    })
}

/// The bias added to `product` and the sum, where the sum is all that reads the product.
fn bias_after(graph: &Graph, product: ValueId, outputs: usize) -> Option<(ValueId, ValueId)> {
    let [reader] = graph.consumers(product)[..] else { return None };
    let node = graph.node(reader);
    if node.op != Op::Add || graph.outputs().contains(&product) {
        return None;
    }
    let other = *node.inputs.iter().find(|&&input| input != product)?;
    (graph.weight(other)?.shape() == [outputs]).then_some((other, node.output))
}

/// The embedding of token ids: the lookup, by a graph input, in the constant table with most rows.
///
/// # Errors
///
/// When no constant matrix is looked up by an input.
pub fn word_embedding(graph: &Graph) -> Result<Embedding, StructureError> {
    let mut best: Option<(usize, Embedding)> = None;
    for (lookup, node) in graph.nodes() {
        let Op::Gather(gather) = &node.op else { continue };
        let (table, ids) = (float_source(graph, node.inputs[0]), node.inputs[1]);
        let Some(&[rows, _]) = graph.weight(table).map(crate::Tensor::shape) else { continue };
        if gather.axis != 0 || !graph.inputs().contains(&ids) {
            continue;
        }
        if best.as_ref().is_none_or(|(most, _)| rows > *most) {
            let (positions, output) = after_lookup(graph, node.output);
            let name = stem(graph.value_name(table)).to_owned();
            best = Some((rows, Embedding { name, table, ids, lookup, positions, output }));
        }
    }
    let inputs: Vec<&str> = graph.inputs().iter().map(|&id| graph.value_name(id)).collect();
    best.map(|(_, embedding)| embedding).ok_or_else(|| {
        let expected = "a Gather along axis 0 of a constant matrix by this input";
        StructureError::new(graph, "word embedding", inputs.join("`, `"), expected)
    })
}

/// Follows sums and normalizations from a lookup to the value that the layers read.
fn after_lookup(graph: &Graph, lookup: ValueId) -> (Option<ValueId>, ValueId) {
    let (mut positions, mut output) = (None, lookup);
    while let [reader] = graph.consumers(output)[..] {
        let node = graph.node(reader);
        match node.op {
            Op::Add => {
                let other = node.inputs.iter().find(|&&input| input != output);
                positions = positions.or(other.and_then(|&other| table_behind(graph, other)));
            }
            Op::LayerNorm(_) if node.inputs[0] == output => {}
            _ => break,
        }
        output = node.output;
    }
    (positions, output)
}

/// The constant matrix whose rows `value` holds.
fn table_behind(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let table = match graph.producer(value) {
        None => value,
        Some(node) => match &node.op {
            Op::Slice(slice) if slice.axis == 0 => node.inputs[0],
            Op::Gather(gather) if gather.axis == 0 && !graph.inputs().contains(&node.inputs[1]) => {
                node.inputs[0]
            }
            _ => return None,
        },
    };
    let table = float_source(graph, table);
    (graph.weight(table)?.shape().len() == 2).then_some(table)
}

/// The value before a quantize/dequantize pair; the constant behind a dequantize; else `value`.
pub fn float_source(graph: &Graph, value: ValueId) -> ValueId {
    let Some(node) = graph.producer(value) else { return value };
    if !matches!(node.op, Op::Dequantize(_)) {
        return value;
    }
    let integers = node.inputs[0];
    match graph.producer(integers) {
        Some(quantize) if matches!(quantize.op, Op::Quantize(_)) => quantize.inputs[0],
        None if graph.weight(integers).is_some() => integers,
        _ => value,
    }
}

/// The nodes that read `value`, also through a quantize/dequantize pair, in order.
pub fn readers(graph: &Graph, value: ValueId) -> Vec<NodeId> {
    let mut readers = Vec::new();
    for id in graph.consumers(value) {
        let node = graph.node(id);
        if matches!(node.op, Op::Quantize(_)) {
            for dequantize in graph.consumers(node.output) {
                readers.extend(graph.consumers(graph.node(dequantize).output));
            }
        } else {
            readers.push(id);
        }
    }
    readers
}

/// A weight's name without `.weight`.
pub(crate) fn stem(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

#[cfg(test)]
pub(crate) mod tests;
