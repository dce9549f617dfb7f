//! The sizes of a graph that is an encoder classifier, found by pattern.

use super::{BertConfig, BertLayer, Pooling};
use crate::structure::{
    EncoderLayer, StructureError, encoder_layers, linears, readers, word_embedding,
};
use crate::{Dim, Graph, Op, ValueId};

impl BertConfig {
    /// The sizes of `graph`: what it takes to build one like it.
    ///
    /// # Errors
    ///
    /// When the graph is no encoder classifier that [`super::build`] can make; names the part that
    /// was not found.
    pub fn of(graph: &Graph) -> Result<Self, StructureError> {
        let embedding = word_embedding(graph)?;
        let layers = encoder_layers(graph)?;
        let error = |what, at: ValueId, expected: &str| {
            StructureError::new(graph, what, graph.value_name(at), expected)
        };
        let positions = embedding.positions.ok_or_else(|| {
            error("position table", embedding.output, "a sum with rows of a constant matrix")
        })?;
        let size = |value: ValueId, axis: usize| graph.value_type(value).shape[axis].fixed();
        let rows = |table: ValueId| size(table, 0).expect("a table is a weight");
        let head_size = layers[0].attention.head_size;
        if let Some(layer) = layers.iter().find(|layer| layer.attention.head_size != head_size) {
            let expected = format!("heads of size {head_size}, as in the first layer");
            return Err(error("common head size", layer.attention.context, &expected));
        }
        let (first, last) = (&layers[0], &layers[layers.len() - 1]);
        let activation = first.feed_forward.activation;
        let Some(Op::Gelu(gelu)) = graph.producer(activation).map(|node| &node.op) else {
            return Err(error("Gelu", activation, "a Gelu between the feed-forward products"));
        };
        let Some(Op::LayerNorm(norm)) = graph.producer(first.output).map(|node| &node.op) else {
            return Err(error("layer normalization", first.output, "one after each block"));
        };
        let hidden = size(embedding.table, 1).expect("a table is a weight");
        let classifier = linears(graph).into_iter().rfind(|x| graph.outputs().contains(&x.output));
        if let Some(classifier) = classifier.filter(|classifier| classifier.inputs != hidden) {
            let expected = format!("{hidden} inputs, found {}", classifier.inputs);
            return Err(error("classifier as wide as the layers", classifier.weight, &expected));
        }
        let labels = graph
            .outputs()
            .first()
            .and_then(|&output| graph.value_type(output).shape.last().and_then(Dim::fixed));
        Ok(Self {
            vocabulary_size: rows(embedding.table),
            positions: rows(positions),
            hidden,
            head_size,
            layers: layers.iter().map(sizes).collect(),
            layer_norm_epsilon: norm.epsilon,
            activation: *gelu,
            pooling: pooling(graph, last.output)?,
            labels: labels.ok_or_else(|| {
                error("label dimension", last.output, "an output [batch, labels]")
            })?,
        })
    }
}

fn sizes(layer: &EncoderLayer) -> BertLayer {
    BertLayer { heads: layer.attention.heads, intermediate: layer.feed_forward.units }
}

fn pooling(graph: &Graph, last: ValueId) -> Result<Pooling, StructureError> {
    let readers = readers(graph, last).into_iter().map(|id| graph.node(id));
    let pooling = readers.into_iter().find_map(|node| match &node.op {
        Op::Slice(slice) if (slice.axis, slice.start) == (1, 0) && slice.end == Dim::Fixed(1) => {
            Some(Pooling::Cls)
        }
        Op::Mul => {
            let sums = graph.consumers(node.output).into_iter().map(|id| &graph.node(id).op);
            sums.into_iter()
                .any(|op| matches!(op, Op::ReduceSum(sum) if sum.axis == 1))
                .then_some(Pooling::Mean)
        }
        _ => None,
    });
    pooling.ok_or_else(|| {
        let expected = "a masked sum over the tokens, or a slice of the first one";
        StructureError::new(graph, "pooling", graph.value_name(last), expected)
    })
}
