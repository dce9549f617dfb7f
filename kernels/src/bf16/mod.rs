//! The linear layer with operands rounded to bf16: half the bytes of `f32`, and four times the
//! products a second where tiles are multiplied.
//!
//! `x` and the weights are rounded to the nearest bf16, halves to even; products are exact and
//! summed in `f32`. Up to tier `avx512` each sum adds its products one after another, so that these
//! tiers agree bit for bit (where a product lies below 2⁻¹³³, it may be rounded before it is
//! added, or not). On tier `amx`, and on `vnni` where the CPU gains by it
//! ([`Cpu::has_fast_bf16_dot`](crate::Cpu::has_fast_bf16_dot)), the instruction adds pairs of products,
//! in an order of its own, and takes subnormal numbers for 0. Either way a sum of k products is within
//! `γ·Σ|x·w|` of the exact one, `γ = k·2⁻²⁴/(1 − k·2⁻²⁴)` (Higham 2002, Accuracy and Stability of
//! Numerical Algorithms, §3.1), as long as nothing is subnormal.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod dot;
mod linear;
mod pack;
mod portable;
mod round;

pub(crate) use linear::{Groups, linear_of_windows};
pub use linear::{Input, Layer, PARALLEL_WORK, linear_bf16, linear_bf16_into};
pub use pack::PackedBf16;
pub use round::{relu, rounded};
pub(crate) use round::{round_piece, widen_piece, widened};
