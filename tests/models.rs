//! Single models at the command line: converted, explained, timed, asked.

use std::fs;

use graph::bert::{self, BertConfig, BertLayer};
use graph::op::{Conv, GlobalPool, Padding, Window};
use graph::{DType, Dim, Element, Graph, Op, Tensor, onnx};

use crate::sandbox::Sandbox;

/// A small encoder as an ONNX file.
fn encoder(sandbox: &Sandbox) {
    let layer = BertLayer { heads: 2, intermediate: 16 };
    let config = BertConfig { positions: 32, ..BertConfig::uniform(40, 8, 2, layer) };
    let graph = bert::build(&config, &mut bert::initial_weights(1)).expect("the sizes fit");
    sandbox.write("encoder.onnx", onnx::export(&graph).expect("it has an ONNX form"));
}

#[test]
fn an_onnx_file_becomes_a_package_that_answers_the_same() {
    let sandbox = Sandbox::new();
    encoder(&sandbox);
    let report = sandbox.json(&["convert", "encoder.onnx", "-o", "encoder"]);
    assert!(report["worst_difference"].as_f64().expect("a number") < 1e-3, "{report}");
    assert!(!sandbox.path("encoder/tokenizer.json").exists());

    npy(&sandbox, "ids.npy", &[1, 5], &[1i64, 7, 39, 2, 0]);
    npy(&sandbox, "mask.npy", &[1, 5], &[1i64, 1, 1, 1, 0]);
    let inputs = ["--input", "input_ids=ids.npy", "--input", "attention_mask=mask.npy"];
    let mut answers = Vec::new();
    for (model, level, out) in
        [("encoder.onnx", "0", "a"), ("encoder.onnx", "3", "b"), ("encoder", "3", "c")]
    {
        let out_arguments = ["infer", model, "-O", level, "--out", out];
        let report = sandbox.json(&[&out_arguments[..], &inputs].concat());
        assert_eq!(report["outputs"][0]["shape"], serde_json::json!([1, 2]));
        let file = report["outputs"][0]["file"].as_str().expect("a file").to_owned();
        answers.push(floats(&fs::read(sandbox.path(&file)).expect("the output")));
    }
    for answer in &answers[1..] {
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
        assert!(answer.iter().zip(&answers[0]).all(close), "{answers:?}");
    }
}

/// Two convolutions and a mean, as an ONNX file.
fn images(sandbox: &Sandbox) {
    let mut graph = Graph::new("images");
    let shape = vec![Dim::symbol("batch"), 2.into(), 8.into(), 8.into()];
    let mut x = graph.add_input("x", DType::F32, shape).expect("a new name");
    for (name, [inputs, outputs]) in [("first", [2, 16]), ("second", [16, 4])] {
        let weight = |i: usize| ((i * 37 % 29) as f32 - 14.0) * 0.02;
        let filters = Tensor::from_fn(&[outputs, inputs, 3, 3], weight);
        let filters = graph.add_weight(&format!("{name}.weight"), filters).expect("a new name");
        let ones = vec![1, 1];
        let padding = Padding::Explicit { before: ones.clone(), after: ones.clone() };
        let kernel = vec![3, 3];
        let window = Window { kernel, strides: ones.clone(), dilations: ones, padding };
        let conv = Op::Conv(Conv { window, groups: 1 });
        let sums = graph.add_node(name, conv, &[x, filters]).expect("it fits");
        x = graph.add_node(&format!("{name}.relu"), Op::Relu, &[sums]).expect("it fits");
    }
    let mean = Op::GlobalPool(GlobalPool::Average);
    let y = graph.add_node("y", mean, &[x]).expect("it fits");
    graph.set_outputs(&[y]);
    sandbox.write("images.onnx", onnx::export(&graph).expect("it has an ONNX form"));
}

#[test]
fn images_are_quantized_on_samples() {
    let sandbox = Sandbox::new();
    images(&sandbox);
    let elements: Vec<f32> =
        (0..6 * 2 * 64).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect();
    npy(&sandbox, "x.npy", &[6, 2, 8, 8], &elements);
    let convert = ["convert", "images.onnx", "--quantize", "int8", "--calibrate"];
    let report = sandbox.json(&[&convert[..], &["x.npy", "-o", "int8"]].concat());
    let quantized = &report["quantized"];
    assert_eq!((&quantized["layers"], &quantized["runs"]), (&2.into(), &6.into()), "{report}");
    let difference = &quantized["differences"][0];
    let relative = difference["relative"].as_f64().expect("a number");
    assert!(relative > 0.0 && relative < 0.02, "{report}");
    assert!(difference["same_class"].as_f64().expect("a share") > 0.5, "{report}");
    let explained = sandbox.json(&["explain-model", "int8", "--seconds", "0.01"]);
    assert_eq!(explained["operations_before"]["QuantizeLinear"], 2, "{explained}");

    // The same with a layer left in float; named inputs; what does not fit.
    let named = ["x=x.npy", "-o", "mixed", "--float", "second"];
    let report = sandbox.json(&[&convert[..], &named].concat());
    assert_eq!(report["quantized"]["layers"], 1, "{report}");
    npy(&sandbox, "wide.npy", &[6, 2, 8, 9], &vec![0f32; 6 * 2 * 72]);
    npy(&sandbox, "nan.npy", &[1, 2, 8, 8], &[f32::NAN; 128]);
    for (arguments, expected) in [
        (vec!["wide.npy"], "samples of the input `x`"),
        (vec!["y=x.npy"], "inputs of the model (x), found `y`"),
        (vec!["x.npy", "--calibrate", "x=x.npy"], "found two"),
        (vec!["nan.npy"], "finite numbers"),
        (vec!["texts.tsv"], "texts.tsv"),
        (vec!["x.npy", "--float", "third"], "there are: first, second"),
    ] {
        let answer = sandbox.run(&[&convert[..], &arguments, &["-o", "made"]].concat());
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:?}");
        assert!(answer.stderr.contains(expected), "{arguments:?}: {answer:?}");
        assert!(!sandbox.path("made").exists(), "{arguments:?}");
    }
}

#[test]
fn models_are_explained_and_timed() {
    let sandbox = Sandbox::new();
    encoder(&sandbox);
    let sizes = ["--bind", "batch=2,sequence=8"];
    let timing =
        sandbox.json(&[&["bench", "encoder.onnx", "--seconds", "0.05"][..], &sizes].concat());
    assert!(timing["p50_ms"].as_f64().expect("a number") > 0.0);
    assert!(timing["arena_bytes"].as_u64().expect("a number") > 0);
    let explained =
        sandbox.json(&[&["explain-model", "encoder.onnx", "--verify"][..], &sizes].concat());
    let checks = explained["checks"].as_array().expect("checks");
    assert!(checks.iter().any(|check| check["name"] == "attention"), "{checks:?}");
    for check in checks {
        assert!(check["worst_error"].as_f64().expect("a number") < 1e-4, "{check}");
    }
    let nodes = explained["nodes"].as_array().expect("nodes");
    assert!(nodes.iter().all(|node| node["reason"].is_string() && node["rejected"].is_array()));
    assert_eq!(explained["operations_after"]["FusedAttention"], 2);
    assert_eq!(explained["operations_before"]["Softmax"], 2);
    let profile = &explained["profile"];
    let timed = profile["nodes"].as_array().expect("one entry a node");
    assert_eq!(timed.len(), nodes.len());
    assert!(profile["flops"].as_u64().expect("sizes are known") > 0, "{profile}");
    let known = profile["peaks"].as_array().is_some_and(|peaks| !peaks.is_empty());
    for (node, timed) in nodes.iter().zip(timed) {
        assert!(timed["measured_ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{timed}");
        if node["kernel"] == "linear.f32" {
            let predicted = timed["cost"]["predicted_ms"].as_f64();
            assert_eq!(predicted.is_some_and(|ms| ms > 0.0), known, "{timed}");
            assert_eq!(timed["cost"]["peak_share"].is_f64(), known, "{timed}");
        }
    }
    let short = ["explain-model", "encoder.onnx", "--seconds", "0.01", "--rejected"];
    let text = sandbox.ask(&[&short[..], &sizes].concat());
    let table = text.split("\nwhy these kernels").next().expect("a table");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{text}");
    for expected in ["nodes of the graph", "before: ", "after: ", "pred. ms", "linear.f32, "] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let untimed = sandbox.json(&["explain-model", "encoder.onnx", "--seconds", "0"]);
    assert!(untimed["profile"].is_null() && untimed["profile_unavailable"].is_string());
    assert_eq!(explained["device"], "cpu");
    if !cfg!(feature = "cuda") {
        let auto = ["explain-model", "encoder.onnx", "--seconds", "0", "--device", "auto"];
        let explained = sandbox.json(&auto);
        assert_eq!(explained["device"], "cpu");
        let reason = explained["device_reason"].as_str().expect("why there is no GPU");
        assert!(reason.contains("built without GPU support"), "{reason}");
        assert!(sandbox.ask(&auto).starts_with("on the cpu: "));
    }
    let dump = sandbox.ask(&["explain-model", "encoder.onnx", "--dump-after", "attention"]);
    assert!(dump.contains(" = FusedAttention("), "{dump}");
    let off = ["explain-model", "encoder.onnx", "--dump-after", "attention"];
    let dump = sandbox.ask(&[&off[..], &["--disable-pass", "attention"]].concat());
    assert!(!dump.contains(" = FusedAttention("), "{dump}");
}

#[test]
fn bad_models_are_refused_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    encoder(&sandbox);
    let whole = fs::read(sandbox.path("encoder.onnx")).expect("it was just written");
    sandbox.write("cut.onnx", &whole[..whole.len() / 2]);
    sandbox.write("text.onnx", "no model");
    sandbox.ask(&["convert", "encoder.onnx", "-o", "good"]);
    npy(&sandbox, "ids.npy", &[1, 2], &[1i64, 99]);
    let ids = "input_ids=ids.npy";
    for (arguments, expected) in [
        (vec!["convert", "cut.onnx", "-o", "made"], "cut.onnx"),
        (vec!["convert", "text.onnx", "-o", "made"], "text.onnx"),
        (vec!["convert", "nowhere.onnx", "-o", "made"], "nowhere.onnx"),
        (vec!["convert", "encoder.onnx", "-o", "good"], "is there already"),
        (vec!["convert", "encoder.onnx", "-o", "made", "--quantize", "int8"], "--calibrate"),
        (vec!["convert", "encoder.onnx", "-o", "made", "--device", "cuda:99"], "device `cuda:99`"),
        (vec!["convert", "encoder.onnx", "-o", "made", "--disable-pass", "nonsense"], "nonsense"),
        (
            vec![
                "convert",
                "encoder.onnx",
                "-o",
                "made",
                "--memory-budget=10",
                "--bind=batch=1,sequence=8",
            ],
            "the memory budget is 10",
        ),
        (vec!["convert", "encoder.onnx", "-o", "made", "--calibrate", "ids.npy"], "--quantize"),
        (vec!["convert", "good", "-o", "made", "--batch-size", "2"], "--memory-budget"),
        (vec!["convert", "good", "-o", "made", "--labels", "x,y"], "without --labels"),
        (vec!["infer", "good", "--tokenizer", "nowhere.json"], "without --tokenizer"),
        (vec!["infer", "good", "--text", "hello", "--out", "made"], "--out"),
        (vec!["bench", "good", "--bind", "sequnce=4"], "`batch`, `sequence`"),
        (vec!["bench", "encoder.onnx", "--bind", "sequnce=4"], "`batch`, `sequence`"),
        (vec!["bench", "good", "--bind", "batch=0"], "NAME=SIZE"),
        (vec!["infer", "encoder.onnx", "--text", "hello"], "no tokenizer"),
        (vec!["infer", "encoder.onnx", "--input", ids], "attention_mask"),
        (
            vec!["infer", "encoder.onnx", "--input", ids, "--input", "attention_mask=ids.npy"],
            "index 99",
        ),
        (vec!["infer", "encoder.onnx", "--input", "x=text.onnx"], "text.onnx"),
        (vec!["explain-model", "encoder.onnx", "--dump-after", "atention"], "attention"),
        (vec!["bench", "encoder.onnx", "--seconds", "0"], "--seconds"),
        (vec!["bench", "encoder.onnx", "--bind", "batch"], "NAME=SIZE"),
        (vec!["bench", "encoder.onnx", "--device", "tpu"], "`cpu`, `cuda`"),
        (vec!["bench", "encoder.onnx", "--device", "cuda:99"], "device `cuda:99`"),
        (vec!["explain-model", "encoder.onnx", "--device", "cuda:99"], "device `cuda:99`"),
    ] {
        let answer = sandbox.run(&arguments);
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:?}");
        assert!(answer.stderr.contains(expected), "{arguments:?}: {answer:?}");
        assert!(!sandbox.path("made").exists(), "{arguments:?}");
    }

    let weights = sandbox.path("good/weights.safetensors");
    let mut bytes = fs::read(&weights).expect("the package's weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("a changed file");
    let answer = sandbox.run(&["bench", "good"]);
    assert_eq!(answer.code, Some(2), "{answer:?}");
    assert!(answer.stderr.contains("weights.safetensors"), "{answer:?}");
    assert!(answer.stderr.contains("digest"), "{answer:?}");
}

#[test]
fn sizes_may_be_inputs() {
    let sandbox = Sandbox::new();
    let mut graph = Graph::new("reshape");
    let x = graph.add_input("x", DType::I64, vec![Dim::symbol("n")]).expect("a new name");
    let sizes = graph.add_input("sizes", DType::I64, vec![Dim::Fixed(2)]).expect("a new name");
    let op = Op::ReshapeTo(graph::op::ReshapeTo { allow_zero: false });
    let y = graph.add_node("a/y", op, &[x, sizes]).expect("it fits");
    graph.set_outputs(&[y]);
    sandbox.write("reshape.onnx", onnx::export(&graph).expect("it has an ONNX form"));
    npy(&sandbox, "x.npy", &[6], &[1i64, 2, 3, 4, 5, 6]);
    npy(&sandbox, "sizes.npy", &[2], &[2i64, -1]);
    let arguments = ["infer", "reshape.onnx", "--input", "x=x.npy", "--input", "sizes=sizes.npy"];
    let report = sandbox.json(&[&arguments[..], &["--out", "out"]].concat());
    assert_eq!(report["outputs"][0]["shape"], serde_json::json!([2, 3]));
    assert!(sandbox.path("out/a_y.npy").exists());
}

#[test]
fn inputs_of_one_integer_may_be_given_with_the_sizes() {
    let sandbox = Sandbox::new();
    let mut graph = Graph::new("row");
    let x = graph.add_input("x", DType::I64, vec![Dim::symbol("n"), 2.into()]).expect("a new name");
    let row = graph.add_input("row", DType::I64, Vec::new()).expect("a new name");
    let op = Op::Gather(graph::op::Gather { axis: 0 });
    let y = graph.add_node("y", op, &[x, row]).expect("it fits");
    graph.set_outputs(&[y]);
    sandbox.write("row.onnx", onnx::export(&graph).expect("it has an ONNX form"));
    npy(&sandbox, "x.npy", &[3, 2], &[1i64, 2, 3, 4, 5, 6]);
    npy(&sandbox, "row.npy", &[], &[1i64]);
    let x = ["infer", "row.onnx", "--input", "x=x.npy", "--out", "out"];
    let taken = |more: &[&str]| {
        sandbox.json(&[&x[..], more].concat());
        let bytes = fs::read(sandbox.path("out/y.npy")).expect("the output");
        bytes[bytes.len() - 16..].iter().step_by(8).copied().collect::<Vec<u8>>()
    };
    assert_eq!(taken(&["--input", "row=row.npy"]), [3, 4]);
    assert_eq!(taken(&["--bind", "row=2"]), [5, 6]);
    let both = [&x[..], &["--bind", "row=2", "--input", "row=row.npy"]].concat();
    let answer = sandbox.run(&both);
    assert_eq!(answer.code, Some(2), "{answer:?}");
    assert!(answer.stderr.contains("`row`"), "{answer:?}");
    let answer = sandbox.run(&["bench", "row.onnx", "--bind", "line=2"]);
    assert!(answer.stderr.contains("`n`, `row`"), "{answer:?}");
}

/// Writes a tensor as a NumPy file (format version 1.0).
fn npy<T: Element + Clone>(sandbox: &Sandbox, name: &str, shape: &[usize], elements: &[T]) {
    let tensor = Tensor::new(shape, elements.to_vec()).expect("the shape fits");
    let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
    let kind = match T::DTYPE {
        DType::F32 => "<f4",
        DType::I64 => "<i8",
        other => panic!("expected f32 or i64, found {other}"),
    };
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({sizes}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).expect("a short header").to_le_bytes();
    let parts = [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), tensor.bytes()];
    sandbox.write(name, parts.concat());
}

/// The f32 elements of a NumPy file.
fn floats(file: &[u8]) -> Vec<f32> {
    let header = usize::from(u16::from_le_bytes([file[8], file[9]]));
    let (elements, rest) = file[10 + header..].as_chunks();
    assert!(rest.is_empty());
    elements.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}
