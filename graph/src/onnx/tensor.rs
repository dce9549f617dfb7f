//! Tensors of ONNX files: elements in the message, or in a file beside it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use prost::Message;

use super::proto::TensorMessage;
use super::{element_type, type_name};
use crate::weights::checked_elements;
use crate::{DType, Tensor};

/// `TensorProto.DataLocation`: the elements lie in another file.
const EXTERNAL: i32 = 1;
/// Numbers of the schema for types that graphs do not hold, but whose tensors become `f32`.
pub(super) const FLOAT16: i32 = 10;
pub(super) const BFLOAT16: i32 = 16;
const DOUBLE: i32 = 11;
/// Numbers of the schema for integers of four bits, whose tensors become those of eight.
const UINT4: i32 = 21;
const INT4: i32 = 22;

/// The tensor of a serialized `TensorProto`, as test data sets hold them.
///
/// # Errors
///
/// When the bytes are no tensor, or one of a type that graphs do not hold.
pub fn read_tensor(bytes: &[u8]) -> Result<Tensor, String> {
    let message = TensorMessage::decode(bytes).map_err(|error| error.to_string())?;
    if has_four_bits(&message) {
        return Err(unsupported(message.data_type.unwrap_or(0)));
    }
    read(&message, None)
}

/// The tensor of a message. Floats of other widths become `f32`, where that loses nothing, and integers
/// of four bits become those of eight.
///
/// # Errors
///
/// When the type is not one that graphs hold, the elements do not fit the shape, or another file is
/// missing, too short, or outside `folder`.
pub(super) fn read(message: &TensorMessage, folder: Option<&Path>) -> Result<Tensor, String> {
    let size = |&size: &i64| usize::try_from(size).map_err(|_| format!("a dimension is {size}"));
    let shape: Vec<usize> = message.dims.iter().map(size).collect::<Result<_, _>>()?;
    let elements =
        checked_elements(&shape).ok_or_else(|| format!("shape {shape:?} is too large"))?;
    let external;
    let raw = if message.data_location == Some(EXTERNAL) {
        let size = size_bytes(message.data_type.unwrap_or(0), elements)?;
        external = external_bytes(message, folder, size)?;
        Some(external.as_slice())
    } else {
        message.raw_data.as_deref()
    };
    let kind = message.data_type.unwrap_or(0);
    match raw {
        Some(raw) => of_bytes(kind, &shape, raw),
        None => of_fields(message, kind, &shape, elements),
    }
}

/// Whether a tensor is of integers of four bits.
pub(super) fn has_four_bits(message: &TensorMessage) -> bool {
    matches!(message.data_type, Some(UINT4 | INT4))
}

/// Bytes of so many elements.
fn size_bytes(kind: i32, elements: usize) -> Result<usize, String> {
    let width = match (element_type(kind), kind) {
        (Some(dtype), _) => dtype.size_bytes(),
        (None, FLOAT16 | BFLOAT16) => 2,
        (None, DOUBLE) => 8,
        (None, UINT4 | INT4) => return Ok(elements.div_ceil(2)),
        _ => return Err(unsupported(kind)),
    };
    Ok(elements.saturating_mul(width))
}

/// Integers of four bits, two a byte, the first in its lower half.
fn of_halves(kind: i32, shape: &[usize], bytes: &[u8]) -> Result<Tensor, String> {
    let elements = checked_elements(shape).filter(|elements| elements.div_ceil(2) == bytes.len());
    let elements = elements.ok_or_else(|| {
        format!("expected half a byte an element of {shape:?}, found {} bytes", bytes.len())
    })?;
    let halves = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).take(elements);
    let tensor = match kind {
        UINT4 => Tensor::new(shape, halves.collect::<Vec<u8>>()),
        _ => Tensor::new(shape, halves.map(|half| (half << 4) as i8 >> 4).collect()),
    };
    tensor.map_err(|error| error.to_string())
}

fn unsupported(kind: i32) -> String {
    format!("elements of type {} are not supported", type_name(kind))
}

/// A double that an `f32` holds without loss.
fn exactly_f32(value: f64) -> Result<f32, String> {
    let narrow = value as f32;
    if f64::from(narrow) == value || value.is_nan() {
        Ok(narrow)
    } else {
        Err(format!("expected doubles that f32 can hold, found {value}"))
    }
}

fn of_bytes(kind: i32, shape: &[usize], raw: &[u8]) -> Result<Tensor, String> {
    if let Some(dtype) = element_type(kind) {
        return Tensor::from_bytes(dtype, shape, raw).map_err(|error| error.to_string());
    }
    if matches!(kind, UINT4 | INT4) {
        return of_halves(kind, shape, raw);
    }
    let floats: Vec<f32> = match kind {
        FLOAT16 => pieces(raw)?.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        BFLOAT16 => pieces(raw)?.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        DOUBLE => {
            let doubles = pieces(raw)?.iter().map(|&bytes| f64::from_le_bytes(bytes));
            doubles.map(exactly_f32).collect::<Result<_, _>>()?
        }
        _ => return Err(unsupported(kind)),
    };
    Tensor::new(shape, floats).map_err(|error| error.to_string())
}

fn pieces<const N: usize>(raw: &[u8]) -> Result<&[[u8; N]], String> {
    match raw.as_chunks() {
        (pieces, []) => Ok(pieces),
        _ => Err(format!("expected a multiple of {N} bytes, found {}", raw.len())),
    }
}

fn of_fields(
    message: &TensorMessage,
    kind: i32,
    shape: &[usize],
    elements: usize,
) -> Result<Tensor, String> {
    fn narrow<T: TryFrom<i32>>(values: &[i32]) -> Result<Vec<T>, String> {
        let one = |&value: &i32| {
            T::try_from(value).map_err(|_| format!("{value} does not fit the element type"))
        };
        values.iter().map(one).collect()
    }
    let bits = |&value: &i32| (value & 0xffff) as u16;
    let ints = &message.int32_data;
    if matches!(kind, UINT4 | INT4) {
        return of_halves(kind, shape, &ints.iter().map(|&pair| pair as u8).collect::<Vec<_>>());
    }
    let built = match element_type(kind) {
        Some(DType::F32) => Tensor::new(shape, message.float_data.clone()),
        Some(DType::I64) => Tensor::new(shape, message.int64_data.clone()),
        Some(DType::I32) => Tensor::new(shape, ints.clone()),
        Some(DType::I8) => Tensor::new(shape, narrow::<i8>(ints)?),
        Some(DType::U8) => Tensor::new(shape, narrow::<u8>(ints)?),
        Some(DType::Bool) => Tensor::new(shape, ints.iter().map(|&value| value != 0).collect()),
        None => {
            let floats: Vec<f32> = match kind {
                FLOAT16 => ints.iter().map(|x| f16::from_bits(bits(x)).to_f32()).collect(),
                BFLOAT16 => ints.iter().map(|x| bf16::from_bits(bits(x)).to_f32()).collect(),
                DOUBLE => {
                    let doubles = message.double_data.iter().copied();
                    doubles.map(exactly_f32).collect::<Result<_, _>>()?
                }
                _ => return Err(unsupported(kind)),
            };
            Tensor::new(shape, floats)
        }
    };
    debug_assert!(built.as_ref().map_or(true, |tensor| tensor.len() == elements));
    built.map_err(|error| error.to_string())
}

/// The `expected` bytes of a tensor in another file, which has to lie in the model's folder: a model
/// from elsewhere must not read what its user can.
fn external_bytes(
    message: &TensorMessage,
    folder: Option<&Path>,
    expected: usize,
) -> Result<Vec<u8>, String> {
    let entry = |key: &str| {
        let found = message.external_data.iter().find(|entry| entry.key.as_deref() == Some(key));
        found.and_then(|entry| entry.value.as_deref())
    };
    let number = |key: &str| {
        let parse = |text: &str| {
            text.parse::<u64>().map_err(|_| format!("`{key}` of the external data is `{text}`"))
        };
        entry(key).map(parse).transpose()
    };
    let location = entry("location").ok_or("its external data has no location")?;
    let folder = folder.ok_or_else(|| {
        format!("its elements lie in `{location}`, but the model was not read from a folder")
    })?;
    let path = inside(folder, location)?;
    let fail = |error: std::io::Error| format!("external data {}: {error}", path.display());
    let mut file = File::open(&path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(expected as u64);
    if length != expected as u64 {
        let shape = &message.dims;
        return Err(format!(
            "expected {expected} bytes for shape {shape:?}, found a length of {length}"
        ));
    }
    if offset.checked_add(length).is_none_or(|end| end > size) {
        let path = path.display();
        return Err(format!(
            "expected {length} bytes from byte {offset} of {path}, which has {size}: truncated"
        ));
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(expected)
        .map_err(|_| format!("expected elements that fit in memory, found {expected} bytes"))?;
    bytes.resize(expected, 0);
    file.seek(SeekFrom::Start(offset)).map_err(fail)?;
    file.read_exact(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// The file `location` in `folder`.
fn inside(folder: &Path, location: &str) -> Result<PathBuf, String> {
    let relative = Path::new(location);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    let outside = || format!("external data `{location}` lies outside the model's folder: refused");
    if !plain || location.is_empty() {
        return Err(outside());
    }
    let missing = |error| format!("external data {}: {error}", folder.join(relative).display());
    let real = folder.join(relative).canonicalize().map_err(missing)?;
    // A link may lead out of the folder too.
    if !real.starts_with(folder.canonicalize().map_err(missing)?) {
        return Err(outside());
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::Entry;

    fn external(location: &str) -> TensorMessage {
        let entry = |key: &str, value: &str| Entry {
            key: Some(key.to_owned()),
            value: Some(value.to_owned()),
        };
        TensorMessage {
            dims: vec![2],
            data_type: Some(1),
            external_data: vec![entry("location", location), entry("offset", "4")],
            data_location: Some(EXTERNAL),
            ..Default::default()
        }
    }

    #[test]
    fn elements_come_from_a_file_beside_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = [9f32, 1.0, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(folder.path().join("weights.bin"), &bytes).unwrap();
        let tensor = read(&external("weights.bin"), Some(folder.path())).unwrap();
        assert_eq!(tensor.elements::<f32>().unwrap(), [1.0, 2.0]);
        std::fs::write(folder.path().join("weights.bin"), &bytes[..3]).unwrap();
        let error = read(&external("weights.bin"), Some(folder.path())).unwrap_err();
        assert!(error.contains("truncated"), "{error}");
        let error = read(&external("missing.bin"), Some(folder.path())).unwrap_err();
        assert!(error.contains("missing.bin"), "{error}");
    }

    #[test]
    fn a_file_is_read_as_far_as_the_shape_goes() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("weights.bin")).unwrap();
        file.set_len(1 << 40).unwrap();
        let mut message = external("weights.bin");
        let tensor = read(&message, Some(folder.path())).unwrap();
        assert_eq!(tensor.elements::<f32>().unwrap(), [0.0, 0.0]);
        let length =
            Entry { key: Some("length".to_owned()), value: Some((1u64 << 39).to_string()) };
        message.external_data.push(length);
        let error = read(&message, Some(folder.path())).unwrap_err();
        assert!(error.starts_with("expected 8 bytes for shape [2], found a length of "), "{error}");
    }

    #[test]
    fn files_outside_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(folder.path().join("secret"), [0; 12]).unwrap();
        for location in ["../secret", "/etc/passwd", "", "a/../../secret", "."] {
            let error = read(&external(location), Some(&model)).unwrap_err();
            assert!(error.contains("outside"), "{location}: {error}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path().join("secret"), model.join("link")).unwrap();
            let error = read(&external("link"), Some(&model)).unwrap_err();
            assert!(error.contains("outside"), "{error}");
        }
    }

    #[test]
    fn narrow_types_are_checked_and_wide_ones_converted() {
        let message = |kind: i32, ints: Vec<i32>, doubles: Vec<f64>| TensorMessage {
            dims: vec![1],
            data_type: Some(kind),
            int32_data: ints,
            double_data: doubles,
            ..Default::default()
        };
        let floats = |message| read(&message, None).unwrap().elements::<f32>().unwrap().to_vec();
        assert_eq!(floats(message(FLOAT16, vec![0x3c00], vec![])), [1.0]);
        assert_eq!(floats(message(DOUBLE, vec![], vec![0.5])), [0.5]);
        assert!(read(&message(3, vec![200], vec![]), None).unwrap_err().contains("200"));
        assert!(read(&message(8, vec![], vec![]), None).unwrap_err().contains("string"));
        assert!(read(&message(1, vec![], vec![]), None).unwrap_err().contains("expected 1"));
    }

    #[test]
    fn integers_of_four_bits_stand_two_in_a_byte() {
        let message = |kind, raw: Option<Vec<u8>>, ints: Vec<i32>| TensorMessage {
            dims: vec![3],
            data_type: Some(kind),
            raw_data: raw,
            int32_data: ints,
            ..Default::default()
        };
        let signed = read(&message(INT4, Some(vec![0xf7, 0x08]), vec![]), None).unwrap();
        assert_eq!(signed.elements::<i8>().unwrap(), [7, -1, -8]);
        let unsigned = read(&message(UINT4, None, vec![0xf7, 0x08]), None).unwrap();
        assert_eq!(unsigned.elements::<u8>().unwrap(), [7, 15, 8]);
        let short = read(&message(INT4, Some(vec![0]), vec![]), None).unwrap_err();
        assert_eq!(short, "expected half a byte an element of [3], found 1 bytes");
        assert!(read_tensor(&message(INT4, Some(vec![0, 0]), vec![]).encode_to_vec()).is_err());
    }
}
