//! Every way of distilling, pruning, searching and quantizing, once each on few rows.

use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, repository, stages};

/// `tests/manifests/options.toml` with the committed reviews, wherever the sandbox lies.
fn project() -> Sandbox {
    let text = fs::read_to_string(repository().join("tests/manifests/options.toml"));
    let data = repository().join("data/finefoods.tsv.gz").display().to_string();
    let sandbox = Sandbox::new();
    let text = text.expect("the manifest").replace("data/finefoods.tsv.gz", &data);
    sandbox.write("options.toml", text);
    sandbox
}

/// A metric of a stage of a run.
fn metric(run: &Value, stage: &str, name: &str) -> f64 {
    let stages = run["stages"].as_array().expect("stages");
    let stage = stages.iter().find(|one| one["name"] == stage).expect("the stage ran");
    let metrics = stage["metrics"].as_array().expect("metrics");
    let found = metrics.iter().find(|metric| metric["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {metrics:?}"))["value"].as_f64().expect("a number")
}

#[test]
fn every_option_does_its_work() {
    let sandbox = project();
    let (code, events) = sandbox.events(&["options.toml"]);
    assert_eq!(code, Some(0), "{events:#?}");
    assert_eq!(stages(&events, "stage-finished").len(), 12, "{events:#?}");
    let run = sandbox.json(&["show", "1"]);
    sandbox.check_metrics(&run);

    let weights = |stage: &str| metric(&run, stage, "model/weights");
    assert!(weights("gradual") < weights("teacher"), "layers, heads and units are really gone");
    assert!((metric(&run, "two-of-four", "prune/sparsity") - 0.5).abs() < 0.01);
    assert!((metric(&run, "magnitude", "prune/sparsity") - 0.7).abs() < 0.01);
    for stage in ["calibrated", "lsq", "observed"] {
        assert!(metric(&run, stage, "agreement/worst-difference") <= 1.0, "{stage}");
        assert_eq!(metric(&run, stage, "agreement/other-class"), 0.0, "{stage}");
    }
    assert!(
        metric(&run, "calibrated", "validation/accuracy-drop") <= 0.0,
        "layers went back to float"
    );
    assert!(metric(&run, "lsq", "model/size") < metric(&run, "gradual", "model/size") / 2.0);

    // Nothing in `sequences` fits the teacher, so nothing is known of its throughput.
    let long = run["stages"].as_array().expect("stages").iter().find(|one| one["name"] == "long");
    let measured = long.expect("the stage ran")["metrics"].as_array().expect("metrics");
    let known =
        |name: &str| measured.iter().any(|one| one["name"] == name && one["value"].is_number());
    assert!(known("bench/teacher/flops") && !known("bench/teacher/throughput"), "{measured:?}");

    // What no candidate can keep to is told with numbers, before the supernet is trained.
    let impossible = "stages.scaled.params.constraints={ params-max = 100, latency-ms-max = 1e-6 }";
    let (code, events) =
        sandbox.events(&["options.toml", "--until", "scaled", "--set", impossible]);
    let failed = events.iter().find(|event| event["event"] == "stage-failed");
    let error = failed.and_then(|event| event["error"].as_str()).unwrap_or_default();
    assert_eq!(code, Some(1), "{events:#?}");
    for part in ["`params-max` is 100, the smallest candidate has ", "`latency-ms-max` is 0.000001"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert!(!events.iter().any(|event| event["phase"] == "supernet"), "{events:#?}");
}
