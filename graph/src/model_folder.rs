//! A model in a folder: what a stage reads and what it writes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::document::{self, DocumentError};
use crate::file::{self, FileError};
use crate::weights::{self, NotFinite, WeightsError};
use crate::{Dim, Graph};

/// The graph's file.
pub const GRAPH_FILE: &str = "graph.json";
/// The weights' file.
pub const WEIGHTS_FILE: &str = "weights.safetensors";
/// The tokenizer's file.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The file of [`ModelInfo`].
pub const INFO_FILE: &str = "model.json";

/// Most bytes of the smaller files.
const TEXT_LIMIT: u64 = 256 << 20;

/// What the graph does not say about a text classifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelInfo {
    /// Names of the classes, in the order of the logits.
    pub labels: Vec<String>,
    /// Most word pieces of a text, with the special ones; longer texts are cut. 0 for a model that
    /// takes no texts.
    pub max_length: usize,
}

/// A model with all that is needed to feed it texts.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFolder {
    /// The model.
    pub graph: Graph,
    /// `tokenizer.json` as the `tokenizers` library reads it; empty for a model that takes tensors
    /// and no texts.
    pub tokenizer_json: Vec<u8>,
    /// Labels and limits.
    pub info: ModelInfo,
}

/// What can be wrong with a model's folder.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The weights' file is broken.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A weight is infinite or NaN.
    #[error("{}: {source}", path.display())]
    NotFinite {
        /// The weights' file.
        path: PathBuf,
        /// Which weight.
        source: NotFinite,
    },
    /// The graph's file is broken, or does not fit the weights.
    #[error("{}: {source}", path.display())]
    Document {
        /// The graph's file.
        path: PathBuf,
        /// What is wrong.
        source: DocumentError,
    },
    /// The info file is broken, or does not fit the graph.
    #[error("{}: {reason}", path.display())]
    Info {
        /// The info file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
}

impl ModelFolder {
    /// Writes the model into the folder `directory`, which is created when it is not there. Equal
    /// models make equal bytes.
    ///
    /// # Errors
    ///
    /// When a file cannot be written, a weight is infinite or NaN, or the labels do not fit the
    /// graph's output.
    pub fn write(&self, directory: &Path) -> Result<(), ModelError> {
        let info_file = directory.join(INFO_FILE);
        self.check_labels(&info_file)?;
        self.write_parts(directory)?;
        let info = serde_json::to_string_pretty(&self.info).expect("strings and a number");
        Ok(file::write(&info_file, format!("{info}\n").as_bytes())?)
    }

    /// Writes all but the info.
    pub(crate) fn write_parts(&self, directory: &Path) -> Result<(), ModelError> {
        let path = directory.join(WEIGHTS_FILE);
        let weights = || self.graph.weights().map(|(id, w)| (self.graph.value_name(id), w));
        weights::ensure_finite(weights())
            .map_err(|source| ModelError::NotFinite { path: path.clone(), source })?;
        file::create_folder(directory)?;
        weights::write(&path, weights())?;
        let document = document::write(&self.graph);
        file::write(&directory.join(GRAPH_FILE), document.as_bytes())?;
        if !self.tokenizer_json.is_empty() {
            file::write(&directory.join(TOKENIZER_FILE), &self.tokenizer_json)?;
        }
        Ok(())
    }

    /// Reads the model of a folder; its weights stay in the mapped file.
    ///
    /// # Errors
    ///
    /// When a file is missing or broken, or the files do not belong together; each names the file.
    pub fn read(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join(INFO_FILE);
        let info = serde_json::from_slice(&file::read(&path, TEXT_LIMIT)?)
            .map_err(|error| ModelError::Info { path: path.clone(), reason: error.to_string() })?;
        let model = Self::read_parts(directory, info)?;
        model.check_labels(&path)?;
        Ok(model)
    }

    /// Reads all but the info, which is given.
    pub(crate) fn read_parts(directory: &Path, info: ModelInfo) -> Result<Self, ModelError> {
        let path = directory.join(WEIGHTS_FILE);
        let weights = weights::read(&path)?;
        weights::ensure_finite(weights.iter().map(|(name, tensor)| (name.as_str(), tensor)))
            .map_err(|source| ModelError::NotFinite { path, source })?;
        let path = directory.join(GRAPH_FILE);
        let text = file::read(&path, document::SIZE_LIMIT)?;
        let graph = document::read(&text, weights)
            .map_err(|source| ModelError::Document { path, source })?;
        let tokenizer_json = match info.max_length {
            0 => Vec::new(),
            _ => file::read(&directory.join(TOKENIZER_FILE), TEXT_LIMIT)?,
        };
        Ok(Self { graph, tokenizer_json, info })
    }

    /// The first output has one column a label, where both are known.
    pub(crate) fn check_labels(&self, path: &Path) -> Result<(), ModelError> {
        let labels = self.info.labels.len();
        let output = self.graph.outputs().first();
        let columns = output.and_then(|&id| self.graph.value_type(id).shape.last());
        match columns.and_then(Dim::fixed) {
            Some(columns) if labels > 0 && columns != labels => {
                let reason = format!(
                    "expected one label for each of the output's {columns} columns, found {labels}"
                );
                Err(ModelError::Info { path: path.to_owned(), reason })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
