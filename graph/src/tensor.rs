//! Dense row-major arrays on the host: weights, inputs and outputs of graphs.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

/// Element type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// Truth value, one byte: 0 or 1.
    Bool,
}

impl DType {
    /// Every type.
    pub const ALL: [Self; 6] = [Self::F32, Self::I64, Self::I32, Self::I8, Self::U8, Self::Bool];

    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Bool => "bool",
        })
    }
}

/// What can be wrong with a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The data has another number of elements than the shape.
    #[error("expected {expected} elements for shape {shape:?}, found {found}")]
    Length {
        /// Shape asked for.
        shape: Vec<usize>,
        /// Elements of that shape.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// The elements have another type.
    #[error("expected elements of type {expected}, found {found}")]
    DType {
        /// Type asked for.
        expected: DType,
        /// Type held.
        found: DType,
    },
}

/// A Rust type that a tensor can hold.
pub trait Element:
    bytemuck::CheckedBitPattern
    + bytemuck::NoUninit
    + PartialEq
    + fmt::Debug
    + Default
    + Send
    + Sync
    + 'static
{
    /// Its tag.
    const DTYPE: DType;
    #[doc(hidden)]
    fn wrap(buffer: Buffer<Self>) -> Data;
    #[doc(hidden)]
    fn unwrap(data: &Data) -> Option<&Buffer<Self>>;
}

/// Elements that are owned or lie in a mapped file; cloning shares them.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub enum Buffer<T> {
    Owned(Arc<Vec<T>>),
    Mapped { map: Arc<Mmap>, offset: usize, len: usize, element: PhantomData<T> },
}

impl<T: bytemuck::CheckedBitPattern + bytemuck::NoUninit> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(elements) => elements,
            Self::Mapped { map, offset, len, .. } => {
                let bytes = &map[*offset..*offset + *len * size_of::<T>()];
                bytemuck::checked::cast_slice(bytes)
            }
        }
    }
}

/// The elements of a tensor, by type.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub enum Data {
    F32(Buffer<f32>),
    I64(Buffer<i64>),
    I32(Buffer<i32>),
    I8(Buffer<i8>),
    U8(Buffer<u8>),
    Bool(Buffer<bool>),
}

/// Evaluates `$body` with `$buffer` bound to the elements of `$data`, whatever their type.
macro_rules! each_type {
    ($data:expr, $buffer:ident => $body:expr) => {
        match $data {
            Data::F32($buffer) => $body,
            Data::I64($buffer) => $body,
            Data::I32($buffer) => $body,
            Data::I8($buffer) => $body,
            Data::U8($buffer) => $body,
            Data::Bool($buffer) => $body,
        }
    };
}

macro_rules! element {
    ($type:ty, $variant:ident) => {
        impl Element for $type {
            const DTYPE: DType = DType::$variant;
            fn wrap(buffer: Buffer<Self>) -> Data {
                Data::$variant(buffer)
            }
            fn unwrap(data: &Data) -> Option<&Buffer<Self>> {
                match data {
                    Data::$variant(buffer) => Some(buffer),
                    _ => None,
                }
            }
        }
    };
}
element!(f32, F32);
element!(i64, I64);
element!(i32, I32);
element!(i8, I8);
element!(u8, U8);
element!(bool, Bool);

/// A dense row-major array. Cloning shares the elements.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// A tensor of `shape` with `elements` in row-major order.
    ///
    /// # Errors
    ///
    /// When the number of elements is not the product of the shape.
    pub fn new<T: Element>(shape: &[usize], elements: Vec<T>) -> Result<Self, TensorError> {
        let expected = shape.iter().product();
        if elements.len() != expected {
            let found = elements.len();
            return Err(TensorError::Length { shape: shape.to_vec(), expected, found });
        }
        Ok(Self { shape: shape.to_vec(), data: T::wrap(Buffer::Owned(Arc::new(elements))) })
    }

    /// A tensor of `shape` whose element at each flat row-major index is `element(index)`.
    pub fn from_fn<T: Element>(shape: &[usize], element: impl FnMut(usize) -> T) -> Self {
        let elements = (0..shape.iter().product()).map(element).collect();
        Self { shape: shape.to_vec(), data: T::wrap(Buffer::Owned(Arc::new(elements))) }
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(element: T) -> Self {
        Self::from_fn(&[], |_| element)
    }

    /// A tensor over `len` elements at byte `offset` of a mapped file; `None` when they do not lie
    /// inside the file or are not aligned for `T`.
    pub fn mapped<T: Element>(shape: &[usize], map: &Arc<Mmap>, offset: usize) -> Option<Self> {
        let len: usize = shape.iter().product();
        let end = offset.checked_add(len.checked_mul(size_of::<T>())?)?;
        bytemuck::checked::try_cast_slice::<u8, T>(map.get(offset..end)?).ok()?;
        let buffer = Buffer::Mapped { map: map.clone(), offset, len, element: PhantomData };
        Some(Self { shape: shape.to_vec(), data: T::wrap(buffer) })
    }

    /// Sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            Data::F32(_) => DType::F32,
            Data::I64(_) => DType::I64,
            Data::I32(_) => DType::I32,
            Data::I8(_) => DType::I8,
            Data::U8(_) => DType::U8,
            Data::Bool(_) => DType::Bool,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the elements take.
    pub fn size_bytes(&self) -> usize {
        self.len() * self.dtype().size_bytes()
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    ///
    /// When the elements have another type.
    pub fn elements<T: Element>(&self) -> Result<&[T], TensorError> {
        let error = TensorError::DType { expected: T::DTYPE, found: self.dtype() };
        T::unwrap(&self.data).map(|buffer| &**buffer).ok_or(error)
    }

    /// The elements' bytes in row-major, native (little) endian order.
    pub fn bytes(&self) -> &[u8] {
        each_type!(&self.data, buffer => bytemuck::cast_slice(buffer))
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    ///
    /// When the number of elements differs.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Self, TensorError> {
        let expected = shape.iter().product();
        if expected != self.len() {
            let found = self.len();
            return Err(TensorError::Length { shape: shape.to_vec(), expected, found });
        }
        Ok(Self { shape: shape.to_vec(), data: self.data.clone() })
    }

    /// Keeps `indices` of dimension `axis`, in that order (an index may repeat).
    ///
    /// # Panics
    ///
    /// When `axis` or an index is out of range.
    pub fn select(&self, axis: usize, indices: &[usize]) -> Self {
        each_type!(&self.data, buffer => self.select_elements(buffer, axis, indices))
    }

    /// A tensor of `shape` whose element at each flat row-major index is this tensor's at
    /// `source(index)`, or `fill` (0 where there is none) for `None`.
    ///
    /// # Errors
    ///
    /// When `fill` has another element type or is no single element.
    ///
    /// # Panics
    ///
    /// When `source` gives an index beyond this tensor.
    pub fn rearranged(
        &self,
        shape: &[usize],
        fill: Option<&Self>,
        source: impl Fn(usize) -> Option<usize>,
    ) -> Result<Self, TensorError> {
        fn build<T: Element>(
            elements: &[T],
            shape: &[usize],
            fill: Option<&Tensor>,
            source: impl Fn(usize) -> Option<usize>,
        ) -> Result<Tensor, TensorError> {
            let fill = match fill {
                Some(fill) => *fill.elements::<T>()?.first().ok_or(TensorError::Length {
                    shape: vec![1],
                    expected: 1,
                    found: 0,
                })?,
                None => T::default(),
            };
            let at = |index| source(index).map_or(fill, |source| elements[source]);
            Ok(Tensor::from_fn(shape, at))
        }
        each_type!(&self.data, buffer => build(buffer, shape, fill, source))
    }

    /// The elements of `bytes`, row-major and little endian.
    ///
    /// # Errors
    ///
    /// When there are more or fewer bytes than the shape needs.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self, TensorError> {
        fn read<T: Element, const N: usize>(
            shape: &[usize],
            bytes: &[u8],
            element: impl Fn([u8; N]) -> T,
        ) -> Result<Tensor, TensorError> {
            let (whole, rest) = bytes.as_chunks::<N>();
            let found = whole.len() + usize::from(!rest.is_empty());
            let expected = shape.iter().product();
            if found != expected || !rest.is_empty() {
                return Err(TensorError::Length { shape: shape.to_vec(), expected, found });
            }
            Tensor::new(shape, whole.iter().map(|&bytes| element(bytes)).collect())
        }
        match dtype {
            DType::F32 => read(shape, bytes, f32::from_le_bytes),
            DType::I64 => read(shape, bytes, i64::from_le_bytes),
            DType::I32 => read(shape, bytes, i32::from_le_bytes),
            DType::I8 => read(shape, bytes, i8::from_le_bytes),
            DType::U8 => read(shape, bytes, u8::from_le_bytes),
            DType::Bool => read(shape, bytes, |[byte]: [u8; 1]| byte != 0),
        }
    }

    /// A tensor whose elements, zeros at first, `write` writes as bytes.
    ///
    /// # Errors
    ///
    /// When there is no memory for it, or `write` fails.
    pub fn written(
        dtype: DType,
        shape: &[usize],
        write: impl FnOnce(&mut [u8]) -> Result<(), String>,
    ) -> Result<Self, String> {
        fn list<T: bytemuck::Pod>(
            shape: &[usize],
            write: impl FnOnce(&mut [u8]) -> Result<(), String>,
        ) -> Result<Vec<T>, String> {
            let len = shape.iter().try_fold(1usize, |len, &size| len.checked_mul(size));
            let mut list = Vec::new();
            len.and_then(|len| list.try_reserve_exact(len).ok())
                .ok_or_else(|| format!("cannot have memory for {shape:?}"))?;
            list.resize(shape.iter().product(), T::zeroed());
            write(bytemuck::cast_slice_mut(&mut list))?;
            Ok(list)
        }
        let tensor = match dtype {
            DType::F32 => Self::new::<f32>(shape, list(shape, write)?),
            DType::I64 => Self::new::<i64>(shape, list(shape, write)?),
            DType::I32 => Self::new::<i32>(shape, list(shape, write)?),
            DType::I8 => Self::new::<i8>(shape, list(shape, write)?),
            DType::U8 => Self::new::<u8>(shape, list(shape, write)?),
            DType::Bool => {
                let bytes: Vec<u8> = list(shape, write)?;
                Self::new(shape, bytes.into_iter().map(|byte| byte != 0).collect())
            }
        };
        tensor.map_err(|error| error.to_string())
    }

    /// A tensor of zeros, or `false`.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Self {
        match dtype {
            DType::F32 => Self::from_fn(shape, |_| 0f32),
            DType::I64 => Self::from_fn(shape, |_| 0i64),
            DType::I32 => Self::from_fn(shape, |_| 0i32),
            DType::I8 => Self::from_fn(shape, |_| 0i8),
            DType::U8 => Self::from_fn(shape, |_| 0u8),
            DType::Bool => Self::from_fn(shape, |_| false),
        }
    }

    fn select_elements<T: Element>(&self, source: &[T], axis: usize, indices: &[usize]) -> Self {
        let outer: usize = self.shape[..axis].iter().product();
        let inner: usize = self.shape[axis + 1..].iter().product();
        let size = self.shape[axis];
        let mut elements = Vec::with_capacity(outer * indices.len() * inner);
        for block in 0..outer {
            for &index in indices {
                assert!(index < size, "index {index} of dimension {axis} with size {size}");
                let start = (block * size + index) * inner;
                elements.extend_from_slice(&source[start..start + inner]);
            }
        }
        let mut shape = self.shape.clone();
        shape[axis] = indices.len();
        Self { shape, data: T::wrap(Buffer::Owned(Arc::new(elements))) }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tensor({}{:?})", self.dtype(), self.shape)
    }
}

/// Bit equality: NaN equals the same NaN, 0 differs from −0.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.dtype() == other.dtype() && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn select_keeps_rows_and_columns_in_order() {
        let tensor = Tensor::from_fn(&[3, 4], |index| index as i32);
        let rows = tensor.select(0, &[2, 0]);
        assert_eq!(rows.elements::<i32>().unwrap(), [8, 9, 10, 11, 0, 1, 2, 3]);
        let columns = tensor.select(1, &[3, 1]);
        assert_eq!(columns.elements::<i32>().unwrap(), [3, 1, 7, 5, 11, 9]);
        assert_eq!(columns.shape(), [3, 2]);
    }

    #[test]
    fn errors_say_what_was_expected_and_found() {
        let error = Tensor::new(&[2, 3], vec![0f32; 5]).unwrap_err();
        assert_eq!(error.to_string(), "expected 6 elements for shape [2, 3], found 5");
        let error = Tensor::scalar(1i8).elements::<f32>().unwrap_err();
        assert_eq!(error.to_string(), "expected elements of type f32, found i8");
    }
}
