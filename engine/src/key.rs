//! Cache keys: the digest of a canonical JSON document that says everything a result depends on.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::manifest::{DatasetSpec, StageSpec};
use crate::store::Digest;

/// Version of the document's layout; part of it.
const FORMAT: u32 = 1;

/// What a key says about one input: content, and for datasets how it is read, but no path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeyInput<'a> {
    /// `None` while the content is not known yet.
    pub(crate) digest: Option<&'a Digest>,
    pub(crate) dataset: Option<&'a DatasetSpec>,
}

/// The document of a stage's key. Clock, paths, host, labels, timeouts and gates are not in it.
pub(crate) fn document(
    stage: &StageSpec,
    inputs: &BTreeMap<&str, KeyInput<'_>>,
    seed: u64,
    device_class: &str,
) -> Value {
    let inputs: Map<String, Value> = inputs
        .iter()
        .map(|(port, input)| {
            let mut value = json!({ "digest": input.digest });
            if let Some(spec) = input.dataset {
                let mut spec = serde_json::to_value(spec).expect("a dataset is plain JSON");
                spec.as_object_mut().expect("a dataset is an object").remove("path");
                value["dataset"] = spec;
            }
            ((*port).to_owned(), value)
        })
        .collect();
    json!({
        "format": FORMAT,
        "kind": stage.stage.kind(),
        "version": stage.stage.version(),
        "params": stage.params,
        "inputs": inputs,
        "seed": seed,
        "device": device_class,
    })
}

/// The key of a document.
pub(crate) fn digest(document: &Value) -> Digest {
    let mut text = String::new();
    write_canonical(document, &mut text);
    blake3::hash(text.as_bytes()).into()
}

/// JSON without spaces and with sorted keys, whatever order the map type keeps.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            text.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// A field of a key document that is not what it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Path of the field, for instance `params.temperature`.
    pub field: String,
    /// Earlier value; `None` where the field is new.
    pub before: Option<Value>,
    /// Present value; `None` where the field is gone.
    pub after: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| match value {
            None => "absent".to_owned(),
            Some(Value::Null) => "not known yet".to_owned(),
            Some(Value::String(text)) if Digest::parse(text).is_some() => text[..12].to_owned(),
            Some(value) => value.to_string(),
        };
        write!(formatter, "{}: {} → {}", self.field, shown(&self.before), shown(&self.after))
    }
}

/// The fields in which two documents differ, in order of their paths.
pub(crate) fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let (before, after) = (leaves(before), leaves(after));
    let mut fields: Vec<&String> = before.keys().chain(after.keys()).collect();
    fields.sort();
    fields.dedup();
    fields
        .into_iter()
        .filter(|field| before.get(*field) != after.get(*field))
        .map(|field| Change {
            field: field.clone(),
            before: before.get(field).cloned(),
            after: after.get(field).cloned(),
        })
        .collect()
}

fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, leaves);
                }
            }
            leaf => {
                leaves.insert(path.to_owned(), leaf.clone());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk("", value, &mut all);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_depend_on_the_order_of_fields() {
        let one: Value =
            serde_json::from_str(r#"{"b": [1, {"y": 2.5, "x": null}], "a": "é\n"}"#).unwrap();
        let two: Value =
            serde_json::from_str(r#"{"a": "é\n", "b": [1, {"x": null, "y": 2.5}]}"#).unwrap();
        assert_eq!(digest(&one), digest(&two));
        assert_ne!(digest(&one), digest(&json!({"a": "é", "b": [1, {"x": null, "y": 2.5}]})));
    }

    #[test]
    fn changes_name_the_fields() {
        let before = json!({"params": {"epochs": 1, "old": true, "list": [1]}, "seed": 7});
        let after = json!({"params": {"epochs": 2, "list": [1, 2]}, "seed": 7, "device": "cpu"});
        let shown: Vec<_> = changes(&before, &after).iter().map(Change::to_string).collect();
        assert_eq!(
            shown,
            [
                "device: absent → \"cpu\"",
                "params.epochs: 1 → 2",
                "params.list: [1] → [1,2]",
                "params.old: true → absent",
            ]
        );
        assert_eq!(changes(&before, &before), []);
    }
}
