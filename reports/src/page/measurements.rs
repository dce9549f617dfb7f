//! Everything measured on the models of a chain, models side by side.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::chain::Model;
use crate::quantity::{ABSENT, interval, quantity};

/// Beginnings of names in the order they are read; other names follow, sorted.
const READING_ORDER: [&str; 10] = [
    "weights",
    "size",
    "flops",
    "planned-memory",
    "peak-memory",
    "test/",
    "validation/",
    "latency",
    "throughput",
    "energy",
];

/// Rows of measurements, a column a model.
#[derive(Debug, Serialize)]
pub(crate) struct Grid {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<GridRow>,
}

/// A measurement of every model.
#[derive(Debug, Serialize)]
pub(crate) struct GridRow {
    pub(crate) name: String,
    pub(crate) values: Vec<GridValue>,
}

/// A measurement of a model.
#[derive(Debug, Serialize)]
pub(crate) struct GridValue {
    pub(crate) text: String,
    /// Interval and number of samples.
    pub(crate) detail: String,
}

/// Every measurement that any of `models` has, but for throughput by batch and sequence.
pub(crate) fn all(models: &[Model]) -> Grid {
    let names: BTreeSet<&str> = models
        .iter()
        .flat_map(|model| model.measurements.keys().chain(model.unavailable.keys()))
        .map(String::as_str)
        .filter(|name| batch_and_sequence(name).is_none())
        .collect();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_key(|name| {
        let place = READING_ORDER.iter().position(|start| name.starts_with(start));
        // Rates of load in the order of numbers, not of letters.
        let rate: u64 = name.split('/').find_map(|part| part.parse().ok()).unwrap_or(0);
        (place.unwrap_or(usize::MAX), rate)
    });
    grid(models, names.into_iter().map(|name| (name.to_owned(), name.to_owned())))
}

/// Throughput by batch size and sequence length.
pub(crate) fn throughput(models: &[Model]) -> Grid {
    let settings: BTreeSet<(u64, u64)> = models
        .iter()
        .flat_map(|model| model.measurements.keys())
        .filter_map(|name| batch_and_sequence(name))
        .collect();
    let row = |(batch, sequence): (u64, u64)| {
        let title = format!("batch {batch}, {sequence} tokens");
        (title, format!("throughput-b{batch}-s{sequence}"))
    };
    grid(models, settings.into_iter().map(row))
}

/// A grid of the measurements with these titles and names, without models that have none.
fn grid(models: &[Model], rows: impl Iterator<Item = (String, String)>) -> Grid {
    let has_any = |model: &&Model| !(model.measurements.is_empty() && model.unavailable.is_empty());
    let models: Vec<&Model> = models.iter().filter(has_any).collect();
    let rows = rows.map(|(title, name)| GridRow {
        name: title,
        values: models.iter().map(|model| value(model, &name)).collect(),
    });
    Grid { rows: rows.collect(), columns: models.iter().map(|model| model.name.clone()).collect() }
}

fn value(model: &Model, name: &str) -> GridValue {
    let Ok(metric) = model.measurement(name) else {
        // Reasons that were recorded have a list of their own.
        let recorded = model.unavailable.contains_key(name);
        let text = if recorded { "unavailable" } else { ABSENT };
        return GridValue { text: text.to_owned(), detail: String::new() };
    };
    let mut details = Vec::new();
    if let Some((low, high)) = metric.low.zip(metric.high) {
        details.push(interval(low, high, &metric.unit));
    }
    if let Some(samples) = metric.samples {
        details.push(format!("n = {samples}"));
    }
    GridValue { text: quantity(metric.value, &metric.unit), detail: details.join(", ") }
}

/// Reads `throughput-b8-s64`.
fn batch_and_sequence(name: &str) -> Option<(u64, u64)> {
    let (batch, sequence) = name.strip_prefix("throughput-b")?.split_once("-s")?;
    Some((batch.parse().ok()?, sequence.parse().ok()?))
}
