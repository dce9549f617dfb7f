//! ONNX models compute in onnxruntime what their graphs mean. Needs `python3` with the PyPI
//! packages `onnxruntime` and `numpy` (or a virtual environment `python` in the target folder);
//! says so and passes where they are not there.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "all of this file is a test; clippy's exceptions reach only functions marked as tests"
)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use graph::bert::{self, BertConfig, BertLayer, Pooling};
use graph::op::{Dequantize, Gather, Gelu, Loop, Quantize, Subgraph, SubgraphNode};
use graph::{DType, Dim, Graph, Op, Tensor, ValueId, onnx, reference};
use serde::Deserialize;
use serde_json::{Value, json};

type Inputs = Vec<(&'static str, Tensor)>;

#[derive(Deserialize)]
struct Output {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// A Python that has onnxruntime, or why there is none.
fn python() -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = test.ancestors().nth(3).map(|target| target.join("python/bin/python3"));
    let mut reason = String::new();
    for candidate in target.into_iter().chain([PathBuf::from("python3")]) {
        let check = ["-c", "import numpy, onnxruntime"];
        match Command::new(&candidate).args(check).output() {
            Ok(output) if output.status.success() => return Ok(candidate),
            Ok(output) => {
                let lines = String::from_utf8_lossy(&output.stderr);
                reason = lines.lines().last().unwrap_or("import failed").to_owned();
            }
            Err(error) => reason = format!("{}: {error}", candidate.display()),
        }
    }
    Err(reason)
}

fn feed(tensor: &Tensor) -> Value {
    let shape = tensor.shape();
    match tensor.elements::<i64>() {
        Ok(data) => json!({ "dtype": "int64", "shape": shape, "data": data }),
        Err(_) => {
            let data = tensor.elements::<f32>().unwrap();
            json!({ "dtype": "float32", "shape": shape, "data": data })
        }
    }
}

/// Compares every run, without and with onnxruntime's optimizations.
fn check(name: &str, graph: &Graph, runs: &[Inputs], tolerance: f32) {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => {
            eprintln!("skipped {name}: no python3 with onnxruntime: {reason}");
            return;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    std::fs::write(&model, onnx::export(graph).unwrap()).unwrap();
    let feeds: Vec<Value> = runs
        .iter()
        .map(|inputs| {
            inputs.iter().map(|(name, tensor)| ((*name).to_owned(), feed(tensor))).collect()
        })
        .collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/run_onnx.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let request = json!({ "model": model, "runs": feeds }).to_string();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let answer = child.wait_with_output().unwrap();
    assert!(answer.status.success(), "{name}: onnxruntime refused the model");
    let outputs: Vec<Vec<Output>> = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(outputs.len(), 2 * runs.len());
    for (outputs, inputs) in outputs.iter().zip(runs.iter().chain(runs)) {
        let expected = reference::evaluate(graph, inputs).unwrap();
        for (output, expected) in outputs.iter().zip(&expected) {
            assert_eq!(output.shape, expected.shape(), "{name}");
            for (found, expected) in output.data.iter().zip(expected.elements::<f32>().unwrap()) {
                assert!((found - expected).abs() <= tolerance, "{name}: {found} {expected}");
            }
        }
    }
}

fn text_runs() -> Vec<Inputs> {
    let tensor = |shape: &[usize], values: &[i64]| Tensor::new(shape, values.to_vec()).unwrap();
    vec![
        vec![
            ("input_ids", tensor(&[1, 3], &[1, 5, 7])),
            ("attention_mask", tensor(&[1, 3], &[1, 1, 1])),
        ],
        vec![
            ("input_ids", tensor(&[2, 4], &[1, 5, 7, 2, 1, 9, 0, 0])),
            ("attention_mask", tensor(&[2, 4], &[1, 1, 1, 1, 1, 1, 0, 0])),
        ],
    ]
}

#[test]
fn encoders_agree() {
    for (pooling, activation) in [(Pooling::Mean, Gelu::Erf), (Pooling::Cls, Gelu::Tanh)] {
        let layer = BertLayer { heads: 2, intermediate: 32 };
        let uniform = BertConfig::uniform(11, 16, 2, layer);
        let config = BertConfig { positions: 8, pooling, activation, ..uniform };
        let weight = &mut |name: &str, shape: &[usize]| Ok(bert::normal(3, name, shape, 0.3));
        let graph = bert::build(&config, weight).unwrap();
        // Both compute in `f32`, in another order.
        check(&format!("{pooling:?} {activation:?}"), &graph, &text_runs(), 2e-5);
    }
}

/// Adds a QDQ pair after `x`, with one scale in all or one an entry of `axis`.
fn pair(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    axis: Option<usize>,
    scale: &[f32],
    zero: Tensor,
) -> ValueId {
    let shape: Vec<usize> = axis.map(|_| scale.len()).into_iter().collect();
    let scale = Tensor::new(&shape, scale.to_vec()).unwrap();
    let scale = graph.add_weight(&format!("{name}.scale"), scale).unwrap();
    let zero = graph.add_weight(&format!("{name}.zero"), zero).unwrap();
    let q = Op::Quantize(Quantize { axis });
    let q = graph.add_node(&format!("{name}.quantized"), q, &[x, scale, zero]).unwrap();
    let dq = Op::Dequantize(Dequantize { axis });
    graph.add_node(&format!("{name}.real"), dq, &[q, scale, zero]).unwrap()
}

/// An int8 table, an int8 linear layer of folded weights with activations quantized on both sides,
/// and one of weights that are quantized in the graph, with unsigned activations.
fn quantized() -> Graph {
    let mut graph = Graph::new("quantized");
    let shape = vec![Dim::symbol("batch"), Dim::symbol("sequence")];
    let ids = graph.add_input("ids", DType::I64, shape).unwrap();
    let int8 = |name: &str, shape: &[usize]| {
        let normal = bert::normal(1, name, shape, 50.0);
        let values = normal.elements::<f32>().unwrap().to_vec();
        Tensor::from_fn(shape, |index| values[index].clamp(-127.0, 127.0) as i8)
    };
    let table = graph.add_weight("table", int8("table", &[9, 16])).unwrap();
    let rows = Tensor::from_fn(&[9], |row| 0.01 + 0.001 * row as f32);
    let rows = graph.add_weight("table.scale", rows).unwrap();
    let zeros = graph.add_weight("table.zero", Tensor::from_fn(&[9], |_| 0i8)).unwrap();
    let dequantize = |axis| Op::Dequantize(Dequantize { axis: Some(axis) });
    let table = graph.add_node("table.real", dequantize(0), &[table, rows, zeros]).unwrap();
    let words = graph.add_node("words", Op::Gather(Gather { axis: 0 }), &[table, ids]).unwrap();
    let words = pair(&mut graph, "words", words, None, &[0.013], Tensor::scalar(0i8));
    let up = graph.add_weight("up", int8("up", &[16, 8])).unwrap();
    let columns = Tensor::from_fn(&[8], |column| 0.002 + 0.0003 * column as f32);
    let columns = graph.add_weight("up.scale", columns).unwrap();
    let zeros = graph.add_weight("up.zero", Tensor::from_fn(&[8], |_| 0i8)).unwrap();
    let up = graph.add_node("up.real", dequantize(1), &[up, columns, zeros]).unwrap();
    let bias = graph.add_weight("up.bias", bert::normal(1, "bias", &[8], 0.1)).unwrap();
    let product = graph.add_node("up.product", Op::MatMul, &[words, up]).unwrap();
    let sum = graph.add_node("up.sum", Op::Add, &[product, bias]).unwrap();
    let units = graph.add_node("units", Op::Relu, &[sum]).unwrap();
    let units = pair(&mut graph, "units", units, None, &[0.011], Tensor::scalar(3u8));
    let down = graph.add_weight("down", bert::normal(1, "down", &[8, 3], 0.2)).unwrap();
    let zeros = Tensor::from_fn(&[3], |_| 0i8);
    let down = pair(&mut graph, "down", down, Some(1), &[0.004, 0.005, 0.006], zeros);
    let logits = graph.add_node("logits", Op::MatMul, &[units, down]).unwrap();
    graph.set_outputs(&[logits]);
    graph
}

#[test]
fn quantized_graphs_agree() {
    let ids = |shape: &[usize], values: &[i64]| {
        vec![("ids", Tensor::new(shape, values.to_vec()).unwrap())]
    };
    let runs = [ids(&[1, 3], &[1, 5, 7]), ids(&[2, 4], &[0, 1, 2, 3, 4, 5, 6, 8])];
    // A value on the border of two steps may fall to either side: one step of `units` (0.011)
    // times a weight of `down` (at most 0.7). Everything else agrees to rounding.
    check("quantized", &quantized(), &runs, 0.011 * 0.7);
}

/// Doubles `x` three times and collects the states.
fn repeated(output: usize) -> Graph {
    let mut graph = Graph::new("repeated");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch")]).unwrap();
    let rounds = graph.add_weight("rounds", Tensor::scalar(3i64)).unwrap();
    let going = graph.add_weight("going", Tensor::scalar(true)).unwrap();
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let double =
        SubgraphNode { name: "double".to_owned(), op: Op::Add, inputs: names(&["state", "state"]) };
    let body = Subgraph {
        inputs: names(&["round", "going", "state"]),
        nodes: vec![double],
        outputs: names(&["going", "double", "state"]),
    };
    let repetition = Op::Loop(Loop { body, carried: 1, output });
    let y = graph.add_node("y", repetition, &[rounds, going, x]).unwrap();
    graph.set_outputs(&[y]);
    graph
}

#[test]
fn loops_agree() {
    let runs = [1, 3].map(|length| vec![("x", Tensor::from_fn(&[length], |index| index as f32))]);
    for output in [0, 1] {
        check(&format!("output {output} of a loop"), &repeated(output), &runs, 0.0);
    }
}
