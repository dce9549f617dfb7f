//! What flows into stages: content, and where it lies.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::history::SourceRecord;
use crate::manifest::{DatasetSpec, Manifest, ModelSpec};
use crate::source::{self, FetchProgress, SourceError};
use crate::store::{Digest, Store, StoreError, hash_file};

/// Content connected to an input port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Content {
    pub(crate) digest: Digest,
    pub(crate) path: PathBuf,
    pub(crate) dataset: Option<DatasetSpec>,
}

/// Content of a dataset, and what to record about it.
pub(crate) fn dataset(
    manifest: &Manifest,
    name: &str,
    spec: &DatasetSpec,
) -> Result<(Content, SourceRecord), StoreError> {
    let path = manifest.data_path(spec);
    let (digest, size_bytes) = hash_file(&path)?;
    let record = SourceRecord {
        name: format!("data.{name}"),
        origin: spec.path.display().to_string(),
        digest: digest.to_string(),
        size_bytes,
    };
    Ok((Content { digest, path, dataset: Some(spec.clone()) }, record))
}

/// Content of a checkpoint, fetched where it is not cached, and what to record about it.
pub(super) fn model(
    store: &Store,
    manifest: &Manifest,
    name: &str,
    spec: &ModelSpec,
    cancelled: &AtomicBool,
    progress: &(dyn Fn(FetchProgress) + Sync),
) -> Result<(Content, SourceRecord), SourceError> {
    let checkpoint = source::obtain(store, &manifest.root, name, spec, cancelled, progress)?;
    let record = SourceRecord {
        name: format!("models.{name}"),
        origin: checkpoint.origin,
        digest: checkpoint.artifact.digest.to_string(),
        size_bytes: checkpoint.artifact.size_bytes,
    };
    let path = store.path(&checkpoint.artifact);
    Ok((Content { digest: checkpoint.artifact.digest, path, dataset: None }, record))
}
