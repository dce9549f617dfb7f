//! Compiles a [`graph::Graph`] for inference and runs it, on the CPU or a GPU.
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
//! - `slices`: how batches are cut, so that threads work by themselves.
//! - `module`: the graph as passes see it, fused operations included.
//! - `pass`: one file a rewrite, one table `PASSES`.
//! - `kernel`: one file a family of kernels, one table `KERNELS`.
//! - [`Device`]: where a model runs. `gpu`: the same steps on a GPU, in builds with the feature;
//!   what it has no kernel for runs on the CPU, and the explanation says why.
//! - `dynamic`: the other way to run, for models whose sizes depend on values.
//! - `program`: what runs, a model or the body of a loop; `body`: such a body as a module.
//! - `plan`: what shares memory, offsets, peak, budget; [`MemoryUse`], [`PeakFormula`], [`ArenaBlock`].
//! - `machine`: how much memory there is.
//! - [`Explanation`]: what was chosen, and why not the rest; [`dump_after`], [`check_passes`]: pass by pass.
//! - `cost`, [`profile()`]: what each node has to do, how long that should take, and how long it takes.
//! - [`load`]: a package, with its self-test. [`calibrate`]: int8 without training.

mod body;
pub mod calibrate;
mod compile;
mod cost;
mod device;
mod dynamic;
mod error;
mod explain;
#[cfg(feature = "gpu")]
mod gpu;
mod guards;
mod inspect;
mod kernel;
mod machine;
mod module;
mod pass;
mod plan;
mod profile;
mod program;
mod session;
mod slices;
mod verified;

pub use compile::{CompileOptions, CompiledModel, Level, Precision, compile};
pub use device::Device;
pub use error::RuntimeError;
pub use explain::{CompileTimes, ExplainedNode, Explanation, RejectedKernel};
pub use inspect::{PassCheck, check_passes, dump_after};
pub use kernels::Tier;
pub use machine::memory_fraction;
pub use pass::{PassReport, pass_names};
pub use plan::{ArenaBlock, MemoryUse, PeakFormula, SizeTerm, SlicedUse};
pub use profile::{MachinePeaks, NodeCost, NodeProfile, PeakFact, Profile, profile};
pub use session::{OutputView, Outputs, Session};
pub use verified::{FailedTier, VerifiedModel, golden_tolerance, load, self_test};
