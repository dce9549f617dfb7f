//! Errors of the state folder; each names its path and what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::Digest;

/// Why something in the state folder did not work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was tried, for instance `write`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A stage wrote something that cannot be stored.
    #[error("cannot store {}: {what}; outputs consist of plain files and folders with UTF-8 names", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A record is not what this version writes.
    #[error("cannot read {}: {reason}; `pipeline cache verify` removes damaged records", path.display())]
    Record {
        /// The record's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something in the store does not have the content its name promises.
    #[error("stored content {digest} is damaged: {reason}")]
    Damaged {
        /// Name of the blob or tree.
        digest: Digest,
        /// What was found.
        reason: String,
    },
    /// Something else holds a lock that cannot be shared.
    #[error("the state folder is in use by {holder}; try again when it has finished")]
    Busy {
        /// Who holds it.
        holder: String,
    },
}

/// Makes an [`StoreError::Io`] of an I/O error.
pub(crate) fn io_at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; the disk is full: free some space, for instance with `pipeline gc`, and run again"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; if this is the state folder, set PIPELINE_HOME to one that can be written"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_read_only_disks_say_what_to_do() {
        let shown = |code: i32| {
            io_at("write", Path::new("x"))(io::Error::from_raw_os_error(code)).to_string()
        };
        assert!(shown(28).contains("the disk is full"), "{}", shown(28));
        assert!(shown(30).contains("set PIPELINE_HOME"), "{}", shown(30));
        assert!(shown(13).contains("set PIPELINE_HOME"), "{}", shown(13));
        assert!(!shown(2).contains(';'), "{}", shown(2));
    }
}
