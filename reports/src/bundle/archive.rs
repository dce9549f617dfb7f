//! Packing and unpacking, the latter of files that strangers made.

use std::io::Read as _;

use super::{BundleError, DIGESTS, Entries, INSPECTIONS, LOCK, MANIFEST, RECORD, REPORT};

/// Compression level of zstd: reports are text, more than this takes long and saves little.
const LEVEL: i32 = 12;
/// Most bytes of all entries together.
const MAX_BYTES: u64 = 512 << 20;
/// Most entries.
const MAX_ENTRIES: usize = 256;
/// Most memory for the window of the decoder, as a power of two.
const MAX_WINDOW: u32 = 27;

/// The archive of `entries`.
pub(super) fn pack(entries: &Entries) -> Result<Vec<u8>, BundleError> {
    let tar = tar_of(entries).map_err(BundleError::Pack)?;
    // Without a checksum of zstd's own: the digests tell which entry is damaged.
    zstd::stream::encode_all(tar.as_slice(), LEVEL).map_err(BundleError::Pack)
}

fn tar_of(entries: &Entries) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, name, content.as_slice())?;
    }
    builder.into_inner()
}

/// The entries of an archive, every byte of it accounted for.
///
/// # Errors
/// [`BundleError::Refused`] for what no bundle has: links, other names, names that are there
/// twice, too many bytes. [`BundleError::Damaged`] for what cannot be unpacked.
pub(super) fn unpack(archive: &[u8]) -> Result<Entries, BundleError> {
    let tar = decompress(archive)?;
    let mut entries = Entries::new();
    let mut reading = "its first entry".to_owned();
    let mut reader = tar::Archive::new(tar.as_slice());
    let damaged = |reading: &str, error: std::io::Error| BundleError::Damaged {
        what: format!("{reading} cannot be unpacked: {error}"),
    };
    // Raw: extensions that rename or resize entries are refused as what they are.
    for entry in reader.entries().map_err(|error| damaged(&reading, error))?.raw(true) {
        let mut entry = entry.map_err(|error| damaged(&reading, error))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        check(&entry, &name)?;
        if entries.len() == MAX_ENTRIES {
            return refused(format!("it has more than {MAX_ENTRIES} entries"));
        }
        reading = format!("`{name}`");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(|error| damaged(&reading, error))?;
        if entries.insert(name.clone(), content).is_some() {
            return refused(format!("it has `{name}` twice"));
        }
        reading = format!("the entry after `{name}`");
    }
    let again = tar_of(&entries).map_err(BundleError::Pack)?;
    if again != tar {
        let at = again.iter().zip(&tar).position(|(a, b)| a != b);
        let at = at.unwrap_or_else(|| again.len().min(tar.len()));
        let near = entry_at(&entries, at);
        let what = format!("byte {at} of the archive, {near}, is not as it was packed");
        return Err(BundleError::Damaged { what });
    }
    Ok(entries)
}

fn decompress(archive: &[u8]) -> Result<Vec<u8>, BundleError> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    if !archive.starts_with(&MAGIC) {
        return refused("it does not begin as a zstd file does".to_owned());
    }
    let damaged =
        |error| BundleError::Damaged { what: format!("it cannot be decompressed: {error}") };
    let mut decoder = zstd::stream::Decoder::new(archive).map_err(damaged)?;
    decoder.window_log_max(MAX_WINDOW).map_err(damaged)?;
    let mut tar = Vec::new();
    let mut limited = decoder.take(MAX_BYTES + 1);
    if let Err(error) = limited.read_to_end(&mut tar) {
        let near = last_name(&tar);
        return Err(BundleError::Damaged {
            what: format!("{near} cannot be decompressed: {error}"),
        });
    }
    if tar.len() as u64 > MAX_BYTES {
        return refused(format!("it has more than {MAX_BYTES} bytes when decompressed"));
    }
    Ok(tar)
}

fn check<R: std::io::Read>(entry: &tar::Entry<'_, R>, name: &str) -> Result<(), BundleError> {
    let kind = entry.header().entry_type();
    if kind != tar::EntryType::Regular {
        return refused(format!("`{name}` is no plain file but of tar's type {kind:?}"));
    }
    let is_inspection = || {
        let digest = name.strip_prefix(INSPECTIONS).and_then(|rest| rest.strip_suffix(".json"));
        digest.is_some_and(is_digest)
    };
    if [DIGESTS, LOCK, MANIFEST, RECORD, REPORT].contains(&name) || is_inspection() {
        return Ok(());
    }
    refused(format!("it has an entry {name:?}, which bundles do not have"))
}

/// Whether a text is a blake3 digest in hexadecimal.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn refused<T>(what: String) -> Result<T, BundleError> {
    Err(BundleError::Refused { what })
}

/// Bytes of a block of a tar archive.
const BLOCK: usize = 512;

/// The entry that the byte at `at` belongs to, header and padding included.
fn entry_at(entries: &Entries, at: usize) -> String {
    let mut end = 0;
    for (name, content) in entries {
        end += BLOCK + content.len().next_multiple_of(BLOCK);
        if at < end {
            return format!("in `{name}`");
        }
    }
    "after the last entry".to_owned()
}

/// The last entry that a broken archive begins.
fn last_name(tar: &[u8]) -> String {
    let mut reader = tar::Archive::new(tar);
    let mut last = "its first entry".to_owned();
    for entry in reader.entries().into_iter().flatten().map_while(Result::ok) {
        last = format!("`{}`", String::from_utf8_lossy(&entry.path_bytes()));
    }
    last
}
