//! JSON Schema of whole manifests, each stage kind's parameters included.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::SweepSpec;
use super::spec::{DatasetSpec, Header, ModelSpec, StageEntry};
use crate::schedule::Schedule;
use crate::stage::{AnyStage, StageTable};

/// JSON Schema (draft 2020-12) of a manifest over the given stage kinds.
pub fn schema(table: StageTable) -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut root = generator.root_schema_for::<Header>().to_value();
    let data = generator.subschema_for::<DatasetSpec>().to_value();
    let models = generator.subschema_for::<ModelSpec>().to_value();
    let schedule = generator.subschema_for::<Schedule>().to_value();
    let sweep = generator.subschema_for::<SweepSpec>().to_value();
    let entry = <StageEntry as schemars::JsonSchema>::json_schema(&mut generator).to_value();
    let kinds: Vec<_> = table
        .iter()
        .map(|stage| {
            let params = stage.params_schema(&mut generator).to_value();
            stage_schema(*stage, &entry, params)
        })
        .collect();
    let named = |about: &str, value: Value| json!({ "type": "object", "description": about, "additionalProperties": value });
    let properties = root["properties"].as_object_mut().expect("a struct has properties");
    properties.insert("data".to_owned(), named("Files of labelled texts.", data));
    properties
        .insert("models".to_owned(), named("Pretrained checkpoints and their mirrors.", models));
    properties.insert("schedule".to_owned(), schedule);
    properties.insert("sweep".to_owned(), sweep);
    properties.insert(
        "stages".to_owned(),
        named("Stages, joined by their inputs.", json!({ "oneOf": kinds })),
    );
    root["required"].as_array_mut().expect("some keys are required").push(json!("stages"));
    root["title"] = json!("Pipeline manifest");
    root["description"] = json!("A model pipeline as a graph of stages.");
    let definitions = generator.take_definitions(true);
    if !definitions.is_empty() {
        root["$defs"] = Value::Object(definitions);
    }
    root
}

/// JSON Schema of one stage kind's parameters, on its own.
pub(crate) fn params_schema(stage: &dyn AnyStage) -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = stage.params_schema(&mut generator).to_value();
    let definitions = generator.take_definitions(true);
    if !definitions.is_empty() {
        schema["$defs"] = Value::Object(definitions);
    }
    schema
}

fn stage_schema(stage: &dyn AnyStage, entry: &Value, params: Value) -> Value {
    let mut schema = entry.clone();
    let mut ports = Map::new();
    for port in stage.inputs() {
        let about = format!("{} ({})", port.about, port.kind);
        ports.insert(port.name.to_owned(), json!({ "type": "string", "description": about }));
    }
    let required: Vec<_> =
        stage.inputs().iter().filter(|port| port.required).map(|port| port.name).collect();
    let mut needed = vec!["kind"];
    if !required.is_empty() {
        needed.push("inputs");
    }
    if params.get("required").and_then(Value::as_array).is_some_and(|names| !names.is_empty()) {
        needed.push("params");
    }
    schema["title"] = json!(stage.kind());
    schema["description"] = json!(stage.about());
    schema["required"] = json!(needed);
    let properties = schema["properties"].as_object_mut().expect("a struct has properties");
    properties
        .insert("kind".to_owned(), json!({ "const": stage.kind(), "description": stage.about() }));
    properties.insert(
        "inputs".to_owned(),
        json!({
            "type": "object",
            "properties": ports,
            "required": required,
            "additionalProperties": false,
        }),
    );
    properties.insert("params".to_owned(), params);
    properties.insert(
        "require".to_owned(),
        json!({
            "type": "object",
            "description": "Gates on the stage's metrics.",
            "patternProperties": { "^.+-(max|min)$": { "type": "number" } },
            "additionalProperties": false,
        }),
    );
    schema
}
