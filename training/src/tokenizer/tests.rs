use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::wordpiece::WordPiece;

const TEXTS: [&str; 4] = [
    "This coffee is great, the best coffee I ever tasted!",
    "Greatest taste; tasty teas and coffees for everyone.",
    "Not great. The tea tasted of cardboard, and the cardboard of tea?",
    "Café crème: 100% better than the other 3 brands",
];

fn small() -> Vec<u8> {
    WordPiece { vocabulary_size: 220, min_frequency: 1, alphabet_limit: 200 }.train(&TEXTS).unwrap()
}

fn tokenizer(json: &[u8]) -> Tokenizer {
    Tokenizer::from_bytes(json, 64).unwrap()
}

fn vocabulary(json: &[u8]) -> BTreeMap<String, u32> {
    let document: Value = serde_json::from_slice(json).unwrap();
    serde_json::from_value(document["model"]["vocab"].clone()).unwrap()
}

/// Changes one place of a `tokenizer.json`.
fn with(json: &[u8], pointer: &str, value: Value) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(json).unwrap();
    *document.pointer_mut(pointer).unwrap() = value;
    serde_json::to_vec(&document).unwrap()
}

#[test]
fn encodings_stand_between_their_special_tokens() {
    let json = small();
    let vocabulary = vocabulary(&json);
    let ids = tokenizer(&json).encode("great COFFEE").unwrap();
    assert_eq!(ids, ["[CLS]", "great", "coffee", "[SEP]"].map(|piece| vocabulary[piece]));
    assert_eq!(tokenizer(&json).encode("").unwrap(), [vocabulary["[CLS]"], vocabulary["[SEP]"]]);
}

#[test]
fn long_texts_are_cut_before_the_last_special_token() {
    let json = small();
    let tokenizer = Tokenizer::from_bytes(&json, 5).unwrap();
    let vocabulary = vocabulary(&json);
    let expected = ["[CLS]", "great", "tea", "great", "[SEP]"].map(|piece| vocabulary[piece]);
    assert_eq!(tokenizer.encode("great tea great tea great tea").unwrap(), expected);
    assert_eq!(tokenizer.max_length(), 5);
    let used = tokenizer.used_pieces(&["great great great great coffee"]).unwrap();
    assert!(used.contains(&vocabulary["coffee"]), "whole texts count");
}

#[test]
fn stored_padding_and_truncation_are_ignored() {
    let json = small();
    let truncation =
        json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    let padding = json!({
        "strategy": { "Fixed": 50 }, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    });
    let stored = with(&with(&json, "/truncation", truncation), "/padding", padding);
    let text = TEXTS[0];
    assert_eq!(tokenizer(&stored).encode(text).unwrap(), tokenizer(&json).encode(text).unwrap());
}

#[test]
fn batches_keep_their_order() {
    let json = small();
    let tokenizer = tokenizer(&json);
    let texts: Vec<&str> = TEXTS.iter().copied().cycle().take(101).collect();
    let expected: Vec<Vec<u32>> =
        texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    assert_eq!(tokenizer.encode_batch(&texts).unwrap(), expected);
}

#[test]
fn what_is_no_tokenizer_is_an_error() {
    let check = |json: &[u8], max_length: usize, expected: &str| {
        let error = Tokenizer::from_bytes(json, max_length).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check(b"{}", 64, "expected the contents of a tokenizer.json");
    check(&small(), 2, "expected a maximum length above 2, the number of special tokens, found 2");
    let nothing =
        with(&with(&small(), "/added_tokens", json!([])), "/model/vocab", json!({ "[UNK]": 0 }));
    check(&with(&nothing, "/post_processor", Value::Null), 64, "expected a `[PAD]` token");
}

/// Old ids of what the shrunk tokenizer makes of a text.
fn back(shrunk: &Shrunk, text: &str) -> Vec<u32> {
    let new = tokenizer(&shrunk.json).encode(text).unwrap();
    new.into_iter().map(|id| u32::try_from(shrunk.rows[id as usize]).unwrap()).collect()
}

#[test]
fn kept_texts_get_the_mapped_ids() {
    let json = small();
    let full = tokenizer(&json);
    let kept = &TEXTS[..2];
    let shrunk = shrink(&json, &full.used_pieces(kept).unwrap()).unwrap();
    assert!(shrunk.rows.len() < full.n_ids());
    assert_eq!(tokenizer(&shrunk.json).n_ids(), shrunk.rows.len());
    assert!(shrunk.rows.is_sorted(), "the old order stays");
    for text in kept {
        assert_eq!(back(&shrunk, text), full.encode(text).unwrap());
    }
    assert_eq!(shrunk, shrink(&json, &full.used_pieces(kept).unwrap()).unwrap());
}

#[test]
fn other_words_fall_apart_into_kept_pieces() {
    let json = small();
    let vocabulary = vocabulary(&json);
    let keep: BTreeSet<u32> =
        ["card", "great"].iter().filter_map(|piece| vocabulary.get(*piece)).copied().collect();
    let shrunk = shrink(&json, &keep).unwrap();
    let pieces: BTreeMap<u32, &str> =
        vocabulary.iter().map(|(piece, &id)| (id, piece.as_str())).collect();
    let named: Vec<&str> = back(&shrunk, "greatest tea").iter().map(|id| pieces[id]).collect();
    assert_eq!(named, ["[CLS]", "great", "##e", "##s", "##t", "t", "##e", "##a", "[SEP]"]);
}

#[test]
fn pieces_with_a_character_that_has_no_single_form_stay() {
    let vocab =
        json!({ "[PAD]": 0, "[UNK]": 1, "a": 2, "##a": 3, "b": 4, "aab": 5, "aa": 6, "##aa": 7 });
    let json = small();
    let json = with(&json, "/model/vocab", vocab);
    let added: Vec<Value> = ["[PAD]", "[UNK]"]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let json = with(&with(&json, "/added_tokens", json!(added)), "/post_processor", Value::Null);
    let shrunk = shrink(&json, &BTreeSet::new()).unwrap();
    assert_eq!(shrunk.rows, [0, 1, 2, 3, 4, 5]);
    assert_eq!(back(&shrunk, "aab aaa"), [5, 2, 3, 3]);
}

#[test]
fn what_cannot_be_shrunk_is_an_error() {
    let json = small();
    assert_eq!(
        shrink(&json, &BTreeSet::from([9_999])).unwrap_err(),
        TokenizerError::UnknownId { id: 9_999 }
    );
    let other = with(&json, "/model/type", json!("BPE"));
    assert_eq!(
        shrink(&other, &BTreeSet::new()).unwrap_err(),
        TokenizerError::NotWordPiece { found: "BPE".to_owned() }
    );
    assert!(matches!(shrink(b"[", &BTreeSet::new()).unwrap_err(), TokenizerError::Invalid { .. }));
}

#[test]
fn both_kinds_of_post_processor_are_renumbered() {
    let json = small();
    let vocabulary = vocabulary(&json);
    let bert = json!({
        "type": "BertProcessing",
        "sep": ["[SEP]", vocabulary["[SEP]"]], "cls": ["[CLS]", vocabulary["[CLS]"]],
    });
    // A vocabulary with a piece before the special tokens, so that their ids move.
    let moved = |json: &[u8]| {
        let mut document: Value = serde_json::from_slice(json).unwrap();
        let mut vocab = vocabulary.clone();
        vocab.values_mut().for_each(|id| *id += 1);
        vocab.insert("oaoa".to_owned(), 0);
        document["model"]["vocab"] = json!(vocab);
        for token in document["added_tokens"].as_array_mut().unwrap() {
            token["id"] = json!(token["id"].as_u64().unwrap() + 1);
        }
        for name in ["sep", "cls"] {
            if let Some(id) =
                document["post_processor"].get_mut(name).and_then(|pair| pair.get_mut(1))
            {
                *id = json!(id.as_u64().unwrap() + 1);
            }
        }
        for name in ["[SEP]", "[CLS]"] {
            if let Some(ids) =
                document["post_processor"].pointer_mut(&format!("/special_tokens/{name}/ids/0"))
            {
                *ids = json!(ids.as_u64().unwrap() + 1);
            }
        }
        serde_json::to_vec(&document).unwrap()
    };
    for json in [moved(&json), moved(&with(&json, "/post_processor", bert))] {
        let full = tokenizer(&json);
        let shrunk = shrink(&json, &full.used_pieces(&TEXTS[..1]).unwrap()).unwrap();
        assert_eq!(shrunk.rows[0], 1);
        assert_eq!(tokenizer(&shrunk.json).encode("").unwrap(), [2, 3]);
        assert_eq!(back(&shrunk, TEXTS[0]), full.encode(TEXTS[0]).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_text_stays_tokenisable(text in "(\\PC|[a-z ]){0,60}", seed in 0u32..1_000) {
        let json = small();
        let full = tokenizer(&json);
        let n_ids = u32::try_from(full.n_ids()).unwrap();
        let keep: BTreeSet<u32> = (0..n_ids).filter(|id| (id * 7 + seed) % 3 == 0).collect();
        let shrunk = shrink(&json, &keep).unwrap();
        let unknown = vocabulary(&json)["[UNK]"];
        let count = |ids: &[u32]| ids.iter().filter(|&&id| id == unknown).count();
        let (before, after) = (full.encode(&text).unwrap(), back(&shrunk, &text));
        // Truncation may cut an unknown word off, never add one.
        prop_assert!(count(&after) <= count(&before));
        if before.len() < 64 && after.len() < 64 {
            prop_assert_eq!(count(&after), count(&before));
        }
        let used: BTreeSet<u32> = full.used_pieces(&[&text]).unwrap();
        prop_assert_eq!(back(&shrink(&json, &used).unwrap(), &text), before);
    }
}

#[test]
fn a_published_tokenizer_shrinks_to_the_reviews() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/assets/models/all-MiniLM-L6-v2/tokenizer.json");
    let Ok(json) = std::fs::read(shared) else {
        println!("skipped: the published model is not at hand");
        return;
    };
    let full = Tokenizer::from_bytes(&json, 128).unwrap();
    assert_eq!((full.n_ids(), full.padding_id()), (30_522, 0));
    assert_eq!(full.encode("Hello, world!").unwrap(), [101, 7592, 1010, 2088, 999, 102]);
    let shrunk = shrink(&json, &full.used_pieces(&TEXTS).unwrap()).unwrap();
    assert!(shrunk.rows.len() < 2_200, "{}", shrunk.rows.len());
    for text in TEXTS {
        assert_eq!(back(&shrunk, text), full.encode(text).unwrap());
    }
}
