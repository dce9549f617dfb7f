use std::fs;

use super::*;
use crate::reference;

const CONFIG: &str = r#"{
  "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 11, "hidden_size": 4,
  "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 6,
  "max_position_embeddings": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
  "position_embedding_type": "absolute", "type_vocab_size": 2
}"#;

/// What a checkpoint of `CONFIG` stores: names with `prefix`, linear weights `[out, in]`.
fn stored(prefix: &str) -> BTreeMap<String, Tensor> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        (WORDS.to_owned(), vec![11, 4]),
        (POSITIONS.to_owned(), vec![8, 4]),
        (TOKEN_TYPES.to_owned(), vec![2, 4]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![4]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![4]),
        ("pooler.dense.weight".to_owned(), vec![4, 4]),
        ("pooler.dense.bias".to_owned(), vec![4]),
    ];
    for layer in 0..2 {
        for (name, output, input) in [
            ("attention.self.query", 4, 4),
            ("attention.self.key", 4, 4),
            ("attention.self.value", 4, 4),
            ("attention.output.dense", 4, 4),
            ("intermediate.dense", 6, 4),
            ("output.dense", 4, 6),
        ] {
            shapes.push((format!("encoder.layer.{layer}.{name}.weight"), vec![output, input]));
            shapes.push((format!("encoder.layer.{layer}.{name}.bias"), vec![output]));
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            shapes.push((format!("encoder.layer.{layer}.{name}.weight"), vec![4]));
            shapes.push((format!("encoder.layer.{layer}.{name}.bias"), vec![4]));
        }
    }
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let tensor = bert::normal(5, &name, &shape, 0.5);
        (format!("{prefix}{name}"), tensor)
    });
    tensors.collect()
}

fn folder_of(config: &str, tensors: &BTreeMap<String, Tensor>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    weights::write(&folder.path().join("model.safetensors"), named).unwrap();
    folder
}

fn load_mean(folder: &tempfile::TempDir) -> Result<Checkpoint, CheckpointError> {
    load(folder.path(), 2, Pooling::Mean, 7)
}

#[test]
fn names_with_and_without_prefix_make_the_same_graph() {
    let plain = load_mean(&folder_of(CONFIG, &stored(""))).unwrap();
    let mut tensors = stored("bert.");
    tensors.insert("cls.predictions.bias".to_owned(), Tensor::from_fn(&[11], |_| 0f32));
    let prefixed = load_mean(&folder_of(CONFIG, &tensors)).unwrap();
    assert_eq!(plain.graph, prefixed.graph);
    assert_eq!(plain.config, prefixed.config);
    assert_eq!(plain.tokenizer_json, b"{}");
    let renamed = stored("bert.").into_iter().map(|(name, tensor)| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        (name.replace("LayerNorm.bias", "LayerNorm.beta"), tensor)
    });
    let old = load_mean(&folder_of(CONFIG, &renamed.collect())).unwrap();
    assert_eq!(plain.graph, old.graph);
}

#[test]
fn linear_weights_are_transposed_and_token_type_0_joins_the_positions() {
    let graph = load_mean(&folder_of(CONFIG, &stored(""))).unwrap().graph;
    let weight = |name: &str| graph.weight(graph.find(name).unwrap()).unwrap();
    let stored = stored("");
    let name = "encoder.layer.1.intermediate.dense.weight";
    let (loaded, source) = (floats(weight(name)), floats(&stored[name]));
    assert_eq!(weight(name).shape(), [4, 6]);
    for (input, output) in [(0, 0), (3, 1), (1, 5)] {
        assert_eq!(loaded[input * 6 + output], source[output * 4 + input]);
    }
    assert_eq!(weight(WORDS), &stored[WORDS]);
    let (positions, types) = (floats(&stored[POSITIONS]), floats(&stored[TOKEN_TYPES]));
    assert_eq!(floats(weight(POSITIONS))[9], positions[9] + types[1]);
}

#[test]
fn a_classifier_is_taken_or_initialized() {
    let classifier = |checkpoint: &Checkpoint| {
        let id = checkpoint.graph.find("classifier.weight").unwrap();
        floats(checkpoint.graph.weight(id).unwrap()).to_vec()
    };
    let folder = folder_of(CONFIG, &stored(""));
    let first = classifier(&load(folder.path(), 2, Pooling::Mean, 7).unwrap());
    assert_eq!(first, classifier(&load(folder.path(), 2, Pooling::Mean, 7).unwrap()));
    assert_ne!(first, classifier(&load(folder.path(), 2, Pooling::Mean, 8).unwrap()));
    let mut tensors = stored("bert.");
    let weight = Tensor::from_fn(&[2, 4], |index| index as f32);
    tensors.insert("classifier.weight".to_owned(), weight);
    tensors.insert("classifier.bias".to_owned(), Tensor::from_fn(&[2], |_| 3f32));
    let taken = load_mean(&folder_of(CONFIG, &tensors)).unwrap();
    assert_eq!(classifier(&taken), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
}

#[test]
fn the_pooler_is_loaded_for_cls_pooling() {
    let folder = folder_of(CONFIG, &stored(""));
    let checkpoint = load(folder.path(), 3, Pooling::Cls, 7).unwrap();
    assert!(checkpoint.graph.find("pooler.dense.weight").is_some());
    assert_eq!(checkpoint.config.labels, 3);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let check = |name: &str, tensor: Option<Tensor>, expected: &str| {
        let mut tensors = stored("bert.");
        tensors.remove(&format!("bert.{name}"));
        tensors.extend(tensor.map(|tensor| (format!("bert.{name}"), tensor)));
        let error = load_mean(&folder_of(CONFIG, &tensors)).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
        assert!(error.contains("model.safetensors: weight"), "{error}");
    };
    let name = "encoder.layer.1.output.dense.weight";
    check(name, None, &format!("weight `{name}`: expected f32[4, 6], found no such tensor"));
    let other = Some(Tensor::from_fn(&[6, 4], |_| 0f32));
    check(name, other, &format!("weight `{name}`: expected f32[4, 6], found f32[6, 4]"));
    let other = Some(Tensor::from_fn(&[4, 6], |_| 0i8));
    check(name, other, &format!("weight `{name}`: expected f32[4, 6], found i8[4, 6]"));
    let types = Some(Tensor::from_fn(&[0, 4], |_| 0f32));
    check(TOKEN_TYPES, types, "expected f32[≥1, 4], found f32[0, 4]");
    let infinite = Some(Tensor::from_fn(&[11, 4], |_| f32::INFINITY));
    check(WORDS, infinite, "expected finite numbers, found inf at element 0");
}

#[test]
fn a_tensor_under_both_names_is_refused() {
    let mut tensors = stored("");
    tensors.extend(stored("bert."));
    let error = load_mean(&folder_of(CONFIG, &tensors)).unwrap_err().to_string();
    assert!(error.contains("is used twice"), "{error}");
}

#[test]
fn unsupported_configurations_are_refused() {
    let check = |from: &str, to: &str, expected: &str| {
        let folder = folder_of(&CONFIG.replacen(from, to, 1), &stored(""));
        let error = load_mean(&folder).unwrap_err().to_string();
        assert!(error.contains("config.json: ") && error.contains(expected), "{error}");
    };
    check("\"bert\"", "\"roberta\"", "expected model_type `bert`, found `roberta`");
    check("\"gelu\"", "\"silu\"", "`gelu_pytorch_tanh`, found `silu`");
    check("\"absolute\"", "\"relative_key\"", "`absolute`, found `relative_key`");
    check("\"hidden_size\": 4", "\"hidden_size\": 5", "5 is no multiple of num_attention_heads 2");
    check("\"hidden_size\": 4", "\"hidden_size\": 0", "expected hidden_size from 1 to 16777216");
    check("1e-12", "0.0", "expected layer_norm_eps above 0, found 0");
    check("\"vocab_size\": 11,", "", "missing field `vocab_size`");
    check("{", "", "expected the configuration of a BERT encoder");
}

#[test]
fn missing_files_are_named() {
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let folder = folder_of(CONFIG, &stored(""));
        fs::remove_file(folder.path().join(name)).unwrap();
        let error = load_mean(&folder).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains(name), "{error}");
    }
}

/// The text vectors of `[CLS] great coffee [SEP]` and of a padded `[CLS] [SEP]`, as a NumPy implementation
/// of the model computes it from the same file.
#[test]
fn the_published_checkpoint_gives_its_known_vectors() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = manifest.join("../../shared/assets/models/all-MiniLM-L6-v2");
    if !folder.exists() {
        eprintln!("skipped: all-MiniLM-L6-v2 is not beside the repository");
        return;
    }
    let Checkpoint { config, graph, tokenizer_json } = load(&folder, 2, Pooling::Mean, 1).unwrap();
    assert_eq!((config.layers.len(), config.hidden, config.head_size), (6, 384, 32));
    assert!(tokenizer_json.starts_with(b"{"));
    let tensor = |values: [i64; 8]| Tensor::new(&[2, 4], values.to_vec()).unwrap();
    let inputs = [
        ("input_ids", tensor([101, 2307, 4157, 102, 101, 102, 0, 0])),
        ("attention_mask", tensor([1, 1, 1, 1, 1, 1, 0, 0])),
    ];
    let values = reference::trace(&graph, &inputs).unwrap();
    let pooled = floats(&values[&graph.find("pooler").unwrap()]);
    let expected = [
        [-0.435071, 0.218891, 0.14479, 0.473079, -0.08633, 0.231567],
        [-0.756493, 0.307457, -0.0162206, -0.0700942, 0.330705, 0.0655145],
    ];
    for (row, expected) in pooled.chunks(384).zip(expected) {
        for (found, expected) in row.iter().zip(expected) {
            // The reference rounds to `f32` after every operator, NumPy ran in `f64`.
            assert!((found - expected).abs() < 2e-5, "{found} {expected}");
        }
    }
}
