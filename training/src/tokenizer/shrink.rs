//! Vocabulary pruning: fewer word pieces, every text still tokenisable.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::TokenizerError;

/// A tokenizer with fewer pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// The new `tokenizer.json`.
    pub json: Vec<u8>,
    /// Old id of each new id, ascending: which rows of the embedding table stay.
    pub rows: Vec<usize>,
}

/// Removes all word pieces from a WordPiece `tokenizer.json` but `keep`, the special and added
/// tokens, and every single character with its continuation.
///
/// Ids are renumbered in their old order. A text whose pieces are all kept gets the same pieces: the
/// longest match of a word's start is still there, and nothing longer has appeared. Any other word
/// falls apart into kept pieces, at worst into characters, and becomes `[UNK]` only if it was
/// before. For that, pieces with a character that lacks its single form are kept as well.
///
/// # Errors
///
/// [`TokenizerError`] when the bytes are no tokenizer, its model is not WordPiece, or `keep` has an
/// unknown id.
pub fn shrink(json: &[u8], keep: &BTreeSet<u32>) -> Result<Shrunk, TokenizerError> {
    let invalid = |message: String| TokenizerError::Invalid { message };
    let mut document: Value =
        serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
    let model = &document["model"];
    let found = model["type"].as_str().unwrap_or("no type");
    if found != "WordPiece" {
        return Err(TokenizerError::NotWordPiece { found: found.to_owned() });
    }
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("##");
    let unknown = model["unk_token"].as_str().unwrap_or("[UNK]");
    let vocabulary: BTreeMap<String, u32> = serde_json::from_value(model["vocab"].clone())
        .map_err(|error| invalid(format!("`vocab`: {error}")))?;
    let added: BTreeMap<String, u32> = added_tokens(&document)?;

    let mut kept = characters(&vocabulary, prefix);
    kept.extend(vocabulary.get(unknown));
    kept.extend(added.values());
    let known: BTreeSet<u32> = vocabulary.values().chain(added.values()).copied().collect();
    if let Some(&id) = keep.difference(&known).next() {
        return Err(TokenizerError::UnknownId { id });
    }
    kept.extend(keep);

    let new_ids: BTreeMap<u32, usize> =
        kept.iter().enumerate().map(|(new, &old)| (old, new)).collect();
    let vocabulary: Map<String, Value> = vocabulary
        .into_iter()
        .filter_map(|(piece, old)| Some((piece, Value::from(*new_ids.get(&old)?))))
        .collect();
    document["model"]["vocab"] = Value::Object(vocabulary);
    document["padding"] = Value::Null;
    document["truncation"] = Value::Null;
    for token in document["added_tokens"].as_array_mut().into_iter().flatten() {
        renumber(&mut token["id"], &new_ids)?;
    }
    renumber_processor(&mut document["post_processor"], &new_ids)?;
    let json = serde_json::to_vec(&document).expect("a JSON value is serializable");
    // A file that the tokenizers crate would refuse is found here, not when it is served.
    tokenizers::Tokenizer::from_bytes(&json).map_err(|error| invalid(error.to_string()))?;
    Ok(Shrunk { json, rows: kept.iter().map(|&old| old as usize).collect() })
}

fn added_tokens(document: &Value) -> Result<BTreeMap<String, u32>, TokenizerError> {
    let tokens = document["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let token = |token: &Value| {
        let id = u32::try_from(token["id"].as_u64()?).ok()?;
        Some((token["content"].as_str()?.to_owned(), id))
    };
    tokens.iter().map(token).collect::<Option<_>>().ok_or_else(|| TokenizerError::Invalid {
        message: "`added_tokens` without `id` and `content`".to_owned(),
    })
}

/// Ids of the pieces that any word of the vocabulary's characters may need: single characters, and
/// whatever contains a character that has no single form in its position.
fn characters(vocabulary: &BTreeMap<String, u32>, prefix: &str) -> BTreeSet<u32> {
    let needed = |piece: &str| {
        let (start, body) = match piece.strip_prefix(prefix) {
            Some(body) if !body.is_empty() => (false, body),
            _ => (true, piece),
        };
        let mut n_characters = 0;
        let all_single = body.chars().enumerate().all(|(index, character)| {
            n_characters += 1;
            let mut single = String::new();
            if !(start && index == 0) {
                single.push_str(prefix);
            }
            single.push(character);
            vocabulary.contains_key(&single)
        });
        n_characters <= 1 || !all_single
    };
    vocabulary.iter().filter(|(piece, _)| needed(piece)).map(|(_, &id)| id).collect()
}

/// Rewrites the ids in BERT's two kinds of post-processor.
fn renumber_processor(
    processor: &mut Value,
    new_ids: &BTreeMap<u32, usize>,
) -> Result<(), TokenizerError> {
    if let Some(tokens) = processor.get_mut("special_tokens").and_then(Value::as_object_mut) {
        for id in tokens.values_mut().filter_map(|token| token["ids"].as_array_mut()).flatten() {
            renumber(id, new_ids)?;
        }
    }
    for name in ["sep", "cls"] {
        if let Some(id) = processor.get_mut(name).and_then(|pair| pair.get_mut(1)) {
            renumber(id, new_ids)?;
        }
    }
    for part in processor.get_mut("processors").and_then(Value::as_array_mut).into_iter().flatten()
    {
        renumber_processor(part, new_ids)?;
    }
    Ok(())
}

fn renumber(id: &mut Value, new_ids: &BTreeMap<u32, usize>) -> Result<(), TokenizerError> {
    let new = id.as_u64().and_then(|old| u32::try_from(old).ok()).and_then(|old| new_ids.get(&old));
    let new = new.ok_or_else(|| TokenizerError::Invalid {
        message: format!("a special token has the id {id}, which no piece has"),
    })?;
    *id = Value::from(*new);
    Ok(())
}
