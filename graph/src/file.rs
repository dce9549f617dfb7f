//! Whole files: read with their path in every error, written so that no one sees half of one.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file or folder could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried: `read`, `write`, `create`.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }
}

/// The bytes of a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let fail = |source| FileError::new("read", path, source);
    let size = fs::metadata(path).map_err(fail)?.len();
    if size > limit {
        let reason = format!("expected at most {limit} bytes, found {size}");
        return Err(fail(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    fs::read(path).map_err(fail)
}

/// Makes `path` a file of `bytes`, in one step: readers see the old file or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_parts(path, std::iter::once(bytes))
}

/// [`write`] of parts one after the other.
pub(crate) fn write_parts<'a>(
    path: &Path,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), FileError> {
    let fail = |source| FileError::new("write", path, source);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = builder().tempfile_in(folder.unwrap_or(Path::new("."))).map_err(fail)?;
    for part in parts {
        file.write_all(part).map_err(fail)?;
    }
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// Temporary files are private by default, while these become files like any other.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
}

/// Makes sure that a folder is there.
pub(crate) fn create_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|source| FileError::new("create", path, source))
}
