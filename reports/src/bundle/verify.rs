//! Checks a bundle: every digest, and that its report follows from its record.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::archive::{is_digest, refused, unpack};
use super::{BundleError, DIGESTS, Entries, INSPECTIONS, LOCK, RECORD, VERSION, made_of};
use crate::Inspections;

/// A bundle that holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verified {
    /// Number of the run.
    pub run: i64,
    /// Name of its manifest.
    pub manifest: String,
    /// Entries whose digests were compared.
    pub entries: usize,
    /// What became of making the report again.
    pub replay: Replay,
}

/// What became of making the report of a bundle again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replay {
    /// Byte for byte the same.
    Same,
    /// Another version of the program made it; what this one would make says nothing.
    OtherVersion {
        /// The version that made the bundle.
        bundled_by: String,
    },
}

/// What is read of a lock, whichever version wrote it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LockHead {
    bundled_by: String,
    run: i64,
    manifest: String,
}

/// Checks the bytes of a bundle; nothing is written and nothing else is read.
///
/// # Errors
/// [`BundleError::Damaged`] names the entry that is not what was bundled, [`BundleError::Refused`]
/// says why the file is no bundle.
pub fn verify(bundle: &[u8]) -> Result<Verified, BundleError> {
    let entries = unpack(bundle)?;
    let get = |name: &str| {
        entries
            .get(name)
            .ok_or_else(|| BundleError::Refused { what: format!("`{name}` is missing") })
    };
    compare_digests(&entries, get(DIGESTS)?)?;
    let lock: LockHead = serde_json::from_slice(get(LOCK)?)
        .map_err(|error| BundleError::Refused { what: format!("`{LOCK}`: {error}") })?;
    let record = get(RECORD)?;
    let replay = if lock.bundled_by == VERSION {
        for (name, content) in made_of(record, &inspections(&entries)?)? {
            if *get(&name)? != content {
                let what = format!("`{name}` does not follow from `{RECORD}`");
                return Err(BundleError::Damaged { what });
            }
        }
        Replay::Same
    } else {
        Replay::OtherVersion { bundled_by: lock.bundled_by }
    };
    Ok(Verified { run: lock.run, manifest: lock.manifest, entries: entries.len() - 1, replay })
}

fn compare_digests(entries: &Entries, digests: &[u8]) -> Result<(), BundleError> {
    let damaged = |what: String| Err(BundleError::Damaged { what });
    let mut expected = BTreeMap::new();
    for line in String::from_utf8_lossy(digests).lines() {
        match line.split_once("  ") {
            Some((digest, name)) if is_digest(digest) => {
                expected.insert(name.to_owned(), digest.to_owned());
            }
            _ => return damaged(format!("`{DIGESTS}` has the line {line:?}, which is no digest")),
        }
    }
    for (name, content) in entries.iter().filter(|(name, _)| *name != DIGESTS) {
        let found = blake3::hash(content).to_hex();
        match expected.remove(name) {
            None => return damaged(format!("`{DIGESTS}` does not list `{name}`")),
            Some(digest) if digest != found.as_str() => {
                return damaged(format!("`{name}` has digest {found}, `{DIGESTS}` says {digest}"));
            }
            Some(_) => {}
        }
    }
    match expected.keys().next() {
        Some(name) => damaged(format!("`{name}` is listed in `{DIGESTS}` and is not there")),
        None => Ok(()),
    }
}

fn inspections(entries: &Entries) -> Result<Inspections, BundleError> {
    let mut inspections = Inspections::default();
    for (name, content) in entries {
        let digest = name.strip_prefix(INSPECTIONS).and_then(|rest| rest.strip_suffix(".json"));
        if let Some(digest) = digest {
            let Ok(text) = String::from_utf8(content.clone()) else {
                return refused(format!("`{name}` is no text"));
            };
            inspections.insert(digest.to_owned(), text);
        }
    }
    Ok(inspections)
}
