//! BERT-style encoder classifiers (Devlin et al. 2018, arXiv:1810.04805).
//!
//! The graph takes `input_ids` and `attention_mask`, both `i64[batch, sequence]`, and gives
//! `logits`, `f32[batch, labels]`. Weights have the names of Hugging Face checkpoints; linear
//! weights are stored `[in, out]`. Texts are single segments: the embedding of token type 0 is part
//! of the position table.

mod describe;
mod subnetwork;

use serde::{Deserialize, Serialize};

pub use subnetwork::{WeightSlice, choose_layers, subnetwork, weight_slices};

use crate::op::{
    Cast, Gather, Gelu, LayerNorm, ReduceSum, Reshape, Slice, Softmax, Transpose, Unsqueeze,
};
use crate::{DType, Dim, Graph, GraphError, Op, Tensor, ValueId};

/// What a masked key's attention score is lowered by: `exp` of it is 0 in `f32`.
const MASKED: f32 = -1e4;

/// Sizes of a BERT-style classifier. Layers may differ, as they do after pruning or search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BertConfig {
    /// Rows of the word embedding table, ≥ 1.
    pub vocabulary_size: usize,
    /// Rows of the position table: the longest sequence, ≥ 1.
    pub positions: usize,
    /// Width of the residual stream, ≥ 1.
    pub hidden: usize,
    /// Width of one attention head, ≥ 1.
    pub head_size: usize,
    /// One entry a layer, from the input.
    pub layers: Vec<BertLayer>,
    /// Epsilon of every layer normalization, > 0.
    pub layer_norm_epsilon: f32,
    /// Activation between the two feed-forward products.
    pub activation: Gelu,
    /// How token vectors become one text vector.
    pub pooling: Pooling,
    /// Number of classes, ≥ 1.
    pub labels: usize,
}

/// Sizes of one encoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BertLayer {
    /// Attention heads, ≥ 1.
    pub heads: usize,
    /// Feed-forward units, ≥ 1.
    pub intermediate: usize,
}

/// How token vectors become one text vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Mean over the tokens that are not padding.
    #[default]
    Mean,
    /// The first token through a dense layer with tanh, BERT's own pooler.
    Cls,
}

impl BertConfig {
    /// A configuration whose layers are all alike and whose heads share `hidden` evenly.
    pub fn uniform(vocabulary_size: usize, hidden: usize, layers: usize, layer: BertLayer) -> Self {
        Self {
            vocabulary_size,
            positions: 512,
            hidden,
            head_size: hidden / layer.heads.max(1),
            layers: vec![layer; layers],
            layer_norm_epsilon: 1e-12,
            activation: Gelu::Erf,
            pooling: Pooling::Mean,
            labels: 2,
        }
    }
}

/// Gives each weight by name and shape.
pub type WeightSource<'a> = dyn FnMut(&str, &[usize]) -> Result<Tensor, GraphError> + 'a;

/// Builds the graph; `weight(name, shape)` gives each weight.
///
/// # Errors
///
/// Whatever `weight` returns, and shapes it gives that do not fit, named by node.
pub fn build(config: &BertConfig, weight: &mut WeightSource<'_>) -> Result<Graph, GraphError> {
    let mut builder = Builder { graph: Graph::new("bert"), weight, config };
    let ids = builder.token_input("input_ids")?;
    let mask = builder.token_input("attention_mask")?;
    let mask = builder.node("attention_mask.float", Op::Cast(Cast { to: DType::F32 }), &[mask])?;
    let bias = builder.mask_bias(mask)?;
    let mut hidden = builder.embeddings(ids)?;
    for index in 0..config.layers.len() {
        hidden = builder.layer(index, hidden, bias)?;
    }
    let pooled = builder.pool(hidden, mask)?;
    let logits = builder.linear("classifier", pooled, config.hidden, config.labels)?;
    let mut graph = builder.graph;
    graph.rename(logits, "logits")?;
    graph.set_outputs(&[logits]);
    graph.refresh()?;
    Ok(graph)
}

/// Weights as BERT initializes them, a function of `seed` and each weight's name alone: normal
/// with standard deviation 0.02, biases 0, normalization scales 1.
pub fn initial_weights(seed: u64) -> impl FnMut(&str, &[usize]) -> Result<Tensor, GraphError> {
    move |name, shape| {
        Ok(if name.ends_with("LayerNorm.weight") {
            Tensor::from_fn(shape, |_| 1f32)
        } else if name.ends_with("bias") {
            Tensor::from_fn(shape, |_| 0f32)
        } else {
            normal(seed, name, shape, 0.02)
        })
    }
}

/// Normal numbers with mean 0 (Box & Muller 1958), a function of `seed`, `name` and position.
pub fn normal(seed: u64, name: &str, shape: &[usize], deviation: f64) -> Tensor {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut stream = hasher.finalize_xof();
    Tensor::from_fn(shape, |_| {
        let mut bytes = [0; 16];
        stream.fill(&mut bytes);
        let uniform = |bytes: &[u8]| {
            let bits = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let (radius, angle) = (uniform(&bytes[..8]), uniform(&bytes[8..]));
        let radius = (-2.0 * radius.ln()).sqrt();
        (deviation * radius * (2.0 * std::f64::consts::PI * angle).cos()) as f32
    })
}

struct Builder<'a> {
    graph: Graph,
    weight: &'a mut WeightSource<'a>,
    config: &'a BertConfig,
}

impl Builder<'_> {
    fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        self.graph.add_node(name, op, inputs)
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId, GraphError> {
        let tensor = (self.weight)(name, shape)?;
        if tensor.shape() != shape || tensor.dtype() != DType::F32 {
            let reason = format!("expected f32{shape:?}, found {tensor:?}");
            return Err(GraphError::Weight { name: name.to_owned(), reason });
        }
        self.graph.add_weight(name, tensor)
    }

    fn token_input(&mut self, name: &str) -> Result<ValueId, GraphError> {
        let shape = vec![Dim::symbol("batch"), Dim::symbol("sequence")];
        self.graph.add_input(name, DType::I64, shape)
    }

    /// 0 for keys that count and [`MASKED`] for padding, `[batch, 1, 1, sequence]`.
    fn mask_bias(&mut self, mask: ValueId) -> Result<ValueId, GraphError> {
        let one = self.graph.add_weight("one", Tensor::scalar(1f32))?;
        let masked = self.graph.add_weight("masked", Tensor::scalar(MASKED))?;
        let padding = self.node("attention_mask.padding", Op::Sub, &[one, mask])?;
        let bias = self.node("attention_mask.flat_bias", Op::Mul, &[padding, masked])?;
        let axes = vec![1, 2];
        self.node("attention_mask.bias", Op::Unsqueeze(Unsqueeze { axes }), &[bias])
    }

    /// `x · weight + bias`; the value is called `name`.
    fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        input: usize,
        output: usize,
    ) -> Result<ValueId, GraphError> {
        let weight = self.weight(&format!("{name}.weight"), &[input, output])?;
        let bias = self.weight(&format!("{name}.bias"), &[output])?;
        let product = self.node(&format!("{name}.product"), Op::MatMul, &[x, weight])?;
        self.node(name, Op::Add, &[product, bias])
    }

    fn layer_norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, GraphError> {
        let width = self.config.hidden;
        let scale = self.weight(&format!("{name}.weight"), &[width])?;
        let bias = self.weight(&format!("{name}.bias"), &[width])?;
        let norm = LayerNorm { epsilon: self.config.layer_norm_epsilon };
        self.node(name, Op::LayerNorm(norm), &[x, scale, bias])
    }

    fn embeddings(&mut self, ids: ValueId) -> Result<ValueId, GraphError> {
        let BertConfig { vocabulary_size, positions, hidden, .. } = *self.config;
        let words = self.weight("embeddings.word_embeddings.weight", &[vocabulary_size, hidden])?;
        let table = self.weight("embeddings.position_embeddings.weight", &[positions, hidden])?;
        let words = self.node("embeddings.words", Op::Gather(Gather { axis: 0 }), &[words, ids])?;
        let slice = Slice { axis: 0, start: 0, end: Dim::symbol("sequence") };
        let position = self.node("embeddings.positions", Op::Slice(slice), &[table])?;
        let sum = self.node("embeddings.sum", Op::Add, &[words, position])?;
        self.layer_norm("embeddings.LayerNorm", sum)
    }

    /// `[batch, sequence, heads · size]` to `[batch, heads, …]` with the last two dimensions in
    /// the order that `permutation` gives.
    fn split_heads(
        &mut self,
        x: ValueId,
        heads: usize,
        permutation: [usize; 4],
    ) -> Result<ValueId, GraphError> {
        let name = self.graph.value_name(x).to_owned();
        let shape = vec![0, 0, heads as i64, self.config.head_size as i64];
        let split = self.node(&format!("{name}.split"), Op::Reshape(Reshape { shape }), &[x])?;
        let transpose = Transpose { permutation: permutation.to_vec() };
        self.node(&format!("{name}.heads"), Op::Transpose(transpose), &[split])
    }

    fn attention(
        &mut self,
        prefix: &str,
        heads: usize,
        x: ValueId,
        bias: ValueId,
    ) -> Result<ValueId, GraphError> {
        let (hidden, size) = (self.config.hidden, self.config.head_size);
        let width = heads * size;
        let [query, key, value] = ["query", "key", "value"]
            .map(|name| self.linear(&format!("{prefix}.self.{name}"), x, hidden, width));
        let query = self.split_heads(query?, heads, [0, 2, 1, 3])?;
        let key = self.split_heads(key?, heads, [0, 2, 3, 1])?;
        let value = self.split_heads(value?, heads, [0, 2, 1, 3])?;
        let scale = Tensor::scalar(1.0 / (size as f32).sqrt());
        let scale = self.graph.add_weight(&format!("{prefix}.self.scale"), scale)?;
        let raw = self.node(&format!("{prefix}.self.product"), Op::MatMul, &[query, key])?;
        let scaled = self.node(&format!("{prefix}.self.scaled"), Op::Mul, &[raw, scale])?;
        let scores = self.node(&format!("{prefix}.self.scores"), Op::Add, &[scaled, bias])?;
        let softmax = Op::Softmax(Softmax {});
        let weights = self.node(&format!("{prefix}.self.probabilities"), softmax, &[scores])?;
        let context =
            self.node(&format!("{prefix}.self.context.heads"), Op::MatMul, &[weights, value])?;
        let order = Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] });
        let context = self.node(&format!("{prefix}.self.context.split"), order, &[context])?;
        let merge = Op::Reshape(Reshape { shape: vec![0, 0, -1] });
        let context = self.node(&format!("{prefix}.self.context"), merge, &[context])?;
        self.linear(&format!("{prefix}.output.dense"), context, width, hidden)
    }

    fn layer(&mut self, index: usize, x: ValueId, bias: ValueId) -> Result<ValueId, GraphError> {
        let BertLayer { heads, intermediate } = self.config.layers[index];
        let hidden = self.config.hidden;
        let prefix = format!("encoder.layer.{index}");
        let attention = self.attention(&format!("{prefix}.attention"), heads, x, bias)?;
        let sum = self.node(&format!("{prefix}.attention.output.sum"), Op::Add, &[attention, x])?;
        let middle = self.layer_norm(&format!("{prefix}.attention.output.LayerNorm"), sum)?;
        let up =
            self.linear(&format!("{prefix}.intermediate.dense"), middle, hidden, intermediate)?;
        let gelu = Op::Gelu(self.config.activation);
        let units = self.node(&format!("{prefix}.intermediate"), gelu, &[up])?;
        let down = self.linear(&format!("{prefix}.output.dense"), units, intermediate, hidden)?;
        let sum = self.node(&format!("{prefix}.output.sum"), Op::Add, &[down, middle])?;
        self.layer_norm(&format!("{prefix}.output.LayerNorm"), sum)
    }

    fn pool(&mut self, hidden: ValueId, mask: ValueId) -> Result<ValueId, GraphError> {
        let width = self.config.hidden;
        match self.config.pooling {
            Pooling::Mean => {
                let column = Op::Unsqueeze(Unsqueeze { axes: vec![2] });
                let mask = self.node("pooler.mask", column, &[mask])?;
                let masked = self.node("pooler.masked", Op::Mul, &[hidden, mask])?;
                let sum = Op::ReduceSum(ReduceSum { axis: 1 });
                let total = self.node("pooler.sum", sum.clone(), &[masked])?;
                let count = self.node("pooler.count", sum, &[mask])?;
                self.node("pooler", Op::Div, &[total, count])
            }
            Pooling::Cls => {
                let slice = Slice { axis: 1, start: 0, end: Dim::Fixed(1) };
                let first = self.node("pooler.first", Op::Slice(slice), &[hidden])?;
                let shape = vec![-1, width as i64];
                let first = self.node("pooler.flat", Op::Reshape(Reshape { shape }), &[first])?;
                let dense = self.linear("pooler.dense", first, width, width)?;
                self.node("pooler", Op::Tanh, &[dense])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    fn tiny(pooling: Pooling) -> BertConfig {
        let layer = BertLayer { heads: 2, intermediate: 6 };
        BertConfig { positions: 8, pooling, ..BertConfig::uniform(11, 4, 2, layer) }
    }

    fn logits(graph: &Graph, ids: &[i64], mask: &[i64]) -> Vec<f32> {
        let tensor = |values: &[i64]| Tensor::new(&[1, values.len()], values.to_vec()).unwrap();
        let inputs = [("input_ids", tensor(ids)), ("attention_mask", tensor(mask))];
        reference::evaluate(graph, &inputs).unwrap()[0].elements::<f32>().unwrap().to_vec()
    }

    #[test]
    fn padding_does_not_change_the_answer() {
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let config = tiny(pooling);
            let graph = build(&config, &mut |name, shape| Ok(normal(1, name, shape, 0.5))).unwrap();
            let exact = logits(&graph, &[1, 5, 7], &[1, 1, 1]);
            let padded = logits(&graph, &[1, 5, 7, 0, 0], &[1, 1, 1, 0, 0]);
            assert!(exact.iter().all(|x| x.is_finite()) && exact[0] != exact[1]);
            for (exact, padded) in exact.iter().zip(padded) {
                assert!((exact - padded).abs() < 1e-6, "{exact} {padded}");
            }
        }
    }

    #[test]
    fn output_is_batch_by_labels() {
        let graph = build(&tiny(Pooling::Mean), &mut initial_weights(3)).unwrap();
        let output = graph.value_type(graph.outputs()[0]);
        assert_eq!(output.to_string(), "f32[batch, 2]");
        assert_eq!(graph.value_name(graph.outputs()[0]), "logits");
    }

    #[test]
    fn a_wrong_weight_is_named() {
        let error = build(&tiny(Pooling::Mean), &mut |_, _| Ok(Tensor::scalar(0f32))).unwrap_err();
        let expected =
            "weight `embeddings.word_embeddings.weight`: expected f32[11, 4], found Tensor(f32[])";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn initial_weights_depend_on_seed_and_name_only() {
        let weight = |seed, name: &str| initial_weights(seed)(name, &[2, 3]).unwrap();
        assert_eq!(weight(1, "a.weight"), weight(1, "a.weight"));
        assert_ne!(weight(1, "a.weight"), weight(2, "a.weight"));
        assert_ne!(weight(1, "a.weight"), weight(1, "b.weight"));
    }
}
