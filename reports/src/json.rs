//! The JSON of a report: what the database says, and the chain read out of it.

use engine::history::RunRecord;
use serde::Serialize;

use crate::RenderError;
use crate::chain::{self, Model};
use crate::groups;
use crate::table::{self, Table};
use crate::versus::Versus;

/// Version of the JSON layout; raised when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'run> {
    schema: u32,
    /// With several runs only.
    comparison: Option<Versus>,
    runs: Vec<Run<'run>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Run<'run> {
    id: i64,
    models: Vec<Model>,
    summary_table: Table,
    record: &'run RunRecord,
}

/// The report on `runs` as indented JSON with a newline at the end.
pub(crate) fn render(runs: &[RunRecord], baseline: usize) -> Result<String, RenderError> {
    let read = |run| {
        let models = chain::models(run);
        Run { id: run.summary.id, summary_table: table::of_models(&models), models, record: run }
    };
    let comparison = (runs.len() > 1).then(|| groups::compare(runs, baseline));
    let document = Document { schema: SCHEMA, comparison, runs: runs.iter().map(read).collect() };
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    Ok(text)
}
