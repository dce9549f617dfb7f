//! `pipeline scheduler list`.

use std::fmt::Write as _;
use std::path::PathBuf;

use engine::history::{History, TickRecord};
use engine::schedule::Schedule;
use jiff::Timestamp;
use serde::Serialize;

use super::super::answer::{Answer, Facts, columns};
use super::super::arguments::State;
use super::super::failure::Failure;
use super::super::runs::word;
use super::Manifests;

/// Shows when schedules are due next and what became of the last times.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    manifests: Manifests,
    /// How many times of each, coming and past
    #[arg(long, default_value_t = 5)]
    limit: usize,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Listed {
    manifest: PathBuf,
    schedule: Schedule,
    next: Vec<Coming>,
    ticks: Vec<TickRecord>,
}

/// A time to come.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Coming {
    slot: Timestamp,
    /// The same after its delay.
    due: Timestamp,
}

impl List {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let mut listed = Vec::new();
        let (scheduled, code) = self.manifests.read()?;
        for one in scheduled {
            let home = self.state.given().unwrap_or_else(|| {
                let absolute = std::path::absolute(&one.manifest).unwrap_or_default();
                engine::state_folder(absolute.parent().unwrap_or(std::path::Path::new("/")))
            });
            let next = one.timetable.after(Timestamp::now()).take(self.limit);
            let next = next.map(|slot| Coming { slot, due: one.timetable.due(slot) }).collect();
            let ticks = History::open(&home)?.ticks(&one.file, self.limit)?;
            let schedule = one.timetable.schedule().clone();
            listed.push(Listed { manifest: one.manifest, schedule, next, ticks });
        }
        let text = || listed.iter().map(text).collect::<Vec<_>>().join("\n");
        Ok(self.facts.answer(&listed, text).with_code(code))
    }
}

fn text(listed: &Listed) -> String {
    let Listed { manifest, schedule, next, ticks } = listed;
    let (cron, zone) = (schedule.cron.as_str(), schedule.timezone.as_str());
    let mut text = format!("{}: {cron} ({zone})\n", manifest.display());
    let coming = next.iter().map(|coming| {
        let delayed = coming.due != coming.slot;
        let due = if delayed { format!("due {:.0}", coming.due) } else { String::new() };
        ["  next".to_owned(), coming.slot.to_string(), due]
    });
    let past = ticks.iter().map(|tick| {
        let run = tick.run.map(|run| format!("run {run}"));
        let run = run.or_else(|| tick.sweep.map(|sweep| format!("sweep {sweep}")));
        let reason = tick.reason.clone().or(run).unwrap_or_default();
        let worse = tick.comparison.as_ref().is_some_and(|one| one.is_regression());
        let reason = if worse { format!("{reason}, worse than the last good one") } else { reason };
        [format!("  {}", word(&tick.state)), tick.slot.to_string(), reason]
    });
    let _infallible = write!(text, "{}", columns(&coming.chain(past).collect::<Vec<_>>()));
    text
}
