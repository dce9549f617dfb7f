//! Comma-separated values (RFC 4180): runs as one row a measurement, for a spreadsheet.

use std::fmt::Write as _;

use engine::Metric;
use engine::history::RunRecord;

use crate::groups::groups;

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field(String);

impl From<String> for Field {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Field {
    /// A number with all its digits; empty where there is none, or none that is finite.
    pub(crate) fn number(value: Option<f64>) -> Self {
        Self(value.filter(|value| value.is_finite()).map_or_else(String::new, |v| v.to_string()))
    }
}

/// Rows as text; a field with a comma, a quote or a line break is quoted.
pub(crate) fn lines(rows: &[Vec<Field>]) -> String {
    let mut text = String::new();
    for row in rows {
        for (index, Field(field)) in row.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _infallible = if field.contains([',', '"', '\n', '\r']) {
                write!(text, "{comma}\"{}\"", field.replace('"', "\"\""))
            } else {
                write!(text, "{comma}{field}")
            };
        }
        text.push_str("\r\n");
    }
    text
}

const HEADER: [&str; 14] = [
    "run", "group", "manifest", "seed", "stage", "kind", "state", "metric", "value", "unit",
    "split", "samples", "low", "high",
];

/// Every summary metric of `runs`, those that could not be measured with an empty value.
pub(crate) fn render(runs: &[RunRecord]) -> String {
    let groups = groups(runs);
    let mut rows = vec![HEADER.map(|title| Field::from(title.to_owned())).to_vec()];
    for run in runs {
        let id = run.summary.id;
        let group = groups.iter().find(|group| group.has(id)).map(|group| group.name.clone());
        for stage in &run.stages {
            let state = crate::dag::state_word(stage.state).to_owned();
            let front = [
                id.to_string(),
                group.clone().unwrap_or_default(),
                run.summary.manifest.clone(),
                run.seed.to_string(),
                stage.name.clone(),
                stage.kind.clone(),
                state,
            ];
            let row = |metric: &Metric| {
                let mut row: Vec<Field> = front.iter().cloned().map(Field::from).collect();
                row.push(Field::from(metric.name.clone()));
                row.push(Field::number(Some(metric.value)));
                row.push(Field::from(metric.unit.clone()));
                row.push(Field::from(metric.split.clone().unwrap_or_default()));
                row.push(Field::from(metric.samples.map_or_else(String::new, |n| n.to_string())));
                row.extend([metric.low, metric.high].map(Field::number));
                row
            };
            rows.extend(stage.metrics.iter().map(row));
            let missing = stage.unavailable.iter().map(|missing| Metric {
                name: missing.name.clone(),
                value: f64::NAN,
                ..Metric::default()
            });
            rows.extend(missing.map(|metric| row(&metric)));
        }
    }
    lines(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let row = ["a", "b,c", "say \"x\"", "two\nlines", ""].map(|text| Field(text.to_owned()));
        assert_eq!(lines(&[row.to_vec()]), "a,\"b,c\",\"say \"\"x\"\"\",\"two\nlines\",\r\n");
        assert_eq!(Field::number(Some(f64::NAN)), Field(String::new()));
        assert_eq!(Field::number(Some(0.1)), Field("0.1".to_owned()));
    }
}
