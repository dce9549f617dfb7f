use super::*;
use crate::data::{Dataset, Source};
use crate::tokenizer::Tokenizer;

fn vocabulary(json: &[u8]) -> Vec<String> {
    let document: Value = serde_json::from_slice(json).unwrap();
    let mut pieces: Vec<(u64, String)> = document["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(piece, id)| (id.as_u64().unwrap(), piece.clone()))
        .collect();
    pieces.sort();
    assert!(
        pieces.iter().enumerate().all(|(index, (id, _))| index as u64 == *id),
        "ids have no gaps"
    );
    pieces.into_iter().map(|(_, piece)| piece).collect()
}

fn merged(texts: &[&str], n_merges: usize, min_frequency: u64) -> Vec<String> {
    let words = count_words(texts).unwrap();
    merge::merged_pieces(&words, n_merges, min_frequency)
}

/// Counts every pair of every word anew before each merge.
fn merged_slowly(texts: &[&str], n_merges: usize, min_frequency: u64) -> Vec<String> {
    let mut words: Vec<(Vec<String>, u64)> = count_words(texts)
        .unwrap()
        .into_iter()
        .map(|(word, count)| {
            let piece = |(index, c): (usize, char)| {
                if index == 0 { c.to_string() } else { format!("##{c}") }
            };
            (word.chars().enumerate().map(piece).collect(), count)
        })
        .collect();
    let mut pieces: Vec<String> = Vec::new();
    while pieces.len() < n_merges {
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for (word, count) in &words {
            for pair in word.windows(2) {
                *counts.entry((pair[0].clone(), pair[1].clone())).or_default() += count;
            }
        }
        let best = counts.iter().max_by_key(|&(pair, count)| (count, std::cmp::Reverse(pair)));
        let Some((pair, _)) = best.filter(|(_, count)| **count >= min_frequency) else { break };
        let spelled = format!("{}{}", pair.0, &pair.1[2..]);
        for (word, _) in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if word[at] == pair.0 && word[at + 1] == pair.1 {
                    word.splice(at..at + 2, [spelled.clone()]);
                }
                at += 1;
            }
        }
        if !pieces.contains(&spelled) {
            pieces.push(spelled);
        }
    }
    pieces
}

#[test]
fn merges_go_by_count_then_by_spelling() {
    assert_eq!(merged(&["ab ab ab cd cd ef ef"], 9, 2), ["ab", "cd", "ef"]);
    assert_eq!(merged(&["ab ab ab cd cd ef ef"], 9, 3), ["ab"]);
    assert_eq!(merged(&["aaaa aaaa"], 9, 2), ["##aa", "##aaa", "aaaa"]);
}

#[test]
fn incremental_counts_agree_with_counting_anew() {
    let texts = [
        "the theatre there, then thence; that hat, those hats! hot shot hotter shorter",
        "banana bandana ananas bananas nana anna; banana, banana: aaaa aaaaa aaa",
        "lower lowest low newer newest new wider widest wide: slower slowest",
    ];
    for min_frequency in [1, 2, 3] {
        assert_eq!(merged(&texts, 60, min_frequency), merged_slowly(&texts, 60, min_frequency));
    }
}

#[test]
fn the_result_is_a_tokenizer_for_its_texts() {
    let texts = ["Tasty café coffee, tasty tea!", "The tastiest coffee; café tasty"];
    let json = WordPiece { vocabulary_size: 80, ..WordPiece::default() }.train(&texts).unwrap();
    let pieces = vocabulary(&json);
    assert_eq!(pieces[..5], SPECIAL);
    assert!(
        pieces.contains(&"tasty".to_owned()) && pieces.contains(&"cafe".to_owned()),
        "{pieces:?}"
    );
    let tokenizer = Tokenizer::from_bytes(&json, 32).unwrap();
    assert_eq!((tokenizer.padding_id(), tokenizer.n_ids()), (0, pieces.len()));
    let named = |text: &str| -> Vec<&str> {
        tokenizer.encode(text).unwrap().into_iter().map(|id| pieces[id as usize].as_str()).collect()
    };
    assert_eq!(named("TASTY Café"), ["[CLS]", "tasty", "cafe", "[SEP]"]);
    assert_eq!(named("€ tasty"), ["[CLS]", "[UNK]", "tasty", "[SEP]"]);
    assert!(!named("set fast, feat!").contains(&"[UNK]"), "known characters suffice");
}

#[test]
fn sizes_are_kept_and_impossible_ones_refused() {
    let texts = ["some words, some other words and more of the same words"];
    for vocabulary_size in [45, 50] {
        let json = WordPiece { vocabulary_size, min_frequency: 1, alphabet_limit: 100 }
            .train(&texts)
            .unwrap();
        assert_eq!(vocabulary(&json).len(), vocabulary_size);
    }
    let small = WordPiece { vocabulary_size: 10, ..WordPiece::default() };
    let error = small.train(&texts).unwrap_err().to_string();
    assert!(error.starts_with("expected a vocabulary size of at least 31"), "{error}");
    let limited = WordPiece { vocabulary_size: 10, alphabet_limit: 2, min_frequency: 1 };
    let error = limited.train(&["words"]).unwrap_err();
    assert_eq!(error, WordPieceError::NoWords { n_texts: 1 });
    assert_eq!(
        WordPiece::default().train(&[" \n"]).unwrap_err(),
        WordPieceError::NoWords { n_texts: 1 }
    );
}

#[test]
fn the_reviews_give_the_same_vocabulary_every_time() {
    let source = Source {
        path: std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/finefoods.tsv.gz"),
        text: "text".to_owned(),
        label: "label".to_owned(),
        labels: vec!["other".to_owned(), "great".to_owned()],
        split: Some("split".to_owned()),
        validation: 0.1,
        test: None,
        group: None,
        limit: None,
    };
    let rows = Dataset::load(&source).unwrap().train;
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let json = WordPiece::default().train(&texts).unwrap();
    assert_eq!(vocabulary(&json).len(), 8_000);
    let reversed: Vec<&str> = texts.iter().rev().copied().collect();
    assert!(json == WordPiece::default().train(&reversed).unwrap());
    let tokenizer = Tokenizer::from_bytes(&json, 512).unwrap();
    let used = tokenizer.used_pieces(&texts).unwrap();
    assert!(!used.contains(&1), "no word of the training texts is unknown");
    assert!(used.len() > 7_000, "{}", used.len());
}
