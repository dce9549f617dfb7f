//! Schedules: when manifests run by themselves.
//!
//! What a scheduler does is decided by `decide`, a pure function of the schedule, the slots already
//! recorded and the time; it is tested under made-up clocks. Around it: [`Timetable`] says
//! which slots there are, the history's ticks make a decision and its record one
//! transaction, and [`Scheduler`] sleeps, starts runs and tells what became of them.
//!
//! **A slot runs at most once.** A tick is a row with a unique slot, written in the transaction
//! that decided it, and the run of a slot is unique in the table of runs: two schedulers, a crash
//! between the two or a clock that goes back find the slot taken. A slot that was claimed by a
//! scheduler that died before its run began is decided anew, under the catch-up policy; one
//! whose run was killed stays interrupted, and the next slot goes on from what is cached.

mod charge;
mod decide;
mod event;
mod notice;
mod process;
pub(crate) mod regression;
mod scheduler;
mod spec;
mod timetable;

pub use charge::timetable;
pub use scheduler::{Ending, Scheduler};
pub use spec::{Better, CatchUp, Cron, Jitter, OnRegression, Overlap, Schedule, TimeZone, Webhook};
pub use timetable::Timetable;

pub use event::SchedulerEvent;
pub use regression::{Comparison, Finding};

pub(crate) use decide::{Active, Seen, Verdict, decide};
pub(crate) use process::ProcessIdentity;
