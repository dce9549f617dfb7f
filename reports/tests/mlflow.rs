//! The layout of MLflow's file store.

mod fixture;

use reports::{Inspections, mlflow};

#[test]
fn runs_become_experiments_runs_parameters_and_metrics() {
    let runs = fixture::seeds();
    let files = mlflow(&runs, &Inspections::default(), "file:///tmp/mlruns").unwrap();
    let text = |path: &str| String::from_utf8(files[path].clone()).unwrap();
    let experiments: Vec<&String> =
        files.keys().filter(|path| path.matches('/').count() == 1).collect();
    assert_eq!(experiments.len(), 1, "{experiments:?}");
    let experiment = experiments[0].split('/').next().unwrap();
    assert!(experiment.len() == 18 && experiment.bytes().all(|byte| byte.is_ascii_digit()));
    let folders: Vec<&str> =
        files.keys().filter_map(|path| path.strip_suffix("/artifacts/report.html")).collect();
    assert_eq!(folders.len(), 6);
    let folder = folders[0];
    let id = folder.split('/').nth(1).unwrap();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let meta = text(&format!("{folder}/meta.yaml"));
    for line in [
        format!("artifact_uri: \"file:///tmp/mlruns/{folder}/artifacts\""),
        format!("experiment_id: \"{experiment}\""),
        format!("run_id: \"{id}\""),
        "status: 3".to_owned(),
        "end_time: 1773481600789".to_owned(),
        "start_time: 1773480413589".to_owned(),
    ] {
        let (name, _) = line.split_once(':').unwrap();
        let is_there = meta.lines().any(|found| found == line) || name.ends_with("_time");
        assert!(is_there, "{line} in {meta}");
    }
    assert_eq!(text(&format!("{folder}/params/teacher.learning-rate")), "5e-5");
    assert_eq!(text(&format!("{folder}/params/student.temperature.from")).len(), 1);
    let metric = text(&format!("{folder}/metrics/bench/bench/int8/test/accuracy"));
    let fields: Vec<&str> = metric.trim_end().split(' ').collect();
    assert!(fields.len() == 3 && fields[2] == "0" && fields[0].len() == 13, "{metric}");
    let series = text(&format!("{folder}/metrics/teacher/train/loss"));
    assert_eq!(series.lines().count(), 252);
    assert!(files.contains_key(&format!("{folder}/metrics/teacher/validation/accuracy.summary")));
    assert!(["7", "8", "9"].contains(&text(&format!("{folder}/tags/pipeline.seed")).as_str()));
}

#[test]
fn hostile_names_stay_inside_the_folder() {
    let mut run = fixture::hostile();
    run.stages[0].metrics[0].name = "../../../etc/passwd".to_owned();
    run.stages[0].name = "..".to_owned();
    let files = mlflow(&[run], &Inspections::default(), "file:///x").unwrap();
    for path in files.keys() {
        let mut parts = path.split('/');
        assert!(parts.all(|part| !part.is_empty() && part != "." && part != ".."), "{path}");
    }
}

#[test]
fn a_file_is_never_a_folder() {
    let mut run = fixture::done();
    let mut clash = run.stages[0].metrics[0].clone();
    for name in ["model", "model/weights/a", "model/weights/a/b"] {
        clash.name = name.to_owned();
        run.stages[0].metrics.push(clash.clone());
    }
    let files = mlflow(&[run], &Inspections::default(), "file:///x").unwrap();
    for path in files.keys() {
        for (at, _) in path.match_indices('/') {
            assert!(!files.contains_key(&path[..at]), "{} is both", &path[..at]);
        }
    }
}
