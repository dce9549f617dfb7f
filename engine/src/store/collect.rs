//! Removing what nothing refers to any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Action, Artifact, Digest, Form, Store, StoreError, io_at};

/// What [`Store::collect`] may remove beyond leftovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CollectOptions {
    /// Also actions, checkpoints, models and partial downloads that nobody used for this long.
    pub older_than: Option<Duration>,
    /// Also the actions that were not used for longest, until the store is this small.
    pub max_bytes: Option<u64>,
    /// Say what would go, remove nothing.
    pub dry_run: bool,
}

/// Outcome of [`Store::collect`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Collected {
    /// Actions forgotten.
    pub actions: u64,
    /// Files and folders removed.
    pub removed: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Bytes of content that stay.
    pub kept_bytes: u64,
}

struct Record {
    path: PathBuf,
    used: SystemTime,
    /// What it refers to, and the bytes of each: outputs, and the files of those that are trees.
    contents: Vec<(Digest, u64)>,
    is_action: bool,
}

/// What records refer to, each content counted once.
#[derive(Default)]
struct References {
    /// Records that refer to a content.
    counts: BTreeMap<Digest, usize>,
    size_bytes: u64,
}

impl References {
    fn of(records: &[Record]) -> Self {
        let mut references = Self::default();
        for (digest, size_bytes) in records.iter().flat_map(|record| &record.contents) {
            let count = references.counts.entry(digest.clone()).or_default();
            references.size_bytes += if *count == 0 { *size_bytes } else { 0 };
            *count += 1;
        }
        references
    }

    fn subtract(&mut self, record: &Record) {
        for (digest, size_bytes) in &record.contents {
            let count = self.counts.get_mut(digest).expect("the record was counted");
            *count -= 1;
            if *count == 0 {
                self.counts.remove(digest);
                self.size_bytes -= size_bytes;
            }
        }
    }
}

impl Store {
    /// Removes leftovers of killed runs and content that no action refers to, and as many
    /// actions as the options say.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a run is at work; otherwise when something cannot be removed.
    pub fn collect(&self, options: CollectOptions) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        if !self.home.join("locks").exists() {
            return Ok(collected);
        }
        let _whole = self.lock_whole()?;
        let now = SystemTime::now();
        let expired = |used: SystemTime| {
            let age = now.duration_since(used).unwrap_or_default();
            options.older_than.is_some_and(|limit| age >= limit)
        };
        let (mut gone, mut kept): (Vec<_>, Vec<_>) =
            self.all_records()?.into_iter().partition(|record| expired(record.used));
        let mut references = References::of(&kept);
        if let Some(max_bytes) = options.max_bytes {
            kept.sort_by_key(|record| record.used);
            for record in kept.into_iter().filter(|record| record.is_action) {
                if references.size_bytes <= max_bytes {
                    break;
                }
                references.subtract(&record);
                gone.push(record);
            }
        }
        let mut sweep = Sweep { dry_run: options.dry_run, collected: &mut collected };
        for record in &gone {
            sweep.collected.actions += u64::from(record.is_action);
            sweep.remove(&record.path, 0)?;
        }
        sweep.collected.kept_bytes = references.size_bytes;
        for section in ["blobs", "trees"] {
            for path in children(&self.home.join(section))?.iter().map(|shard| children(shard)) {
                for path in path? {
                    let stem =
                        path.file_stem().and_then(|stem| stem.to_str()).and_then(Digest::parse);
                    if stem.is_none_or(|digest| !references.counts.contains_key(&digest)) {
                        // A tree's files are links to blobs, which are counted there.
                        let bytes = if section == "blobs" { size_of(&path) } else { 0 };
                        sweep.remove(&path, bytes)?;
                    }
                }
            }
        }
        for path in children(&self.tmp())? {
            sweep.remove(&path, size_of(&path))?;
        }
        for path in children(&self.home.join("downloads"))? {
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified()).unwrap_or(now);
            if expired(used) {
                sweep.remove(&path, size_of(&path))?;
            }
        }
        for path in children(&self.home.join("work"))? {
            let key = path.file_name().and_then(|name| name.to_str()).and_then(Digest::parse);
            let finished = key.is_none_or(|key| self.action(&key).is_some());
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified()).unwrap_or(now);
            if finished || expired(used) {
                sweep.remove(&path, size_of(&path))?;
            }
        }
        Ok(collected)
    }

    fn all_records(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        for (section, is_action) in [("actions", true), ("models", false)] {
            for path in self.records(section)? {
                let bytes = fs::read(&path).map_err(io_at("read", &path))?;
                let used = fs::metadata(&path)
                    .and_then(|metadata| metadata.modified())
                    .map_err(io_at("read", &path))?;
                let outputs: Vec<Artifact> = if is_action {
                    serde_json::from_slice::<Action>(&bytes)
                        .map(|action| action.outputs.into_values().collect())
                        .unwrap_or_default()
                } else {
                    model_artifact(&bytes).into_iter().collect()
                };
                let contents =
                    outputs.iter().flat_map(|artifact| self.contents(artifact)).collect();
                records.push(Record { path, used, contents, is_action });
            }
        }
        Ok(records)
    }

    /// An artifact and its files, and the bytes of each; a tree's own are its files'.
    fn contents(&self, artifact: &Artifact) -> Vec<(Digest, u64)> {
        match artifact.form {
            Form::Blob => vec![(artifact.digest.clone(), artifact.size_bytes)],
            Form::Tree => {
                let tree = self.read_tree(&artifact.digest);
                let files = tree.into_iter().flat_map(|tree| tree.entries);
                let files = files.map(|entry| (entry.digest, entry.size_bytes));
                std::iter::once((artifact.digest.clone(), 0)).chain(files).collect()
            }
        }
    }
}

/// The artifact that a model record refers to.
pub(super) fn model_artifact(record: &[u8]) -> Option<Artifact> {
    let record: serde_json::Value = serde_json::from_slice(record).ok()?;
    serde_json::from_value(record.get("artifact")?.clone()).ok()
}

struct Sweep<'a> {
    dry_run: bool,
    collected: &'a mut Collected,
}

impl Sweep<'_> {
    fn remove(&mut self, path: &Path, bytes: u64) -> Result<(), StoreError> {
        self.collected.removed += 1;
        self.collected.freed_bytes += bytes;
        if self.dry_run {
            return Ok(());
        }
        if path.is_dir() {
            fs::remove_dir_all(path).map_err(io_at("remove", path))
        } else {
            fs::remove_file(path).map_err(io_at("remove", path))
        }
    }
}

/// Bytes of a file, or of all files in a folder.
fn size_of(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            children(path).unwrap_or_default().iter().map(|child| size_of(child)).sum()
        }
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut children = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_at("read", folder))? {
        children.push(entry.map_err(io_at("read", folder))?.path());
    }
    children.sort();
    Ok(children)
}
