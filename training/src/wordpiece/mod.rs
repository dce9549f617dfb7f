//! Trains WordPiece vocabularies, the same one for the same texts on every run and machine.
//!
//! Pairs of pieces are merged by count, as in the `tokenizers` crate's trainer, whose ties fall as
//! its hash maps happen to be ordered; here they fall in lexical order.

mod merge;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// How large a vocabulary becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordPiece {
    /// Most pieces, special tokens and characters included.
    pub vocabulary_size: usize,
    /// Fewest occurrences of a pair that is still merged, ≥ 1.
    pub min_frequency: u64,
    /// Most characters, by count; words with any other character become `[UNK]`.
    pub alphabet_limit: usize,
}

impl Default for WordPiece {
    fn default() -> Self {
        Self { vocabulary_size: 8_000, min_frequency: 2, alphabet_limit: 1_000 }
    }
}

const SPECIAL: [&str; 5] = [crate::tokenizer::PADDING, "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Marks a piece that continues a word.
const PREFIX: &str = "##";

/// Longer words become `[UNK]`, as in BERT.
const LONGEST_WORD: usize = 100;

impl WordPiece {
    /// Trains on texts and returns the `tokenizer.json` of a lower-casing BERT tokenizer.
    ///
    /// Ids: `[PAD]` 0, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, the characters in order with their
    /// continuations, then the merged pieces in the order of their merging.
    ///
    /// # Errors
    ///
    /// [`WordPieceError`] when the texts have no words, or the characters alone exceed the size.
    pub fn train<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<u8>, WordPieceError> {
        let mut words = count_words(texts)?;
        let alphabet = self.alphabet(&words);
        words.retain(|word, _| {
            word.chars().count() <= LONGEST_WORD
                && word.chars().all(|character| alphabet.contains(&character))
        });
        if words.is_empty() {
            return Err(WordPieceError::NoWords { n_texts: texts.len() });
        }
        let mut pieces: Vec<String> = SPECIAL.map(str::to_owned).to_vec();
        for character in &alphabet {
            pieces.push(character.to_string());
            pieces.push(format!("{PREFIX}{character}"));
        }
        if pieces.len() > self.vocabulary_size {
            return Err(WordPieceError::TooSmall {
                needed: pieces.len(),
                found: self.vocabulary_size,
            });
        }
        let n_merges = self.vocabulary_size - pieces.len();
        pieces.extend(merge::merged_pieces(&words, n_merges, self.min_frequency.max(1)));
        Ok(tokenizer_json(&pieces))
    }

    fn alphabet(&self, words: &BTreeMap<String, u64>) -> BTreeSet<char> {
        let mut counts: BTreeMap<char, u64> = BTreeMap::new();
        for (word, count) in words {
            word.chars().for_each(|character| *counts.entry(character).or_default() += count);
        }
        let mut by_count: Vec<(char, u64)> = counts.into_iter().collect();
        by_count.sort_by_key(|&(character, count)| (std::cmp::Reverse(count), character));
        by_count.into_iter().take(self.alphabet_limit).map(|(character, _)| character).collect()
    }
}

/// Words as the tokenizer will cut them, with their occurrences.
fn count_words<T: AsRef<str>>(texts: &[T]) -> Result<BTreeMap<String, u64>, WordPieceError> {
    let (normalizer, pre_tokenizer) = (normalizer(), BertPreTokenizer);
    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    for text in texts {
        let mut cut = PreTokenizedString::from(text.as_ref());
        cut.normalize(|part| tokenizers::Normalizer::normalize(&normalizer, part))
            .and_then(|()| pre_tokenizer.pre_tokenize(&mut cut))
            .map_err(|error| WordPieceError::Words { message: error.to_string() })?;
        for (word, ..) in cut.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match words.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    words.insert(word.to_owned(), 1);
                }
            }
        }
    }
    Ok(words)
}

/// The normalizer that [`tokenizer_json`] writes down.
fn normalizer() -> BertNormalizer {
    BertNormalizer::new(true, true, None, true)
}

fn tokenizer_json(pieces: &[String]) -> Vec<u8> {
    let vocabulary: Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.clone(), Value::from(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let special =
        |name: &str, type_id: u32| json!({ "SpecialToken": { "id": name, "type_id": type_id } });
    let sequence =
        |name: &str, type_id: u32| json!({ "Sequence": { "id": name, "type_id": type_id } });
    let token = |name: &str| json!({ "id": name, "ids": [vocabulary[name]], "tokens": [name] });
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
            "pair": [
                special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0),
                sequence("B", 1), special("[SEP]", 1),
            ],
            "special_tokens": { "[CLS]": token("[CLS]"), "[SEP]": token("[SEP]") },
        },
        "decoder": { "type": "WordPiece", "prefix": PREFIX, "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": LONGEST_WORD, "vocab": vocabulary,
        },
    });
    serde_json::to_vec(&document).expect("a JSON value is serializable")
}

/// Why no vocabulary could be trained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordPieceError {
    /// There is nothing to learn from.
    #[error("expected texts with words to train a vocabulary on, found none in {n_texts} texts")]
    NoWords {
        /// Texts given.
        n_texts: usize,
    },
    /// The characters alone fill the vocabulary.
    #[error(
        "expected a vocabulary size of at least {needed}, the special tokens and the characters of the texts, found {found}; raise it or limit the alphabet"
    )]
    TooSmall {
        /// Special tokens and characters.
        needed: usize,
        /// Size asked for.
        found: usize,
    },
    /// A text could not be cut into words.
    #[error("cannot cut a text into words: {message}")]
    Words {
        /// What the tokenizer said.
        message: String,
    },
}
