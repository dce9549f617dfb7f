//! Runs in the layout of MLflow's file store, so that people can leave (MLflow 2 and 3,
//! `mlflow/store/tracking/file_store.py`). MLflow 3 reads it with `MLFLOW_ALLOW_FILE_STORE=true`,
//! and `mlflow migrate-filestore` takes it into a database.
//!
//! | here | there |
//! |---|---|
//! | manifest | experiment |
//! | run | run |
//! | `stage.parameter` | parameter |
//! | `stage/phase/name` of a summary or series | metric; a series has a line a step |
//! | seed, device, machine, digests of inputs | tags |
//! | the manifest and the HTML report | artifacts |

use std::collections::BTreeMap;
use std::fmt::Write as _;

use engine::history::{RunRecord, RunState, StageRecord};

use crate::compare::{environment, flatten};
use crate::{Format, Inspections, Options, RenderError, render_with};

/// Most characters of a parameter that MLflow takes.
const MAX_PARAMETER: usize = 6000;

/// Files by their path below the folder `mlruns`.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Everything about `runs` as files; `location` is the URI of the folder they will be written to,
/// for instance `file:///home/me/mlruns`.
///
/// # Errors
/// When the report of a run cannot be made, which means that this crate is wrong.
pub fn mlflow(
    runs: &[RunRecord],
    inspections: &Inspections,
    location: &str,
) -> Result<Files, RenderError> {
    let mut files = Files::new();
    for run in runs {
        let experiment = experiment_id(&run.summary.manifest);
        let about = experiment_meta(run, &experiment, location);
        files.entry(format!("{experiment}/meta.yaml")).or_insert_with(|| about.into_bytes());
        let id = run_id(run);
        let folder = format!("{experiment}/{id}");
        let mut own = Own { folder: folder.clone(), files: BTreeMap::new() };
        own.add("meta.yaml", run_meta(run, &experiment, &id, location));
        tags(run, &mut own);
        for stage in &run.stages {
            parameters(stage, &mut own);
            metrics(run, stage, &mut own);
        }
        own.add("artifacts/manifest.toml", run.manifest_text.clone());
        let options = Options { inspections: inspections.clone(), ..Options::default() };
        let report = render_with(std::slice::from_ref(run), &options, Format::Html)?;
        own.add("artifacts/report.html", report);
        files.extend(own.files);
    }
    Ok(files)
}

/// Files of one run.
struct Own {
    folder: String,
    files: Files,
}

impl Own {
    /// Adds a file; one whose place is taken, or that is a folder elsewhere, gets a longer name.
    fn add(&mut self, name: &str, content: String) {
        let mut path = format!("{}/{name}", self.folder);
        let is_taken = |path: &str, files: &Files| {
            let inside = format!("{path}/");
            let above = |(at, _): (usize, &str)| files.contains_key(&path[..at]);
            files.contains_key(path)
                || files.range(inside.clone()..).next().is_some_and(|(f, _)| f.starts_with(&inside))
                || path.match_indices('/').any(above)
        };
        while is_taken(&path, &self.files) {
            // A file above would still be in the way of a longer last part.
            path =
                match path.match_indices('/').find(|(at, _)| self.files.contains_key(&path[..*at]))
                {
                    Some((at, _)) => format!("{}_{}", &path[..at], &path[at..]),
                    None => format!("{path}_"),
                };
        }
        self.files.insert(path, content.into_bytes());
    }
}

/// A number of 18 digits that depends on the manifest's name; MLflow takes no words.
fn experiment_id(manifest: &str) -> String {
    let digest = blake3::hash(manifest.as_bytes());
    let start: [u8; 8] = digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes");
    format!("{}", 100_000_000_000_000_000 + u64::from_le_bytes(start) % 900_000_000_000_000_000)
}

/// 32 hexadecimal digits that no other run has.
fn run_id(run: &RunRecord) -> String {
    let summary = &run.summary;
    let text = format!("{}\n{}\n{}", summary.manifest, summary.id, summary.started_at);
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

fn experiment_meta(run: &RunRecord, id: &str, location: &str) -> String {
    let created = run.summary.started_at.as_millisecond();
    yaml(&[
        ("artifact_location", quoted(&format!("{location}/{id}"))),
        ("creation_time", created.to_string()),
        ("experiment_id", quoted(id)),
        ("last_update_time", created.to_string()),
        ("lifecycle_stage", "active".to_owned()),
        ("name", quoted(&run.summary.manifest)),
    ])
}

fn run_meta(run: &RunRecord, experiment: &str, id: &str, location: &str) -> String {
    let summary = &run.summary;
    let start = summary.started_at.as_millisecond();
    let end = summary.duration_s.map(|seconds| start + (seconds * 1e3).round() as i64);
    // `RunStatus` of MLflow's service.proto.
    let status = match summary.state {
        RunState::Running => 1,
        RunState::Done => 3,
        RunState::Failed => 4,
        // Stopped, whoever did it.
        _ => 5,
    };
    yaml(&[
        ("artifact_uri", quoted(&format!("{location}/{experiment}/{id}/artifacts"))),
        ("end_time", end.map_or_else(|| "null".to_owned(), |end| end.to_string())),
        ("entry_point_name", quoted("")),
        ("experiment_id", quoted(experiment)),
        ("lifecycle_stage", "active".to_owned()),
        ("run_id", quoted(id)),
        ("run_name", quoted(&run_name(run))),
        ("run_uuid", quoted(id)),
        ("source_name", quoted("")),
        // `SourceType.LOCAL`.
        ("source_type", "4".to_owned()),
        ("source_version", quoted("")),
        ("start_time", start.to_string()),
        ("status", status.to_string()),
        ("tags", "[]".to_owned()),
        ("user_id", quoted("")),
    ])
}

fn run_name(run: &RunRecord) -> String {
    format!("{} {}", run.summary.manifest, run.summary.id)
}

fn yaml(fields: &[(&str, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

/// A string as JSON, which YAML reads as the same string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn tags(run: &RunRecord, own: &mut Own) {
    own.add("tags/mlflow.runName", run_name(run));
    own.add("tags/mlflow.source.name", run.summary.manifest_path.display().to_string());
    own.add("tags/mlflow.source.type", "LOCAL".to_owned());
    if let Some(commit) = &run.environment.commit {
        own.add("tags/mlflow.source.git.commit", commit.clone());
    }
    own.add("tags/pipeline.run", run.summary.id.to_string());
    for (name, value) in environment(run) {
        own.add(&format!("tags/pipeline.{}", part(name)), value);
    }
    for source in run.datasets.iter().chain(&run.models) {
        own.add(&format!("tags/pipeline.{}.blake3", part(&source.name)), source.digest.clone());
    }
    for stage in &run.stages {
        for artifact in &stage.artifacts {
            let name =
                format!("tags/pipeline.{}.{}.blake3", part(&stage.name), part(&artifact.port));
            own.add(&name, artifact.digest.clone());
        }
    }
}

fn parameters(stage: &StageRecord, own: &mut Own) {
    for (name, value) in flatten(&stage.params) {
        let value: String = value.chars().take(MAX_PARAMETER).collect();
        own.add(&format!("params/{}.{}", part(&stage.name), part(&name)), value);
    }
}

/// Series first: a summary of the same name is their last word and goes beside them.
fn metrics(run: &RunRecord, stage: &StageRecord, own: &mut Own) {
    // Steps have no times of their own: all have that of the stage's start.
    let at = stage.started_at.unwrap_or(run.summary.started_at).as_millisecond();
    let mut names = Vec::new();
    for series in &stage.series {
        let mut lines = String::new();
        for (step, value) in &series.points {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                let _infallible = writeln!(lines, "{at} {value} {step}");
            }
        }
        if !lines.is_empty() {
            names.push(series.name.clone());
            own.add(&format!("metrics/{}/{}", part(&stage.name), path(&series.name)), lines);
        }
    }
    for metric in stage.metrics.iter().filter(|metric| metric.value.is_finite()) {
        let summary = if names.contains(&metric.name) { ".summary" } else { "" };
        let name = format!("metrics/{}/{}{summary}", part(&stage.name), path(&metric.name));
        own.add(&name, format!("{at} {} 0\n", metric.value));
        for (end, value) in [("low", metric.low), ("high", metric.high)] {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                own.add(&format!("{name}.{end}"), format!("{at} {value} 0\n"));
            }
        }
    }
}

/// A name with its `/` kept.
fn path(name: &str) -> String {
    name.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// A name as MLflow takes it, and as one part of a path: letters, digits, `_`, `-`, `.` and blanks.
fn part(name: &str) -> String {
    let known = |character: char| {
        let is_known = character.is_ascii_alphanumeric() || "_-. ".contains(character);
        if is_known { character } else { '_' }
    };
    let name: String = name.chars().take(200).map(known).collect();
    // `.` and `..` are folders.
    if name.trim_matches('.').trim().is_empty() {
        format!("{name}_").replace('.', "_")
    } else {
        name
    }
}
