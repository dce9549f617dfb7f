//! Where each model came from: the chain from the checkpoint to what is served.

use engine::history::{ArtifactRecord, RunRecord, StageRecord};
use serde::Serialize;

use crate::quantity::quantity;

/// Kinds of artifacts that are a model in some form.
const KINDS: [&str; 3] = ["model", "package", "deployment"];

/// The models of a run with what they were made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Lineage {
    /// From the first source to the last form of the model.
    pub(crate) chain: Vec<String>,
    pub(crate) rows: Vec<Step>,
}

/// One model, package or deployment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Step {
    /// `stage.port`.
    pub(crate) name: String,
    /// Stage kind.
    pub(crate) made_by: String,
    /// `source as port` of every input.
    pub(crate) from: Vec<String>,
    pub(crate) size: String,
    pub(crate) digest: String,
}

/// The lineage of `run`; `None` when it wrote no model.
pub(crate) fn read(run: &RunRecord) -> Option<Lineage> {
    let of_stage = |stage: &'_ StageRecord| {
        let wanted = stage.artifacts.iter().filter(|one| KINDS.contains(&one.kind.as_str()));
        wanted.map(|artifact| step(stage, artifact)).collect::<Vec<_>>()
    };
    let rows: Vec<Step> = run.stages.iter().flat_map(of_stage).collect();
    let last = run.stages.iter().rfind(|stage| {
        stage.artifacts.iter().any(|artifact| KINDS.contains(&artifact.kind.as_str()))
    })?;
    Some(Lineage { chain: chain(run, last), rows })
}

fn step(stage: &StageRecord, artifact: &ArtifactRecord) -> Step {
    Step {
        name: format!("{}.{}", stage.name, artifact.port),
        made_by: stage.kind.clone(),
        from: stage.inputs.iter().map(|edge| format!("{} as {}", edge.from, edge.port)).collect(),
        size: quantity(artifact.size_bytes as f64, "bytes"),
        digest: artifact.digest.clone(),
    }
}

/// Names from the first source to `last`: at each stage on to what it changes or wraps, else to
/// what it learns from.
fn chain(run: &RunRecord, last: &StageRecord) -> Vec<String> {
    let mut names = vec![last.name.clone()];
    let mut stage = last;
    loop {
        let by_port = |port: &str| stage.inputs.iter().find(|edge| edge.port == port);
        let from_model = || stage.inputs.iter().find(|edge| edge.from.starts_with("models."));
        let wanted = ["package", "model", "teacher", "checkpoint"];
        let Some(edge) = wanted.iter().find_map(|port| by_port(port)).or_else(from_model) else {
            break;
        };
        let (source, _) = edge.from.split_once('.').unwrap_or((&edge.from, ""));
        let next = run.stages.iter().find(|stage| stage.name == source);
        // A model cannot come from itself, whatever a record says.
        match next {
            Some(next) if !names.contains(&next.name) => {
                names.push(next.name.clone());
                stage = next;
            }
            Some(_) => break,
            None => {
                names.push(edge.from.clone());
                break;
            }
        }
    }
    names.reverse();
    names
}
