//! `pipeline explain MANIFEST STAGE`.

use std::fmt::Write as _;

use engine::{Explanation, Forecast};

use super::answer::{Answer, Facts};
use super::arguments::ManifestFile;
use super::failure::Failure;

/// Says which fields of a stage's cache key changed since its last run.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    manifest: ManifestFile,
    /// Stage of the manifest
    stage: String,
    #[command(flatten)]
    facts: Facts,
}

impl Explain {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let explanation = self.manifest.project()?.explain(&self.stage, &self.manifest.set)?;
        Ok(self.facts.answer(&explanation, || text(&explanation)))
    }
}

fn text(explanation: &Explanation) -> String {
    let Explanation { stage, previous_run, changes, .. } = explanation;
    let would = match stage.forecast {
        Forecast::Hit => "is a hit",
        Forecast::Run => "would run",
        Forecast::Depends => "may run",
        Forecast::Fail => "would fail",
        Forecast::Skip => "would not run",
    };
    let mut text = format!("`{}` {would}: {}\n", stage.name, stage.reason);
    match previous_run {
        None => text.push_str("there is no earlier run to compare with\n"),
        Some(run) if changes.is_empty() => {
            let _infallible = writeln!(text, "nothing in its key changed since run {run}");
        }
        Some(run) => {
            let _infallible = writeln!(text, "changed since run {run}:");
            for change in changes {
                let _infallible = writeln!(text, "  {change}");
            }
        }
    }
    text
}
