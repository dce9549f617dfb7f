use std::fs;

use super::*;
use crate::Tensor;
use crate::bert::{self, BertConfig, BertLayer};

fn model() -> ModelFolder {
    let layer = BertLayer { heads: 2, intermediate: 6 };
    let config = BertConfig { positions: 8, ..BertConfig::uniform(11, 4, 1, layer) };
    ModelFolder {
        graph: bert::build(&config, &mut bert::initial_weights(1)).unwrap(),
        tokenizer_json: b"{\"version\":\"1.0\"}".to_vec(),
        info: ModelInfo { labels: vec!["great".to_owned(), "other".to_owned()], max_length: 8 },
    }
}

const FILES: [&str; 4] = [GRAPH_FILE, WEIGHTS_FILE, TOKENIZER_FILE, INFO_FILE];

#[test]
fn what_is_written_is_read_again_and_its_bytes_are_fixed() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b/c"));
    model().write(&first).unwrap();
    let again = ModelFolder::read(&first).unwrap();
    assert_eq!(again, model());
    again.write(&second).unwrap();
    for name in FILES {
        assert_eq!(fs::read(first.join(name)).unwrap(), fs::read(second.join(name)).unwrap());
    }
    assert_eq!(fs::read_dir(&first).unwrap().count(), FILES.len());
}

#[test]
fn a_mapped_model_can_be_written_over_its_own_files() {
    let folder = tempfile::tempdir().unwrap();
    model().write(folder.path()).unwrap();
    let mapped = ModelFolder::read(folder.path()).unwrap();
    mapped.write(folder.path()).unwrap();
    assert_eq!(mapped, model());
    assert_eq!(ModelFolder::read(folder.path()).unwrap(), model());
}

#[test]
fn errors_name_the_file() {
    for name in FILES {
        let folder = tempfile::tempdir().unwrap();
        model().write(folder.path()).unwrap();
        let path = folder.path().join(name);
        let bytes = fs::read(&path).unwrap();
        if name != TOKENIZER_FILE {
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            let error = ModelFolder::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        fs::remove_file(&path).unwrap();
        let error = ModelFolder::read(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}", path.display())), "{error}");
    }
}

#[test]
fn labels_must_fit_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = model();
    model.info.labels.pop();
    let error = model.write(folder.path()).unwrap_err().to_string();
    let expected = "expected one label for each of the output's 2 columns, found 1";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_model_that_diverged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = model();
    let id = model.graph.find("classifier.bias").unwrap();
    model.graph.set_weight(id, Tensor::new(&[2], vec![0f32, f32::NAN]).unwrap());
    let error = model.write(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tensor `classifier.bias`: expected finite numbers"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is written");
}
