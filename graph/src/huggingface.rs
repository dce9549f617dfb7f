//! Checkpoints as Hugging Face's `transformers` saves them: a folder with `config.json`,
//! `tokenizer.json` and `model.safetensors` or `pytorch_model.bin`.
//!
//! Only encoders of `model_type` `bert` are known; what they were trained for beyond the encoder
//! is left out, and a classifier that is not there is initialized.

mod pickle;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::bert::{self, BertConfig, BertLayer, Pooling};
use crate::file::{self, FileError};
use crate::op::Gelu;
use crate::weights::{self, WeightsError};
use crate::{DType, Graph, GraphError, Tensor};

pub use pickle::PickleError;

/// Most bytes of `config.json` and `tokenizer.json`.
const TEXT_LIMIT: u64 = 256 << 20;
/// Most layers of an encoder that is believed.
const LAYER_LIMIT: usize = 1000;

const WORDS: &str = "embeddings.word_embeddings.weight";
const POSITIONS: &str = "embeddings.position_embeddings.weight";
const TOKEN_TYPES: &str = "embeddings.token_type_embeddings.weight";

/// What a checkpoint's folder holds.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Sizes of the encoder and its classifier.
    pub config: BertConfig,
    /// The classifier: encoder from the checkpoint, head from it or initialized.
    pub graph: Graph,
    /// `tokenizer.json` as it is.
    pub tokenizer_json: Vec<u8>,
}

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The safetensors file is broken.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The PyTorch file is broken.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// `config.json` is broken, or asks for what is not supported.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A tensor is missing, or does not fit the configuration.
    #[error("{}: {source}", path.display())]
    Tensor {
        /// The file of weights.
        path: PathBuf,
        /// Which tensor, what was expected and found.
        source: GraphError,
    },
}

/// The fields of `config.json` that the graph depends on.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    #[serde(default = "default_epsilon")]
    layer_norm_eps: f32,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

fn default_epsilon() -> f32 {
    1e-12
}

fn absolute() -> String {
    "absolute".to_owned()
}

/// Loads a checkpoint as a classifier of `labels` classes. Linear weights become `[in, out]`; the
/// embedding of token type 0 is added into the position table. A classifier that the checkpoint
/// lacks is initialized from `seed`, as [`bert::initial_weights`] does.
///
/// # Errors
///
/// When a file is missing or broken; the model type, activation or kind of positions is not
/// supported; a tensor is missing, has another shape than the configuration says, or is not finite.
pub fn load(
    directory: &Path,
    labels: usize,
    pooling: Pooling,
    seed: u64,
) -> Result<Checkpoint, CheckpointError> {
    let path = directory.join("config.json");
    let fail = |reason| CheckpointError::Config { path: path.clone(), reason };
    let config: Config = serde_json::from_slice(&file::read(&path, TEXT_LIMIT)?)
        .map_err(|error| fail(format!("expected the configuration of a BERT encoder: {error}")))?;
    let config = bert_config(&config, labels, pooling).map_err(fail)?;
    let tokenizer_json = file::read(&directory.join("tokenizer.json"), TEXT_LIMIT)?;
    let (path, tensors) = read_tensors(directory)?;
    let fail = |source| CheckpointError::Tensor { path: path.clone(), source };
    let mut tensors = Tensors::new(tensors).map_err(fail)?;
    let mut initial = bert::initial_weights(seed);
    let graph = bert::build(&config, &mut |name, shape| {
        if name.starts_with("classifier.") && !tensors.has(name) {
            return initial(name, shape);
        }
        tensors.take(name, shape)
    });
    Ok(Checkpoint { config, graph: graph.map_err(fail)?, tokenizer_json })
}

fn read_tensors(directory: &Path) -> Result<(PathBuf, BTreeMap<String, Tensor>), CheckpointError> {
    let safetensors = directory.join("model.safetensors");
    let pytorch = directory.join("pytorch_model.bin");
    if pytorch.exists() && !safetensors.exists() {
        let tensors = pickle::read(&pytorch)?;
        return Ok((pytorch, tensors));
    }
    let tensors = weights::read(&safetensors)?;
    Ok((safetensors, tensors))
}

fn bert_config(config: &Config, labels: usize, pooling: Pooling) -> Result<BertConfig, String> {
    if config.model_type != "bert" {
        return Err(format!(
            "expected model_type `bert`, found `{}`; other encoders are not supported",
            config.model_type
        ));
    }
    if config.position_embedding_type != "absolute" {
        let found = &config.position_embedding_type;
        return Err(format!("expected position_embedding_type `absolute`, found `{found}`"));
    }
    let activation = match config.hidden_act.as_str() {
        "gelu" => Gelu::Erf,
        "gelu_new" | "gelu_pytorch_tanh" => Gelu::Tanh,
        other => {
            return Err(format!(
                "expected hidden_act `gelu`, `gelu_new` or `gelu_pytorch_tanh`, found `{other}`"
            ));
        }
    };
    let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
    let sizes = [
        ("labels", labels),
        ("vocab_size", config.vocab_size),
        ("hidden_size", hidden),
        ("num_hidden_layers", config.num_hidden_layers),
        ("num_attention_heads", heads),
        ("intermediate_size", config.intermediate_size),
        ("max_position_embeddings", config.max_position_embeddings),
    ];
    if let Some((name, found)) = sizes.iter().find(|(_, size)| !(1..=1 << 24).contains(size)) {
        return Err(format!("expected {name} from 1 to 16777216, found {found}"));
    }
    if config.num_hidden_layers > LAYER_LIMIT {
        let found = config.num_hidden_layers;
        return Err(format!("expected num_hidden_layers of at most {LAYER_LIMIT}, found {found}"));
    }
    if !hidden.is_multiple_of(heads) {
        return Err(format!("hidden_size {hidden} is no multiple of num_attention_heads {heads}"));
    }
    if !(config.layer_norm_eps.is_finite() && config.layer_norm_eps > 0.0) {
        return Err(format!("expected layer_norm_eps above 0, found {}", config.layer_norm_eps));
    }
    let layer = BertLayer { heads, intermediate: config.intermediate_size };
    Ok(BertConfig {
        positions: config.max_position_embeddings,
        layer_norm_epsilon: config.layer_norm_eps,
        activation,
        pooling,
        labels,
        ..BertConfig::uniform(config.vocab_size, hidden, config.num_hidden_layers, layer)
    })
}

/// The checkpoint's tensors by the names the builder asks for.
struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    /// Drops the `bert.` of encoders saved inside a task's model, and the names of parameters
    /// that the first checkpoints (converted from TensorFlow) have.
    fn new(tensors: BTreeMap<String, Tensor>) -> Result<Self, GraphError> {
        let mut named = BTreeMap::new();
        for (name, tensor) in tensors {
            let plain = name.strip_prefix("bert.").unwrap_or(&name);
            let plain = match plain.strip_suffix("LayerNorm.gamma") {
                Some(prefix) => format!("{prefix}LayerNorm.weight"),
                None => match plain.strip_suffix("LayerNorm.beta") {
                    Some(prefix) => format!("{prefix}LayerNorm.bias"),
                    None => plain.to_owned(),
                },
            };
            if named.insert(plain, tensor).is_some() {
                return Err(GraphError::Duplicate(name));
            }
        }
        Ok(Self(named))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The weight that the graph calls `name`, of `shape`.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, GraphError> {
        if name == POSITIONS {
            return self.positions(shape);
        }
        if let ([input, output], false) = (shape, name == WORDS) {
            return Ok(transposed(&self.stored(name, &[Some(*output), Some(*input)])?));
        }
        let shape: Vec<Option<usize>> = shape.iter().copied().map(Some).collect();
        self.stored(name, &shape)
    }

    /// Texts are single segments, so token type 0 is part of every position.
    fn positions(&mut self, shape: &[usize]) -> Result<Tensor, GraphError> {
        let table = self.stored(POSITIONS, &[Some(shape[0]), Some(shape[1])])?;
        let types = self.stored(TOKEN_TYPES, &[None, Some(shape[1])])?;
        let (table, types) = (floats(&table), floats(&types));
        Ok(Tensor::from_fn(shape, |index| table[index] + types[index % shape[1]]))
    }

    /// The tensor stored as `name`; `None` in `shape` stands for any size of at least 1.
    fn stored(&mut self, name: &str, shape: &[Option<usize>]) -> Result<Tensor, GraphError> {
        let fail = |reason| GraphError::Weight { name: name.to_owned(), reason };
        let dims: Vec<String> = shape
            .iter()
            .map(|size| size.map_or("≥1".to_owned(), |size| size.to_string()))
            .collect();
        let expected = format!("expected f32[{}]", dims.join(", "));
        let tensor = self.0.remove(name);
        let tensor = tensor.ok_or_else(|| fail(format!("{expected}, found no such tensor")))?;
        let fits = tensor.shape().len() == shape.len()
            && tensor
                .shape()
                .iter()
                .zip(shape)
                .all(|(&found, &size)| size.map_or(found >= 1, |size| found == size));
        if !fits || tensor.dtype() != DType::F32 {
            return Err(fail(format!("{expected}, found {}{:?}", tensor.dtype(), tensor.shape())));
        }
        weights::ensure_finite([(name, &tensor)]).map_err(|error| fail(error.to_string()))?;
        Ok(tensor)
    }
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.elements().expect("`stored` checked the type")
}

fn transposed(matrix: &Tensor) -> Tensor {
    let (rows, columns) = (matrix.shape()[0], matrix.shape()[1]);
    let source = floats(matrix);
    Tensor::from_fn(&[columns, rows], |index| source[index % rows * columns + index / rows])
}

#[cfg(test)]
mod tests;
