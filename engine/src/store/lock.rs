//! Locks between processes. The kernel drops them with their process, so none is ever stale.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError, io_at};

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Run, once it has a number.
    pub run: Option<i64>,
    /// When it took the lock, in UTC.
    pub since: jiff::Timestamp,
}

impl Holder {
    /// This process, now.
    pub fn here(run: Option<i64>) -> Self {
        Self { pid: std::process::id(), run, since: jiff::Timestamp::now() }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.run {
            Some(run) => {
                write!(formatter, "run {run} (process {}, since {:.0})", self.pid, self.since)
            }
            None => write!(formatter, "process {} (since {:.0})", self.pid, self.since),
        }
    }
}

/// A lock that is held until it is dropped or its process ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Outcome of a try to take a lock.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It is ours.
    Taken(Lock),
    /// Someone else holds it; who, as far as is known.
    Held(Option<Holder>),
}

impl Lock {
    /// Notes who holds the lock, for those who wait.
    pub(crate) fn name_holder(&mut self, holder: &Holder) {
        let text = serde_json::to_vec(holder).expect("a holder is plain JSON");
        // Only a message for others is at stake.
        let _unnamed = self
            .file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| self.file.write_all(&text));
    }
}

impl Store {
    /// Tries to take the lock called `name` for this process alone.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Attempt, StoreError> {
        let path = self.home.join("locks").join(name);
        let file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                let mut lock = Lock { file };
                lock.name_holder(&Holder::here(None));
                Ok(Attempt::Taken(lock))
            }
            Err(TryLockError::WouldBlock) => Ok(Attempt::Held(read_holder(file))),
            Err(TryLockError::Error(source)) => Err(io_at("lock", &path)(source)),
        }
    }

    /// Waits for the lock called `name`.
    pub(crate) fn lock(&self, name: &str) -> Result<Lock, StoreError> {
        let path = self.home.join("locks").join(name);
        let file = open(&path)?;
        file.lock().map_err(io_at("lock", &path))?;
        Ok(Lock { file })
    }

    /// Tries to mark the store as in use: nothing is collected while any such lock is held. It is
    /// held by a collection under way.
    pub(crate) fn try_lock_in_use(&self) -> Result<Attempt, StoreError> {
        let path = self.home.join("locks").join("store");
        let file = open(&path)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Attempt::Taken(Lock { file })),
            Err(TryLockError::WouldBlock) => Ok(Attempt::Held(read_holder(file))),
            Err(TryLockError::Error(source)) => Err(io_at("lock", &path)(source)),
        }
    }

    /// Takes the whole store for this process.
    pub(super) fn lock_whole(&self) -> Result<Lock, StoreError> {
        // A process that is just being started holds copies of its parent's locks for a moment.
        for _ in 0..20 {
            if let Attempt::Taken(lock) = self.try_lock("store")? {
                return Ok(lock);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(StoreError::Busy { holder: "a run".to_owned() })
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    let folder = super::ingest::parent(path);
    fs::create_dir_all(folder).map_err(io_at("create folder", folder))?;
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io_at("open", path))
}

fn read_holder(mut file: File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}
