#![allow(unsafe_code, reason = "launches hand raw device buffers to compiled kernels")]
#![allow(clippy::too_many_arguments, reason = "a kernel takes each buffer and number by itself")]
//! The same kernels for GPUs, written once in CubeCL: device buffers in, device buffers out.
//!
//! CubeCL compiles a kernel when it first runs, for whatever device the [`Gpu`] opened: NVIDIA's,
//! or, in builds with the feature `gpu-emulated`, its own slow CPU runtime, on which the tests
//! compare every kernel with its twin for CPUs. Nothing but `device` names a vendor.
//!
//! Products in bf16 and int8, those of attention too, run on the matrix units (tensor cores) of a
//! GPU that has them; f32 keeps all its bits, on ordinary units. There is no 2:4 kernel: CubeCL
//! 0.11.3 has no instruction for it.
//!
//! A launch returns at once; launches of one queue run in order, and each thread has one unless
//! [`Gpu::with_own_queue`] made it. What fails on the device is reported by the next [`Gpu::read`]
//! or [`Gpu::sync`]. [`Gpu::record`] makes many launches one.
//!
//! Sums of floats are in an order that depends on sizes and device: parts of the inner dimension of
//! a product may be summed apart, rows are reduced by a tree. They agree with those on CPUs within
//! rounding only. Sums of integers are the same to the bit, and what is rounded to int8 is where its
//! activation is: of the functions of `math`, a compiler may fuse steps.
//!
//! # Layout
//!
//! - [`Gpu`], [`Buffer`]: a device and a range of its memory. Start here.
//! - [`Weights`], [`linear()`], [`integer_linear`]: products with bias, activation and rounding in one launch.
//! - [`linear_of_windows`], [`conv2d_of_groups`], [`conv_transpose2d`]: convolutions of images whose channels are
//!   last, the first in the same way; [`conv2d`]: of images whose channels are first.
//!   [`integer_linear_of_windows`], [`integer_conv2d_of_groups`]: of int8 images.
//! - [`pool2d`], [`greatest2d`], [`global_pool`], [`scale_shift`], [`resample()`]: what else is done with images.
//! - [`attention()`], [`layer_norm`], [`softmax`], [`gather_rows`], [`gather_rows_int8`].
//! - [`activate`], [`pairs`], [`copy`], [`copy_part`], [`cast()`], [`quantize`], [`dequantize`], [`quantized_sum`],
//!   [`reduce_rows`].
//!
//! # Panics
//!
//! As in the rest of the crate: a buffer whose length does not match the sizes given with it is a
//! mistake of the caller, found before anything is launched.

/// Most elements of a buffer: devices count in 32 bits, up to a step of all units behind the last.
pub const MOST_ELEMENTS: usize = (1 << 32) - (1 << 24);

mod activation;
mod attention;
mod buffer;
mod cast;
mod conv;
mod conv_transpose;
mod copy;
mod device;
mod epilogue;
mod fold;
mod gather;
mod global_pool;
mod images;
mod linear;
mod math;
mod matrix;
mod matrix_attention;
mod norm;
mod pair;
mod quantize;
mod reduce;
mod resample;
mod staging;
#[cfg(test)]
mod tests;
mod tiles;
mod weights;
mod windows;

pub use activation::activate;
pub use attention::{Heads, Mask, attention, attention_takes_bf16, supports_head};
pub use buffer::Buffer;
pub use cast::{Number, cast};
pub use conv::{Filters, conv2d};
pub use conv_transpose::{TransposedFilters, conv_transpose2d};
pub use copy::{Strided, copy, copy_part};
pub use device::{Gpu, GpuError, Recording};
pub use gather::{TableScales, gather_rows, gather_rows_int8};
pub use global_pool::global_pool;
pub use images::{
    GroupFilters, IntegerGroupFilters, conv2d_of_groups, greatest2d, integer_conv2d_of_groups,
    pool2d, scale_shift,
};
pub use linear::{
    Floats, IntegerLayer, Layer, Output, integer_linear, integer_linear_of_windows, linear,
    linear_of_windows,
};
pub use norm::{LayerNorm, layer_norm, softmax};
pub use pair::{Pair, pairs};
pub use quantize::{dequantize, dequantize_columns, quantize, quantized_sum};
pub use reduce::reduce_rows;
pub use resample::{Samples, resample};
pub use weights::Weights;
