//! Sweeps for programs: a row a trial, or everything.

use engine::history::SweepRecord;
use serde::Serialize;
use serde_json::Value;

use super::importance::{self, Importance};
use super::trials::{estimate, state_word};
use super::{ParameterNames, objective_name};
use crate::RenderError;
use crate::csv::{Field, lines};

/// Version of the JSON layout; raised when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'record> {
    schema: u32,
    sweeps: Vec<Sweep<'record>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Sweep<'record> {
    id: i64,
    importances: Vec<Importance>,
    record: &'record SweepRecord,
}

/// The records of `sweeps` and what was read out of them, as indented JSON.
pub(crate) fn json<'record>(sweeps: &'record [SweepRecord]) -> Result<String, RenderError> {
    let read = |record: &'record SweepRecord| Sweep {
        id: record.summary.id,
        importances: importance::importances(record, &ParameterNames::of(record)),
        record,
    };
    let document = Document { schema: SCHEMA, sweeps: sweeps.iter().map(read).collect() };
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    Ok(text)
}

/// A row a trial, all digits; parameters and objectives under their full names.
pub(crate) fn csv(sweeps: &[SweepRecord]) -> String {
    let mut params: Vec<&str> = Vec::new();
    let mut objectives: Vec<String> = Vec::new();
    for sweep in sweeps {
        for one in &sweep.space {
            if !params.contains(&one.name.as_str()) {
                params.push(&one.name);
            }
        }
        for index in 0..sweep.objectives.len() {
            let name = objective_name(sweep, index);
            if !objectives.contains(&name) {
                objectives.push(name);
            }
        }
    }
    let mut header: Vec<String> =
        ["sweep", "trial", "state", "best", "violation", "runs"].map(str::to_owned).to_vec();
    header.extend(params.iter().map(|name| (*name).to_owned()));
    for name in &objectives {
        header.extend([name.clone(), format!("{name} low"), format!("{name} high")]);
    }
    header.push("error".to_owned());
    let mut rows = vec![header.into_iter().map(Field::from).collect::<Vec<_>>()];
    for sweep in sweeps {
        let names: Vec<String> =
            (0..sweep.objectives.len()).map(|index| objective_name(sweep, index)).collect();
        for trial in &sweep.trials {
            let runs: Vec<String> = trial.runs.iter().map(|run| run.run.to_string()).collect();
            let mut row = vec![
                Field::from(sweep.summary.id.to_string()),
                Field::from(trial.number.to_string()),
                Field::from(state_word(trial.state).to_owned()),
                Field::from(trial.best.to_string()),
                Field::number(trial.violation),
                Field::from(runs.join(" ")),
            ];
            row.extend(params.iter().map(|name| match trial.params.get(*name) {
                None => Field::from(String::new()),
                Some(Value::String(text)) => Field::from(text.clone()),
                Some(value) => Field::from(value.to_string()),
            }));
            for name in &objectives {
                let index = names.iter().position(|own| own == name);
                let value = index.and_then(|index| trial.objectives.get(index).copied().flatten());
                let ends = index.and_then(|index| estimate(trial, index)?.interval()).unzip();
                row.extend([value, ends.0, ends.1].map(Field::number));
            }
            row.push(Field::from(trial.error.clone().unwrap_or_default()));
            rows.push(row);
        }
    }
    lines(&rows)
}
