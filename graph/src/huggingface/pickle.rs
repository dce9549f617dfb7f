//! Tensors of `pytorch_model.bin`: a zip of one pickle and one file of elements a storage.
//!
//! A pickle is a program for a small stack machine that may call any Python function. Here it can
//! call none: the few names that a dictionary of tensors needs stand for plain data, every other
//! is refused. The opcodes are those of Python's `pickletools`, as far as `torch.save` writes them.

mod machine;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use zip::ZipArchive;

use crate::weights::{self, checked_elements};
use crate::{Element, Tensor};

use machine::{Storage, TensorRecord};

/// Most bytes of the pickle itself; a tensor takes about 150.
const PICKLE_LIMIT: u64 = 64 << 20;

/// Tensors can share elements and half precision doubles; more than this is an attack on memory.
const EXPANSION_LIMIT: usize = 8;

/// What can be wrong with a PyTorch file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct PickleError {
    path: PathBuf,
    reason: String,
}

/// Reads the tensors of a file that `torch.save` wrote, version 1.6 or newer. Half and double
/// precision become `f32`.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, PickleError> {
    let fail = |reason| PickleError { path: path.to_owned(), reason };
    let bytes = weights::map(path).map_err(|error| fail(error.to_string()))?;
    parse(&bytes).map_err(fail)
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
        format!(
            "expected a zip as torch.save writes since 1.6 ({error}); load and save the file again \
             with a newer PyTorch, or convert it to safetensors"
        )
    })?;
    let names = archive.file_names().filter_map(Result::ok);
    let prefix = names.filter_map(|name| name.strip_suffix("data.pkl").map(str::to_owned)).next();
    let prefix = prefix.ok_or("expected a data.pkl in the zip, found none")?;
    let program = entry(&mut archive, &format!("{prefix}data.pkl"), PICKLE_LIMIT)?;
    let mut storages: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    let mut budget = bytes.len().saturating_mul(EXPANSION_LIMIT);
    for (name, record) in machine::tensors(&program)? {
        let storage = &record.storage;
        let named = |reason| format!("tensor `{name}`: {reason}");
        if !storages.contains_key(&storage.key) {
            // `torch.save` stores elements as they are, so a file holds at least their bytes.
            if storage.elements > bytes.len() {
                return Err(named(format!("{} elements are more than the file", storage.elements)));
            }
            let elements = read_storage(&mut archive, &prefix, storage).map_err(named)?;
            storages.insert(storage.key.clone(), elements);
        }
        let elements = storages[&storage.key].as_slice();
        let tensor = gather(&record, elements).map_err(named)?;
        budget = budget.checked_sub(tensor.size_bytes()).ok_or_else(|| {
            named(format!("tensors take more than {EXPANSION_LIMIT} times the file"))
        })?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// The bytes of one file of the zip, which has at most `limit`.
fn entry(archive: &mut Archive<'_>, name: &str, limit: u64) -> Result<Vec<u8>, String> {
    let file = archive.by_name(name).map_err(|error| format!("`{name}` in the zip: {error}"))?;
    let mut bytes = Vec::new();
    // One more than allowed, so that a longer entry shows whatever size it declares.
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("`{name}` in the zip: {error}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("expected `{name}` in the zip to have at most {limit} bytes"));
    }
    Ok(bytes)
}

fn read_storage(
    archive: &mut Archive<'_>,
    prefix: &str,
    storage: &Storage,
) -> Result<Vec<u8>, String> {
    let expected = width(&storage.kind)?
        .checked_mul(storage.elements)
        .ok_or_else(|| format!("{} elements are too many", storage.elements))?;
    let bytes = entry(archive, &format!("{prefix}data/{}", storage.key), expected as u64)?;
    if bytes.len() != expected {
        let found = bytes.len();
        return Err(format!("expected {expected} bytes of elements, found {found}: truncated"));
    }
    Ok(bytes)
}

/// Bytes of an element of a storage class.
fn width(kind: &str) -> Result<usize, String> {
    Ok(match kind {
        "FloatStorage" | "IntStorage" => 4,
        "DoubleStorage" | "LongStorage" => 8,
        "HalfStorage" | "BFloat16Storage" => 2,
        "CharStorage" | "ByteStorage" | "BoolStorage" => 1,
        other => return Err(format!("elements in a torch.{other} are not supported")),
    })
}

/// The tensor's elements, row-major, from anywhere in its storage.
fn gather(record: &TensorRecord, storage: &[u8]) -> Result<Tensor, String> {
    let TensorRecord { shape, strides, offset, storage: Storage { kind, elements, .. } } = record;
    if shape.len() != strides.len() {
        return Err(format!("expected a stride a dimension of {shape:?}, found {strides:?}"));
    }
    let count = checked_elements(shape).ok_or_else(|| format!("shape {shape:?} is too large"))?;
    let reach = shape.iter().zip(strides).try_fold(*offset, |last, (&size, &stride)| {
        stride.checked_mul(size.saturating_sub(1)).and_then(|step| last.checked_add(step))
    });
    if count > 0 && reach.is_none_or(|last| last >= *elements) {
        return Err(format!(
            "shape {shape:?} with strides {strides:?} at element {offset} reaches outside its \
             {elements} stored elements"
        ));
    }
    // Strides of 0 make a tensor larger than its storage, which no weight is.
    if count > *elements {
        return Err(format!("expected at most {elements} elements, found shape {shape:?}"));
    }
    let place = |index: usize| {
        let (mut rest, mut place) = (index, *offset);
        for (&size, &stride) in shape.iter().zip(strides).rev() {
            place += rest % size * stride;
            rest /= size;
        }
        place
    };
    let source = Source { bytes: storage, shape, place: &place };
    Ok(match kind.as_str() {
        "FloatStorage" => source.tensor(f32::from_le_bytes),
        "DoubleStorage" => source.tensor(|bytes| f64::from_le_bytes(bytes) as f32),
        "HalfStorage" => source.tensor(|bytes| f16::from_le_bytes(bytes).to_f32()),
        "BFloat16Storage" => source.tensor(|bytes| bf16::from_le_bytes(bytes).to_f32()),
        "LongStorage" => source.tensor(i64::from_le_bytes),
        "IntStorage" => source.tensor(i32::from_le_bytes),
        "CharStorage" => source.tensor(i8::from_le_bytes),
        _ => source.tensor(u8::from_le_bytes),
    })
}

struct Source<'a> {
    bytes: &'a [u8],
    shape: &'a [usize],
    /// Index in the storage for a flat index of the tensor.
    place: &'a dyn Fn(usize) -> usize,
}

impl Source<'_> {
    fn tensor<T: Element, const N: usize>(&self, element: impl Fn([u8; N]) -> T) -> Tensor {
        Tensor::from_fn(self.shape, |index| {
            let start = (self.place)(index) * N;
            let bytes = self.bytes[start..start + N].try_into();
            element(bytes.expect("a range of N bytes"))
        })
    }
}

#[cfg(test)]
mod tests;
