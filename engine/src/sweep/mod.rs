//! Sweeps: many runs of a manifest with other parameters.
//!
//! A trial is a choice of parameters, laid over the manifest as overrides, and measured by one run
//! a seed. Trials share what they have in common through the cache. Everything that is known about
//! a trial is in the database before the next one is drawn, so a sweep can be killed anywhere and
//! goes on where it was.
//!
//! # Layout
//!
//! - [`space`]: which parameters vary, and within what.
//! - [`sampler`]: which point of a space comes next.
//! - [`pareto`]: what is better where several objectives count.
//! - `stopping`: who is held at a rung, and who goes on.
//! - `measure`: one trial with all its seeds.
//! - `board`: what is known about the trials, and what to do next.
//! - `drive`: the loop. `plan`: what it would cost.

pub mod pareto;
pub mod sampler;
pub mod space;

mod board;
mod drive;
mod event;
mod measure;
mod plan;
mod stopping;

pub use event::{SweepEvent, SweepReport};
pub use plan::SweepPlan;

pub(crate) use drive::{Sweep, probe};
