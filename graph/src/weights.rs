//! Tensors by name in a safetensors file (<https://github.com/huggingface/safetensors>).
//!
//! A file is an 8-byte little-endian header length, a JSON header and the elements. Reading maps
//! the file, so that weights cost no copy; writing is a function of names and tensors alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;
use serde::de::{self, MapAccess};
use serde::{Deserialize, Deserializer, Serialize};

use crate::file::{self, FileError};
use crate::{DType, Element, Tensor};

const _: () = assert!(cfg!(target_endian = "little"), "the format stores little-endian elements");

/// Longest header that is read; the format's own reader has the same limit.
const HEADER_LIMIT: usize = 100_000_000;
/// Most elements of one tensor: far above any model, far below where sizes overflow.
const ELEMENT_LIMIT: usize = 1 << 48;

/// What can be wrong with a file of weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file as a whole is not what it should be.
    #[error("{}: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// One tensor of the file is not what it should be.
    #[error("{}: tensor `{tensor}` at byte {offset}: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Where its elements begin, in bytes from the start of the file.
        offset: usize,
        /// What was expected and found.
        reason: String,
    },
    /// A weight is infinite or not a number.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
}

/// A tensor has an element that is infinite or not a number.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("tensor `{tensor}`: expected finite numbers, found {value} at element {index}")]
pub struct NotFinite {
    /// Name of the tensor.
    pub tensor: String,
    /// Flat row-major index of the first such element.
    pub index: usize,
    /// The element.
    pub value: f32,
}

/// Checks that no float of `tensors` is NaN, and none infinite but the only one of its tensor and
/// those of masks, which hold 0 and −∞ alone.
///
/// # Errors
///
/// Names the first element that is.
pub fn ensure_finite<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), NotFinite> {
    for (name, tensor) in tensors {
        let Ok(elements) = tensor.elements::<f32>() else { continue };
        let may_be_infinite = match elements {
            [alone] => !alone.is_nan(),
            _ => {
                elements.contains(&0.0)
                    && elements.iter().all(|&value| value == 0.0 || value == f32::NEG_INFINITY)
            }
        };
        if let Some(index) = elements.iter().position(|value| !value.is_finite())
            && !may_be_infinite
        {
            return Err(NotFinite { tensor: name.to_owned(), index, value: elements[index] });
        }
    }
    Ok(())
}

/// Reads all tensors of a file. `f32` and integers stay in the mapped file where their alignment
/// allows it; half precision (`F16`, `BF16`) becomes `f32`.
///
/// # Errors
///
/// When the file is unreadable, truncated, has gaps or overlaps, or an element type that graphs do
/// not hold; each names the file, and the tensor and offset where there is one.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let map = Arc::new(map(path)?);
    parse(path, &map, Some(&map))
}

/// Maps a file for reading.
#[allow(unsafe_code, reason = "a mapping is the only way to have weights without a copy")]
pub(crate) fn map(path: &Path) -> Result<Mmap, FileError> {
    let fail = |source| FileError::new("read", path, source);
    let file = File::open(path).map_err(fail)?;
    // SAFETY: the mapping is private and read-only, and outlives its borrows through `Arc`. The
    // precondition is that nobody shortens or rewrites the file meanwhile: every writer here makes
    // a new file and renames it over the old one (`file::write_parts`), which leaves mapped pages
    // alone, and stored artifacts are never changed.
    unsafe { Mmap::map(&file) }.map_err(fail)
}

/// Writes `tensors`, larger element types first and by name within (so that every tensor is
/// aligned when the file is mapped). The file appears under its name only when it is complete.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), FileError> {
    let tensors = file_order(tensors);
    let header = header(&tensors);
    let length = (header.len() as u64).to_le_bytes();
    let elements = tensors.iter().map(|(_, tensor)| tensor.bytes());
    file::write_parts(path, [length.as_slice(), header.as_bytes()].into_iter().chain(elements))
}

fn file_order<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Vec<(&'a str, &'a Tensor)> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.dtype().size_bytes()), *name));
    tensors
}

/// The JSON header, padded so that the elements begin at a multiple of 8.
fn header(tensors: &[(&str, &Tensor)]) -> String {
    let mut header = String::from("{");
    let mut offset = 0;
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        let entry = Entry {
            dtype: format_type(tensor.dtype()).to_owned(),
            shape: tensor.shape().to_vec(),
            data_offsets: (offset, offset + tensor.size_bytes()),
        };
        offset = entry.data_offsets.1;
        let json = |error| format!("strings and numbers are JSON: {error}");
        let name = serde_json::to_string(name).map_err(json).expect("a name is JSON");
        let entry = serde_json::to_string(&entry).map_err(json).expect("an entry is JSON");
        let comma = if index == 0 { "" } else { "," };
        write!(header, "{comma}{name}:{entry}").expect("a string takes text");
    }
    header.push('}');
    let padding = header.len().next_multiple_of(8) - header.len();
    header.extend(std::iter::repeat_n(' ', padding));
    header
}

fn format_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::I8 => "I8",
        DType::U8 => "U8",
        DType::Bool => "BOOL",
    }
}

/// What the header says of one tensor; offsets count from the end of the header.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The header's entries in the order of their elements.
#[derive(Debug)]
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Header;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object with one entry a tensor")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut names, mut entries) = (BTreeSet::new(), Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<de::IgnoredAny>()?;
                        continue;
                    }
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format!("tensor `{name}` is there twice")));
                    }
                    entries.push((name, map.next_value::<Entry>()?));
                }
                entries.sort_by_key(|(_, entry)| entry.data_offsets);
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// The tensors of `bytes`, which are `map`'s when there is one.
fn parse(
    path: &Path,
    bytes: &[u8],
    map: Option<&Arc<Mmap>>,
) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let fail = |reason| WeightsError::Header { path: path.to_owned(), reason };
    let length = bytes.first_chunk::<8>().ok_or_else(|| {
        fail(format!("expected a header length of 8 bytes, found {} bytes: truncated", bytes.len()))
    })?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > HEADER_LIMIT {
        let limit = format!("expected a header of at most {HEADER_LIMIT} bytes, found {length}");
        return Err(fail(format!("{limit}: this is no safetensors file")));
    }
    let data = 8 + length;
    let header = bytes.get(8..data).ok_or_else(|| {
        let found = bytes.len() - 8;
        fail(format!("expected a header of {length} bytes, found {found}: truncated"))
    })?;
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| fail(format!("the header is not what it should be: {error}")))?;
    let mut tensors = BTreeMap::new();
    let mut end = data;
    for (name, entry) in header.0 {
        let start = entry.data_offsets.0.saturating_add(data);
        let range = (start, entry.data_offsets.1.saturating_add(data));
        let tensor =
            tensor(bytes, map, &entry, range, end).map_err(|reason| WeightsError::Tensor {
                path: path.to_owned(),
                tensor: name.clone(),
                offset: start,
                reason,
            })?;
        end = range.1;
        tensors.insert(name, tensor);
    }
    if end != bytes.len() {
        let found = bytes.len();
        return Err(fail(format!("expected the last tensor to end at byte {found}, found {end}")));
    }
    Ok(tensors)
}

/// One tensor, whose elements are `start..end` of `bytes` and have to follow `previous_end`.
fn tensor(
    bytes: &[u8],
    map: Option<&Arc<Mmap>>,
    entry: &Entry,
    (start, end): (usize, usize),
    previous_end: usize,
) -> Result<Tensor, String> {
    if start < previous_end {
        return Err(format!("overlaps the tensor before it, which ends at byte {previous_end}"));
    }
    if start > previous_end {
        return Err(format!("expected no gap after byte {previous_end}, where elements end"));
    }
    let found = bytes.len();
    let data = bytes.get(start..end).ok_or_else(|| {
        format!("expected elements to byte {end}, found the end of the file at {found}: truncated")
    })?;
    let width = match entry.dtype.as_str() {
        "F32" | "I32" => 4,
        "I64" => 8,
        "F16" | "BF16" => 2,
        "I8" | "U8" | "BOOL" => 1,
        other => {
            return Err(format!(
                "expected elements of type F32, F16, BF16, I64, I32, I8, U8 or BOOL, found {other}; \
                 convert the file first"
            ));
        }
    };
    let shape = &entry.shape;
    let count = checked_elements(shape).ok_or_else(|| format!("shape {shape:?} is too large"))?;
    if count * width != data.len() {
        let (expected, found) = (count * width, data.len());
        return Err(format!("expected {expected} bytes for shape {shape:?}, found {found}"));
    }
    Ok(match entry.dtype.as_str() {
        "F32" => elements::<f32>(shape, data, map, start),
        "I64" => elements::<i64>(shape, data, map, start),
        "I32" => elements::<i32>(shape, data, map, start),
        "I8" => elements::<i8>(shape, data, map, start),
        "U8" => elements::<u8>(shape, data, map, start),
        "BOOL" => truths(shape, data)?,
        "F16" => Tensor::from_fn(shape, |index| f16::from_bits(half_bits(data, index)).to_f32()),
        _ => Tensor::from_fn(shape, |index| bf16::from_bits(half_bits(data, index)).to_f32()),
    })
}

fn half_bits(data: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([data[2 * index], data[2 * index + 1]])
}

/// Elements in the mapped file, or a copy where there is none or they are not aligned.
fn elements<T: Element>(
    shape: &[usize],
    data: &[u8],
    map: Option<&Arc<Mmap>>,
    offset: usize,
) -> Tensor {
    let mapped = map.and_then(|map| Tensor::mapped::<T>(shape, map, offset));
    mapped.unwrap_or_else(|| {
        Tensor::from_bytes(T::DTYPE, shape, data).expect("the caller compared shape and bytes")
    })
}

fn truths(shape: &[usize], data: &[u8]) -> Result<Tensor, String> {
    if let Some(index) = data.iter().position(|&byte| byte > 1) {
        return Err(format!("expected 0 or 1 for truth value {index}, found {}", data[index]));
    }
    Ok(Tensor::from_fn(shape, |index| data[index] == 1))
}

/// Number of elements of `shape`; `None` when products of its dimensions could overflow.
pub(crate) fn checked_elements(shape: &[usize]) -> Option<usize> {
    let bound = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)))?;
    (bound <= ELEMENT_LIMIT).then(|| shape.iter().product())
}

#[cfg(test)]
mod tests;
