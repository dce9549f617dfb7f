//! `pipeline stages [KIND]`.

use std::fmt::Write as _;

use engine::{KindDescription, Port};
use serde_json::Value;
use stages::STAGES;

use super::answer::{Answer, Facts, columns};
use super::failure::Failure;
use crate::reference::{Key, keys, markdown};

/// Lists the stage kinds, or describes one: its ports and parameters.
#[derive(Debug, clap::Args)]
pub(super) struct Stages {
    /// Stage kind
    #[arg(value_name = "KIND")]
    kind: Option<String>,
    /// Print the whole reference of manifests as Markdown
    #[arg(long, conflicts_with_all = ["kind", "json"])]
    markdown: bool,
    #[command(flatten)]
    facts: Facts,
}

impl Stages {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let kinds = engine::kinds(STAGES);
        if self.markdown {
            return Ok(Answer::text(reference(&engine::schema(STAGES), &kinds)));
        }
        let Some(wanted) = &self.kind else {
            return Ok(self.facts.answer(&kinds, || overview(&kinds)));
        };
        let found = kinds.iter().find(|kind| kind.kind == wanted).ok_or_else(|| {
            let names: Vec<_> = kinds.iter().map(|kind| kind.kind).collect();
            Failure::wrong(format!("there is no stage kind `{wanted}`, only {}", names.join(", ")))
        })?;
        Ok(self.facts.answer(found, || describe(found)))
    }
}

fn overview(kinds: &[KindDescription]) -> String {
    let rows: Vec<_> =
        kinds.iter().map(|kind| [kind.kind.to_owned(), kind.about.to_owned()]).collect();
    columns(&rows)
}

/// One kind for a terminal.
fn describe(kind: &KindDescription) -> String {
    let mut text = format!("{} (version {})\n{}\n", kind.kind, kind.version, kind.about);
    for (title, ports) in [("inputs", kind.inputs), ("outputs", kind.outputs)] {
        let rows: Vec<_> = ports.iter().map(|port| port_row(port, title == "inputs")).collect();
        let _infallible = write!(text, "\n{title}:\n{}", columns(&rows));
    }
    let metrics: Vec<_> = kind.metrics.iter().map(|name| [format!("  {name}")]).collect();
    let _infallible = write!(text, "\nmetrics:\n{}", columns(&metrics));
    text.push_str("\nparams:\n");
    for Key { path, kind, default, about } in keys(&kind.params, &kind.params) {
        let kind = kind.replace('`', "");
        let default = match default.as_str() {
            "" => String::new(),
            "required" => ", required".to_owned(),
            value => format!(", default {value}"),
        };
        let _infallible = writeln!(text, "  {path}: {kind}{default}\n      {about}");
    }
    text
}

fn port_row(port: &Port, is_input: bool) -> [String; 4] {
    let need = if is_input && port.required { "required" } else { "" };
    [format!("  {}", port.name), port.kind.to_owned(), need.to_owned(), port.about.to_owned()]
}

/// Everything a manifest may contain, as Markdown; `docs/manifest.md` holds it.
fn reference(schema: &Value, kinds: &[KindDescription]) -> String {
    let mut text = String::from(
        "# Manifests\n\n\
         <!-- Generated: `pipeline stages --markdown > docs/manifest.md` -->\n\n\
         A manifest is a TOML file. Unknown keys are errors. Values can be overridden on the \
         command line with `--set KEY.KEY=VALUE`. Relative paths start at the project root: the \
         nearest folder at or above the manifest that holds `.git`, `Cargo.toml` or `.pipeline`.\n",
    );
    let top: Vec<Key> = keys(schema, schema).into_iter().filter(is_scalar).collect();
    let properties = &schema["properties"];
    let _infallible = write!(text, "\n## Top level\n\n{}", markdown(&top));
    for (name, about) in [
        ("data", "A file of labelled texts. Stages refer to it as `data.NAME`."),
        (
            "models",
            "A pretrained checkpoint and where to get it. Stages refer to it as `models.NAME`.",
        ),
    ] {
        let rows = keys(schema, &properties[name]["additionalProperties"]);
        let _infallible = write!(text, "\n## `[{name}.NAME]`\n\n{about}\n\n{}", markdown(&rows));
    }
    let rows = keys(schema, &properties["schedule"]);
    let _infallible = write!(
        text,
        "\n## `[schedule]`\n\n\
         When the manifest runs by itself, under `pipeline scheduler run`.\n\n{}",
        markdown(&rows)
    );
    let rows = keys(schema, &properties["sweep"]);
    let dimension = &schema["$defs"]["DimensionSpec"];
    let _infallible = write!(
        text,
        "\n## `[sweep]`\n\n\
         What `pipeline sweep` tries out.\n\n{}\n\
         Each entry of `[sweep.space]`, for instance \
         `\"stages.student.params.alpha\" = {{ uniform = [0.1, 0.9] }}`:\n\n{}",
        markdown(&rows),
        markdown(&keys(schema, dimension))
    );
    let any_stage = &properties["stages"]["additionalProperties"]["oneOf"][0];
    let common: Vec<Key> = keys(schema, any_stage).into_iter().filter_map(common_key).collect();
    let _infallible = write!(
        text,
        "\n## `[stages.NAME]`\n\n\
         Every stage has these keys; `inputs` and `params` are those of its kind.\n\n{}",
        markdown(&common)
    );
    kinds.iter().for_each(|kind| text.push_str(&section(kind)));
    text
}

fn is_scalar(key: &Key) -> bool {
    let top = key.path.split('.').next().unwrap_or_default();
    !["data", "models", "schedule", "stages", "sweep"].contains(&top)
}

/// The keys that stages of all kinds share, in words that hold for all kinds.
fn common_key(mut key: Key) -> Option<Key> {
    if key.path.contains('.') {
        return None;
    }
    let words = match key.path.as_str() {
        "kind" => Some(("string", "Stage kind, one of those below.")),
        "inputs" => Some((
            "table of string",
            "Where inputs come from: `PORT = \"STAGE.PORT\"`, `\"data.NAME\"` or `\"models.NAME\"`.",
        )),
        "params" => Some(("table", "Parameters of the kind.")),
        "require" => Some((
            "table of number",
            "Gates: `METRIC-max` or `METRIC-min` bounds on the stage's metrics, for instance \
             `accuracy-drop-max = 0.015`. A stage that misses one fails.",
        )),
        _ => None,
    };
    if let Some((kind, about)) = words {
        (key.kind, key.about) = (kind.to_owned(), about.to_owned());
        key.default = if key.path == "kind" { "required".to_owned() } else { String::new() };
    }
    Some(key)
}

fn section(kind: &KindDescription) -> String {
    let mut text = format!("\n## Kind `{}`\n\n{}\n", kind.kind, kind.about);
    for (title, ports) in [("Inputs", kind.inputs), ("Outputs", kind.outputs)] {
        let _infallible = write!(text, "\n{title}:\n\n");
        for port in ports {
            let need = if title == "Inputs" && port.required { ", required" } else { "" };
            let (name, flows, about) = (port.name, port.kind, port.about);
            let _infallible = writeln!(text, "- `{name}` ({flows}{need}): {about}");
        }
    }
    let metrics: Vec<_> = kind.metrics.iter().map(|name| format!("`{name}`")).collect();
    let _infallible = writeln!(text, "\nMetrics: {}.", metrics.join(", "));
    let rows = keys(&kind.params, &kind.params);
    let _infallible = write!(text, "\nParams:\n\n{}", markdown(&rows));
    text
}
