//! Calm lines for logs: every fact once, and how far a stage is now and then.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use engine::RunEvent;

use super::pace::{Pace, describe};
use super::sentence::sentence;
use crate::cli::quantity::bytes;

/// Time between two lines on how far one stage or download is.
const CALM: Duration = Duration::from_secs(15);

/// Writes lines to standard error.
#[derive(Debug, Default)]
pub(in crate::cli) struct Lines {
    /// Stage or model → its pace and when it last had a line.
    running: BTreeMap<String, (Option<Pace>, Instant)>,
}

impl Lines {
    pub(super) fn hear(&mut self, event: &RunEvent) {
        let now = Instant::now();
        match event {
            RunEvent::StageProgress { stage, progress } => {
                let (pace, _) = self.running.entry(stage.clone()).or_insert((None, now));
                let pace = pace.get_or_insert_with(|| Pace::new(progress, now));
                let left = pace.left(progress, now);
                self.now_and_then(stage, now, || describe(progress, left));
            }
            RunEvent::Fetching { model, progress } => {
                self.running.entry(model.clone()).or_insert((None, now));
                self.now_and_then(model, now, || {
                    let total = progress
                        .total_bytes
                        .map_or_else(String::new, |total| format!(" of {}", bytes(total)));
                    let done = bytes(progress.done_bytes);
                    format!("{} from {}: {done}{total}", progress.what, progress.mirror)
                });
            }
            event => {
                if let Some(line) = sentence(event) {
                    write_line(&line);
                }
            }
        }
    }

    pub(super) fn follow(&mut self, event: &RunEvent) {
        if matches!(event, RunEvent::StageProgress { .. } | RunEvent::Fetching { .. }) {
            self.hear(event);
        }
    }

    fn now_and_then(&mut self, name: &str, now: Instant, line: impl FnOnce() -> String) {
        let Some((_, last)) = self.running.get_mut(name) else { return };
        if now.duration_since(*last) >= CALM {
            *last = now;
            write_line(&format!("{name}: {}", line()));
        }
    }
}

pub(super) fn write_line(line: &str) {
    // A log that nobody keeps does not end the run.
    let _unheard = writeln!(io::stderr(), "{line}");
}
