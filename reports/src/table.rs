//! The table a run ends with: one row a model, each number beside its change.

use std::collections::BTreeMap;
use std::fmt;

use engine::Metric;
use engine::history::RunRecord;
use serde::Serialize;

use crate::chain::{self, Model};
use crate::quantity::{ABSENT, interval, points, quantity, ratio};

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
    /// interval of the first row.
    Same,
}

/// A column of the summary and how its changes are told.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Names of the measurement; the first that any model has is used for all of them, because
    /// numbers of two splits cannot be compared.
    names: &'static [&'static str],
    change: ChangeStyle,
}

#[derive(Debug, Clone, Copy)]
enum ChangeStyle {
    /// A ratio: the word for less and the word for more, and whether less is better.
    Ratio { less: &'static str, more: &'static str, less_is_better: bool },
    /// A difference in percentage points; more is better.
    Points,
}

/// Columns of the summary, in reading order.
pub(crate) const COLUMNS: [Column; 6] = [
    Column {
        title: "weights",
        names: &["weights"],
        change: ChangeStyle::Ratio { less: "fewer", more: "more", less_is_better: true },
    },
    Column {
        title: "file size",
        names: &["size"],
        change: ChangeStyle::Ratio { less: "smaller", more: "larger", less_is_better: true },
    },
    Column {
        title: "accuracy",
        names: &["test/accuracy", "validation/accuracy"],
        change: ChangeStyle::Points,
    },
    Column {
        title: "macro-F1",
        names: &["test/macro-f1", "validation/macro-f1"],
        change: ChangeStyle::Points,
    },
    Column {
        title: "latency p50",
        names: &["latency-p50"],
        change: ChangeStyle::Ratio { less: "faster", more: "slower", less_is_better: true },
    },
    Column {
        title: "throughput",
        names: &["throughput"],
        change: ChangeStyle::Ratio { less: "lower", more: "higher", less_is_better: false },
    },
];

impl Column {
    /// Name of the measurement that this column shows for `models`.
    pub(crate) fn measurement(&self, models: &[Model]) -> &'static str {
        let known = |name: &&&str| models.iter().any(|model| model.measurement(name).is_ok());
        self.names.iter().find(known).unwrap_or(&self.names[0])
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

impl Column {
    /// How `metric` changed against `base`; `None` when the two cannot be compared. `drop` is
    /// what a stage measured as lost, sample by sample.
    fn change(&self, base: &Metric, metric: &Metric, drop: Option<&Metric>) -> Option<Change> {
        if base.unit != metric.unit {
            return None;
        }
        match self.change {
            ChangeStyle::Points => Some(change_in_points(base, metric, drop)),
            ChangeStyle::Ratio { less, more, less_is_better } => {
                if base.value <= 0.0 || metric.value <= 0.0 {
                    return None;
                }
                let factor = base.value / metric.value;
                if (factor - 1.0).abs() < 0.005 {
                    return Some(Change { text: "same".to_owned(), verdict: Verdict::Same });
                }
                let is_less = factor > 1.0;
                let (factor, word) = if is_less { (factor, less) } else { (1.0 / factor, more) };
                let is_better = is_less == less_is_better;
                Some(Change {
                    text: format!("{} {word}", ratio(factor)),
                    verdict: if is_better { Verdict::Better } else { Verdict::Worse },
                })
            }
        }
    }
}

fn change_in_points(base: &Metric, metric: &Metric, drop: Option<&Metric>) -> Change {
    let difference = metric.value - base.value;
    let text = points(difference);
    // A drop against another model than `base` says nothing here.
    let paired = drop.filter(|drop| (drop.value + difference).abs() < 1e-6);
    let is_noise = match paired.and_then(|drop| drop.low.zip(drop.high)) {
        Some((low, high)) => (low..=high).contains(&0.0),
        None => {
            base.low.zip(base.high).is_some_and(|(low, high)| (low..=high).contains(&metric.value))
        }
    };
    let verdict = match text.chars().next() {
        _ if is_noise => Verdict::Same,
        Some('+') => Verdict::Better,
        Some('−') => Verdict::Worse,
        _ => Verdict::Same,
    };
    Change { text, verdict }
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
