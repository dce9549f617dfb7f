//! Encoder layers: attention and feed-forward blocks around a residual stream.

use super::{Linear, StructureError, float_source, linears, readers};
use crate::{Graph, Node, NodeId, Op, ValueId};

/// One encoder layer (Vaswani et al. 2017, arXiv:1706.03762).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderLayer {
    /// The residual stream the layer reads, `f32[batch, sequence, hidden]`.
    pub input: ValueId,
    /// Self-attention.
    pub attention: Attention,
    /// The residual stream between the blocks, `f32[batch, sequence, hidden]`.
    pub middle: ValueId,
    /// Feed-forward block.
    pub feed_forward: FeedForward,
    /// The residual stream the layer writes, `f32[batch, sequence, hidden]`.
    pub output: ValueId,
}

/// Multi-head self-attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Makes the queries, `[hidden, heads · head_size]`.
    pub query: Linear,
    /// Makes the keys, `[hidden, heads · head_size]`.
    pub key: Linear,
    /// Makes the values, `[hidden, heads · head_size]`.
    pub value: Linear,
    /// Mixes the heads, `[heads · head_size, hidden]`.
    pub output: Linear,
    /// Number of heads.
    pub heads: usize,
    /// Width of one head.
    pub head_size: usize,
    /// What the softmax reads, `f32[batch, heads, sequence, sequence]`.
    pub scores: ValueId,
    /// What the softmax writes, same shape.
    pub probabilities: ValueId,
    /// The heads' answers side by side, `f32[batch, sequence, heads · head_size]`.
    pub context: ValueId,
    /// The query's heads, `[batch, sequence, heads, head_size]`: where their dimension appears.
    pub(crate) query_heads: ValueId,
    /// The `Reshape` nodes that split query, key and value into heads and merge them again.
    pub(crate) reshapes: Vec<NodeId>,
}

/// Two linear layers with an activation between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedForward {
    /// Makes the units, `[hidden, units]`.
    pub up: Linear,
    /// Uses the units, `[units, hidden]`.
    pub down: Linear,
    /// The units after the activation, `f32[batch, sequence, units]`.
    pub activation: ValueId,
    /// Number of units.
    pub units: usize,
}

/// The encoder layers, from the input.
///
/// # Errors
///
/// When the graph has no attention, or an attention that is not part of a layer of this form; names
/// the part that was not found.
pub fn encoder_layers(graph: &Graph) -> Result<Vec<EncoderLayer>, StructureError> {
    let search = Search { graph, linears: linears(graph) };
    let softmaxes = graph.nodes().filter(|(_, node)| matches!(node.op, Op::Softmax(_)));
    let layers: Vec<EncoderLayer> = softmaxes
        .filter_map(|(_, node)| search.context_product(node).map(|product| (node, product)))
        .map(|(softmax, product)| search.layer(softmax, product))
        .collect::<Result<_, _>>()?;
    if layers.is_empty() {
        let at = graph.outputs().first().map_or("", |&id| graph.value_name(id));
        let expected = "a Softmax before it whose result multiplies a computed value";
        return Err(StructureError::new(graph, "encoder layer", at, expected));
    }
    Ok(layers)
}

struct Search<'a> {
    graph: &'a Graph,
    linears: Vec<Linear>,
}

/// A value that was split into heads.
struct Split {
    linear: Linear,
    reshape: NodeId,
    value: ValueId,
    heads: usize,
    head_size: usize,
}

impl Search<'_> {
    fn error(&self, what: &'static str, at: ValueId, expected: &str) -> StructureError {
        StructureError::new(self.graph, what, self.graph.value_name(at), expected)
    }

    /// The product of a softmax's result with a computed value: what makes it an attention.
    fn context_product(&self, softmax: &Node) -> Option<NodeId> {
        readers(self.graph, softmax.output).into_iter().find(|&id| {
            let node = self.graph.node(id);
            node.op == Op::MatMul
                && float_source(self.graph, node.inputs[0]) == softmax.output
                && self.graph.weight(float_source(self.graph, node.inputs[1])).is_none()
        })
    }

    fn layer(&self, softmax: &Node, product: NodeId) -> Result<EncoderLayer, StructureError> {
        let attention = self.attention(softmax, product)?;
        let stream = attention.query.input;
        if attention.key.input != stream || attention.value.input != stream {
            let expected = "queries, keys and values made from one value";
            return Err(self.error("self-attention", attention.scores, expected));
        }
        let (sum, input) = self.residual(attention.output.output)?;
        let norm_first = input != stream;
        if norm_first && self.normalized(stream) != Some(input) {
            let expected = "a sum with what the attention reads, or with what is normalized for it";
            return Err(self.error("residual sum after attention", sum, expected));
        }
        let middle = if norm_first { sum } else { self.normalization_after(sum)? };
        let read = if norm_first { self.normalization_after(middle)? } else { middle };
        let feed_forward = self.feed_forward(read)?;
        let (sum, residual) = self.residual(feed_forward.down.output)?;
        if residual != middle {
            let expected = "a sum with the value between attention and feed-forward";
            return Err(self.error("residual sum after feed-forward", sum, expected));
        }
        let output = if norm_first { sum } else { self.normalization_after(sum)? };
        Ok(EncoderLayer { input, attention, middle, feed_forward, output })
    }

    fn attention(&self, softmax: &Node, product: NodeId) -> Result<Attention, StructureError> {
        let graph = self.graph;
        let scores = softmax.inputs[0];
        let score_product = self.score_product(scores).ok_or_else(|| {
            self.error("attention score", scores, "a product of queries and keys before it")
        })?;
        let [query, key] = [score_product.inputs[0], score_product.inputs[1]]
            .map(|side| self.split(side))
            .map(|split| split.map_err(|at| self.split_error(at)));
        let (query, key) = (query?, key?);
        let product = graph.node(product);
        let value = self.split(product.inputs[1]).map_err(|at| self.split_error(at))?;
        for other in [&key, &value] {
            if (other.heads, other.head_size) != (query.heads, query.head_size) {
                let expected = "as many heads, of the same size, as the queries have";
                return Err(self.error("attention head", other.value, expected));
            }
        }
        let (merge, output) = self.merge(product.output)?;
        Ok(Attention {
            heads: query.heads,
            head_size: query.head_size,
            scores,
            probabilities: softmax.output,
            context: graph.node(merge).output,
            query_heads: query.value,
            reshapes: vec![query.reshape, key.reshape, value.reshape, merge],
            query: query.linear,
            key: key.linear,
            value: value.linear,
            output,
        })
    }

    /// The product of two computed values behind scaling and masking.
    fn score_product(&self, value: ValueId) -> Option<&Node> {
        let node = self.graph.producer(value)?;
        match node.op {
            Op::MatMul => {
                let right = float_source(self.graph, node.inputs[1]);
                self.graph.weight(right).is_none().then_some(node)
            }
            Op::Add | Op::Sub | Op::Mul | Op::Div => {
                node.inputs.iter().find_map(|&input| self.score_product(input))
            }
            _ => None,
        }
    }

    /// The linear layer and the split into heads behind `value`, through transposes and scaling;
    /// an error is the value where the search ended.
    fn split(&self, value: ValueId) -> Result<Split, ValueId> {
        let heads = self.before(value, |op| matches!(op, Op::Transpose(_)));
        let reshape = self.graph.producer_id(heads).ok_or(heads)?;
        let node = self.graph.node(reshape);
        let Op::Reshape(_) = node.op else { return Err(heads) };
        let [_, _, n_heads, head_size] = &self.graph.value_type(heads).shape[..] else {
            return Err(heads);
        };
        let source = self.before(node.inputs[0], |_| false);
        let linear = self.linears.iter().find(|linear| linear.output == source).ok_or(source)?;
        let (n_heads, head_size) = n_heads.fixed().zip(head_size.fixed()).ok_or(heads)?;
        if n_heads * head_size != linear.outputs {
            return Err(heads);
        }
        Ok(Split { linear: linear.clone(), reshape, value: heads, heads: n_heads, head_size })
    }

    /// The value before scaling by constants, quantization and what else `passes`.
    fn before(&self, value: ValueId, passes: impl Fn(&Op) -> bool) -> ValueId {
        let mut value = float_source(self.graph, value);
        while let Some(node) = self.graph.producer(value) {
            let computed = |input: &&ValueId| self.graph.weight(**input).is_none();
            let next = match &node.op {
                Op::Mul | Op::Div if !node.inputs.iter().all(|input| computed(&input)) => {
                    node.inputs.iter().find(computed)
                }
                op if passes(op) => node.inputs.first(),
                _ => None,
            };
            let Some(&next) = next else { break };
            value = float_source(self.graph, next);
        }
        value
    }

    fn split_error(&self, at: ValueId) -> StructureError {
        let expected = "a Reshape to [batch, sequence, heads, size] of a linear layer's output";
        self.error("split into heads", at, expected)
    }

    /// The reshape that puts the heads of `value` side by side, and the linear layer that reads it.
    fn merge(&self, value: ValueId) -> Result<(NodeId, Linear), StructureError> {
        let expected = "a Transpose, a Reshape and a linear layer after it";
        let error = || self.error("attention output", value, expected);
        let mut merged = value;
        let reshape = loop {
            let [reader] = readers(self.graph, merged)[..] else { return Err(error()) };
            let node = self.graph.node(reader);
            merged = node.output;
            match node.op {
                Op::Transpose(_) => {}
                Op::Reshape(_) => break reader,
                _ => return Err(error()),
            }
        };
        let linear = self.linears.iter().find(|linear| linear.input == merged);
        Ok((reshape, linear.ok_or_else(error)?.clone()))
    }

    /// The sum that reads `value`, and what it adds.
    fn residual(&self, value: ValueId) -> Result<(ValueId, ValueId), StructureError> {
        let sums = readers(self.graph, value).into_iter().map(|id| self.graph.node(id));
        let sum = sums.into_iter().find(|node| node.op == Op::Add);
        let pair = sum.and_then(|node| {
            let other = node.inputs.iter().find(|&&input| input != value)?;
            Some((node.output, float_source(self.graph, *other)))
        });
        pair.ok_or_else(|| self.error("residual sum", value, "an Add that reads it"))
    }

    /// What the normalization that writes `value` reads.
    fn normalized(&self, value: ValueId) -> Option<ValueId> {
        let node = self.graph.producer(value)?;
        matches!(node.op, Op::LayerNorm(_)).then(|| node.inputs[0])
    }

    fn normalization_after(&self, value: ValueId) -> Result<ValueId, StructureError> {
        let reader = self.graph.consumers(value).into_iter().map(|id| self.graph.node(id));
        let norm = reader.into_iter().find(|node| matches!(node.op, Op::LayerNorm(_)));
        norm.map(|node| node.output).ok_or_else(|| {
            self.error("layer normalization", value, "a LayerNormalization that reads it")
        })
    }

    fn feed_forward(&self, input: ValueId) -> Result<FeedForward, StructureError> {
        let found = self.linears.iter().filter(|linear| linear.input == input).find_map(|up| {
            let [reader] = readers(self.graph, up.output)[..] else { return None };
            let node = self.graph.node(reader);
            if !matches!(node.op, Op::Gelu(_) | Op::Relu | Op::Tanh) {
                return None;
            }
            let down = self.linears.iter().find(|linear| linear.input == node.output)?;
            Some(FeedForward {
                up: up.clone(),
                down: down.clone(),
                activation: node.output,
                units: up.outputs,
            })
        });
        found.ok_or_else(|| {
            let expected = "a linear layer, an activation and a linear layer after it";
            self.error("feed-forward block", input, expected)
        })
    }
}
