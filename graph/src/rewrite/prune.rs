//! Structured pruning: weights are sliced and shapes rewritten, so that the file and the work
//! shrink.
//!
//! Each `keep_*` takes the indices that stay, in the order they take afterwards: all of them in
//! another order is a permutation and does not change the model. Units and heads that go count as
//! if they had been zero. Works on float graphs; a quantized graph is refused, because its scales
//! belong to the weights that were there: prune first, quantize then.

use std::collections::{BTreeMap, BTreeSet};

use super::RewriteError;
use crate::structure::{self, Axes, EncoderLayer, Linear, encoder_layers, word_embedding};
use crate::{DType, Graph, Node, NodeId, Op, ValueId};

/// Keeps feed-forward units of encoder layer `layer`.
///
/// # Errors
///
/// When there is no such layer or unit, or the units are used for more than the layer itself.
pub fn keep_units(graph: &mut Graph, layer: usize, units: &[usize]) -> Result<(), RewriteError> {
    let layer = float_layer(graph, layer)?;
    let mut plan = Plan::new(graph, "feed-forward units");
    plan.keep((layer.feed_forward.up.weight, 1), units)?;
    plan.apply(graph)
}

/// Keeps attention heads of encoder layer `layer`: columns of query, key and value, rows of the
/// output.
///
/// # Errors
///
/// When there is no such layer or head, or the heads are used for more than the layer itself.
pub fn keep_heads(graph: &mut Graph, layer: usize, heads: &[usize]) -> Result<(), RewriteError> {
    let attention = float_layer(graph, layer)?.attention;
    check_indices("attention heads", heads, attention.heads)?;
    let size = attention.head_size;
    let columns: Vec<usize> =
        heads.iter().flat_map(|head| head * size..(head + 1) * size).collect();
    let mut plan = Plan::new(graph, "attention heads");
    plan.reshapes = attention.reshapes.iter().copied().collect();
    for Linear { weight, .. } in [&attention.query, &attention.key, &attention.value] {
        plan.keep((*weight, 1), &columns)?;
    }
    plan.keep((attention.output.weight, 0), &columns)?;
    plan.keep((attention.query_heads, 2), heads)?;
    plan.apply(graph)
}

/// Keeps dimensions of the residual stream, in every weight that reads or writes it. The width of a
/// pooler's own dense layer is another dimension and stays.
///
/// Normalizations then run over the dimensions that are left, so the answers differ from those of
/// a model whose other dimensions are zero.
///
/// # Errors
///
/// When there is no such dimension, or an input or output of the graph has it.
pub fn keep_hidden(graph: &mut Graph, dimensions: &[usize]) -> Result<(), RewriteError> {
    refuse_quantized(graph)?;
    let table = word_embedding(graph)?.table;
    let mut plan = Plan::new(graph, "hidden dimensions");
    plan.normalized = true;
    plan.keep((table, 1), dimensions)?;
    plan.apply(graph)
}

/// Keeps rows of the word embedding table. Row `rows[i]` becomes row `i`, so the tokenizer has to
/// give id `i` where it gave `rows[i]`.
///
/// # Errors
///
/// When there is no such row, or the table is used for more than the lookup.
pub fn keep_vocabulary(graph: &mut Graph, rows: &[usize]) -> Result<(), RewriteError> {
    refuse_quantized(graph)?;
    let table = word_embedding(graph)?.table;
    let mut plan = Plan::new(graph, "words");
    plan.keep((table, 0), rows)?;
    plan.apply(graph)
}

/// Removes whole encoder layers: what read a layer's output reads its input. Names of the layers
/// that stay do not change.
///
/// # Errors
///
/// When there is no such layer, or none would be left.
pub fn drop_layers(graph: &mut Graph, layers: &[usize]) -> Result<(), RewriteError> {
    refuse_quantized(graph)?;
    let all = encoder_layers(graph)?;
    let left: Vec<usize> = (0..all.len()).filter(|index| !layers.contains(index)).collect();
    if !layers.is_empty() {
        check_indices("encoder layers to remove", layers, all.len())?;
    }
    check_indices("encoder layers that stay", &left, all.len())?;
    let mut edited = graph.clone();
    // From the last to the first, so that neighbours that both go do not bring each other back.
    for layer in all.iter().enumerate().rev().filter(|(index, _)| layers.contains(index)) {
        edited.replace_uses(layer.1.output, layer.1.input);
    }
    edited.refresh()?;
    *graph = edited;
    Ok(())
}

fn float_layer(graph: &Graph, layer: usize) -> Result<EncoderLayer, RewriteError> {
    refuse_quantized(graph)?;
    let layers = encoder_layers(graph)?;
    let size = layers.len();
    let found = layer.to_string();
    layers.into_iter().nth(layer).ok_or(RewriteError::Indices {
        what: "encoder layers",
        size,
        found,
    })
}

fn refuse_quantized(graph: &Graph) -> Result<(), RewriteError> {
    let quantized = |node: &&Node| matches!(node.op, Op::Quantize(_) | Op::Dequantize(_));
    match graph.nodes().map(|(_, node)| node).find(quantized) {
        None => Ok(()),
        Some(node) => Err(RewriteError::Quantized {
            what: "prune",
            node: node.name.clone(),
            instead: "prune the float graph, then quantize it",
        }),
    }
}

fn check_indices(what: &'static str, indices: &[usize], size: usize) -> Result<(), RewriteError> {
    let error = |found| Err(RewriteError::Indices { what, size, found });
    let mut seen = BTreeSet::new();
    if indices.is_empty() {
        return error("none".to_owned());
    }
    match indices.iter().find(|&&index| index >= size || !seen.insert(index)) {
        None => Ok(()),
        Some(index) => error(index.to_string()),
    }
}

/// Dimensions to cut and what stays of each.
struct Plan {
    what: &'static str,
    axes: Axes,
    cuts: BTreeMap<(ValueId, usize), Vec<usize>>,
    /// Whether a dimension that is normalized over may be cut.
    normalized: bool,
    /// Reshapes that split or merge a dimension that is cut on both sides.
    reshapes: BTreeSet<NodeId>,
    graph: Graph,
}

impl Plan {
    fn new(graph: &Graph, what: &'static str) -> Self {
        let axes = Axes::of(graph);
        let (cuts, reshapes) = (BTreeMap::new(), BTreeSet::new());
        Self { what, axes, cuts, normalized: false, reshapes, graph: graph.clone() }
    }

    /// Keeps `indices` of the dimension `axis` and of all that are tied to it.
    fn keep(&mut self, axis: (ValueId, usize), indices: &[usize]) -> Result<(), RewriteError> {
        let size = self.graph.value_type(axis.0).shape[axis.1].fixed();
        check_indices(self.what, indices, size.expect("a weight's dimension is a number"))?;
        for axis in self.axes.tied(axis) {
            self.cuts.insert(axis, indices.to_vec());
        }
        Ok(())
    }

    fn apply(mut self, graph: &mut Graph) -> Result<(), RewriteError> {
        self.check_boundary()?;
        for node in self.graph.nodes() {
            self.check_node(node)?;
        }
        self.cut_weights()?;
        self.cut_reshapes();
        self.graph.refresh()?;
        *graph = self.graph;
        Ok(())
    }

    fn bound(&self, at: &str, reason: &'static str) -> RewriteError {
        RewriteError::Bound { what: self.what, at: at.to_owned(), reason }
    }

    fn check_boundary(&self) -> Result<(), RewriteError> {
        let boundary: Vec<ValueId> =
            self.graph.inputs().iter().chain(self.graph.outputs()).copied().collect();
        match self.cuts.keys().find(|(value, _)| boundary.contains(value)) {
            None => Ok(()),
            Some(&(value, _)) => {
                let name = self.graph.value_name(value);
                Err(self.bound(name, "is an input or output of the graph and has that dimension"))
            }
        }
    }

    fn check_node(&self, (id, node): (NodeId, &Node)) -> Result<(), RewriteError> {
        let last = self.graph.value_type(node.output).shape.len().saturating_sub(1);
        let cut = |value: ValueId, axis: usize| self.cuts.contains_key(&(value, axis));
        let reason = match &node.op {
            Op::Softmax(_) if cut(node.output, last) => "is a softmax over that dimension",
            Op::LayerNorm(_) if !self.normalized && cut(node.output, last) => {
                "normalizes over that dimension"
            }
            Op::Slice(slice) if cut(node.inputs[0], slice.axis) => "takes a range of it",
            Op::Reshape(_) if !self.reshapes.contains(&id) && self.is_mixed(node) => {
                "puts that dimension together with others"
            }
            _ => return Ok(()),
        };
        Err(self.bound(&node.name, reason))
    }

    /// Whether a reshape splits or merges a dimension that is cut.
    fn is_mixed(&self, node: &Node) -> bool {
        let same = structure::same_dimensions(&self.graph, node.inputs[0], node.output);
        self.cuts.keys().any(|&(value, axis)| {
            (value == node.inputs[0] && !same.iter().any(|&(input, _)| input == axis))
                || (value == node.output && !same.iter().any(|&(_, output)| output == axis))
        })
    }

    fn cut_weights(&mut self) -> Result<(), RewriteError> {
        for (&(value, axis), indices) in &self.cuts {
            let Some(tensor) = self.graph.weight(value) else { continue };
            if tensor.dtype() != DType::F32 {
                let reason = format!("expected f32 to cut {}, found {tensor:?}", self.what);
                let name = self.graph.value_name(value).to_owned();
                return Err(RewriteError::Weight { name, reason });
            }
            let tensor = tensor.select(axis, indices);
            self.graph.set_weight(value, tensor);
        }
        Ok(())
    }

    /// Gives reshapes that name a size the new one.
    fn cut_reshapes(&mut self) {
        let mut edits = Vec::new();
        for (id, node) in self.graph.nodes() {
            let Op::Reshape(reshape) = &node.op else { continue };
            let mut reshape = reshape.clone();
            for (axis, size) in reshape.shape.iter_mut().enumerate().filter(|(_, size)| **size > 0)
            {
                if let Some(indices) = self.cuts.get(&(node.output, axis)) {
                    *size = i64::try_from(indices.len()).expect("a size fits i64");
                }
            }
            edits.push((id, Op::Reshape(reshape)));
        }
        for (id, op) in edits {
            self.graph.set_op(id, op);
        }
    }
}

#[cfg(test)]
mod tests;
