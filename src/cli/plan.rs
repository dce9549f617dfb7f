//! `pipeline plan MANIFEST`.

use std::fmt::Write as _;

use engine::{Forecast, RunOptions};

use super::answer::{Answer, Facts, columns};
use super::arguments::{Asked, ManifestFile};
use super::failure::Failure;
use super::quantity::{maybe_seconds, seconds};

/// Says what a run would do, hit or miss and why; runs, fetches and writes nothing. Ends with 1
/// where a cached result does not keep to a gate.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    #[command(flatten)]
    manifest: ManifestFile,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    facts: Facts,
}

impl Plan {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        look_ahead(&self.manifest, &self.asked.options(&self.manifest), self.facts)
    }
}

/// What a run with these options would do.
pub(super) fn look_ahead(
    manifest: &ManifestFile,
    options: &RunOptions,
    facts: Facts,
) -> Result<Answer, Failure> {
    let plan = manifest.project()?.plan(options)?;
    let fails = plan.stages.iter().any(|stage| stage.forecast == Forecast::Fail);
    Ok(facts.answer(&plan, || text(&plan)).with_code(u8::from(fails)))
}

fn text(plan: &engine::Plan) -> String {
    let header = ["stage", "kind", "would", "expected", "why"].map(str::to_owned);
    let rows = plan.stages.iter().map(|stage| {
        let (would, expected) = match stage.forecast {
            Forecast::Hit => ("hit", String::new()),
            Forecast::Run => ("run", maybe_seconds(stage.expected_s)),
            Forecast::Depends => ("depend", maybe_seconds(stage.expected_s)),
            Forecast::Fail => ("fail", String::new()),
            Forecast::Skip => ("skip", String::new()),
        };
        [stage.name.clone(), stage.kind.clone(), would.to_owned(), expected, stage.reason.clone()]
    });
    let mut text = columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>());
    let _infallible = write!(text, "\ndevice: {}", plan.device);
    if let Some(fallback) = &plan.fallback {
        let _infallible = write!(text, " ({fallback})");
    }
    let none = |forecasts: &[Forecast]| {
        plan.stages.iter().all(|stage| !forecasts.contains(&stage.forecast))
    };
    let outlook = match plan.expected_s {
        _ if none(&[Forecast::Run, Forecast::Depends]) => "nothing to do".to_owned(),
        Some(expected_s) => format!("expected time: {} of work at most", seconds(expected_s)),
        None => "expected time: not known before the first run".to_owned(),
    };
    let fails = if none(&[Forecast::Fail]) { "" } else { ", and a gate would fail" };
    let _infallible = write!(text, "\n{outlook}{fails}\n");
    text
}
