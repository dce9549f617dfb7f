//! Moving finished files into the store.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Artifact, Digest, Form, Store, StoreError, Tree, TreeEntry, io_at};

impl Store {
    /// Moves a finished file or folder into the store; what lay at `path` is gone afterwards.
    ///
    /// # Errors
    /// When it cannot be read, holds links or other things that are no files, or the store
    /// cannot be written.
    pub fn ingest(&self, path: &Path) -> Result<Artifact, StoreError> {
        let metadata = fs::symlink_metadata(path).map_err(io_at("read", path))?;
        if metadata.is_file() {
            let (digest, size_bytes) = self.take_blob(path)?;
            return Ok(Artifact { form: Form::Blob, digest, size_bytes });
        }
        if !metadata.is_dir() {
            return Err(unsupported(path));
        }
        let mut entries = Vec::new();
        self.take_folder(path, "", &mut entries)?;
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        let tree = Tree { entries };
        let digest = tree.digest();
        let listing = serde_json::to_vec(&tree).expect("a listing is plain JSON");
        write_atomically(&self.tmp(), &self.listing(&digest), &listing)?;
        self.lay_out(&tree, &digest)?;
        fs::remove_dir_all(path).map_err(io_at("remove", path))?;
        Ok(Artifact { form: Form::Tree, digest, size_bytes: tree.size_bytes() })
    }

    fn take_folder(
        &self,
        folder: &Path,
        prefix: &str,
        entries: &mut Vec<TreeEntry>,
    ) -> Result<(), StoreError> {
        for entry in fs::read_dir(folder).map_err(io_at("read", folder))? {
            let entry = entry.map_err(io_at("read", folder))?;
            let path = entry.path();
            let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}"))
            else {
                return Err(StoreError::Unsupported { path, what: "its name is not UTF-8" });
            };
            let kind = entry.file_type().map_err(io_at("read", &path))?;
            if kind.is_dir() {
                self.take_folder(&path, &format!("{name}/"), entries)?;
            } else if kind.is_file() {
                let (digest, size_bytes) = self.take_blob(&path)?;
                entries.push(TreeEntry { path: name, digest, size_bytes });
            } else {
                return Err(unsupported(&path));
            }
        }
        Ok(())
    }

    /// Moves one file in. An identical blob that is already there is replaced by it, which
    /// also heals a damaged one.
    fn take_blob(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let (digest, size_bytes) = hash_file(path)?;
        let blob = self.blob(&digest);
        if fs::metadata(&blob).is_ok_and(|there| there.len() == size_bytes)
            && hash_file(&blob)?.0 == digest
        {
            fs::remove_file(path).map_err(io_at("remove", path))?;
            return Ok((digest, size_bytes));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o444))
            .map_err(io_at("protect", path))?;
        let file = File::open(path).map_err(io_at("open", path))?;
        file.sync_all().map_err(io_at("write", path))?;
        let folder = parent(&blob);
        fs::create_dir_all(folder).map_err(io_at("create folder", folder))?;
        fs::rename(path, &blob).map_err(io_at("move into the store as", &blob))?;
        sync_folder(folder)?;
        Ok((digest, size_bytes))
    }

    /// Lays a tree out as a folder of hard links, unless it is there already.
    fn lay_out(&self, tree: &Tree, digest: &Digest) -> Result<(), StoreError> {
        let target = self.tree(digest);
        if self.laid_out(tree, digest) {
            return Ok(());
        }
        let scratch = tempfile::Builder::new()
            .prefix("tree-")
            .tempdir_in(self.tmp())
            .map_err(io_at("create a folder in", &self.tmp()))?;
        for entry in &tree.entries {
            let path = scratch.path().join(&entry.path);
            let folder = parent(&path);
            fs::create_dir_all(folder).map_err(io_at("create folder", folder))?;
            let blob = self.blob(&entry.digest);
            // Some file systems know no hard links.
            if fs::hard_link(&blob, &path).is_err() {
                fs::copy(&blob, &path).map_err(io_at("copy into", &path))?;
                File::open(&path)
                    .and_then(|file| file.sync_all())
                    .map_err(io_at("write", &path))?;
            }
        }
        if target.exists() {
            let damaged = scratch.path().with_extension("damaged");
            fs::rename(&target, &damaged).map_err(io_at("move away", &target))?;
            fs::remove_dir_all(&damaged).map_err(io_at("remove", &damaged))?;
        }
        let scratch = scratch.keep();
        match fs::rename(&scratch, &target) {
            Ok(()) => sync_folder(parent(&target)),
            // Someone else laid the same tree out in between.
            Err(_) if self.laid_out(tree, digest) => {
                fs::remove_dir_all(&scratch).map_err(io_at("remove", &scratch))
            }
            Err(source) => Err(io_at("move into the store as", &target)(source)),
        }
    }
}

/// Digest and size of a file.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, u64), StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(io_at("open", path))?;
    let size = file.metadata().map_err(io_at("read", path))?.len();
    // Larger reads than the default let blake3 use its widest instructions.
    let mut buffer = vec![0; usize::try_from(size.clamp(1, 1 << 20)).expect("at most a MiB")];
    let mut read = 0;
    loop {
        match io::Read::read(&mut file, &mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                read += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_at("read", path)(error)),
        }
    }
    Ok((hasher.finalize().into(), read))
}

/// Writes a whole file under a temporary name, syncs it and renames it to `path`.
pub(crate) fn write_atomically(tmp: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let folder = parent(path);
    fs::create_dir_all(folder).map_err(io_at("create folder", folder))?;
    let mut file = tempfile::NamedTempFile::new_in(tmp).map_err(io_at("create a file in", tmp))?;
    file.write_all(content).map_err(io_at("write", path))?;
    file.as_file().sync_all().map_err(io_at("write", path))?;
    file.persist(path).map_err(|error| io_at("write", path)(error.error))?;
    sync_folder(folder)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(io_at("sync", folder))
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().expect("paths inside the store have a parent")
}

fn unsupported(path: &Path) -> StoreError {
    StoreError::Unsupported { path: path.to_owned(), what: "it is a link or a special file" }
}
