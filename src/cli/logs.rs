//! `pipeline logs RUN STAGE`.

use anyhow::Context as _;
use engine::history::{RunChoice, StageLog};
use serde_json::json;

use super::answer::{Answer, Facts};
use super::arguments::State;
use super::failure::Failure;

/// Prints the log of a stage; for a hit, the log of the run that did the work.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// Run: a number or `latest`
    run: RunChoice,
    /// Stage of that run
    stage: String,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

impl Logs {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let history = self.state.history()?;
        let StageLog { origin: run, path, .. } = history.log(self.run, &self.stage)?;
        let log = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the log {}", path.display()))?;
        let lines: Vec<&str> = log.lines().collect();
        let facts = json!({ "run": run, "stage": self.stage, "path": path, "lines": lines });
        Ok(self.facts.answer(&facts, || log.clone()))
    }
}
