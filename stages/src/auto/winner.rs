//! The manifest of the best trial, for anyone to run.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use engine::history::{SweepRecord, TrialRecord};
use engine::manifest::Reference;
use toml::{Table, Value};

use super::{Goal, Teacher};

/// The manifest of `trial` of a search: its values in their places, the stages it uses and those
/// that pack and measure what comes out, and no sweep. A comment on top says what it reached.
///
/// # Errors
/// When the trial does not fit the searched manifest.
pub fn winner(
    searched: &Table,
    sweep: &SweepRecord,
    trial: &TrialRecord,
    teacher: &Teacher,
    goal: &Goal,
) -> Result<String> {
    let mut table = searched.clone();
    table.remove("sweep");
    let name = table.get("name").and_then(Value::as_str).unwrap_or("model");
    let name = format!("{}-auto", name.strip_suffix("-search").unwrap_or(name));
    table.insert("name".to_owned(), Value::from(name));
    for (path, value) in &trial.params {
        let value = Value::try_from(value).with_context(|| format!("the value of `{path}`"))?;
        place(&mut table, path, value)?;
    }
    let chain = super::search::chain(teacher)?;
    let stages = table.get_mut("stages").and_then(Value::as_table_mut);
    let stages = stages.context("the search has no stages")?;
    for stage in ["package", "bench"] {
        stages.insert(stage.to_owned(), chain[stage].clone());
    }
    stages.remove("speed");
    let used = upstream(stages, ["package", "bench"].map(str::to_owned).into());
    stages.retain(|stage, _| used.contains(stage));
    let body = toml::to_string_pretty(&table).context("writing the manifest")?;
    Ok(format!("{}\n{body}", comment(sweep, trial, teacher, goal)))
}

fn comment(sweep: &SweepRecord, trial: &TrialRecord, teacher: &Teacher, goal: &Goal) -> String {
    let accuracy = trial.objectives.first().copied().flatten().unwrap_or(f64::NAN);
    let mut text = format!(
        "# Found by `pipeline auto` for {goal}: trial {} of {}.\n# Validation accuracy {accuracy:.4}, the teacher's is {:.4}.",
        trial.number,
        sweep.trials.len(),
        teacher.accuracy,
    );
    let measured = trial.runs.first().map_or(&[][..], |run| &run.constraints);
    for (constraint, value) in sweep.constraints.iter().zip(measured) {
        let (stage, gate, bound) = (&constraint.stage, &constraint.gate, constraint.bound);
        text.push_str(&format!("\n# {stage}.{gate} = {bound}: {value}"));
    }
    text
}

/// Puts a value at a dotted path; tables on the way are made.
pub(super) fn place(table: &mut Table, path: &str, value: Value) -> Result<()> {
    let mut keys: Vec<&str> = path.split('.').collect();
    let last = keys.pop().context("a path has a last part")?;
    let mut table = table;
    for key in keys {
        let entry = table.entry(key.to_owned()).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().with_context(|| format!("`{path}`: `{key}` is no table"))?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// Stages and everything they need.
fn upstream(stages: &Table, mut used: BTreeSet<String>) -> BTreeSet<String> {
    loop {
        let inputs = used.iter().filter_map(|stage| stages.get(stage)?.get("inputs")?.as_table());
        let needed =
            inputs.flatten().filter_map(|(_, from)| match Reference::parse(from.as_str()?)? {
                Reference::Stage { stage, .. } => Some(stage),
                Reference::Data(_) | Reference::Model(_) => None,
            });
        let more: BTreeSet<String> = needed.filter(|stage| !used.contains(stage)).collect();
        if more.is_empty() {
            return used;
        }
        used.extend(more);
    }
}
