//! The labelled texts of a stage, as rows and as word-piece ids.

use anyhow::Result;
use engine::{BadInput, DatasetInput, StageContext};
use training::Examples;
use training::data::{Dataset, Row, Source};
use training::tokenizer::Tokenizer;

/// Input port of the data.
pub(crate) const DATA: &str = "data";

/// Reads the data connected to the port `data`.
pub(crate) fn load(context: &StageContext) -> Result<Dataset> {
    let DatasetInput { path, spec } = context.dataset(DATA)?;
    let source = Source {
        path,
        text: spec.text,
        label: spec.label,
        labels: spec.labels,
        split: spec.split,
        validation: spec.validation,
        test: spec.test,
        group: spec.group,
        limit: spec.limit,
    };
    // The store names files by digest; the manifest's own name is what the reader knows.
    Dataset::load(&source)
        .map_err(|error| BadInput(format!("{}: {error}", spec.path.display())).into())
}

/// The texts of `rows` as ids, with their labels.
pub(crate) fn encode(tokenizer: &Tokenizer, rows: &[Row]) -> Result<Examples> {
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let ids = tokenizer.encode_batch(&texts)?;
    Ok(Examples { ids, labels: rows.iter().map(|row| row.label).collect() })
}
