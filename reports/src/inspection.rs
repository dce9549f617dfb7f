//! What a stage wrote down about the compiled models it measured: kernels and memory.
//!
//! The database knows such a document as an artifact of the kind `inspection`; its text is in the
//! store, or in the bundle that a report came in.

use std::collections::BTreeMap;

use engine::history::{ArtifactRecord, RunRecord, StageRecord};
use serde::Deserialize;

/// Kind of the artifacts that hold them.
const KIND: &str = "inspection";
/// Version of the layout that is read here.
const SCHEMA: u32 = 1;
/// Most bytes that are read; a model of thousands of nodes takes less than one of these megabytes.
const MAX_BYTES: u64 = 64 << 20;

/// Texts of inspection artifacts by their digests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspections(BTreeMap<String, Result<String, String>>);

impl Inspections {
    /// Reads those of `runs` from where their records say that they lie. What cannot be read is
    /// reported as unavailable, with the reason.
    pub fn read(runs: &[RunRecord]) -> Self {
        let artifacts = runs.iter().flat_map(artifacts).map(|(_, artifact)| artifact);
        Self(artifacts.map(|artifact| (artifact.digest.clone(), text(artifact))).collect())
    }

    /// Adds a text under its digest.
    pub fn insert(&mut self, digest: String, text: String) {
        self.0.insert(digest, Ok(text));
    }

    /// Those that belong to `run`.
    pub(crate) fn of_run(&self, run: &RunRecord) -> Self {
        let own = artifacts(run).filter_map(|(_, artifact)| {
            Some((artifact.digest.clone(), self.0.get(&artifact.digest)?.clone()))
        });
        // What cannot be read here cannot be read anywhere else, for another reason.
        Self(own.filter(|(_, text)| text.is_ok()).collect())
    }

    /// Digests and texts of those that are there.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(digest, text)| Some((digest.as_str(), text.as_deref().ok()?)))
    }

    /// Each model's inspection by stage and model, or why there is none.
    pub(crate) fn of(&self, run: &RunRecord) -> Vec<(String, Result<Document, String>)> {
        let read = |(stage, artifact): (&StageRecord, &ArtifactRecord)| {
            let text = self
                .0
                .get(&artifact.digest)
                .map_or_else(|| Err("it did not come with the report".to_owned()), Clone::clone);
            (stage.name.clone(), text.and_then(|text| parse(&text)))
        };
        artifacts(run).map(read).collect()
    }
}

fn artifacts(run: &RunRecord) -> impl Iterator<Item = (&StageRecord, &ArtifactRecord)> {
    run.stages.iter().flat_map(|stage| {
        let wanted = stage.artifacts.iter().filter(|artifact| artifact.kind == KIND);
        wanted.map(move |artifact| (stage, artifact))
    })
}

fn text(artifact: &ArtifactRecord) -> Result<String, String> {
    let path = artifact.path.as_ref().ok_or("it is no longer in the store")?;
    if artifact.size_bytes > MAX_BYTES {
        return Err(format!("it has {} bytes, expected at most {MAX_BYTES}", artifact.size_bytes));
    }
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Result<Document, String> {
    let document: Document = serde_json::from_str(text)
        .map_err(|error| format!("it is not the document that this version reads: {error}"))?;
    if document.schema != SCHEMA {
        return Err(format!("expected version {SCHEMA} of its layout, found {}", document.schema));
    }
    Ok(document)
}

/// A document.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Document {
    schema: u32,
    /// By the port that the model came in by.
    pub(crate) models: BTreeMap<String, Inspected>,
}

/// A compiled model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Inspected {
    /// Kernel tier that ran.
    pub(crate) tier: String,
    /// Threads of its pool.
    pub(crate) threads: u64,
    /// Word pieces of the one text that the arena is planned for.
    pub(crate) sequence: u64,
    /// Bytes of the arena.
    pub(crate) arena_bytes: u64,
    /// Bytes of constants that kernels read.
    pub(crate) constant_bytes: u64,
    /// Bytes of weights packed for kernels.
    pub(crate) packed_bytes: u64,
    /// In the order in which they run.
    pub(crate) nodes: Vec<Node>,
    /// What lies where in the arena.
    pub(crate) blocks: Vec<Block>,
}

/// A node and its kernel.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) operation: String,
    /// Type and shape.
    pub(crate) output: String,
    pub(crate) kernel: String,
    /// Nodes of the graph that it stands for.
    pub(crate) stands_for: u64,
}

/// A part of the arena, in bytes and nodes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Block {
    pub(crate) offset: u64,
    pub(crate) size_bytes: u64,
    pub(crate) first: u64,
    /// The number of nodes where it holds an output.
    pub(crate) last: u64,
    pub(crate) name: String,
    pub(crate) scratch: bool,
}
