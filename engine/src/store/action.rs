//! The record of an action: what came of a cache key.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Artifact, Damage, Digest, Store, StoreError, io_at, write_atomically};
use crate::protocol::{Metric, Milestone, Unavailable};

/// Version of the record's format; other versions count as absent.
const FORMAT: u32 = 1;

/// What came of a cache key: written last, so that it never points at something half-written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Action {
    format: u32,
    /// The cache key.
    pub key: Digest,
    /// The document the key is the digest of.
    pub document: Value,
    /// Output ports and what was written to them.
    pub outputs: BTreeMap<String, Artifact>,
    /// Summary metrics.
    pub metrics: Vec<Metric>,
    /// Metrics that could not be measured.
    pub unavailable: Vec<Unavailable>,
    /// What had been reached after each epoch, for stages that have epochs.
    #[serde(default)]
    pub milestones: Vec<Milestone>,
    /// Run that did the work.
    pub run: i64,
    /// Seconds the work took.
    pub work_s: f64,
    /// When it was done, in UTC.
    pub done_at: jiff::Timestamp,
}

impl Action {
    /// A record of work that has just been done.
    pub fn new(key: Digest, document: Value, run: i64) -> Self {
        Self {
            format: FORMAT,
            key,
            document,
            outputs: BTreeMap::new(),
            metrics: Vec::new(),
            unavailable: Vec::new(),
            milestones: Vec::new(),
            run,
            work_s: 0.0,
            done_at: jiff::Timestamp::now(),
        }
    }
}

impl Store {
    /// The record of a key, if there is one that this version can read.
    pub fn action(&self, key: &Digest) -> Option<Action> {
        let bytes = fs::read(self.action_path(key)).ok()?;
        let action: Action = serde_json::from_slice(&bytes).ok()?;
        (action.format == FORMAT && action.key == *key).then_some(action)
    }

    /// Writes the record of an action whose outputs are in the store.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, action: &Action) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(action).expect("a record is plain JSON");
        write_atomically(&self.tmp(), &self.action_path(&action.key), &text)
    }

    /// Removes the record of a key, so that the next run does the work again.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn forget(&self, key: &Digest) -> Result<(), StoreError> {
        let path = self.action_path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The record of a key whose every output was read back and found whole.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verified_action(&self, key: &Digest) -> Result<Option<Action>, Damage> {
        let Some(action) = self.action(key) else {
            return Ok(None);
        };
        for artifact in action.outputs.values() {
            self.verify(artifact)?;
        }
        Ok(Some(action))
    }

    /// Highest number of a run that left a log or a result; 0 where none did.
    pub(crate) fn highest_run(&self) -> Result<i64, StoreError> {
        let logs = self.home().join("logs");
        let mut highest = 0;
        if logs.exists() {
            for entry in fs::read_dir(&logs).map_err(io_at("read", &logs))? {
                let name = entry.map_err(io_at("read", &logs))?.file_name();
                highest =
                    highest.max(name.to_str().and_then(|name| name.parse().ok()).unwrap_or(0));
            }
        }
        for path in self.records("actions")? {
            let bytes = fs::read(&path).map_err(io_at("read", &path))?;
            // A record that is damaged counts as absent everywhere.
            highest =
                highest.max(serde_json::from_slice::<Action>(&bytes).map_or(0, |one| one.run));
        }
        Ok(highest)
    }

    /// Marks an action as used now; [`Store::collect`] goes by that.
    pub fn touch(&self, key: &Digest) {
        let now = std::time::SystemTime::now();
        // Only the age for collection is at stake, and a store on a read-only disk still serves hits.
        let _unchanged =
            fs::File::open(self.action_path(key)).and_then(|file| file.set_modified(now));
    }
}
