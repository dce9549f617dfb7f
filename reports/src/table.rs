//! The table a run ends with: one row a model, each number beside its change.

use std::collections::BTreeMap;
use std::fmt;

use engine::Metric;
use engine::history::RunRecord;
use serde::Serialize;

use crate::chain::{self, Model};
use crate::column::COLUMNS;
use crate::quantity::{ABSENT, interval, quantity};

/// A table of texts: the first column names the row, the others hold numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Table {
    /// Titles of the columns.
    pub columns: Vec<String>,
    /// Rows, each with one cell a column.
    pub rows: Vec<Vec<Cell>>,
    /// Why cells are empty, one sentence a reason.
    pub notes: Vec<String>,
}

/// One cell of a [`Table`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cell {
    /// The number with its unit, or a name; `–` where there is no number.
    pub text: String,
    /// 95 % interval of the number.
    pub interval: Option<String>,
    /// How it changed against the first row.
    pub change: Option<Change>,
}

/// How a number changed against the first row of its column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// For instance `4.4× smaller` or `−0.4 pt`.
    pub text: String,
    /// What the change means.
    pub verdict: Verdict,
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Better than the first row.
    Better,
    /// Worse than the first row.
    Worse,
    /// Too small to be printed or to be told from chance: the 95 % interval of the paired
    /// difference has zero inside, or, where no pairs were compared, the number lies in the 95 %
    /// interval of the first row or their intervals overlap.
    Same,
}

impl Verdict {
    /// The verdict in words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "no difference shown",
        }
    }
}

/// The table a run ends with: a row for every model of the chain with its weights, file size,
/// accuracy, macro-F1, latency and throughput, and their change against the first model.
///
/// Numbers nobody measured are `–`, and a note says why. Print it with `Display`.
pub fn summary_table(run: &RunRecord) -> Table {
    of_models(&chain::models(run))
}

/// The summary of `models`, changes against the first of them.
pub(crate) fn of_models(models: &[Model]) -> Table {
    let mut columns = vec!["model".to_owned()];
    let mut rows: Vec<Vec<Cell>> =
        models.iter().map(|model| vec![Cell::text(&model.name)]).collect();
    let mut reasons = Reasons::default();
    for column in &COLUMNS {
        let name = column.measurement(models);
        columns.push(match name.split_once('/') {
            Some((split, _)) => format!("{} ({split})", column.title),
            None => column.title.to_owned(),
        });
        let first = models.first().and_then(|model| model.measurement(name).ok());
        for (index, (model, row)) in models.iter().zip(&mut rows).enumerate() {
            row.push(match model.measurement(name) {
                Ok(metric) => {
                    let drop = model.measurement(&format!("{name}-drop")).ok();
                    let base = first.filter(|_| index > 0);
                    let change = base.and_then(|base| column.change(base, metric, drop));
                    Cell::metric(metric, change)
                }
                Err(reason) => {
                    reasons.add(reason, column.title, &model.name);
                    Cell::text(ABSENT)
                }
            });
        }
    }
    Table { columns, rows, notes: reasons.sentences() }
}

impl Cell {
    pub(crate) fn text(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }

    pub(crate) fn metric(metric: &Metric, change: Option<Change>) -> Self {
        let ends = metric.low.zip(metric.high);
        Self {
            text: quantity(metric.value, &metric.unit),
            interval: ends.map(|(low, high)| interval(low, high, &metric.unit)),
            change,
        }
    }

    fn value_line(&self) -> String {
        match &self.interval {
            Some(interval) => format!("{} [{interval}]", self.text),
            None => self.text.clone(),
        }
    }

    fn change_line(&self) -> String {
        self.change.as_ref().map_or_else(String::new, |change| change.text.clone())
    }
}

/// Why cells are empty, grouped by reason in the order met.
#[derive(Debug, Default)]
struct Reasons {
    order: Vec<String>,
    /// Reason → column titles and models, each once, in the order met.
    by_reason: BTreeMap<String, (Vec<String>, Vec<String>)>,
}

impl Reasons {
    fn add(&mut self, reason: &str, column: &str, model: &str) {
        if !self.by_reason.contains_key(reason) {
            self.order.push(reason.to_owned());
        }
        let (columns, models) = self.by_reason.entry(reason.to_owned()).or_default();
        for (list, item) in [(columns, column), (models, model)] {
            if !list.iter().any(|known| known == item) {
                list.push(item.to_owned());
            }
        }
    }

    fn sentences(&self) -> Vec<String> {
        let sentence = |reason: &String| {
            let (columns, models) = &self.by_reason[reason];
            format!("{} of {}: {reason}", columns.join(", "), models.join(", "))
        };
        self.order.iter().map(sentence).collect()
    }
}

impl fmt::Display for Table {
    /// Aligned columns for a terminal, changes below their numbers, notes below the table.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<Vec<String>> = vec![self.columns.clone()];
        for row in &self.rows {
            lines.push(row.iter().map(Cell::value_line).collect());
            if row.iter().any(|cell| cell.change.is_some()) {
                lines.push(row.iter().map(Cell::change_line).collect());
            }
        }
        let width = |column: usize| {
            lines.iter().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max()
        };
        for line in &lines {
            let padded: Vec<String> = line
                .iter()
                .enumerate()
                .map(|(column, text)| format!("{text:<pad$}", pad = width(column).unwrap_or(0)))
                .collect();
            writeln!(out, "{}", padded.join("  ").trim_end())?;
        }
        for note in &self.notes {
            writeln!(out, "{ABSENT} {note}")?;
        }
        Ok(())
    }
}
