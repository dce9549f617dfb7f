use std::fs;

use super::*;
use crate::bert::{self, BertConfig, BertLayer};
use crate::op::{Dequantize, Quantize, Unary};
use crate::{Dim, Tensor, reference};

/// A text of three pieces, and a batch of two of which one is padded.
fn examples() -> Vec<NamedTensors> {
    let named = |shape: &[usize], ids: &[i64], mask: &[i64]| {
        vec![
            ("input_ids".to_owned(), Tensor::new(shape, ids.to_vec()).unwrap()),
            ("attention_mask".to_owned(), Tensor::new(shape, mask.to_vec()).unwrap()),
        ]
    };
    vec![named(&[1, 3], &[1, 5, 7], &[1, 1, 1]), named(&[2, 2], &[1, 4, 9, 0], &[1, 1, 1, 0])]
}

fn package() -> Package {
    let layer = BertLayer { heads: 2, intermediate: 6 };
    let config = BertConfig { positions: 8, ..BertConfig::uniform(11, 4, 1, layer) };
    let weight = &mut |name: &str, shape: &[usize]| Ok(bert::normal(3, name, shape, 0.5));
    let graph = bert::build(&config, weight).unwrap();
    Package {
        name: "reviews".to_owned(),
        golden: Golden::evaluate(&graph, examples()).unwrap(),
        model: ModelFolder {
            graph,
            tokenizer_json: b"{}".to_vec(),
            info: ModelInfo { labels: vec!["great".to_owned(), "other".to_owned()], max_length: 8 },
        },
        tolerance: Some(0.03),
        provenance: BTreeMap::from([("data".to_owned(), "blake3:12ab".to_owned())]),
        slo: Some(Slo { p99_ms: 12.5 }),
    }
}

fn run(graph: &Graph, example: &GoldenExample) -> Result<Vec<Tensor>, crate::GraphError> {
    let inputs: Vec<(&str, Tensor)> =
        example.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    reference::evaluate(graph, &inputs)
}

#[test]
fn what_is_written_is_read_again_and_its_bytes_are_fixed() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    let manifest = package().write(&first).unwrap();
    let again = Package::read(&first).unwrap();
    assert_eq!(again, package());
    assert_eq!(PackageManifest::read(&first).unwrap(), manifest);
    assert_eq!(again.write(&second).unwrap(), manifest);
    for name in FILES.into_iter().chain([MANIFEST_FILE]) {
        assert_eq!(fs::read(first.join(name)).unwrap(), fs::read(second.join(name)).unwrap());
    }
    assert_eq!(fs::read_dir(&first).unwrap().count(), FILES.len() + 1);
}

#[test]
fn the_manifest_says_what_is_inside() {
    let folder = tempfile::tempdir().unwrap();
    package().write(folder.path()).unwrap();
    let text = fs::read_to_string(folder.path().join(MANIFEST_FILE)).unwrap();
    let (facts, digests) = text.split_once("[digests]").unwrap();
    let expected = r#"schema = 1
name = "reviews"
labels = [
    "great",
    "other",
]
max-length = 8
tolerance = 0.03

[[inputs]]
name = "input_ids"
dtype = "i64"
shape = [
    "batch",
    "sequence",
]

[[inputs]]
name = "attention_mask"
dtype = "i64"
shape = [
    "batch",
    "sequence",
]

[[outputs]]
name = "logits"
dtype = "f32"
shape = [
    "batch",
    2,
]

[quantization]
int8-weights = 0
float-weights = 251
quantized-activations = 0

[slo]
p99_ms = 12.5

[provenance]
data = "blake3:12ab"

"#;
    assert_eq!(facts, expected);
    for name in FILES {
        assert!(digests.contains(&format!("\"{name}\" = \"blake3:")), "{digests}");
    }
}

#[test]
fn a_changed_byte_names_its_file() {
    for name in FILES {
        let folder = tempfile::tempdir().unwrap();
        package().write(folder.path()).unwrap();
        let path = folder.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = Package::read(folder.path()).unwrap_err().to_string();
        let start = format!("{}: expected digest blake3:", path.display());
        assert!(error.starts_with(&start), "{error}");
        fs::remove_file(&path).unwrap();
        let error = Package::read(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}", path.display())), "{error}");
    }
}

#[test]
fn a_manifest_that_does_not_fit_is_refused() {
    let check = |from: &str, to: &str, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        package().write(folder.path()).unwrap();
        let path = folder.path().join(MANIFEST_FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = Package::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(MANIFEST_FILE) && error.contains(expected), "{error}");
    };
    check("schema = 1", "schema = 2", "expected schema 1, found 2");
    check("tolerance = 0.03", "tolerance = 7.0", "expected a tolerance up to 0.25, found 7");
    check("tolerance = 0.03", "tolerance = nan", "expected a tolerance up to 0.25, found NaN");
    check("schema = 1", "schema = 1\nextra = 2", "unknown field `extra`");
    check(
        "name = \"logits\"",
        "name = \"scores\"",
        "expected the inputs, outputs and quantization",
    );
    check(
        "float-weights = 251",
        "float-weights = 1",
        "expected the inputs, outputs and quantization",
    );
    check("\"graph.json\"", "\"../graph.json\"", "expected digests of");
    check("    \"other\",\n", "", "expected one label for each of the output's 2 columns");
    check("schema", "\u{0}", "TOML parse error at line 1");
}

#[test]
fn golden_examples_must_fit_the_graph() {
    let check = |edit: &dyn Fn(&mut GoldenExample), expected: &str| {
        let mut package = package();
        edit(&mut package.golden.examples[1]);
        let folder = tempfile::tempdir().unwrap();
        let error = package.write(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("golden example 1: ") && error.contains(expected), "{error}");
    };
    check(&|example| drop(example.inputs.pop()), "expected the inputs");
    check(
        &|example| example.outputs[0].1 = Tensor::from_fn(&[3, 2], |_| 0f32),
        "output `logits`: expected [batch, 2] with batch = 2, found [3, 2]",
    );
    check(
        &|example| example.outputs[0].1 = Tensor::from_fn(&[2, 2], |_| f32::NAN),
        "expected finite numbers",
    );
    check(
        &|example| example.inputs[0].1 = Tensor::from_fn(&[2, 2], |_| 0f32),
        "input `input_ids`: expected i64[batch, sequence]",
    );
}

#[test]
fn golden_outputs_are_compared() {
    let Package { model, golden, .. } = package();
    let worst = golden.verify(0.0, 0.0, |example| run(&model.graph, example)).unwrap();
    assert_eq!(worst, 0.0);
    let moved = |by: f32| {
        let graph = &model.graph;
        move |example: &GoldenExample| {
            run(graph, example).map(|outputs| {
                let logits = outputs[0].elements::<f32>().unwrap();
                vec![Tensor::from_fn(outputs[0].shape(), |index| logits[index] + by)]
            })
        }
    };
    let logits = golden.examples.iter().flat_map(|x| x.outputs[0].1.elements::<f32>().unwrap());
    let greatest = logits.fold(0f32, |most, logit| most.max(logit.abs()));
    let by = 0.005 * greatest;
    let worst = golden.verify(0.01, 0.0, moved(by)).unwrap();
    assert!((worst - by).abs() < 1e-6, "{worst}");
    for by in [0.02 * greatest, f32::NAN] {
        let error = golden.verify(0.01, 0.0, moved(by)).unwrap_err().to_string();
        assert!(error.starts_with("golden example 0: output `logits`: expected "), "{error}");
    }
    let error = golden.verify(0.01, 0.0, |_| Err::<Vec<Tensor>, _>("no kernel")).unwrap_err();
    assert_eq!(error.to_string(), "golden example 0: no kernel");
    let error = Golden::default().verify(0.01, 0.0, moved(0.0)).unwrap_err();
    assert_eq!(error.to_string(), "expected at least one golden example, found none");
}

#[test]
fn golden_outputs_may_lack_some_numbers() {
    let mut graph = Graph::new("logarithm");
    let x = graph.add_input("x", DType::F32, vec![4.into()]).unwrap();
    let y = graph.add_node("y", Op::Unary(Unary::Log), &[x]).unwrap();
    graph.set_outputs(&[y]);
    let given = |numbers: Vec<f32>| vec![("x".to_owned(), Tensor::new(&[4], numbers).unwrap())];
    let golden = Golden::evaluate(&graph, vec![given(vec![-1.0, 0.0, 1.0, 2.0])]).unwrap();
    assert!(golden.tensors(&graph).is_ok());
    assert_eq!(golden.verify(0.0, 0.0, |example| run(&graph, example)).unwrap(), 0.0);
    let other = |_: &GoldenExample| {
        Ok::<_, String>(vec![Tensor::new(&[4], vec![0.0, 0.0, 0.0, 2f32.ln()]).unwrap()])
    };
    assert!(golden.verify(0.0, 0.0, other).is_err());
    let golden = Golden::evaluate(&graph, vec![given(vec![-1.0; 4])]).unwrap();
    let error = golden.tensors(&graph).unwrap_err().to_string();
    assert!(error.contains("output `y`: expected finite numbers, found none"), "{error}");
}

#[test]
fn an_output_of_nothing_but_rounding_is_no_difference() {
    let example = |values: [f32; 2]| GoldenExample {
        inputs: Vec::new(),
        outputs: ["logit", "nothing"]
            .iter()
            .zip(values)
            .map(|(name, x)| ((*name).to_owned(), Tensor::scalar(x)))
            .collect(),
    };
    let golden = Golden { examples: vec![example([3.0, 0.0])] };
    let found = |values: [f32; 2]| {
        golden.verify(0.01, 0.0, |_| Ok::<_, String>(values.map(Tensor::scalar).to_vec()))
    };
    assert!(found([3.01, 1e-9]).is_ok());
    assert!(found([3.01, 1e-3]).is_err());
}

#[test]
fn integers_are_counted() {
    let mut graph = Graph::new("quantized");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch"), 2.into()]).unwrap();
    let w = graph.add_weight("w", Tensor::from_fn(&[2, 3], |index| index as i8)).unwrap();
    let scale = graph.add_weight("scale", Tensor::scalar(0.1f32)).unwrap();
    let zero = graph.add_weight("zero", Tensor::scalar(0i8)).unwrap();
    let quantize = Op::Quantize(Quantize { axis: None });
    let dequantize = Op::Dequantize(Dequantize { axis: None });
    let q = graph.add_node("q", quantize, &[x, scale, zero]).unwrap();
    let dq = graph.add_node("dq", dequantize.clone(), &[q, scale, zero]).unwrap();
    let weight = graph.add_node("weight", dequantize, &[w, scale, zero]).unwrap();
    let y = graph.add_node("y", Op::MatMul, &[dq, weight]).unwrap();
    graph.set_outputs(&[y]);
    let expected = Quantization { int8_weights: 6, float_weights: 1, quantized_activations: 1 };
    assert_eq!(Quantization::of(&graph), expected);
}
