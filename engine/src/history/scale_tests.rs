//! A database of years: 10,000 runs of 8 stages with 5 million points, through the real
//! recorder. `cargo test -p engine --lib -- --ignored --nocapture a_database_of_years`; with
//! `HISTORY_FOLDER` set the database stays there, for instance for the command to be timed on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::database::Database;
use super::*;
use crate::manifest::{DeviceChoice, Manifest};
use crate::protocol::{Metric, SeriesPoint};
use crate::store::{Artifact, Digest, Form, Store};

const RUNS: u64 = 10_000;
const STAGES: [&str; 8] =
    ["teacher", "search", "student", "pruned", "int8", "package", "service", "bench"];
/// Stages that train, with their points.
const TRAINING: [&str; 5] = ["teacher", "search", "student", "pruned", "int8"];
const POINTS: u64 = 100;
/// Points that a worker sends at once.
const BATCH: usize = 20;

fn manifest() -> Manifest {
    Manifest {
        name: "bert".to_owned(),
        seed: 7,
        device: DeviceChoice::Cpu,
        data: Default::default(),
        models: Default::default(),
        stages: Vec::new(),
        schedule: None,
        sweep: None,
        path: PathBuf::from("/project/manifests/bert.toml"),
        root: PathBuf::from("/project"),
        text: "[stages.student]\nkind = \"distill\"\nepochs = 8 # as in the paper\n".repeat(40),
        overrides: vec!["stages.student.params.epochs=6".to_owned()],
    }
}

fn digest(number: u64) -> Digest {
    blake3::hash(&number.to_le_bytes()).into()
}

/// Writes one run; gives back how long its points took.
async fn record(recorder: &mut Recorder, manifest: &Manifest, file: &Path, run: u64) -> Duration {
    let environment = Environment { cpu_model: "made up".to_owned(), ..Environment::default() };
    let start = RunStart {
        manifest,
        manifest_file: file,
        device: "cpu",
        environment: &environment,
        trigger: &Trigger::Manual,
    };
    let id = recorder.start_run(&start).await.unwrap();
    let mut writing = Duration::ZERO;
    for (position, name) in STAGES.into_iter().enumerate() {
        let key = digest(run * 8 + position as u64).to_string();
        let params = json!({ "epochs": 8, "max-length": 128, "training": { "batch-size": 32, "learning-rate": 2e-4 } });
        let document = json!({ "kind": name, "params": params, "inputs": { "data": key, "teacher": key }, "seed": 7 });
        let inputs = [("data".to_owned(), "data.reviews".to_owned(), Some(key.clone()))];
        let stage = StageStart {
            run: id,
            position,
            name,
            kind: "distill",
            state: StageState::Running,
            reason: "its parameters changed",
            key: Some(&key),
            key_document: Some(&document),
            params: &params,
            inputs: &inputs,
            log_path: Some(Path::new("/project/.pipeline/logs/1/student.log")),
            threads: Some(2),
        };
        let row = recorder.start_stage(&stage).await.unwrap();
        recorder.start_attempt(row, 1).await.unwrap();
        if TRAINING.contains(&name) {
            let point = |step: u64| SeriesPoint {
                name: if step.is_multiple_of(5) { "validation/loss" } else { "train/loss" }
                    .to_owned(),
                step: step * 10,
                value: Some(1.0 / (step + run) as f64),
            };
            let points: Vec<_> = (1..=POINTS).map(point).collect();
            let begun = Instant::now();
            for batch in points.chunks(BATCH) {
                recorder.series(row, batch).await.unwrap();
            }
            writing += begun.elapsed();
        }
        recorder.finish_attempt(row, 1, 12.5, "done", None).await.unwrap();
        let metric = |index: u64| Metric {
            name: format!("test/measure-{index}"),
            value: 0.9,
            unit: "fraction".to_owned(),
            split: Some("test".to_owned()),
            samples: Some(1000),
            low: Some(0.88),
            high: Some(0.92),
        };
        let artifact =
            Artifact { form: Form::Tree, digest: digest(run * 8), size_bytes: 8_000_000 };
        let end = StageEnd {
            state: StageState::Ran,
            duration_s: 12.5,
            work_s: Some(12.5),
            origin_run: None,
            error: None,
            metrics: &(0..6).map(metric).collect::<Vec<_>>(),
            unavailable: &[],
            artifacts: &[("model".to_owned(), "model".to_owned(), artifact)],
            gates: &[],
        };
        recorder.finish_stage(row, &end).await.unwrap();
    }
    recorder.finish_run(id, RunState::Done, 100.0).await.unwrap();
    writing
}

async fn fill(store: &Store, runs: u64) {
    let mut recorder = Recorder::open(store).await.unwrap();
    let manifest = manifest();
    let (begun, mut writing) = (Instant::now(), Duration::ZERO);
    for run in 0..runs {
        // Ten manifests take turns.
        let file = PathBuf::from(format!("/project/manifests/bert-{}.toml", run % 10));
        writing += record(&mut recorder, &manifest, &file, run).await;
    }
    recorder.close().await.unwrap();
    let points = runs * TRAINING.len() as u64 * POINTS;
    let (took, rate) = (begun.elapsed().as_secs_f64(), points as f64 / writing.as_secs_f64());
    println!(
        "{runs} runs, {points} points written in {took:.0} s; {rate:.0} points/s in batches of {BATCH}"
    );
}

async fn sizes(store: &Store, points: u64) {
    let size = std::fs::metadata(Database::path(store.home())).unwrap().len();
    let mut database = Database::reader(store.home()).await.unwrap().unwrap();
    let series: i64 = sqlx::query_scalar("SELECT sum(pgsize) FROM dbstat WHERE name = 'series'")
        .fetch_one(&mut database.connection)
        .await
        .unwrap();
    let per_point = series as f64 / points as f64;
    println!("{size} bytes, of which series {series}, {per_point:.1} bytes a point");
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    println!("{what}: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    done
}

fn read(home: &Path, runs: u64) {
    let history = timed("open", || History::open(home).unwrap());
    assert_eq!(timed("20 newest runs", || history.runs(20).unwrap()).len(), 20);
    timed("all runs", || history.runs(usize::MAX).unwrap());
    let filter = RunFilter { limit: 20, state: Some(RunState::Failed), manifest: None };
    timed("20 newest failed runs, of which there are none", || {
        history.chosen_runs(&filter).unwrap()
    });
    let newest: Vec<_> = (0..20).map(|back| RunChoice::Id((runs - back) as i64)).collect();
    let records = timed("everything about 20 runs", || history.records(&newest).unwrap());
    assert_eq!(
        records[0].stages[0].series.iter().map(|series| series.points.len()).sum::<usize>(),
        100
    );
    let file = Path::new("/project/manifests/bert-3.toml");
    timed("last stage", || history.last_stage(file, "int8", None).unwrap().unwrap());
    timed("last stage that never was", || history.last_stage(file, "none", None).unwrap());
    timed("expected time", || history.expected_s(file, "int8", "distill").unwrap());
    timed("expected time of an unknown kind", || history.expected_s(file, "x", "y").unwrap());
    timed("newest artifact", || history.newest_artifact(file, "int8", "model", &[]).unwrap());
    timed("newest artifact of a stage that never was", || {
        history.newest_artifact(file, "none", "model", &[]).unwrap()
    });
    timed("quick check", || history.check().unwrap());
}

#[test]
#[ignore = "takes minutes and half a gigabyte"]
fn a_database_of_years() {
    let runs = std::env::var("HISTORY_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let temporary = tempfile::tempdir().unwrap();
    let home = std::env::var_os("HISTORY_FOLDER").map_or(temporary.path().into(), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Store::create(&home).unwrap();
    if !Database::path(&home).exists() {
        runtime.block_on(fill(&store, runs));
    }
    runtime.block_on(sizes(&store, runs * TRAINING.len() as u64 * POINTS));
    read(&home, runs);
}

/// The same in small: each query of many runs gives what a query of one gives.
#[test]
fn many_runs_are_read_like_one() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Store::create(folder.path()).unwrap();
    runtime.block_on(async {
        let mut recorder = Recorder::open(&store).await.unwrap();
        let manifest = manifest();
        for run in 0..3 {
            record(&mut recorder, &manifest, Path::new("/project/bert.toml"), run).await;
        }
        recorder.close().await.unwrap();
    });
    let history = History::open(folder.path()).unwrap();
    let choices = [3, 1, 3, 2].map(RunChoice::Id);
    let many = history.records(&choices).unwrap();
    let one_by_one: Vec<_> = choices.iter().map(|choice| history.run(*choice).unwrap()).collect();
    assert_eq!(many, one_by_one);
    assert_eq!(many.iter().map(|run| run.summary.id).collect::<Vec<_>>(), [3, 1, 3, 2]);
    let steps: Vec<u64> =
        many[0].stages[0].series[1].points.iter().map(|(step, _)| *step).collect();
    assert!(steps.is_sorted() && steps.len() == 20 && many[0].stages[0].metrics.len() == 6);
    let missing = history.records(&[RunChoice::Id(1), RunChoice::Id(9)]).unwrap_err();
    assert!(missing.to_string().contains("there is no run 9"), "{missing}");
}
