//! `pipeline scheduler run`.

use std::io::{self, Write as _};

use anyhow::Context as _;
use engine::schedule::{Ending, Finding, Scheduler, SchedulerEvent};
use jiff::Timestamp;
use stages::STAGES;

use super::super::answer::Answer;
use super::super::arguments::State;
use super::super::failure::Failure;
use super::super::runs::word;
use super::Manifests;

/// Exit code when a regression ended it.
const REGRESSED: u8 = 1;

/// Looks after schedules: starts a run when one is due, at most one for each time.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    manifests: Manifests,
    /// Run what is due now and end
    #[arg(long)]
    once: bool,
    /// End at this time, for instance 2026-05-04T18:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "once")]
    until: Option<Timestamp>,
    /// Pretend that it is this time
    #[arg(long, value_name = "TIME", hide = true, requires = "once")]
    now: Option<Timestamp>,
    /// Print one JSON event a line with stable field names
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

impl Run {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let ending = match (self.once, self.until) {
            (true, _) => Ending::Once(self.now.unwrap_or_else(Timestamp::now)),
            (false, Some(until)) => Ending::Until(until),
            (false, None) => Ending::Never,
        };
        let scheduler = Scheduler {
            manifests: self.manifests.manifests.clone(),
            folder: self.manifests.folder.clone(),
            home: self.state.given(),
            table: STAGES,
            program: (program, Vec::new()),
            ending,
        };
        let json = self.json;
        let regressed = scheduler.run(&mut |event| {
            let line = if json {
                serde_json::to_string(event).expect("an event is plain JSON")
            } else {
                sentence(event)
            };
            // A reader that went away does not end the scheduler.
            let mut out = io::stdout().lock();
            let _unheard = writeln!(out, "{line}").and_then(|()| out.flush());
        })?;
        Ok(Answer::default().with_code(if regressed { REGRESSED } else { 0 }))
    }
}

/// An event in words.
fn sentence(event: &SchedulerEvent) -> String {
    match event {
        SchedulerEvent::Watching { manifest, next } => {
            let next = next.map_or_else(|| "never due".to_owned(), |next| format!("next {next}"));
            format!("{}: {next}", manifest.display())
        }
        SchedulerEvent::Started { manifest, slot } => {
            format!("{}: {slot} starts", manifest.display())
        }
        SchedulerEvent::LeftOut { manifest, slot, state, reason } => {
            let (state, reason) = (word(state), because(reason.as_deref()));
            format!("{}: {slot} {state}{reason}", manifest.display())
        }
        SchedulerEvent::StopsRun { manifest } => {
            format!("{}: the running one is told to stop", manifest.display())
        }
        SchedulerEvent::Ended { manifest, slot, state, run, sweep, reason, comparison } => {
            let run = run.map(|run| format!(", run {run}"));
            let run = run.or_else(|| sweep.map(|sweep| format!(", sweep {sweep}")));
            let run = run.unwrap_or_default();
            let (state, reason) = (word(state), because(reason.as_deref()));
            let mut text = format!("{}: {slot} {state}{run}{reason}", manifest.display());
            let found = comparison.iter().flat_map(|one| {
                let worse = one.worse.iter().map(|finding| ("worse", finding));
                worse.chain(one.unjudged.iter().map(|finding| ("not judged", finding)))
            });
            for (kind, Finding { metric, detail, .. }) in found {
                text.push_str(&format!("\n  {kind}: {metric} {detail}"));
            }
            text
        }
        SchedulerEvent::Notice { manifest, to, error: None } => {
            format!("{}: told `{to}`", manifest.display())
        }
        SchedulerEvent::Notice { manifest, to, error: Some(error) } => {
            format!("{}: could not tell `{to}`: {error}", manifest.display())
        }
        SchedulerEvent::Trouble { manifest, error } => {
            format!("{}: {error}", manifest.display())
        }
        SchedulerEvent::Stopping { runs } => format!("stopping, {runs} runs to wait for"),
    }
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}
