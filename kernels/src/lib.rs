//! Numeric kernels for CPUs: slices in, slices out.
//!
//! Every kernel has one meaning on every instruction set. The integer kernels are exact, and the
//! `f32` kernels of this crate use no fused multiply-add and sum in one fixed order, so a tier
//! changes the speed and not one bit of the result. The exception is the `f32` matrix product,
//! which belongs to the `gemm` crate: it picks its own instructions, whatever the tier says.
//!
//! Work above a measured size is cut into pieces whose borders depend on the sizes alone, never
//! on the number of threads, and runs on the rayon pool the caller is in. Reductions across
//! pieces happen in piece order. Results are therefore the same with one thread and with many.
//!
//! What it does not know: graphs, tensors, names of models, files.
//!
//! # Layout
//!
//! - [`Cpu`] and [`Tier`]: which instruction set may run. Start here: every kernel takes a `Cpu`.
//! - [`gemm()`], [`batched_gemm`], [`linear`]: `f32` matrix products.
//! - [`int8`]: quantization, packed int8 weights and the integer linear layer.
//! - [`attention`]: scale, mask, softmax and both products for every (batch, head).
//! - images: [`conv2d`], [`pool2d`], [`row_means`], [`batch_norm`].
//! - element by element and row by row: [`add`], [`mul`], [`activate`], [`map`], [`layer_norm_forward`],
//!   [`residual_layer_norm`], [`softmax_forward`], [`gather_rows`]; twins that write over their
//!   input: [`add_assign`], [`activate_in_place`] and others.
//! - what training needs besides: the `*_backward` twins, [`column_sum`], [`adamw_step`].
//!
//! # Panics
//!
//! A slice whose length does not match the sizes given with it is a mistake of the caller: every
//! function checks this in release builds too, and panics before it touches memory.

mod activation;
mod attention;
mod batch_norm;
mod conv;
mod depthwise;
mod elementwise;
mod function;
mod gather;
mod in_place;
pub mod int8;
mod lanes;
mod linear;
mod math;
mod matrix;
mod norm;
mod optimizer;
mod parallel;
mod pool;
mod reduce;
mod softmax;
mod tier;
mod window;

pub use activation::{Activation, activate, gelu_backward, gelu_forward};
pub use attention::{Attention, Heads, Mask, attention};
pub use batch_norm::{BatchNorm, batch_norm};
pub use conv::{Conv2d, Filters, conv2d};
pub use elementwise::{add, add_row, mul};
pub use function::{Function, map, map_in_place};
pub use gather::{IndexError, TableScales, gather_rows, gather_rows_int8};
pub use in_place::{
    activate_in_place, add_assign, layer_norm_in_place, mul_assign, residual_layer_norm_in_place,
    softmax_in_place,
};
pub use linear::linear;
pub use matrix::{Batch, Matrix, Write, batched_gemm, gemm};
pub use norm::{
    LayerNorm, LayerNormGradients, layer_norm, layer_norm_backward, layer_norm_forward,
    residual_layer_norm,
};
pub use optimizer::{AdamW, adamw_step};
pub use pool::{Pooling, pool2d, row_maxima, row_means};
pub use reduce::column_sum;
pub use softmax::{softmax_backward, softmax_forward};
pub use tier::{Cpu, Tier, TierError};
pub use window::Slide;
