//! Integer linear algebra: int8 in, exact int32 sums, one rounding at the end.
//!
//! Every tier computes the same sums, so all results are equal bit for bit. Sums are exact while
//! they fit an `i32`, which is for the caller to see to: an input lies at most 255 steps from its zero
//! point, so that 65,000 products always do. ([`Layer::coarse`] is as coarse on every tier; of results in
//! bf16, subnormal ones may be 0 on some.)

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "others leave it to the CPU"))]
mod ahead;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod epilogue;
mod finish;
mod left;
mod linear;
mod output;
mod pack;
mod portable;
mod quantize;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub(crate) use finish::Finish;
pub use left::Input;
pub(crate) use linear::linear_of_windows;
pub use linear::{Layer, PARALLEL_WORK, linear};
pub use output::Output;
pub(crate) use output::Target;
pub use pack::PackedWeights;
pub(crate) use quantize::dequantize_one;
#[cfg(any(feature = "gpu", target_arch = "x86_64"))]
pub(crate) use quantize::has_exact_reciprocal;
pub use quantize::{
    Quantization, Quantized, dequantize, dequantize_columns, quantize, quantized_sum,
    range_quantization,
};
