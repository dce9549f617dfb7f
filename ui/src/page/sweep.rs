//! One sweep: its report, and the runs of its trials.

use axum::extract::{Path, State as Extract};
use engine::history::{SweepRecord, SweepState, TrialRecord, TrialState};
use minijinja::{Value, context};

use super::{compare, word};
use crate::failure::Page;
use crate::link;
use crate::state::State;
use crate::template;

/// `GET /sweeps/{sweep}`
pub(crate) async fn show(Extract(state): Extract<State>, Path(sweep): Path<String>) -> Page {
    let id = link::sweep(&sweep)?;
    state
        .ask(move |_, history| {
            let record = history.sweep(id)?;
            let page = context! {
                title => format!("{} sweep {id}", record.summary.manifest),
                id,
                going => record.summary.state == SweepState::Running,
                trials => record.trials.iter().filter_map(runs).collect::<Vec<_>>(),
                report => Value::from_safe_string(reports::sweep_content(&[record])?),
            };
            template::print("sweep.html", page)
        })
        .await
}

/// The runs of a trial, one a seed, and where they are compared.
fn runs(trial: &TrialRecord) -> Option<Value> {
    let runs: Vec<Value> =
        trial.runs.iter().map(|run| context! { run => run.run, seed => run.seed }).collect();
    let pairs: Vec<(&str, String)> =
        trial.runs.iter().map(|run| ("run", run.run.to_string())).collect();
    let comparison = link::query(pairs.iter().map(|(name, run)| (*name, run.as_str())));
    (!runs.is_empty()).then(|| {
        context! {
            number => trial.number,
            state => word(&trial.state),
            is_best => trial.best,
            comparison => (2..=compare::MOST).contains(&runs.len()).then(|| format!("/compare{comparison}")),
            runs,
        }
    })
}

/// How a sweep stands, in a sentence that changes when a trial starts or ends.
pub(crate) fn status(sweep: &SweepRecord) -> String {
    let summary = &sweep.summary;
    let at_work: Vec<String> = sweep
        .trials
        .iter()
        .filter(|trial| trial.state == TrialState::Running)
        .map(|trial| trial.number.to_string())
        .collect();
    let (done, asked) = (summary.done, summary.asked);
    match (summary.state, at_work.as_slice()) {
        (SweepState::Running, []) => format!("{done} of {asked} trials are measured"),
        (SweepState::Running, numbers) => {
            format!("{done} of {asked} trials are measured, at work: {}", numbers.join(", "))
        }
        (state, _) => format!("The sweep has ended: {}", word(&state)),
    }
}
