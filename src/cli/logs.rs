//! `pipeline logs RUN STAGE`.

use anyhow::Context as _;
use engine::history::{History, RunChoice, StageRecord};
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
        let (mut run, mut stage) = find(&history, self.run, &self.stage)?;
        if let Some(origin) = stage.origin_run {
            (run, stage) = find(&history, RunChoice::Id(origin), &self.stage)?;
        }
        let path = stage.log_path.ok_or_else(|| {
            Failure::wrong(format!(
                "stage `{}` of run {run} never ran: {}",
                stage.name, stage.reason
            ))
        })?;
        let log = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the log {}", path.display()))?;
        let lines: Vec<&str> = log.lines().collect();
        let facts = json!({ "run": run, "stage": stage.name, "path": path, "lines": lines });
        Ok(self.facts.answer(&facts, || log.clone()))
    }
}

fn find(history: &History, choice: RunChoice, name: &str) -> Result<(i64, StageRecord), Failure> {
    let record = history.run(choice)?;
    let run = record.summary.id;
    let names: Vec<String> = record.stages.iter().map(|stage| stage.name.clone()).collect();
    let stage = record.stages.into_iter().find(|stage| stage.name == name);
    stage.map(|stage| (run, stage)).ok_or_else(|| {
        Failure::wrong(format!("run {run} has no stage `{name}`, only {}", names.join(", ")))
    })
}
