//! `pipeline sweeps [SWEEP]`.

use std::fmt::Write as _;

use engine::history::{SweepRecord, SweepSummary, TrialRecord};

use super::answer::{Answer, Facts, columns};
use super::arguments::State;
use super::failure::Failure;
use super::quantity::{ABSENT, seconds};
use super::runs::word;
use super::sweep::{short, shown};

/// Lists the newest sweeps, or shows one with its trials.
#[derive(Debug, clap::Args)]
pub(super) struct Sweeps {
    /// Number of a sweep
    sweep: Option<i64>,
    /// How many at most
    #[arg(long, default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

impl Sweeps {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let history = self.state.history()?;
        if let Some(sweep) = self.sweep {
            let record = history.sweep(sweep)?;
            return Ok(self.facts.answer(&record, || text(&record)));
        }
        let sweeps = history.sweeps(self.limit)?;
        Ok(self.facts.answer(&sweeps, || match sweeps.as_slice() {
            [] => format!("no sweeps in {}", self.state.folder().display()),
            sweeps => list(sweeps),
        }))
    }
}

fn list(sweeps: &[SweepSummary]) -> String {
    let header = [
        "sweep", "manifest", "state", "started", "time", "sampler", "done", "held", "failed",
        "asked",
    ];
    let rows = sweeps.iter().map(|sweep| {
        [
            sweep.id.to_string(),
            sweep.manifest_path.display().to_string(),
            word(&sweep.state),
            format!("{:.0}", sweep.started_at),
            seconds(sweep.duration_s),
            sweep.sampler.clone(),
            sweep.done.to_string(),
            sweep.paused.to_string(),
            sweep.failed.to_string(),
            sweep.asked.to_string(),
        ]
    });
    columns(&std::iter::once(header.map(str::to_owned)).chain(rows).collect::<Vec<_>>())
}

/// A sweep with its trials, best first.
pub(super) fn text(sweep: &SweepRecord) -> String {
    let maximize = sweep.objectives.first().is_some_and(|objective| objective.maximize);
    let rank = |trial: &TrialRecord| {
        let value = trial.objectives.first().copied().flatten().unwrap_or(f64::NAN);
        let value = if maximize { -value } else { value };
        (!trial.best, trial.violation.unwrap_or(f64::INFINITY), value)
    };
    let mut trials: Vec<&TrialRecord> = sweep.trials.iter().collect();
    trials.sort_by(|one, other| {
        let (one, other) = (rank(one), rank(other));
        (one.0.cmp(&other.0)).then(one.1.total_cmp(&other.1)).then(one.2.total_cmp(&other.2))
    });
    let names: Vec<_> = sweep
        .objectives
        .iter()
        .map(|objective| format!("{}.{}", objective.stage, objective.metric))
        .collect();
    let header = [
        "trial".to_owned(),
        "state".to_owned(),
        names.join(", "),
        "runs".to_owned(),
        "parameters".to_owned(),
    ];
    let varied_of = |trial: &TrialRecord| {
        let mut params = trial.params.clone();
        params.retain(|path, _| sweep.varied().any(|dimension| dimension.name == *path));
        shown(&params)
    };
    let rows = trials.iter().map(|trial| {
        let state = match (trial.best, trial.rung) {
            (true, _) => "best".to_owned(),
            (false, Some(rung)) => format!("{} at {rung}", word(&trial.state)),
            (false, None) => word(&trial.state),
        };
        let objectives: Vec<_> =
            trial.objectives.iter().flatten().map(|value| format!("{value:.4}")).collect();
        let mut values =
            if objectives.is_empty() { ABSENT.to_owned() } else { objectives.join(", ") };
        if trial.violation.is_some_and(|violation| violation > 0.0) {
            values.push_str(" (breaks constraints)");
        }
        let runs: Vec<_> = trial.runs.iter().map(|run| run.run.to_string()).collect();
        let error = trial.error.as_ref().filter(|_| objectives.is_empty());
        let about = match error.and_then(|error| error.lines().next()) {
            Some(error) => format!("{}: {error}", varied_of(trial)),
            None => varied_of(trial),
        };
        [trial.number.to_string(), state, values, runs.join(" "), about]
    });
    let mut text = columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>());
    let summary = &sweep.summary;
    let counts = sweep.stage_runs;
    let share = 100.0 * counts.saved as f64 / counts.total.max(1) as f64;
    let varied: Vec<_> = sweep.varied().map(|dimension| short(&dimension.name)).collect();
    let _infallible = write!(
        text,
        "\nsweep {}: {}, {} of {} trials done, {} held, {} failed, over {}\n",
        summary.id,
        word(&summary.state),
        summary.done,
        summary.asked,
        summary.paused,
        summary.failed,
        varied.join(", ")
    );
    if counts.total > 0 {
        let _infallible = writeln!(
            text,
            "{} stage runs, {} of them ran and {} ({share:.0} %) were shared",
            counts.total, counts.ran, counts.saved
        );
    }
    if let Some(budget) = sweep.used_budget() {
        let _infallible = writeln!(text, "its budget of {budget} is used up; a larger one goes on");
    }
    text
}
