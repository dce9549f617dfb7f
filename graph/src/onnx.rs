//! ONNX, the way in and the way out.
//!
//! # Layout
//!
//! - [`import`](fn@import): a file, or bytes, to a graph: one table of operators a family in `import/ops`.
//! - [`export`](fn@export): operators one to one, 8-bit integers as QDQ pairs.
//! - `proto`: the messages. `tensor`: their tensors, whose elements may lie in other files.

mod export;
mod import;
mod proto;
mod tensor;

pub use export::{OnnxError, export};
pub use import::{
    ImportError, ImportOptions, import, import_bytes, import_inputs, is_number, operators,
};
pub use tensor::read_tensor;

use crate::DType;

/// `TensorProto.DataType`
const DATA_TYPES: &[(DType, i32)] = &[
    (DType::F32, 1),
    (DType::U8, 2),
    (DType::I8, 3),
    (DType::I32, 6),
    (DType::I64, 7),
    (DType::Bool, 9),
];

/// The schema's number for an element type.
fn data_type(dtype: DType) -> i32 {
    let entry = DATA_TYPES.iter().find(|(known, _)| *known == dtype);
    entry.expect("the table has every element type").1
}

/// The element type of a number of the schema.
fn element_type(data_type: i32) -> Option<DType> {
    DATA_TYPES.iter().find(|(_, number)| *number == data_type).map(|(dtype, _)| *dtype)
}

/// The element type of values that the schema's number stands for here: floats of half the width are
/// held, and computed with, as f32.
fn value_type(data_type: i32) -> Option<DType> {
    match data_type {
        tensor::FLOAT16 | tensor::BFLOAT16 => Some(DType::F32),
        _ => element_type(data_type),
    }
}

/// The schema's name for a number, for messages.
fn type_name(data_type: i32) -> &'static str {
    const NAMES: &[&str] = &[
        "undefined",
        "float",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "double",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
        "float8e4m3fn",
        "float8e4m3fnuz",
        "float8e5m2",
        "float8e5m2fnuz",
        "uint4",
        "int4",
        "float4e2m1",
        "float8e8m0",
        "uint2",
        "int2",
    ];
    usize::try_from(data_type).ok().and_then(|index| NAMES.get(index)).copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_has_a_number() {
        for dtype in DType::ALL {
            assert_eq!(element_type(data_type(dtype)), Some(dtype));
        }
        assert_eq!(type_name(10), "float16");
        assert_eq!(type_name(99), "unknown");
    }
}
