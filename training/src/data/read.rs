//! Bytes → rows with their line numbers, or every problem at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::{DataError, Problems, Row, Source};

/// A row as the file has it.
pub(super) struct Record {
    pub(super) row: Row,
    /// Line in the file, from 1.
    pub(super) line: usize,
    /// Value of the group column.
    pub(super) group: Option<String>,
    /// What the split column says; absent when the source names none.
    pub(super) declared: Option<Declared>,
}

/// A split that a file can declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    Train,
    Test,
}

/// Positions of the columns that matter.
struct Columns {
    n_columns: usize,
    text: usize,
    label: usize,
    split: Option<usize>,
    group: Option<usize>,
}

pub(super) fn records(bytes: &[u8], source: &Source) -> Result<Vec<Record>, DataError> {
    let plain = plain(bytes, &source.path)?;
    let bytes = plain.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&plain);
    let mut problems = Problems::default();
    let mut lines = lines(bytes);
    let columns = match lines.next() {
        Some((line, header)) => columns(line, header, source, &mut problems),
        None => {
            problems.add(1, "expected a header line, found an empty file".to_owned());
            None
        }
    };
    let Some(columns) = columns else { return Err(problems.into_error(&source.path)) };
    let labels: BTreeMap<&str, usize> =
        source.labels.iter().enumerate().map(|(id, label)| (label.as_str(), id)).collect();
    let mut records = Vec::new();
    for (line, bytes) in lines {
        match record(line, bytes, &columns, &labels) {
            Ok(record) => records.push(record),
            Err(messages) => messages.into_iter().for_each(|message| problems.add(line, message)),
        }
    }
    if records.is_empty() && problems.total == 0 {
        problems.add(2, "expected rows after the header, found none".to_owned());
    }
    problems.check(&source.path)?;
    Ok(records)
}

/// The texts of one column, labels and splits aside, in file order.
pub(super) fn texts(bytes: &[u8], path: &Path, column: &str) -> Result<Vec<String>, DataError> {
    let plain = plain(bytes, path)?;
    let bytes = plain.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&plain);
    let mut problems = Problems::default();
    let mut lines = lines(bytes);
    let header = lines.next().map(|(_, header)| decode(header)).transpose();
    let header = header.ok().flatten().unwrap_or_default();
    let Some(place) = header.split('\t').position(|name| name == column) else {
        let found = header.split('\t').collect::<Vec<_>>().join("`, `");
        problems.add(1, format!("expected a column `{column}`, found `{found}`"));
        return Err(problems.into_error(path));
    };
    let mut texts = Vec::new();
    for (line, bytes) in lines {
        match decode(bytes).map(|row| row.split('\t').nth(place).map(str::to_owned)) {
            Ok(Some(text)) => texts.push(text),
            Ok(None) => problems.add(line, format!("expected at least {} columns", place + 1)),
            Err(message) => problems.add(line, message),
        }
    }
    problems.check(path)?;
    Ok(texts)
}

/// The bytes, decompressed where the name says that they are compressed.
fn plain<'a>(bytes: &'a [u8], path: &Path) -> Result<Cow<'a, [u8]>, DataError> {
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut decompressed = Vec::new();
    MultiGzDecoder::new(bytes)
        .read_to_end(&mut decompressed)
        .map_err(|error| DataError::Io { path: path.to_owned(), source: error })?;
    Ok(Cow::Owned(decompressed))
}

/// Lines with their numbers from 1; `\n` and `\r\n` end a line, the last may lack its end.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let count = if bytes.is_empty() { 0 } else { usize::MAX };
    bytes
        .split(|&byte| byte == b'\n')
        .take(count)
        .enumerate()
        .map(|(index, line)| (index + 1, line.strip_suffix(b"\r").unwrap_or(line)))
}

fn columns(
    line: usize,
    header: &[u8],
    source: &Source,
    problems: &mut Problems,
) -> Option<Columns> {
    let header = match decode(header) {
        Ok(header) => header,
        Err(message) => {
            problems.add(line, message);
            return None;
        }
    };
    let names: Vec<&str> = header.split('\t').collect();
    let mut find = |key: &str, wanted: &str| {
        let places: Vec<usize> = (0..names.len()).filter(|&index| names[index] == wanted).collect();
        match places[..] {
            [place] => Some(place),
            [] => {
                let found = names.join("`, `");
                problems
                    .add(line, format!("expected a column `{wanted}` (`{key}`), found `{found}`"));
                None
            }
            _ => {
                let n_places = places.len();
                problems.add(
                    line,
                    format!("expected one column `{wanted}` (`{key}`), found {n_places}"),
                );
                None
            }
        }
    };
    let text = find("text", &source.text);
    let label = find("label", &source.label);
    let split = source.split.as_deref().map(|column| find("split", column));
    let group = source.group.as_deref().map(|column| find("group", column));
    Some(Columns {
        n_columns: names.len(),
        text: text?,
        label: label?,
        // A named column has to be there, an unnamed one is simply not looked at.
        split: split.map_or(Some(None), |place| place.map(Some))?,
        group: group.map_or(Some(None), |place| place.map(Some))?,
    })
}

fn record(
    line: usize,
    bytes: &[u8],
    columns: &Columns,
    labels: &BTreeMap<&str, usize>,
) -> Result<Record, Vec<String>> {
    let content = decode(bytes).map_err(|message| vec![message])?;
    let fields: Vec<&str> = content.split('\t').collect();
    if fields.len() != columns.n_columns {
        let (expected, found) = (columns.n_columns, fields.len());
        return Err(vec![format!(
            "expected {expected} tab-separated columns as in the header, found {found}"
        )]);
    }
    let mut messages = Vec::new();
    let text = fields[columns.text];
    if text.trim().is_empty() {
        messages.push("expected a text, found an empty one".to_owned());
    }
    let label = labels.get(fields[columns.label]).copied();
    if label.is_none() {
        let known: Vec<&str> = labels.keys().copied().collect();
        let (known, found) = (known.join("`, `"), quoted(fields[columns.label]));
        messages.push(format!("expected one of the labels `{known}`, found {found}"));
    }
    let mut declared = None;
    if let Some(place) = columns.split {
        declared = match fields[place] {
            "train" => Some(Declared::Train),
            "test" => Some(Declared::Test),
            other => {
                messages
                    .push(format!("expected the split `train` or `test`, found {}", quoted(other)));
                None
            }
        };
    }
    let group = columns.group.map(|place| fields[place].to_owned());
    if group.as_deref().is_some_and(|group| group.trim().is_empty()) {
        messages.push("expected a group, found an empty one".to_owned());
    }
    match label {
        Some(label) if messages.is_empty() => {
            Ok(Record { row: Row { text: text.to_owned(), label }, line, group, declared })
        }
        _ => Err(messages),
    }
}

fn decode(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (at, byte) = (error.valid_up_to(), bytes[error.valid_up_to()]);
        format!("expected UTF-8, found byte 0x{byte:02x} at byte {} of the line", at + 1)
    })?;
    match text.find('\0') {
        Some(at) => {
            Err(format!("expected text, found a NUL character at byte {} of the line", at + 1))
        }
        None => Ok(text),
    }
}

/// A field for an error message, shortened where it is long.
fn quoted(field: &str) -> String {
    const LONGEST: usize = 40;
    match field.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("`{}…`", &field[..end]),
        None => format!("`{field}`"),
    }
}
