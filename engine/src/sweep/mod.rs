//! Sweeps: many runs of a manifest with other parameters.
//!
//! # Layout
//!
//! - [`space`]: which parameters vary, and within what.
//! - [`sampler`]: which point of a space comes next.
//! - [`pareto`]: what is better where several objectives count.

pub mod pareto;
pub mod sampler;
pub mod space;
