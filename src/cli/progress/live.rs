//! One line a running stage, redrawn in place.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use engine::RunEvent;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::pace::{Pace, describe};
use super::sentence::sentence;
use crate::cli::quantity::{bytes, seconds};

/// Live lines on a terminal.
#[derive(Debug, Default)]
pub(in crate::cli) struct Live {
    screen: MultiProgress,
    running: BTreeMap<String, Line>,
}

#[derive(Debug)]
struct Line {
    bar: ProgressBar,
    pace: Option<Pace>,
}

impl Live {
    pub(super) fn hear(&mut self, event: &RunEvent) {
        match event {
            RunEvent::StageStarted { stage, kind, expected_s, .. } => {
                let about = expected_s.map_or_else(String::new, |expected_s| {
                    format!("  about {}", seconds(expected_s))
                });
                let line = self.line(stage);
                line.bar.set_message(format!("{kind}{about}"));
            }
            RunEvent::StageProgress { stage, progress } => {
                let now = Instant::now();
                let line = self.line(stage);
                let pace = line.pace.get_or_insert_with(|| Pace::new(progress, now));
                let left = pace.left(progress, now);
                line.bar.set_length(progress.total.max(1));
                line.bar.set_position(progress.step.min(progress.total));
                line.bar.set_message(describe(progress, left));
            }
            RunEvent::Fetching { model, progress } => {
                let line = self.line(model);
                line.bar.set_length(progress.total_bytes.unwrap_or(0).max(1));
                line.bar.set_position(progress.done_bytes);
                let done = bytes(progress.done_bytes);
                let total = progress.total_bytes.map_or_else(|| "?".to_owned(), bytes);
                let (what, mirror) = (&progress.what, &progress.mirror);
                line.bar.set_message(format!("{what}  {done} of {total}  from {mirror}"));
            }
            event => self.fact(event),
        }
    }

    pub(super) fn follow(&mut self, event: &RunEvent) {
        match event {
            RunEvent::StageStarted { .. }
            | RunEvent::StageProgress { .. }
            | RunEvent::Fetching { .. } => self.hear(event),
            event => self.done_with(event),
        }
    }

    /// Writes a line that stays, above the live ones.
    pub(super) fn say(&mut self, line: &str) {
        // A terminal that is gone does not end the run.
        let _unheard = self.screen.println(line);
    }

    fn fact(&mut self, event: &RunEvent) {
        self.done_with(event);
        if let Some(line) = sentence(event) {
            self.say(&line);
        }
    }

    /// Takes the live line away that the event makes obsolete.
    fn done_with(&mut self, event: &RunEvent) {
        match event {
            RunEvent::StageFinished { stage, .. }
            | RunEvent::StageFailed { stage, .. }
            | RunEvent::StageSkipped { stage, .. }
            | RunEvent::StagePaused { stage, .. }
            | RunEvent::StageInterrupted { stage } => self.remove(stage),
            RunEvent::SourceReady { name, .. } => {
                self.remove(name.split_once('.').map_or(name.as_str(), |(_, model)| model));
            }
            _ => {}
        }
    }

    fn line(&mut self, name: &str) -> &mut Line {
        let screen = &self.screen;
        self.running.entry(name.to_owned()).or_insert_with(|| {
            let template = "{spinner} {prefix:8} {bar:10} {wide_msg}";
            let style = ProgressStyle::with_template(template).expect("a sound template");
            let bar = screen.add(ProgressBar::new(1).with_style(style));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            Line { bar, pace: None }
        })
    }

    fn remove(&mut self, name: &str) {
        if let Some(line) = self.running.remove(name) {
            line.bar.finish_and_clear();
            self.screen.remove(&line.bar);
        }
    }

    pub(super) fn end(&mut self) {
        let names: Vec<_> = self.running.keys().cloned().collect();
        names.iter().for_each(|name| self.remove(name));
        // The last line is padded to the terminal's width and leaves the cursor behind it.
        let _unheard = writeln!(io::stderr());
    }
}
