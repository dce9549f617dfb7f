#![allow(unsafe_code, reason = "launches hand raw device buffers to compiled kernels")]
#![allow(clippy::too_many_arguments, reason = "a kernel takes each buffer and number by itself")]
//! The same kernels for GPUs, written once in CubeCL: device buffers in, device buffers out.
//!
//! CubeCL compiles a kernel when it first runs, for whatever device the [`Gpu`] opened: NVIDIA's,
//! or, in builds with the feature `gpu-emulated`, its own slow CPU runtime, on which the tests
//! compare every kernel with its twin for CPUs. Nothing but `device` names a vendor.
//!
//! Products run on the ordinary units of a GPU in f32 and i32, not on tensor cores: bf16 and int8
//! halve and quarter the bytes of the weights, and multiply no faster than f32. There is no 2:4
//! kernel: CubeCL 0.11.3 has no instruction for it.
//!
//! A launch returns at once; launches of one thread run in order. What fails on the device is
//! reported by the next [`Gpu::read`] or [`Gpu::sync`].
//!
//! Sums of floats are in the order of the inner dimension, as on CPUs; rows are reduced by a tree
//! whose shape depends on the device, so norms and softmax agree within rounding only.
//!
//! # Layout
//!
//! - [`Gpu`], [`Buffer`]: a device and a range of its memory. Start here.
//! - [`linear`], [`integer_linear`]: products with bias, activation and rounding in one launch.
//! - [`attention()`], [`layer_norm`], [`softmax`], [`gather_rows`], [`gather_rows_int8`].
//! - [`activate`], [`pairs`], [`copy`], [`cast()`], [`quantize`], [`dequantize`], [`reduce_rows`].
//!
//! # Panics
//!
//! As in the rest of the crate: a buffer whose length does not match the sizes given with it is a
//! mistake of the caller, found before anything is launched.

mod activation;
mod attention;
mod buffer;
mod cast;
mod copy;
mod device;
mod gather;
mod linear;
mod math;
mod norm;
mod pair;
mod quantize;
mod reduce;
#[cfg(all(test, feature = "gpu-emulated"))]
mod tests;

pub use activation::activate;
pub use attention::{Heads, Mask, attention, supports_head};
pub use buffer::Buffer;
pub use cast::{Number, cast};
pub use copy::{Strided, copy};
pub use device::{Gpu, GpuError};
pub use gather::{TableScales, gather_rows, gather_rows_int8};
pub use linear::{IntegerLayer, Layer, Output, integer_linear, linear};
pub use norm::{LayerNorm, layer_norm, softmax};
pub use pair::{Pair, pairs};
pub use quantize::{dequantize, dequantize_columns, quantize};
pub use reduce::reduce_rows;
