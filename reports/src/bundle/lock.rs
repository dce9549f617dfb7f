//! What a run was made of: enough to run it again and to see whether the same came out.

use std::collections::BTreeMap;

use engine::history::{Environment, RunRecord, StageRecord};
use serde::Serialize;
use serde_json::Value;

/// Version of the layout; raised when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// Parameters with defaults filled in, seeds, digests, program and machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lock {
    schema: u32,
    /// Version of the program that made the bundle, and so its report.
    bundled_by: &'static str,
    run: i64,
    manifest: String,
    seed: u64,
    device: String,
    overrides: Vec<String>,
    environment: Environment,
    /// Digests of data and pretrained models.
    sources: BTreeMap<String, String>,
    stages: BTreeMap<String, StageLock>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct StageLock {
    kind: String,
    key: Option<String>,
    params: Value,
    /// Where each input came from, and the digest of what came.
    inputs: BTreeMap<String, (String, Option<String>)>,
    /// Digest of each output.
    outputs: BTreeMap<String, String>,
}

impl Lock {
    /// The lock of `run`.
    pub(super) fn of(run: &RunRecord) -> Self {
        let sources = run.datasets.iter().chain(&run.models);
        let stages = run.stages.iter().map(|stage| (stage.name.clone(), StageLock::of(stage)));
        Self {
            schema: SCHEMA,
            bundled_by: super::VERSION,
            run: run.summary.id,
            manifest: run.summary.manifest.clone(),
            seed: run.seed,
            device: run.device.clone(),
            overrides: run.overrides.clone(),
            environment: run.environment.clone(),
            sources: sources.map(|one| (one.name.clone(), one.digest.clone())).collect(),
            stages: stages.collect(),
        }
    }
}

impl StageLock {
    fn of(stage: &StageRecord) -> Self {
        let inputs = stage.inputs.iter();
        let outputs = stage.artifacts.iter();
        Self {
            kind: stage.kind.clone(),
            key: stage.key.clone(),
            params: stage.params.clone(),
            inputs: inputs
                .map(|edge| (edge.port.clone(), (edge.from.clone(), edge.digest.clone())))
                .collect(),
            outputs: outputs.map(|one| (one.port.clone(), one.digest.clone())).collect(),
        }
    }
}
