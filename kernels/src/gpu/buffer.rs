//! A range of device memory.

use std::fmt;
use std::ops::Range;

use cubecl::prelude::*;
use cubecl::server::Handle;

/// Bytes on a device. Cloning and slicing share them.
#[derive(Clone)]
pub struct Buffer {
    whole: Handle,
    /// Bytes of the whole allocation.
    allocated: usize,
    range: Range<usize>,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Buffer").field("range", &self.range).finish_non_exhaustive()
    }
}

impl Buffer {
    pub(super) fn new(whole: Handle, allocated: usize) -> Self {
        Self { whole, allocated, range: 0..allocated }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// A part of it, in bytes.
    ///
    /// # Panics
    /// When the range reaches out of it.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "slice: {range:?} of {self:?}"
        );
        let start = self.range.start;
        Self { range: start + range.start..start + range.end, ..self.clone() }
    }

    /// Whether it begins at a multiple of this many bytes, up to what allocations are aligned to.
    pub(super) const fn is_aligned_to(&self, bytes: usize) -> bool {
        self.range.start.is_multiple_of(bytes)
    }

    /// The range as CubeCL takes it. An empty one keeps the bytes around it, for nothing can be
    /// bound to no bytes.
    pub(super) fn allocated(&self) -> Handle {
        if self.range.is_empty() { self.whole.clone() } else { self.handle() }
    }

    pub(super) fn handle(&self) -> Handle {
        let behind = self.allocated - self.range.end;
        let handle = self.whole.clone().offset_start(self.range.start as u64);
        handle.offset_end(behind as u64)
    }

    /// The argument of a kernel, `elements` of `T`.
    ///
    /// # Panics
    /// When the buffer has another length.
    #[track_caller]
    pub(super) fn argument<T>(&self, name: &str, elements: usize) -> BufferArg {
        let (expected, found) = (elements * size_of::<T>(), self.len());
        assert_eq!(found, expected, "{name}: expected {elements} elements, {expected} bytes");
        // SAFETY: the range lies in the allocation, `slice` checked it, and has `elements` of `T`.
        unsafe { BufferArg::from_raw_parts(self.allocated(), elements) }
    }
}
