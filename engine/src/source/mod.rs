//! Pretrained checkpoints: a list of mirrors, the first that answers wins, the digest decides.

mod hub;
mod mirror;
mod wheel;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::manifest::ModelSpec;
use crate::store::{Artifact, Digest, Store, StoreError, io_at, write_atomically};

pub use mirror::Mirror;

/// Why a checkpoint could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Every mirror was tried.
    #[error("model `{model}`: no mirror has it:{}", listing(.reasons))]
    NoMirror {
        /// `NAME` of `[models.NAME]`.
        model: String,
        /// Mirrors and what each said.
        reasons: Vec<(String, String)>,
    },
    /// It came, but cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Someone stopped the run.
    #[error("model `{0}`: interrupted; what was fetched so far is kept")]
    Interrupted(String),
}

impl SourceError {
    /// Whether a mirror has the model, but with other content than the manifest says.
    pub fn is_wrong_digest(&self) -> bool {
        match self {
            Self::NoMirror { reasons, .. } => {
                reasons.iter().any(|(_, reason)| reason.starts_with(WRONG_DIGEST))
            }
            Self::Store(_) | Self::Interrupted(_) => false,
        }
    }
}

/// How the reason of a mirror with other content starts.
const WRONG_DIGEST: &str = "wrong digest";

fn listing(reasons: &[(String, String)]) -> String {
    reasons.iter().map(|(mirror, reason)| format!("\n  {mirror}: {reason}")).collect()
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FetchProgress {
    /// Mirror being tried.
    pub mirror: String,
    /// File being fetched, or what the mirror's own client says.
    pub what: String,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// Bytes there will be, where that is known.
    pub total_bytes: Option<u64>,
}

/// A checkpoint in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Checkpoint {
    /// Folder of its files.
    pub artifact: Artifact,
    /// Mirror it came from.
    pub origin: String,
}

/// What a mirror needs to do its work.
pub(crate) struct Fetch<'a> {
    /// Folder for the files; keeps partial ones between tries.
    folder: PathBuf,
    files: &'a [String],
    mirror: String,
    cancelled: &'a AtomicBool,
    progress: &'a (dyn Fn(FetchProgress) + Sync),
}

impl Fetch<'_> {
    fn report(&self, what: &str, done_bytes: u64, total_bytes: Option<u64>) {
        (self.progress)(FetchProgress {
            mirror: self.mirror.clone(),
            what: what.to_owned(),
            done_bytes,
            total_bytes,
        });
    }

    fn check_cancelled(&self) -> Result<(), String> {
        if self.cancelled.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
    }
}

/// The checkpoint of a model if it was fetched before and is still whole.
pub(crate) fn cached(store: &Store, spec: &ModelSpec) -> Option<Checkpoint> {
    let bytes = fs::read(record_path(store, spec)?).ok()?;
    let checkpoint: Checkpoint = serde_json::from_slice(&bytes).ok()?;
    store.verify(&checkpoint.artifact).ok()?;
    Some(checkpoint)
}

/// Takes a model from the cache, or else from the first mirror that has it.
///
/// # Errors
/// [`SourceError::NoMirror`] with each mirror's reason.
pub(crate) fn obtain(
    store: &Store,
    root: &Path,
    model: &str,
    spec: &ModelSpec,
    cancelled: &AtomicBool,
    progress: &(dyn Fn(FetchProgress) + Sync),
) -> Result<Checkpoint, SourceError> {
    let identity = identity(spec);
    let _alone = store.lock(&format!("model-{identity}"))?;
    if let Some(checkpoint) = cached(store, spec) {
        if let Some(record) = record_path(store, spec) {
            // Only its age for collection is at stake.
            let _unchanged = fs::File::open(record)
                .and_then(|file| file.set_modified(std::time::SystemTime::now()));
        }
        return Ok(checkpoint);
    }
    let downloads = store.home().join("downloads").join(identity.as_str());
    let mut reasons = Vec::new();
    for (index, source) in spec.sources.iter().enumerate() {
        let fetch = Fetch {
            folder: downloads.join(index.to_string()),
            files: &spec.files,
            mirror: source.clone(),
            cancelled,
            progress,
        };
        let fetched = Mirror::parse(source)
            .and_then(|mirror| {
                fs::create_dir_all(&fetch.folder)
                    .map_err(|error| io_at("create folder", &fetch.folder)(error).to_string())?;
                mirror.fetch(&fetch, root)
            })
            .and_then(|folder| check_digest(&folder, spec, &downloads).map(|()| folder));
        match fetched {
            Ok(folder) => {
                let checkpoint = keep(store, spec, &folder, source)?;
                // What is in the store needs no second copy; a leftover is collected later.
                let _leftover = fs::remove_dir_all(&downloads);
                return Ok(checkpoint);
            }
            Err(_) if cancelled.load(Ordering::Relaxed) => {
                return Err(SourceError::Interrupted(model.to_owned()));
            }
            Err(reason) => reasons.push((source.clone(), reason)),
        }
    }
    Err(SourceError::NoMirror { model: model.to_owned(), reasons })
}

/// Compares the weights with the manifest's digest; a file of another digest is removed, so
/// that it is not taken for a finished download.
fn check_digest(folder: &Path, spec: &ModelSpec, downloads: &Path) -> Result<(), String> {
    let Some(expected) = &spec.sha256 else {
        return Ok(());
    };
    let file = spec.weights_file().expect("a checked manifest names a weights file");
    let path = folder.join(file);
    let found =
        sha256(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    // Files outside belong to the user or to the hub's cache.
    if folder.starts_with(downloads) {
        let _leftover = fs::remove_file(&path);
    }
    Err(format!("{WRONG_DIGEST} of {file}: expected sha256 {expected}, found {found}"))
}

/// Copies the files into the store and notes where they are.
fn keep(
    store: &Store,
    spec: &ModelSpec,
    folder: &Path,
    source: &str,
) -> Result<Checkpoint, SourceError> {
    let scratch = tempfile::Builder::new()
        .prefix("model-")
        .tempdir_in(store.tmp())
        .map_err(io_at("create a folder in", &store.tmp()))?;
    for file in &spec.files {
        let (from, to) = (folder.join(file), scratch.path().join(file));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(io_at("create folder", parent))?;
        }
        fs::copy(&from, &to).map_err(io_at("copy into the state folder", &from))?;
    }
    let artifact = store.ingest(&scratch.keep())?;
    let checkpoint = Checkpoint { artifact, origin: source.to_owned() };
    if let Some(path) = record_path(store, spec) {
        let text = serde_json::to_vec_pretty(&checkpoint).expect("a record is plain JSON");
        write_atomically(&store.tmp(), &path, &text)?;
    }
    Ok(checkpoint)
}

/// Where a fetched model is noted; models without a digest are read anew every time.
fn record_path(store: &Store, spec: &ModelSpec) -> Option<PathBuf> {
    spec.sha256.as_ref()?;
    Some(store.home().join("models").join(identity(spec).as_str()).with_extension("json"))
}

/// What tells one model from another: its digest and files; mirrors only where it has no digest.
fn identity(spec: &ModelSpec) -> Digest {
    let sources = if spec.sha256.is_some() { &[][..] } else { &spec.sources[..] };
    let digest = spec.sha256.as_ref().map(|digest| digest.to_ascii_lowercase());
    let text = serde_json::to_vec(&(digest, &spec.files, sources)).expect("strings are plain JSON");
    blake3::hash(&text).into()
}

fn sha256(path: &Path) -> io::Result<String> {
    use sha2::Digest as _;
    let mut file = fs::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
