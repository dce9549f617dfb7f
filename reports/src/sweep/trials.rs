//! The table of trials, and which of them are best.

use std::collections::BTreeMap;

use engine::history::{SweepRecord, TrialRecord, TrialState};
use serde::Serialize;

use super::{ParameterNames, objective_name, objective_value, parameter, unit};
use crate::quantity::{ABSENT, exact, interval, points, significant};
use crate::statistics::{Estimate, Paired};
use crate::table::Verdict;

/// All trials, a row each.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// A trial.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) is_best: bool,
    pub(crate) cells: Vec<Cell>,
}

/// A text and what it is sorted by.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) detail: String,
    /// Number that the column is sorted by; absent where the text is.
    pub(crate) key: Option<f64>,
    /// Class of the style sheet for the detail; empty for none.
    pub(crate) class: &'static str,
}

/// A trial that no other one beats.
#[derive(Debug, Serialize)]
pub(crate) struct Best {
    pub(crate) number: u64,
    /// Name, value and interval of each objective.
    pub(crate) objectives: Vec<[String; 3]>,
    /// Short name and value of each parameter.
    pub(crate) params: Vec<(String, String)>,
}

/// The estimate of an objective of a trial over its seeds.
pub(crate) fn estimate(trial: &TrialRecord, index: usize) -> Option<Estimate> {
    let values: Vec<f64> = trial
        .runs
        .iter()
        .filter(|run| run.done)
        .filter_map(|run| run.objectives.get(index).copied())
        .filter(|value| value.is_finite())
        .collect();
    Estimate::of(&values)
}

/// The best trials of a sweep, by number.
pub(crate) fn best(sweep: &SweepRecord, names: &ParameterNames) -> Vec<Best> {
    let read = |trial: &TrialRecord| Best {
        number: trial.number,
        objectives: (0..sweep.objectives.len())
            .map(|index| {
                let value = trial.objectives.get(index).copied().flatten();
                let text = value.map(|value| objective_value(sweep, index, value));
                [
                    objective_name(sweep, index),
                    text.unwrap_or_else(|| ABSENT.to_owned()),
                    interval_text(sweep, trial, index),
                ]
            })
            .collect(),
        params: trial
            .params
            .iter()
            .map(|(path, value)| (names.short(path).to_owned(), parameter(value)))
            .collect(),
    };
    sweep.trials.iter().filter(|trial| trial.best).map(read).collect()
}

fn interval_text(sweep: &SweepRecord, trial: &TrialRecord, index: usize) -> String {
    let ends = estimate(trial, index).and_then(|estimate| estimate.interval());
    let unit = unit(&sweep.objectives[index]);
    ends.map(|(low, high)| interval(low, high, unit)).unwrap_or_default()
}

/// How sure the choice of the best trial is, in a sentence; empty with several objectives.
pub(crate) fn best_note(sweep: &SweepRecord) -> String {
    let (Some(best), 1) = (best_trial(sweep), sweep.objectives.len()) else {
        return String::new();
    };
    let others: Vec<&TrialRecord> = sweep
        .trials
        .iter()
        .filter(|trial| trial.number != best.number && keeps(trial))
        .filter(|trial| trial.state == TrialState::Done)
        .collect();
    let tests: Vec<Paired> = others.iter().filter_map(|trial| against(trial, best)).collect();
    if tests.is_empty() {
        return "Each trial was measured with one seed, so nothing says how much of the difference \
                is chance."
            .to_owned();
    }
    let untold = tests.iter().filter(|test| !test.is_shown()).count();
    format!(
        "Of {} other trials that keep the constraints, {untold} cannot be told from the best \
         (paired by seed, 95 % each). The best of many is in part luck: measure it with new seeds \
         before relying on its number.",
        tests.len()
    )
}

/// The best trial where there is one objective.
fn best_trial(sweep: &SweepRecord) -> Option<&TrialRecord> {
    sweep.trials.iter().find(|trial| trial.best)
}

/// Whether a trial keeps the constraints, as far as is known.
pub(crate) fn keeps(trial: &TrialRecord) -> bool {
    trial.violation.is_none_or(|violation| violation <= 0.0)
}

/// The first objective of a trial against that of `best`, seed by seed.
fn against(trial: &TrialRecord, best: &TrialRecord) -> Option<Paired> {
    let by_seed: BTreeMap<u64, f64> = best
        .runs
        .iter()
        .filter(|run| run.done)
        .filter_map(|run| Some((run.seed, *run.objectives.first()?)))
        .collect();
    let pairs: Vec<(f64, f64)> = trial
        .runs
        .iter()
        .filter(|run| run.done)
        .filter_map(|run| Some((*run.objectives.first()?, *by_seed.get(&run.seed)?)))
        .collect();
    Paired::of(&pairs)
}

/// The table of the trials of `sweep`.
pub(crate) fn table(sweep: &SweepRecord, names: &ParameterNames) -> Table {
    let single = sweep.objectives.len() == 1;
    let has_constraints = !sweep.constraints.is_empty();
    let mut columns = vec!["trial".to_owned()];
    columns.extend((0..sweep.objectives.len()).map(|index| objective_name(sweep, index)));
    if single {
        columns.push("against the best".to_owned());
    }
    if has_constraints {
        columns.push("violation".to_owned());
    }
    columns.push("state".to_owned());
    columns.extend(sweep.varied().map(|one| names.short(&one.name).to_owned()));
    columns.push("runs".to_owned());
    let best = best_trial(sweep).filter(|_| single);
    let row = |trial: &TrialRecord| {
        let mut cells: Vec<Cell> =
            (0..sweep.objectives.len()).map(|index| objective(sweep, trial, index)).collect();
        if single {
            cells.push(best.map(|best| comparison(sweep, trial, best)).unwrap_or_default());
        }
        if has_constraints {
            cells.push(violation(trial));
        }
        cells.push(Cell { text: state_word(trial.state).to_owned(), ..Cell::default() });
        cells.extend(sweep.varied().map(|one| parameter_cell(trial, &one.name)));
        let runs: Vec<String> = trial.runs.iter().map(|run| run.run.to_string()).collect();
        cells.push(Cell {
            text: runs.join(", "),
            key: trial.runs.first().map(|run| run.run as f64),
            ..Cell::default()
        });
        Row { number: trial.number, is_best: trial.best, cells }
    };
    Table { columns, rows: sweep.trials.iter().map(row).collect() }
}

fn objective(sweep: &SweepRecord, trial: &TrialRecord, index: usize) -> Cell {
    // A trial that is not over shows what its seeds have so far.
    let mean = trial.objectives.get(index).copied().flatten();
    let Some(value) = mean.or_else(|| estimate(trial, index).map(|estimate| estimate.mean)) else {
        return Cell { text: ABSENT.to_owned(), ..Cell::default() };
    };
    let mut detail = interval_text(sweep, trial, index);
    if let Some(Estimate { n, .. }) = estimate(trial, index).filter(|one| one.n < sweep.seeds.len())
    {
        detail = format!("{n} of {} seeds", sweep.seeds.len());
    }
    let text = objective_value(sweep, index, value);
    Cell { text, detail, key: Some(value), class: "" }
}

fn comparison(sweep: &SweepRecord, trial: &TrialRecord, best: &TrialRecord) -> Cell {
    if trial.number == best.number {
        return Cell { text: "best".to_owned(), key: Some(0.0), ..Cell::default() };
    }
    let Some(test) = against(trial, best) else {
        return Cell { text: ABSENT.to_owned(), ..Cell::default() };
    };
    let difference = test.difference.mean;
    let text = if unit(&sweep.objectives[0]) == "fraction" {
        points(difference)
    } else {
        let sign = if difference > 0.0 { "+" } else { "" };
        format!("{sign}{}", significant(difference))
    };
    let verdict = if !test.is_shown() {
        Verdict::Same
    } else if (difference > 0.0) == sweep.objectives[0].maximize {
        // A trial that misses a constraint may well be better in the objective.
        Verdict::Better
    } else {
        Verdict::Worse
    };
    let class = match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Same => "same",
    };
    Cell { text, detail: verdict.word().to_owned(), key: Some(difference), class }
}

fn violation(trial: &TrialRecord) -> Cell {
    match trial.violation {
        None => Cell { text: ABSENT.to_owned(), ..Cell::default() },
        Some(value) if value <= 0.0 => {
            Cell { text: "none".to_owned(), key: Some(0.0), ..Cell::default() }
        }
        Some(value) => Cell { text: significant(value), key: Some(value), ..Cell::default() },
    }
}

fn parameter_cell(trial: &TrialRecord, path: &str) -> Cell {
    match trial.params.get(path) {
        None => Cell { text: ABSENT.to_owned(), ..Cell::default() },
        Some(value) => Cell { text: parameter(value), key: value.as_f64(), ..Cell::default() },
    }
}

/// What the state of a trial is called.
pub(crate) fn state_word(state: TrialState) -> &'static str {
    match state {
        TrialState::Running => "running",
        TrialState::Interrupted => "interrupted",
        TrialState::Done => "done",
        TrialState::Failed => "failed",
        TrialState::Paused => "stopped early",
    }
}

/// A trial in a few lines, for hovering.
pub(crate) fn hover(sweep: &SweepRecord, names: &ParameterNames, trial: &TrialRecord) -> String {
    let mut text = format!("trial {}", trial.number);
    for index in 0..sweep.objectives.len() {
        if let Some(value) = trial.objectives.get(index).copied().flatten() {
            let name = objective_name(sweep, index);
            text.push_str(&format!("\n{name}: {}", objective_value(sweep, index, value)));
            let interval = interval_text(sweep, trial, index);
            if !interval.is_empty() {
                text.push_str(&format!(" [{interval}]"));
            }
        }
    }
    for (path, value) in &trial.params {
        text.push_str(&format!("\n{}: {}", names.short(path), parameter(value)));
    }
    if let Some(violation) = trial.violation.filter(|violation| *violation > 0.0) {
        text.push_str(&format!("\nviolation: {}", exact(violation)));
    }
    text
}
