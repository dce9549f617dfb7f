//! The whole chain in small: run, run again, change one thing, look at what came of it.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, TEACHER, reviews, stages};

/// Everything the main manifests do, with next to no work in it.
const STAGES: &str = r#"
[stages.search]
kind = "nas-search"
inputs = { data = "data.reviews", teacher = "teacher.model", logits = "teacher.logits" }
[stages.search.params]
epochs = 1
space = { layers = [1, 2], heads = [1, 2], intermediate = [32, 64], hidden = [32] }
strategy = { evolution = { population = 4, generations = 2 } }
rows = 40
sequence = 16

[stages.student]
kind = "distill"
inputs = { data = "data.reviews", teacher = "teacher.model", logits = "teacher.logits", architecture = "search.architecture", supernet = "search.supernet" }
params = { epochs = 1, student = "search" }

[stages.pruned]
kind = "prune"
inputs = { data = "data.reviews", model = "student.model", logits = "teacher.logits" }
params = { epochs = 1, vocabulary = { min-count = 2 }, units = { keep = 0.5 } }

[stages.int8]
kind = "qat"
inputs = { data = "data.reviews", model = "pruned.model", logits = "teacher.logits" }
params = { epochs = 1, sensitivity = false }

[stages.package]
kind = "export"
inputs = { data = "data.reviews", model = "int8.model" }

[stages.service]
kind = "deploy"
inputs = { package = "package.package" }
params = { name = "small" }

[stages.bench]
kind = "benchmark"
inputs = { data = "data.reviews", teacher = "teacher.model", student = "student.model", pruned = "pruned.model", int8 = "int8.model", package = "package.package" }
params = { seconds = 1, runs = 50, sequence = 16, batches = [1], sequences = [16] }
"#;

const ORDER: [&str; 8] =
    ["teacher", "search", "student", "pruned", "int8", "package", "service", "bench"];

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    let head = "schema = 1\nname = \"small\"\nseed = 7\n";
    sandbox.write("small.toml", format!("{head}{}{TEACHER}{STAGES}", reviews(160)));
    sandbox
}

fn finished(events: &[Value]) -> &Value {
    let last = events.iter().find(|event| event["event"] == "run-finished");
    &last.expect("the run finishes")["report"]
}

#[test]
fn a_chain_runs_is_cached_and_reruns_what_changed() {
    let sandbox = project();
    let (code, events) = sandbox.events(&["small.toml"]);
    assert_eq!(code, Some(0), "{:#}", finished(&events));
    assert_eq!(stages(&events, "stage-finished").len(), ORDER.len());
    reads_back(&sandbox);

    let (code, events) = sandbox.events(&["small.toml"]);
    assert_eq!((code, stages(&events, "stage-started")), (Some(0), vec![]), "{events:#?}");
    assert_eq!(stages(&events, "stage-hit").len(), ORDER.len());
    let seconds = finished(&events)["duration-s"].as_f64().expect("seconds");
    assert!(seconds < 5.0, "a run of hits took {seconds} s");

    one_parameter_changes(&sandbox);
}

/// What a finished run left behind.
fn reads_back(sandbox: &Sandbox) {
    let page = fs::read_to_string(sandbox.path(".pipeline/reports/1.html")).expect("the report");
    let missing: Vec<_> = ORDER.iter().filter(|stage| !page.contains(**stage)).collect();
    assert!(missing.is_empty(), "the report does not mention {missing:?}");
    sandbox.ask(&["report", "1", "-o", "again.html"]);
    assert_eq!(fs::read_to_string(sandbox.path("again.html")).expect("a report"), page);
    let markdown = sandbox.ask(&["report", "--format", "md"]);
    assert!(markdown.contains("| teacher |"), "{markdown}");
    assert!(page.contains("int8: memory map"), "the benchmark looked into the models");
    leaves(sandbox);

    let package = sandbox.ask(&["path", "small.toml", "package.package"]);
    let files = ["package.toml", "graph.json", "weights.safetensors", "tokenizer.json"];
    for file in files.iter().chain(&["golden.safetensors", "model.onnx"]) {
        assert!(std::path::Path::new(package.trim()).join(file).is_file(), "{file}");
    }
    let timed = sandbox.json(&["bench", package.trim(), "--seconds", "0.01"]);
    let sizes = timed["sizes"].as_str().expect("sizes");
    assert!(sizes.contains("sequence=") && !sizes.contains("=128"), "{sizes}: too long");
    let explained = sandbox.json(&["explain-model", package.trim(), "--seconds", "0.01"]);
    assert!(explained["profile"].is_object(), "{:?}", explained["profile_unavailable"]);
    let live = sandbox.path("model-repository/small/live");
    assert!(live.join("package.toml").is_file(), "nothing is live in {}", live.display());

    let run = sandbox.json(&["show", "latest"]);
    sandbox.check_metrics(&run);
    let recorded = run["stages"].as_array().expect("stages");
    assert_eq!(recorded.len(), ORDER.len());
    for stage in recorded {
        let name = stage["name"].as_str().expect("a name");
        assert_eq!(stage["state"], "ran", "{name}");
        assert!(!sandbox.ask(&["show", "1"]).is_empty());
        let log = sandbox.json(&["logs", "1", name]);
        assert!(log["path"].as_str().is_some_and(|path| path.contains(name)), "{log}");
    }
    let metrics =
        recorded.iter().flat_map(|stage| stage["metrics"].as_array().into_iter().flatten());
    let failed: Vec<_> =
        metrics.filter(|metric| metric["name"] == "deploy/failed-kernel-tiers").collect();
    assert!(failed.len() == 1 && failed[0]["value"] == 0.0, "{failed:?}");
    assert_eq!(sandbox.json(&["runs"])[0]["ran"], ORDER.len());
    assert_eq!(sandbox.json(&["cache", "verify"])["damaged"], serde_json::json!([]));
    assert_eq!(sandbox.json(&["gc"])["actions"], 0, "what is fresh stays");
}

/// A run can be taken elsewhere.
fn leaves(sandbox: &Sandbox) {
    let csv = sandbox.ask(&["report", "1", "--format", "csv"]);
    assert!(csv.contains("bench/int8/latency-p50,"), "{csv}");
    sandbox.ask(&["bundle", "1", "-o", "run.tar.zst"]);
    let verified = sandbox.json(&["bundle", "verify", "run.tar.zst"]);
    assert_eq!((&verified["run"], &verified["replay"]), (&1.into(), &"same".into()));
    let mut bytes = fs::read(sandbox.path("run.tar.zst")).expect("the bundle");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    sandbox.write("broken.tar.zst", bytes);
    let broken = sandbox.run(&["bundle", "verify", "broken.tar.zst"]);
    assert_eq!(broken.code, Some(1), "{broken:#?}");
    sandbox.write("no-bundle", "text");
    assert_eq!(sandbox.run(&["bundle", "verify", "no-bundle"]).code, Some(2));
    let store = sandbox.json(&["export-mlflow", "1", "-o", "out"]);
    assert_eq!(store["runs"], 1);
    let experiments = fs::read_dir(sandbox.path("out/mlruns")).expect("a store").count();
    assert_eq!(experiments, 1);
}

/// One parameter of `distill` reruns that stage and those whose inputs it changed, no others.
fn one_parameter_changes(sandbox: &Sandbox) {
    let change = ["--set", "stages.student.params.alpha=0.75"];
    let explained =
        sandbox.json(&[["explain", "small.toml", "student"].as_slice(), &change].concat());
    let fields: Vec<&Value> =
        explained["changes"].as_array().expect("changes").iter().map(|it| &it["field"]).collect();
    assert_eq!(fields, ["params.alpha"]);
    let plan = sandbox.json(&[["plan", "small.toml"].as_slice(), &change].concat());
    let would: Vec<&str> = plan["stages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|it| it["forecast"].as_str())
        .collect();
    assert_eq!(would, ["hit", "hit", "run", "depends", "depends", "depends", "depends", "depends"]);

    let (code, events) = sandbox.events(&[["small.toml"].as_slice(), &change].concat());
    assert_eq!(code, Some(0), "{:#}", finished(&events));
    assert_eq!(stages(&events, "stage-hit"), ["teacher", "search"]);
    // `service` and `bench` both wait for `package` only: either may start first.
    let started: BTreeSet<&str> = stages(&events, "stage-started").into_iter().collect();
    assert_eq!(started, ORDER[2..].iter().copied().collect());
    let again = sandbox.json(&["explain", "small.toml", "student"]);
    assert_eq!(again["stage"]["forecast"], "hit", "the first result is still there: {again:#}");
}

#[test]
fn parts_of_a_chain_run_alone() {
    let sandbox = project();
    let (code, events) = sandbox.events(&["small.toml", "--until", "teacher"]);
    assert_eq!((code, stages(&events, "stage-finished")), (Some(0), vec!["teacher"]));
    let (code, events) = sandbox.events(&["small.toml", "--only", "student"]);
    assert_eq!(code, Some(1), "`search` is not cached: {:#}", finished(&events));
    assert!(stages(&events, "stage-started").is_empty(), "{events:#?}");

    // A gate that cannot hold: exit code 1, the measured value, and the result stays cached.
    let gate =
        ["small.toml", "--until", "teacher", "--set", "stages.teacher.require.accuracy-min=1.1"];
    let (code, events) = sandbox.events(&gate);
    assert_eq!(code, Some(1));
    let failed = events.iter().find(|event| event["event"] == "stage-failed").expect("a failure");
    let error = failed["error"].as_str().expect("a text");
    assert!(error.contains("accuracy-min") && error.contains("1.1"), "{error}");

    let dry = sandbox.ask(&["run", "small.toml", "--dry-run", "--force", "--until", "teacher"]);
    assert!(dry.contains("forced"), "{dry}");
}
