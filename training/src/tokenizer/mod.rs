//! Texts → word piece ids, by the `tokenizers` crate, with this project's own truncation.

mod shrink;
#[cfg(test)]
mod tests;

pub use shrink::{Shrunk, shrink};

use std::collections::BTreeSet;

use rayon::prelude::*;
use tokenizers::TruncationParams;

/// A tokenizer read from a `tokenizer.json`.
///
/// Padding and truncation that the file stores are ignored: batches pad to their own longest row,
/// and the length limit belongs to the stage.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
    n_ids: usize,
    padding_id: u32,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; encodings get at most `max_length` ids, special tokens included.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`] when the bytes are not a tokenizer, `max_length` leaves no room beside the
    /// special tokens, or there is no `[PAD]` token.
    pub fn from_bytes(json: &[u8], max_length: usize) -> Result<Self, TokenizerError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|error| TokenizerError::Invalid { message: error.to_string() })?;
        inner.with_padding(None);
        let n_special = inner
            .get_post_processor()
            .map_or(0, |processor| tokenizers::PostProcessor::added_tokens(processor, false));
        if max_length <= n_special {
            return Err(TokenizerError::MaxLength { n_special, found: max_length });
        }
        inner
            .with_truncation(Some(TruncationParams { max_length, ..TruncationParams::default() }))
            .map_err(|error| TokenizerError::Invalid { message: error.to_string() })?;
        let padding_id = inner.token_to_id(PADDING).ok_or(TokenizerError::NoPadding)?;
        let n_ids = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        Ok(Self { inner, max_length, n_ids, padding_id })
    }

    /// Ids of one text, special tokens included, cut to the length limit between `[CLS]` and `[SEP]`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Encode`] when the model cannot represent the text at all, as for a
    /// vocabulary without `[UNK]`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        ids(&self.inner, text)
    }

    /// [`Self::encode`] of many texts on all threads, in their order.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// Every id that whole texts use, special tokens included; the length limit does not apply.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn used_pieces<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
    ) -> Result<BTreeSet<u32>, TokenizerError> {
        let mut unlimited = self.inner.clone();
        unlimited
            .with_truncation(None)
            .map_err(|error| TokenizerError::Invalid { message: error.to_string() })?;
        let encoded: Result<Vec<Vec<u32>>, TokenizerError> =
            texts.par_iter().map(|text| ids(&unlimited, text.as_ref())).collect();
        Ok(encoded?.into_iter().flatten().collect())
    }

    /// Most ids an encoding has.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Largest id plus one: the rows an embedding table needs at least.
    pub fn n_ids(&self) -> usize {
        self.n_ids
    }

    /// Id that fills up the shorter rows of a batch.
    pub fn padding_id(&self) -> u32 {
        self.padding_id
    }

    /// Id of `[MASK]`, which stands for a word piece that is hidden; `None` without such a piece.
    pub fn mask_id(&self) -> Option<u32> {
        self.inner.token_to_id("[MASK]")
    }
}

pub(crate) const PADDING: &str = "[PAD]";

fn ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
    let encoding = tokenizer
        .encode_fast(text, true)
        .map_err(|error| TokenizerError::Encode { message: error.to_string() })?;
    Ok(encoding.get_ids().to_vec())
}

/// Why a tokenizer cannot be used or rewritten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// The bytes are no `tokenizer.json`.
    #[error("expected the contents of a tokenizer.json, found something else: {message}")]
    Invalid {
        /// What the parser said.
        message: String,
    },
    /// There is nothing to fill batches with.
    #[error("expected a `[PAD]` token in the tokenizer, found none; BERT's checkpoints have one")]
    NoPadding,
    /// The length limit is too small for any text.
    #[error(
        "expected a maximum length above {n_special}, the number of special tokens, found {found}"
    )]
    MaxLength {
        /// Special tokens around a text.
        n_special: usize,
        /// The limit asked for.
        found: usize,
    },
    /// A text has no encoding.
    #[error("cannot tokenize a text: {message}")]
    Encode {
        /// What the tokenizer said.
        message: String,
    },
    /// Only WordPiece vocabularies can lose pieces without losing texts.
    #[error(
        "expected a WordPiece model, found `{found}`; only WordPiece vocabularies can be pruned"
    )]
    NotWordPiece {
        /// The model's type.
        found: String,
    },
    /// A piece to keep is not in the vocabulary.
    #[error(
        "expected ids of the vocabulary, found {id}, which it does not have; was it used with another tokenizer?"
    )]
    UnknownId {
        /// The id.
        id: u32,
    },
}
