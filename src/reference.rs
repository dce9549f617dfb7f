//! The reference of manifests, read off the JSON Schema that the code generates.

use std::fmt::Write as _;

use serde_json::Value;

/// One key of a table: `training.batch-size`, its type, default and meaning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Path from the table's top, dotted.
    pub(crate) path: String,
    /// Type and range in words.
    pub(crate) kind: String,
    /// Default as JSON, `required`, or empty for optional keys without one.
    pub(crate) default: String,
    /// What it means.
    pub(crate) about: String,
}

/// The keys of a table's schema, nested tables flattened; `root` holds the definitions.
pub(crate) fn keys(root: &Value, schema: &Value) -> Vec<Key> {
    let mut reader = Reader { root, found: Vec::new() };
    reader.table(schema, "", None, None);
    reader.found
}

struct Reader<'a> {
    root: &'a Value,
    found: Vec<Key>,
}

impl Reader<'_> {
    /// Adds the keys of a table. `choice` is what is said of the table where it is one of several
    /// forms of a value; its key is what chooses the form, so it is not called required.
    fn table(
        &mut self,
        schema: &Value,
        prefix: &str,
        defaults: Option<&Value>,
        choice: Option<&str>,
    ) {
        let root = self.root;
        let schema = resolve(root, schema);
        let required = |name: &String| {
            let names = schema["required"].as_array();
            choice.is_none() && names.is_some_and(|names| names.iter().any(|one| one == name))
        };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{prefix}{name}");
            let target = resolve(root, property);
            let own = defaults.and_then(|defaults| defaults.get(name));
            let default = own.or_else(|| property.get("default"));
            let shown = match default {
                Some(Value::Object(_)) if target["properties"].is_object() => String::new(),
                Some(Value::Null) => String::new(),
                Some(value) => value.to_string(),
                None if required(name) => "required".to_owned(),
                None => String::new(),
            };
            let about = property["description"].as_str().or(target["description"].as_str());
            let about = choice.or(about).unwrap_or_default().replace('\n', " ");
            let kind = describe(root, property);
            self.found.push(Key { path: path.clone(), kind, default: shown, about });
            let inner = format!("{path}.");
            self.table(target, &inner, default, None);
            for form in alternatives(root, target) {
                let about = form["description"].as_str().unwrap_or_default();
                self.table(form, &inner, default, Some(about));
            }
        }
    }
}

/// Follows a reference and the `T or null` of optional values.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(path) = schema["$ref"].as_str() {
        return root.pointer(path.trim_start_matches('#')).unwrap_or(schema);
    }
    if let Some(options) = schema["anyOf"].as_array() {
        let real: Vec<&Value> = options.iter().filter(|option| option["type"] != "null").collect();
        if let [only] = real.as_slice() {
            return resolve(root, only);
        }
    }
    schema
}

fn alternatives<'a>(root: &'a Value, schema: &'a Value) -> impl Iterator<Item = &'a Value> {
    let lists = ["oneOf", "anyOf"].into_iter().filter_map(|key| schema[key].as_array());
    lists.flatten().map(|option| resolve(root, option))
}

/// A type in words.
fn describe(root: &Value, schema: &Value) -> String {
    let schema = resolve(root, schema);
    let options: Vec<String> = alternatives(root, schema)
        .flat_map(|option| {
            match (&option["const"], option["enum"].as_array(), option["properties"].as_object()) {
                (Value::String(name), ..) => vec![format!("`\"{name}\"`")],
                (_, Some(names), _) => names.iter().map(|name| format!("`{name}`")).collect(),
                (_, _, Some(table)) => {
                    table.keys().map(|name| format!("`{{ {name} = … }}`")).collect()
                }
                _ => vec![describe(root, option)],
            }
        })
        .collect();
    if !options.is_empty() {
        return options.join(" or ");
    }
    if let Some(names) = schema["enum"].as_array() {
        return names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect()
        }
        _ => vec!["any"],
    };
    let range = range(schema);
    match kinds.as_slice() {
        ["array"] => format!("list of {}", describe(root, &schema["items"])),
        ["object"] if schema["properties"].is_object() => "table".to_owned(),
        ["object"] => format!("table of {}", describe(root, &schema["additionalProperties"])),
        kinds => format!("{}{range}", kinds.join(" or ")),
    }
}

fn range(schema: &Value) -> String {
    let bounds =
        [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")];
    let parts: Vec<String> = bounds
        .iter()
        .filter_map(|(key, sign)| schema[*key].as_f64().map(|bound| format!("{sign} {bound}")))
        .filter(|part| !part.contains("429496729") && !part.contains("18446744"))
        .collect();
    if parts.is_empty() { String::new() } else { format!(" {}", parts.join(", ")) }
}

/// The keys as a Markdown table.
pub(crate) fn markdown(keys: &[Key]) -> String {
    if keys.is_empty() {
        return "No keys.\n".to_owned();
    }
    let mut text = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    for Key { path, kind, default, about } in keys {
        let default = match default.as_str() {
            "" => "–".to_owned(),
            "required" => "required".to_owned(),
            value => format!("`{value}`"),
        };
        let cell = |text: &str| text.replace('|', "\\|");
        let (kind, about) = (cell(kind), cell(about));
        let _ = writeln!(text, "| `{path}` | {kind} | {default} | {about} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_tables_and_choices_are_flattened() {
        let schema = json!({
            "properties": {
                "epochs": { "type": "integer", "minimum": 1, "description": "Passes." },
                "training": { "$ref": "#/$defs/Training", "default": { "rate": 0.5 } },
                "student": { "oneOf": [
                    { "const": "search" },
                    {
                        "properties": { "layers": { "type": "array", "items": { "type": "integer" } } },
                        "required": ["layers"]
                    }
                ] }
            },
            "required": ["epochs"],
            "$defs": { "Training": { "type": "object", "properties": { "rate": { "type": "number", "exclusiveMinimum": 0 } } } }
        });
        let found = keys(&schema, &schema);
        let row = |path: &str| found.iter().find(|key| key.path == path).unwrap();
        assert_eq!(
            (row("epochs").kind.as_str(), row("epochs").default.as_str()),
            ("integer ≥ 1", "required")
        );
        assert_eq!(
            (row("training.rate").kind.as_str(), row("training.rate").default.as_str()),
            ("number > 0", "0.5")
        );
        assert_eq!(row("student").kind, "`\"search\"` or `{ layers = … }`");
        assert_eq!(row("student.layers").kind, "list of integer");
        assert_eq!(row("student.layers").default, "", "only one of the choices is needed");
    }
}
