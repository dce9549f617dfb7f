//! `pipeline runs`.

use engine::history::RunSummary;

use super::answer::{Answer, Facts, columns};
use super::arguments::State;
use super::failure::Failure;
use super::quantity::maybe_seconds;

/// Lists the newest runs.
#[derive(Debug, clap::Args)]
pub(super) struct Runs {
    /// How many at most
    #[arg(long, default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

impl Runs {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let runs = self.state.history()?.runs(self.limit)?;
        Ok(self.facts.answer(&runs, || match runs.as_slice() {
            [] => format!("no runs in {}", self.state.folder().display()),
            runs => text(runs),
        }))
    }
}

fn text(runs: &[RunSummary]) -> String {
    let header =
        ["run", "manifest", "trigger", "state", "started", "time", "ran", "hits", "failed"];
    let header = header.map(str::to_owned);
    let rows = runs.iter().map(|run| {
        [
            run.id.to_string(),
            run.manifest_path.display().to_string(),
            run.trigger.to_string(),
            word(&run.state),
            format!("{:.0}", run.started_at),
            maybe_seconds(run.duration_s),
            run.ran.to_string(),
            run.hits.to_string(),
            run.failed.to_string(),
        ]
    });
    columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// A state as its JSON name.
pub(super) fn word(state: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(state).expect("a state is a word");
    value.as_str().unwrap_or_default().to_owned()
}
