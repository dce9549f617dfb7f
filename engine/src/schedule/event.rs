//! What a scheduler says while it is at work.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::Comparison;
use crate::history::TickState;

/// Something a scheduler did or met; field names are stable, `--json` prints them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum SchedulerEvent {
    /// It looks after a manifest from now on, or after its changed schedule.
    Watching {
        /// Manifest, as named.
        manifest: PathBuf,
        /// Its next slot.
        next: Option<Timestamp>,
    },
    /// The run of a slot starts.
    Started {
        /// Manifest, as named.
        manifest: PathBuf,
        /// When it was due, before its delay.
        slot: Timestamp,
    },
    /// A slot was left out.
    LeftOut {
        /// Manifest, as named.
        manifest: PathBuf,
        /// When it was due, before its delay.
        slot: Timestamp,
        /// `skipped` or `missed`.
        state: TickState,
        /// Why, where there is more to say.
        reason: Option<String>,
    },
    /// The run of a slot is told to stop.
    StopsRun {
        /// Manifest, as named.
        manifest: PathBuf,
    },
    /// The run of a slot ended.
    Ended {
        /// Manifest, as named.
        manifest: PathBuf,
        /// When it was due, before its delay.
        slot: Timestamp,
        /// How.
        state: TickState,
        /// The run, where one began.
        run: Option<i64>,
        /// The sweep, where one began or went on.
        sweep: Option<i64>,
        /// Why none began.
        reason: Option<String>,
        /// How it compares with the last good one, where that is watched.
        comparison: Option<Comparison>,
    },
    /// A notice of a regression was sent, or could not be.
    Notice {
        /// Manifest, as named.
        manifest: PathBuf,
        /// The command or address.
        to: String,
        /// Why it did not arrive.
        error: Option<String>,
    },
    /// A manifest could not be looked after; it is tried again.
    Trouble {
        /// Manifest, as named.
        manifest: PathBuf,
        /// What went wrong.
        error: String,
    },
    /// It was told to stop, or a regression ends it; runs that are going on are waited for.
    Stopping {
        /// Runs that are waited for.
        runs: usize,
    },
}
