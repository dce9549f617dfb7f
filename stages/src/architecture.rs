//! The architecture of a model that is built anew, as a manifest gives it.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context as _, Result};
use graph::bert::{BertConfig, BertLayer, Pooling};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An encoder whose layers are all alike.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Architecture {
    /// Encoder layers.
    pub(crate) layers: NonZeroUsize,
    /// Width of the residual stream; a multiple of `heads`.
    pub(crate) hidden: NonZeroUsize,
    /// Attention heads in a layer.
    pub(crate) heads: NonZeroUsize,
    /// Feed-forward units in a layer.
    pub(crate) intermediate: NonZeroUsize,
}

/// How token vectors become one text vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TextVector {
    /// Mean over the tokens.
    #[default]
    Mean,
    /// The first token through BERT's own pooler.
    Cls,
}

impl From<TextVector> for Pooling {
    fn from(vector: TextVector) -> Self {
        match vector {
            TextVector::Mean => Self::Mean,
            TextVector::Cls => Self::Cls,
        }
    }
}

impl Architecture {
    /// Checks what spans several sizes.
    ///
    /// # Errors
    ///
    /// When the heads do not share the hidden width evenly.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let (hidden, heads) = (self.hidden.get(), self.heads.get());
        if hidden.is_multiple_of(heads) {
            return Ok(());
        }
        Err(format!(
            "`architecture.hidden` = {hidden} is no multiple of `architecture.heads` = {heads}"
        ))
    }

    /// The full configuration.
    pub(crate) fn config(
        &self,
        vocabulary_size: usize,
        positions: usize,
        labels: usize,
        pooling: Pooling,
    ) -> BertConfig {
        let layer = BertLayer { heads: self.heads.get(), intermediate: self.intermediate.get() };
        let config =
            BertConfig::uniform(vocabulary_size, self.hidden.get(), self.layers.get(), layer);
        BertConfig { positions, labels, pooling, ..config }
    }
}

/// An architecture that a search chose, as it travels between stages.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ChosenArchitecture {
    /// Its sizes.
    pub(crate) config: BertConfig,
    /// The supernet's layer that each of its layers is taken from, ascending.
    pub(crate) layers: Vec<usize>,
    /// Most word pieces of a text.
    pub(crate) max_length: usize,
    /// Whether its hidden dimensions are in another order than the teacher's.
    pub(crate) reordered: bool,
}

impl ChosenArchitecture {
    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }
}
