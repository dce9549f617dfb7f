//! Dropping word pieces that the training texts never use.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use anyhow::Result;
use graph::ModelFolder;
use graph::rewrite::prune;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::Examples;
use training::tokenizer::shrink;

/// Which word pieces stay. Single characters and special tokens always do, so that every text can
/// still be tokenized.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Vocabulary {
    /// Uses in the training texts that a word piece needs to stay.
    min_count: NonZeroU64,
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self { min_count: NonZeroU64::MIN }
    }
}

/// Drops rows of the embedding table and rewrites the tokenizer with them. `train` are the training
/// texts under the model's present tokenizer. Gives the numbers of pieces before and after.
pub(super) fn prune_vocabulary(
    model: &mut ModelFolder,
    train: &Examples,
    settings: &Vocabulary,
) -> Result<(usize, usize)> {
    let table = graph::structure::word_embedding(&model.graph)?.table;
    let before = model.graph.weight(table).map_or(0, |table| table.shape()[0]);
    let mut uses = vec![0u64; before];
    for &id in train.ids.iter().flatten() {
        uses[id as usize] += 1;
    }
    let used = uses.iter().enumerate().filter(|(_, uses)| **uses >= settings.min_count.get());
    let keep: BTreeSet<u32> = used.map(|(id, _)| id as u32).collect();
    let shrunk = shrink(&model.tokenizer_json, &keep)?;
    prune::keep_vocabulary(&mut model.graph, &shrunk.rows)?;
    model.tokenizer_json = shrunk.json;
    Ok((before, shrunk.rows.len()))
}
