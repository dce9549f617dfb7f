//! `pipeline runs`.

use std::path::PathBuf;

use engine::history::{RunFilter, RunState, RunSummary};

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
    /// Only runs of this manifest
    #[arg(long, value_name = "MANIFEST", value_hint = clap::ValueHint::FilePath)]
    manifest: Option<PathBuf>,
    /// Only runs in this state: running, done, failed or interrupted
    #[arg(long = "state", value_name = "STATE", value_parser = read_state)]
    wanted: Option<RunState>,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

impl Runs {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        // The manifest may be gone; its runs are not.
        let file = |path: &PathBuf| {
            path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or(path.clone())
        };
        let filter = RunFilter {
            limit: self.limit,
            manifest: self.manifest.as_ref().map(file),
            state: self.wanted,
        };
        let runs = self.state.history()?.chosen_runs(&filter)?;
        Ok(self.facts.answer(&runs, || match runs.as_slice() {
            [] => format!("no such runs in {}", self.state.folder().display()),
            runs => text(runs),
        }))
    }
}

fn read_state(text: &str) -> Result<RunState, String> {
    let word = serde_json::Value::String(text.to_owned());
    serde_json::from_value(word)
        .map_err(|_| "expected `running`, `done`, `failed` or `interrupted`".to_owned())
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
