//! Parameters of one or several runs, those that differ first.

use std::collections::BTreeMap;

use engine::history::RunRecord;
use serde::Serialize;
use serde_json::Value;

use crate::quantity::{ABSENT, exact, quantity};

/// A setting and its value in every run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// Stage it belongs to; `run` for what concerns the whole run.
    pub(crate) scope: String,
    /// Dotted path inside the parameters.
    pub(crate) name: String,
    /// Value in every run; [`ABSENT`] where a run does not have it.
    pub(crate) values: Vec<String>,
    /// Whether the values are not all the same.
    pub(crate) differs: bool,
}

/// Parameters of the stages of `runs`, those that differ first, otherwise in stage order.
pub(crate) fn parameters(runs: &[RunRecord]) -> Vec<Setting> {
    let mut settings = Settings::new(runs.len());
    for (index, run) in runs.iter().enumerate() {
        for stage in &run.stages {
            for (name, value) in flatten(&stage.params) {
                settings.set(&stage.name, &name, index, value);
            }
        }
    }
    settings.differing_first()
}

/// Machine, program, seed and inputs of `runs`, those that differ first.
pub(crate) fn environments(runs: &[RunRecord]) -> Vec<Setting> {
    let mut settings = Settings::new(runs.len());
    for (index, run) in runs.iter().enumerate() {
        for (name, value) in environment(run) {
            settings.set("run", name, index, value);
        }
        for source in run.datasets.iter().chain(&run.models) {
            settings.set("run", &source.name, index, source.digest.clone());
        }
    }
    settings.differing_first()
}

/// Machine, program and seed of a run, as name and value.
pub(crate) fn environment(run: &RunRecord) -> Vec<(&'static str, String)> {
    let machine = &run.environment;
    let or_unknown = |text: &str| if text.is_empty() { "unknown" } else { text }.to_owned();
    let gpus = if machine.gpus.is_empty() { "none".to_owned() } else { machine.gpus.join(", ") };
    vec![
        ("device", run.device.clone()),
        ("seed", run.seed.to_string()),
        ("processor", or_unknown(&machine.cpu_model)),
        ("logical cores", machine.cores.to_string()),
        ("memory", quantity(machine.memory_bytes as f64, "bytes")),
        ("GPUs", gpus),
        ("operating system", or_unknown(&machine.os)),
        ("program version", or_unknown(&machine.version)),
        ("compiler", or_unknown(&machine.rustc)),
        ("project commit", machine.commit.clone().unwrap_or_else(|| "not in git".to_owned())),
    ]
}

/// Leaves of a parameter document as dotted path and text, in document order.
pub(crate) fn flatten(params: &Value) -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    collect_leaves("", params, &mut leaves);
    leaves
}

fn collect_leaves(path: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect_leaves(&below, field, leaves);
            }
        }
        // A stage that never got parameters.
        Value::Null if path.is_empty() => {}
        _ if path.is_empty() && value.as_object().is_some() => {}
        leaf => leaves.push((path.to_owned(), leaf_text(leaf))),
    }
}

fn leaf_text(leaf: &Value) -> String {
    match leaf {
        Value::Null => "not set".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(|| number.to_string(), exact)
        }
        Value::Array(items) => items.iter().map(leaf_text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Settings in the order first met.
struct Settings {
    n_runs: usize,
    rows: Vec<Setting>,
    index: BTreeMap<(String, String), usize>,
}

impl Settings {
    fn new(n_runs: usize) -> Self {
        Self { n_runs, rows: Vec::new(), index: BTreeMap::new() }
    }

    fn set(&mut self, scope: &str, name: &str, run: usize, value: String) {
        let next = self.rows.len();
        let row = *self.index.entry((scope.to_owned(), name.to_owned())).or_insert(next);
        if row == next {
            self.rows.push(Setting {
                scope: scope.to_owned(),
                name: name.to_owned(),
                values: vec![ABSENT.to_owned(); self.n_runs],
                differs: false,
            });
        }
        self.rows[row].values[run] = value;
    }

    fn differing_first(mut self) -> Vec<Setting> {
        for row in &mut self.rows {
            row.differs = row.values.windows(2).any(|pair| pair[0] != pair[1]);
        }
        self.rows.sort_by_key(|row| !row.differs);
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_become_dotted_leaves() {
        let params = json!({"a": {"b": 1.0, "c": [1, "x"]}, "d": null, "e": {}, "f": 5e-5});
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            pair("a.b", "1"),
            pair("a.c", "1, x"),
            pair("d", "not set"),
            pair("e", "{}"),
            pair("f", "5e-5"),
        ];
        assert_eq!(flatten(&params), expected);
        assert!(flatten(&Value::Null).is_empty());
        assert!(flatten(&json!({})).is_empty());
    }
}
