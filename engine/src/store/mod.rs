//! The state folder: blobs and trees under the digest of their content, and the record of which
//! action made them.
//!
//! Everything is written to a temporary name, synced and renamed in; an action's record comes
//! last. A process may be killed at any point and leaves at most unreferenced files, which
//! [`Store::collect`] removes.

mod action;
mod collect;
mod error;
mod ingest;
mod lock;
mod verify;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use action::Action;
pub use collect::{CollectOptions, Collected};
pub use error::StoreError;
pub use lock::{Holder, Lock};
pub use verify::{Damage, Verification};

pub(crate) use error::io_at;
pub(crate) use ingest::{hash_file, write_atomically};
pub(crate) use lock::Attempt as LockAttempt;

/// Digest of some content: 64 hexadecimal digits of blake3.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(digits)).then(|| Self(text.to_owned()))
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.to_hex().to_string())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Something in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Artifact {
    /// One file, or a folder of files.
    pub form: Form,
    /// Digest of the content, names inside a folder included.
    pub digest: Digest,
    /// Bytes of all its files.
    pub size_bytes: u64,
}

/// Whether an artifact is a file or a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// One file, stored as a blob.
    Blob,
    /// A folder, stored as a listing of blobs and laid out with hard links to them.
    Tree,
}

/// What a folder in the store consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Tree {
    /// Files in the order of their paths.
    entries: Vec<TreeEntry>,
}

/// One file of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TreeEntry {
    /// Path inside the folder, parts joined by `/`.
    path: String,
    digest: Digest,
    size_bytes: u64,
}

impl Tree {
    /// Digest over length-prefixed paths and content digests, in order.
    fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("pipeline 2025 tree of files v1");
        for entry in &self.entries {
            hasher.update(&(entry.path.len() as u64).to_le_bytes());
            hasher.update(entry.path.as_bytes());
            hasher.update(entry.digest.as_str().as_bytes());
        }
        hasher.finalize().into()
    }

    fn size_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size_bytes).sum()
    }
}

/// A state folder.
#[derive(Debug, Clone)]
pub struct Store {
    home: PathBuf,
}

impl Store {
    /// The store in a state folder that may not exist yet; nothing is written.
    pub fn at(home: &Path) -> Self {
        Self { home: home.to_owned() }
    }

    /// The store in a state folder, which is created where it is missing.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn create(home: &Path) -> Result<Self, StoreError> {
        let store = Self::at(home);
        let folders = ["blobs", "trees", "actions", "models", "locks", "logs", "tmp", "work"];
        for folder in folders {
            let path = home.join(folder);
            fs::create_dir_all(&path).map_err(io_at("create folder", &path))?;
        }
        let probe = tempfile::Builder::new()
            .prefix("probe-")
            .tempfile_in(store.tmp())
            .map_err(io_at("write to", &store.tmp()))?;
        drop(probe);
        let ignore = home.join(".gitignore");
        if !ignore.exists() {
            write_atomically(&store.tmp(), &ignore, b"*\n")?;
        }
        Ok(store)
    }

    /// The state folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where an artifact lies: a file, or a folder.
    pub fn path(&self, artifact: &Artifact) -> PathBuf {
        match artifact.form {
            Form::Blob => self.blob(&artifact.digest),
            Form::Tree => self.tree(&artifact.digest),
        }
    }

    /// Folder for files on their way into the store; on the same file system.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.home.join("tmp")
    }

    /// Folder of everything an unfinished action keeps between attempts.
    pub(crate) fn work(&self, key: &Digest) -> PathBuf {
        self.home.join("work").join(key.as_str())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.sharded("blobs", digest)
    }

    fn tree(&self, digest: &Digest) -> PathBuf {
        self.sharded("trees", digest)
    }

    fn listing(&self, digest: &Digest) -> PathBuf {
        self.sharded("trees", digest).with_extension("json")
    }

    fn action_path(&self, key: &Digest) -> PathBuf {
        self.sharded("actions", key).with_extension("json")
    }

    fn sharded(&self, section: &str, digest: &Digest) -> PathBuf {
        self.home.join(section).join(&digest.as_str()[..2]).join(digest.as_str())
    }
}
