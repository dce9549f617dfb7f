//! Numeric kernels for CPUs: slices in, slices out.
//!
//! Every kernel has one meaning on every instruction set. The integer kernels are exact, and the
//! `f32` kernels of this crate sum in one fixed order and fuse the same multiply-adds, so a tier
//! changes the speed and not one bit of the result. The exceptions are products:
//!
//! - those of `f32` ([`float`], [`gemm()`], [`attention()`]) are chains of fused multiply-adds in the
//!   order of the inner dimension. Every tier of a CPU that fuses gives the same bits (the portable
//!   tier too: it runs the AVX2 code); a CPU that cannot fuse rounds once more for each product.
//! - the [`bf16`] product of tier `amx`, and of `vnni` where [`Cpu::has_fast_bf16_dot`], sums in the
//!   order of its instruction.
//!
//! Work above a measured size is cut into pieces whose borders depend on the sizes alone, never
//! on the number of threads, and runs on the [`Team`] the caller leads, or else on the rayon pool
//! it is in (always on that in what only training needs). Reductions across pieces happen in piece order. Results are therefore the same with one thread and with many.
//!
//! What it does not know: graphs, tensors, names of models, files.
//!
//! # Layout
//!
//! - [`Cpu`] and [`Tier`]: which instruction set may run. Start here: every kernel takes a `Cpu`.
//! - [`gemm()`], [`product`], [`batched_gemm`]: `f32` matrix products.
//! - [`float`]: packed `f32` weights and the linear layer.
//! - [`int8`]: quantization, packed int8 weights and the integer linear layer.
//! - [`bf16`]: packed bf16 weights and the linear layer on them.
//! - [`attention()`]: scale, mask, softmax and both products for every (batch, head).
//! - images: [`conv2d`], [`pool2d`], [`row_means`], [`batch_norm`], [`group_norm()`], [`resample()`], [`grid_sample()`], [`deformed_windows`], [`fold2d`],
//!   [`region_means`]; [`channels_last`] has them for the
//!   layout in which they are fastest.
//! - [`broadcast`]: arithmetic, comparisons and choices of values of broadcast shapes.
//! - element by element and row by row: [`add`], [`mul`], [`activate`], [`map`], [`Trigonometric`], [`layer_norm_forward`],
//!   [`residual_layer_norm`], [`rms_norm`], [`softmax_forward`], [`gather_rows`], [`permute`], [`rotate`], [`reduce()`]; twins that write over their
//!   input: [`add_assign`], [`activate_in_place`] and others.
//! - [`top_k`], [`best_place`]: the best entries of lines, and which is best; [`suppress_boxes`]: the
//!   best of overlapping boxes.
//! - [`recurrent()`]: LSTM, GRU and plain recurrent layers.
//! - [`peaks`]: what the machine can do at most, measured.
//! - what training needs besides: the `*_backward` twins, [`column_sum`], [`adamw_step`].
//!
//! # Panics
//!
//! A slice whose length does not match the sizes given with it is a mistake of the caller: every
//! function checks this in release builds too, and panics before it touches memory.

mod activation;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod batch_norm;
pub mod bf16;
mod boxes;
pub mod broadcast;
pub mod channels_last;
mod conv;
mod deform;
mod depthwise;
mod element;
mod elementwise;
pub mod float;
mod fold;
mod function;
mod gather;
#[cfg(feature = "gpu")]
pub mod gpu;
mod grid_sample;
mod group_norm;
mod in_place;
pub mod int8;
mod lanes;
mod math;
mod matrix;
mod norm;
mod optimizer;
mod parallel;
pub mod peaks;
mod permute;
mod pool;
mod rank;
mod recurrent;
mod reduce;
mod reduction;
mod region;
#[cfg(target_arch = "x86_64")]
mod requantize;
mod resample;
mod rotary;
mod scratch;
mod softmax;
mod team;
mod tier;
mod trigonometric;
#[cfg(target_arch = "x86_64")]
mod wide;
mod window;

pub use activation::{Activation, activate, gelu_backward, gelu_forward};
pub use attention::{
    Attention, HeadData, Heads, Mask, NoKeys, PARALLEL_WORK as ATTENTION_PARALLEL_WORK, Products,
    attention, attention_into,
};
pub use batch_norm::{BatchNorm, batch_norm};
pub use boxes::{BoxForm, Suppression, suppress_boxes};
pub use conv::{Conv2d, Filters, PARALLEL_WORK as CONV_PARALLEL_WORK, conv2d};
pub use deform::{Deformation, deformed_windows};
pub use elementwise::{add, add_row, mul};
pub use fold::fold2d;
pub use function::{Function, map, map_in_place};
pub use gather::{IndexError, TableScales, gather_rows, gather_rows_int8};
pub use grid_sample::{GridSampling, Interpolation, Outside, grid_sample};
pub use group_norm::{GroupNorm, group_norm};
pub use in_place::{
    activate_in_place, add_assign, layer_norm_in_place, log_softmax_in_place, mul_assign,
    residual_layer_norm_in_place, softmax_in_place,
};
pub use matrix::{
    Batch, Matrix, PARALLEL_WORK as GEMM_PARALLEL_WORK, Write, batched_gemm, gemm, product,
};
pub use norm::{
    LayerNorm, LayerNormGradients, layer_norm, layer_norm_backward, layer_norm_forward,
    residual_layer_norm, rms_norm, rms_norm_in_place,
};
pub use optimizer::{AdamW, adamw_step};
pub use parallel::{CHUNK as PARALLEL_ELEMENTS, for_each_row_of as for_each_row};
pub use permute::{permute, permute_any};
pub use pool::{Pooling, pool2d, row_maxima, row_means};
pub use rank::{Best, Ranked, best_place, top_k};
pub use recurrent::{Cell, Recurrence, State, recurrent};
pub use reduce::column_sum;
pub use reduction::{Reduction, reduce};
pub use region::{RegionParts, region_means};
pub use resample::{Sample, resample};
pub use rotary::{Rotation, rotate};
pub use softmax::{log_softmax, softmax_backward, softmax_forward};
pub use team::Team;
pub use tier::{Cpu, Tier, TierError};
pub use trigonometric::Trigonometric;
pub use window::Slide;
