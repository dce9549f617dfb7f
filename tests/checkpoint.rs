//! A pretrained checkpoint as small as one can be, sound or broken on purpose.

use std::fs;

use serde_json::{Map, Value, json};

use crate::sandbox::{Sandbox, reviews};

const HIDDEN: usize = 8;
const UNITS: usize = 16;
const POSITIONS: usize = 32;

/// A manifest that fine-tunes the checkpoint in `encoder/`.
pub(crate) fn manifest() -> String {
    format!(
        "schema = 1\nname = \"tuned\"\n{}\n[models.encoder]\nsources = [\"file:encoder\"]\n\
         [stages.teacher]\nkind = \"train-teacher\"\n\
         inputs = {{ data = \"data.reviews\", checkpoint = \"models.encoder\" }}\n\
         params = {{ epochs = 1, max-length = 16 }}\n",
        reviews(40)
    )
}

/// A project with a sound checkpoint.
pub(crate) fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("tuned.toml", manifest());
    sandbox.write("encoder/config.json", config(HIDDEN).to_string());
    sandbox.write("encoder/tokenizer.json", tokenizer().to_string());
    sandbox.write("encoder/model.safetensors", weights(|_| 0.02));
    sandbox
}

/// The configuration, for another width where that is asked for.
pub(crate) fn config(hidden: usize) -> Value {
    json!({
        "model_type": "bert", "vocab_size": vocabulary().len(), "hidden_size": hidden,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": UNITS,
        "max_position_embeddings": POSITIONS, "hidden_act": "gelu", "type_vocab_size": 2,
    })
}

fn vocabulary() -> Vec<String> {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let letters = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    special.into_iter().chain(letters).collect()
}

fn tokenizer() -> Value {
    let words = vocabulary();
    let ids: Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect();
    let special = |id: usize| {
        json!({
            "id": id, "content": words[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let piece = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..5).map(special).collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]"), text, piece("[SEP]")],
            "pair": [piece("[CLS]"), text, piece("[SEP]")],
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] },
            },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids,
        },
    })
}

/// The weights file; `value` gives the numbers, scaled by a pattern that is not symmetric.
pub(crate) fn weights(value: impl Fn(&str) -> f32) -> Vec<u8> {
    let (mut header, mut numbers) = (Map::new(), Vec::new());
    for (name, shape) in shapes() {
        let begin = numbers.len();
        let scale = value(&name);
        for index in 0..shape.iter().product::<usize>() {
            let number = scale * ((index * 7 % 11) as f32 - 5.0);
            numbers.extend_from_slice(&number.to_le_bytes());
        }
        let entry =
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, numbers.len()] });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&numbers);
    file
}

fn shapes() -> Vec<(String, Vec<usize>)> {
    let norm = |name: &str| {
        ["weight", "bias"].map(|part| (format!("{name}.LayerNorm.{part}"), vec![HIDDEN]))
    };
    let linear = |name: &str, output: usize, input: usize| {
        [(format!("{name}.weight"), vec![output, input]), (format!("{name}.bias"), vec![output])]
    };
    let layer = |name: &str| format!("encoder.layer.0.{name}");
    let embedding = |name: &str, rows: usize| {
        (format!("embeddings.{name}_embeddings.weight"), vec![rows, HIDDEN])
    };
    let mut shapes = vec![
        embedding("word", vocabulary().len()),
        embedding("position", POSITIONS),
        embedding("token_type", 2),
    ];
    shapes.extend(norm("embeddings"));
    for name in ["attention.self.query", "attention.self.key", "attention.self.value"] {
        shapes.extend(linear(&layer(name), HIDDEN, HIDDEN));
    }
    shapes.extend(linear(&layer("attention.output.dense"), HIDDEN, HIDDEN));
    shapes.extend(norm(&layer("attention.output")));
    shapes.extend(linear(&layer("intermediate.dense"), UNITS, HIDDEN));
    shapes.extend(linear(&layer("output.dense"), HIDDEN, UNITS));
    shapes.extend(norm(&layer("output")));
    shapes
}

#[test]
fn a_sound_checkpoint_is_fine_tuned() {
    let sandbox = project();
    let answer = sandbox.run(&["run", "tuned.toml"]);
    assert_eq!(answer.code, Some(0), "{answer:#?}");
    let path = sandbox.ask(&["path", "tuned.toml", "teacher.model"]);
    assert!(fs::exists(path.trim()).expect("readable"), "{path}");
    // Lines for logs, because standard error is no terminal here.
    assert!(answer.stderr.contains("teacher: done in"), "{}", answer.stderr);
    assert!(!answer.stderr.contains('\u{1b}'), "{}", answer.stderr);
    assert!(answer.stdout.contains("report: .pipeline/reports/1.html"), "{}", answer.stdout);
}
