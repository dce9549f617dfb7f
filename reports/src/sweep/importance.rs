//! Which of the parameters of a sweep its objectives depend on.

use engine::history::{SweepRecord, TrialRecord, TrialState};
use serde::Serialize;
use serde_json::Value;

use super::forest::{self, Kind, Rows};
use super::{ParameterNames, objective_name, percent};
use crate::plot::{Bar, Bars};

/// Measured trials below which nothing is said: a tree of fewer rows has next to no splits.
const MIN_TRIALS: usize = 16;
/// Share of the variance on unseen trials below which the forest explains too little to rank by.
const MIN_R_SQUARED: f64 = 0.1;

/// Importances for one objective.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Importance {
    /// The objective.
    pub(crate) objective: String,
    /// Trials the forest saw.
    pub(crate) trials: usize,
    /// Share of the variance that it explains on trials it did not see; absent without a forest.
    pub(crate) r_squared: Option<f64>,
    /// Parameter and importance, largest first; empty when nothing can be said.
    pub(crate) values: Vec<(String, f64)>,
    /// What was done, or why nothing was.
    pub(crate) note: String,
}

impl Importance {
    /// A bar a parameter; `None` where nothing can be said.
    pub(crate) fn bars(&self) -> Option<Bars> {
        let bars = self.values.iter();
        let bars = bars.map(|(name, value)| Bar { name: name.clone(), value: *value });
        Bars::new(&self.objective, "growth of the error", "", bars.collect())
    }
}

/// The importances for every objective of `sweep`.
pub(crate) fn importances(sweep: &SweepRecord, names: &ParameterNames) -> Vec<Importance> {
    (0..sweep.objectives.len()).map(|index| importance(sweep, names, index)).collect()
}

fn importance(sweep: &SweepRecord, names: &ParameterNames, index: usize) -> Importance {
    let measured: Vec<(&TrialRecord, f64)> = sweep
        .trials
        .iter()
        .filter(|trial| trial.state == TrialState::Done)
        .filter_map(|trial| Some((trial, (*trial.objectives.get(index)?)?)))
        .collect();
    let mut importance = Importance {
        objective: objective_name(sweep, index),
        trials: measured.len(),
        r_squared: None,
        values: Vec::new(),
        note: String::new(),
    };
    if measured.len() < MIN_TRIALS {
        importance.note = format!(
            "No importances: at least {MIN_TRIALS} measured trials are needed, found {}.",
            measured.len()
        );
        return importance;
    }
    let Some(ranking) = forest::rank(&rows(sweep, &measured)) else {
        importance.note = "No importances: every trial came out the same.".to_owned();
        return importance;
    };
    importance.r_squared = Some(ranking.r_squared);
    let explained = percent(ranking.r_squared.max(0.0));
    if ranking.r_squared < MIN_R_SQUARED {
        importance.note = format!(
            "No importances: a random forest explains only {explained} of the variance of trials \
             it did not see (R², {} trials), too little to rank parameters by.",
            measured.len()
        );
        return importance;
    }
    importance.note = format!(
        "Permutation importance in a random forest of 128 trees over {} trials: how much the \
         squared error on unseen trials grows when a parameter is shuffled, as a share of the \
         variance. The forest explains {explained} of the variance of unseen trials (R²).",
        measured.len()
    );
    let mut values: Vec<(String, f64)> = sweep
        .varied()
        .zip(ranking.importances)
        .map(|(dimension, value)| (names.short(&dimension.name).to_owned(), value))
        .collect();
    values.sort_by(|a, b| b.1.total_cmp(&a.1));
    importance.values = values;
    importance
}

/// Parameters as numbers: logarithms where the axis is one, and places in a list for words.
fn rows(sweep: &SweepRecord, measured: &[(&TrialRecord, f64)]) -> Rows {
    let mut inputs = vec![Vec::new(); measured.len()];
    let mut kinds = Vec::new();
    for dimension in sweep.varied() {
        let values: Vec<Option<&Value>> =
            measured.iter().map(|(trial, _)| trial.params.get(&dimension.name)).collect();
        let is_number = values.iter().flatten().all(|value| value.is_number());
        kinds.push(if is_number { Kind::Number } else { Kind::Category });
        let mut words: Vec<&Value> = Vec::new();
        for (row, value) in inputs.iter_mut().zip(values) {
            row.push(match value {
                None => f64::NAN,
                Some(value) if is_number => {
                    let number = value.as_f64().unwrap_or(f64::NAN);
                    if dimension.log && number > 0.0 { number.ln() } else { number }
                }
                Some(word) => {
                    let place = words.iter().position(|known| *known == word);
                    place.unwrap_or_else(|| {
                        words.push(word);
                        words.len() - 1
                    }) as f64
                }
            });
        }
    }
    Rows { kinds, inputs, targets: measured.iter().map(|(_, value)| *value).collect() }
}
