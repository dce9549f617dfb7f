//! Compiles a [`graph::Graph`] for inference and runs it on the CPU.
//!
//! [`compile`] rewrites the graph by a list of passes, chooses a kernel for every node that is
//! left, packs the weights, and gives a [`CompiledModel`] that threads may share. A [`Session`]
//! owns the memory of one run after another: for each new set of input sizes it plans where every
//! intermediate lies in one arena, and keeps the plan.
//!
//! Results do not depend on the number of threads. Whatever a pass does is held against
//! `graph::reference`, the definition of every operator.
//!
//! What it does not know: how models are trained, files, manifests, the network.
//!
//! # Layout
//!
//! - [`compile`], [`CompileOptions`], [`CompiledModel`]: start here.
//! - [`Session`]: runs; [`Outputs`]: what it lends.
//! - `module`: the graph as passes see it, fused operations included.
//! - `pass`: one file a rewrite, one table `PASSES`.
//! - `kernel`: one file a family of kernels, one table `KERNELS`.
//! - `plan`: liveness, offsets, peak.
//! - [`Explanation`]: what was chosen, and why not the rest.

mod compile;
mod error;
mod explain;
mod kernel;
mod module;
mod pass;
mod plan;
mod session;

pub use compile::{CompileOptions, CompiledModel, Level, Precision, compile};
pub use error::RuntimeError;
pub use explain::{ExplainedNode, Explanation, RejectedKernel};
pub use kernels::Tier;
pub use pass::{PassReport, pass_names};
pub use session::{OutputView, Outputs, Session};
