//! Reading stored content back and comparing it with its name.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Action, Artifact, Digest, Form, Store, StoreError, Tree, hash_file, io_at};

/// What is wrong with something in the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[error("{}: {reason}", path.display())]
#[serde(rename_all = "kebab-case")]
pub struct Damage {
    /// File at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Outcome of [`Store::verify_all`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verification {
    /// Actions whose record and outputs were read back.
    pub actions: u64,
    /// Bytes read back.
    pub size_bytes: u64,
    /// What was wrong; the actions concerned are forgotten, the next run does them again.
    pub damaged: Vec<Damage>,
}

impl Store {
    /// Reads an artifact back and compares every file with its digest.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verify(&self, artifact: &Artifact) -> Result<(), Damage> {
        match artifact.form {
            Form::Blob => self.verify_blob(&artifact.digest, artifact.size_bytes),
            Form::Tree => self.verify_tree(&artifact.digest),
        }
    }

    /// Reads everything in the store back, and forgets the actions that lost something.
    ///
    /// # Errors
    /// When the store cannot be read or a record cannot be removed.
    pub fn verify_all(&self) -> Result<Verification, StoreError> {
        let mut verification = Verification::default();
        for path in self.records("actions")? {
            verification.actions += 1;
            match self.verify_record(&path) {
                Ok(size_bytes) => verification.size_bytes += size_bytes,
                Err(damage) => {
                    fs::remove_file(&path).map_err(io_at("remove", &path))?;
                    verification.damaged.push(damage);
                }
            }
        }
        for path in self.records("models")? {
            let artifact =
                fs::read(&path).ok().and_then(|bytes| super::collect::model_artifact(&bytes));
            let checked = match artifact {
                Some(artifact) => self.verify(&artifact).map(|()| artifact.size_bytes),
                None => {
                    Err(Damage { path: path.clone(), reason: "it is no model record".to_owned() })
                }
            };
            match checked {
                Ok(size_bytes) => verification.size_bytes += size_bytes,
                Err(damage) => {
                    fs::remove_file(&path).map_err(io_at("remove", &path))?;
                    verification.damaged.push(damage);
                }
            }
        }
        Ok(verification)
    }

    fn verify_record(&self, path: &Path) -> Result<u64, Damage> {
        let damage = |reason: String| Damage { path: path.to_owned(), reason };
        let bytes = fs::read(path).map_err(|error| damage(error.to_string()))?;
        let action: Action = serde_json::from_slice(&bytes)
            .map_err(|error| damage(format!("it is no action record of this version: {error}")))?;
        if self.action_path(&action.key) != path {
            return Err(damage(format!("it holds the record of key {}", action.key)));
        }
        let mut size_bytes = 0;
        for artifact in action.outputs.values() {
            self.verify(artifact)?;
            size_bytes += artifact.size_bytes;
        }
        Ok(size_bytes)
    }

    fn verify_blob(&self, digest: &Digest, size_bytes: u64) -> Result<(), Damage> {
        let path = self.blob(digest);
        let damage = |reason: String| Damage { path: path.clone(), reason };
        let found = fs::metadata(&path).map_err(|error| damage(error.to_string()))?.len();
        if found != size_bytes {
            return Err(damage(format!("it has {found} bytes, expected {size_bytes}")));
        }
        let (found, _) = hash_file(&path).map_err(|error| damage(error.to_string()))?;
        if found != *digest {
            return Err(damage(format!("its content has digest {found}")));
        }
        Ok(())
    }

    fn verify_tree(&self, digest: &Digest) -> Result<(), Damage> {
        let tree = self.read_tree(digest)?;
        for entry in &tree.entries {
            self.verify_blob(&entry.digest, entry.size_bytes)?;
        }
        if !self.laid_out(&tree, digest) {
            let reason = "the folder does not hold the files of its listing".to_owned();
            return Err(Damage { path: self.tree(digest), reason });
        }
        Ok(())
    }

    pub(super) fn read_tree(&self, digest: &Digest) -> Result<Tree, Damage> {
        let path = self.listing(digest);
        let damage = |reason: String| Damage { path: path.clone(), reason };
        let bytes = fs::read(&path).map_err(|error| damage(error.to_string()))?;
        let tree: Tree = serde_json::from_slice(&bytes)
            .map_err(|error| damage(format!("it is no listing: {error}")))?;
        if tree.digest() != *digest {
            return Err(damage(format!("its entries have digest {}", tree.digest())));
        }
        Ok(tree)
    }

    /// Whether the folder of a tree holds its files and nothing else. A hard link to the blob
    /// is as good as the blob; a copy has to have its content.
    pub(super) fn laid_out(&self, tree: &Tree, digest: &Digest) -> bool {
        let folder = self.tree(digest);
        let whole = tree.entries.iter().all(|entry| {
            let path = folder.join(&entry.path);
            match (fs::symlink_metadata(&path), fs::metadata(self.blob(&entry.digest))) {
                (Ok(view), Ok(blob)) if view.is_file() => {
                    (view.dev(), view.ino()) == (blob.dev(), blob.ino())
                        || hash_file(&path).is_ok_and(|(found, _)| found == entry.digest)
                }
                _ => false,
            }
        });
        whole && count_files(&folder) == Some(tree.entries.len())
    }

    /// Record files of a section, in order.
    pub(super) fn records(&self, section: &str) -> Result<Vec<PathBuf>, StoreError> {
        let mut records = Vec::new();
        let top = self.home.join(section);
        if !top.exists() {
            return Ok(records);
        }
        let mut folders = vec![top];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(io_at("read", &folder))? {
                let path = entry.map_err(io_at("read", &folder))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "json") {
                    records.push(path);
                }
            }
        }
        records.sort();
        Ok(records)
    }
}

fn count_files(folder: &Path) -> Option<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        count += if entry.file_type().ok()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Some(count)
}
