//! What people see while a run goes on: live lines on a terminal, calm lines elsewhere.

mod lines;
mod live;
mod pace;
mod sentence;

use std::io::IsTerminal as _;

use engine::RunEvent;

/// Shows the events of a run on standard error.
#[derive(Debug)]
pub(super) enum Progress {
    /// One line a running stage, redrawn in place.
    Live(live::Live),
    /// One line a fact, and now and then one on how far a stage is.
    Lines(lines::Lines),
}

impl Progress {
    /// Live on a terminal, lines elsewhere.
    pub(super) fn to_stderr() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Live(live::Live::default())
        } else {
            Self::Lines(lines::Lines::default())
        }
    }

    /// Shows an event.
    pub(super) fn hear(&mut self, event: &RunEvent) {
        match self {
            Self::Live(live) => live.hear(event),
            Self::Lines(lines) => lines.hear(event),
        }
    }

    /// Moves the live lines without a line that stays; off a terminal, how far stages are now and
    /// then.
    pub(super) fn follow(&mut self, event: &RunEvent) {
        match self {
            Self::Live(live) => live.follow(event),
            Self::Lines(lines) => lines.follow(event),
        }
    }

    /// Writes a line that stays.
    pub(super) fn say(&mut self, line: &str) {
        match self {
            Self::Live(live) => live.say(line),
            Self::Lines(_) => lines::write_line(line),
        }
    }

    /// Takes the live lines away.
    pub(super) fn end(&mut self) {
        match self {
            Self::Live(live) => live.end(),
            Self::Lines(_) => {}
        }
    }
}
