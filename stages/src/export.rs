//! `export`: writes a model as the package that is served, with ONNX as the way out.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use engine::{Metric, Port, Stage, StageContext};
use graph::ModelFolder;
use graph::package::{Golden, Package, Slo};
use runtime::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::data::Row;
use training::tokenizer::Tokenizer;

use crate::range::Positive;
use crate::{predict, texts};

/// Texts whose answers the package remembers.
const GOLDEN_TEXTS: usize = 5;

/// The stage kind.
pub(crate) struct Export;

/// Parameters of `export`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Params {
    /// What the package is called; the stage's name when absent.
    #[serde(default)]
    name: Option<String>,
    /// Promise of the service: 99th percentile of the time to an answer, in milliseconds.
    #[serde(default)]
    slo_p99_ms: Option<Positive>,
}

impl Stage for Export {
    type Params = Params;
    const KIND: &'static str = "export";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "writes the package that is served, and ONNX";
    const INPUTS: &'static [Port] = &[
        Port {
            name: "data",
            kind: "dataset",
            required: true,
            about: "texts; a few validation rows become the package's self-test",
        },
        Port { name: "model", kind: "model", required: true, about: "what is packed" },
    ];
    const OUTPUTS: &'static [Port] = &[Port {
        name: "package",
        kind: "package",
        required: true,
        about: "graph, weights, tokenizer, golden answers, ONNX",
    }];
    const METRICS: &'static [&'static str] =
        &["package/failed-kernel-tiers", "package/weights-size", "package/onnx-size"];

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let model = ModelFolder::read(context.input("model")?)?;
        let dataset = texts::load(context)?;
        let golden = golden(&model, &dataset.validation)?;
        let provenance = BTreeMap::from([
            ("seed".to_owned(), context.seed().to_string()),
            ("tool".to_owned(), concat!("pipeline ", env!("CARGO_PKG_VERSION")).to_owned()),
        ]);
        let name = params.name.unwrap_or_else(|| context.name().to_owned());
        let slo = params.slo_p99_ms.map(|limit| Slo { p99_ms: limit.get() });
        let package = Package { name, model, golden, tolerance: None, provenance, slo };
        let folder = context.output("package");
        package.write(&folder)?;

        // What was written is read back and tested before anyone may rely on it.
        let package = Package::read(&folder).context("reading the package back")?;
        predict::load(&package, "package", Device::Cpu, context)?;
        for (name, file) in
            [("package/weights-size", "weights.safetensors"), ("package/onnx-size", "model.onnx")]
        {
            let size_bytes = folder
                .join(file)
                .metadata()
                .with_context(|| format!("reading the size of {file}"))?
                .len();
            context.metric(Metric {
                name: name.to_owned(),
                value: size_bytes as f64,
                unit: "bytes".to_owned(),
                ..Metric::default()
            });
        }
        Ok(())
    }
}

/// What the reference evaluator answers to a few short texts: one alone, the others in one padded
/// batch. The kernels that will serve have no part in it.
fn golden(model: &ModelFolder, rows: &[Row]) -> Result<Golden> {
    let tokenizer = Tokenizer::from_bytes(&model.tokenizer_json, model.info.max_length)?;
    let examples = texts::encode(&tokenizer, rows)?;
    let mut shortest: Vec<usize> = (0..examples.len()).collect();
    shortest.sort_by_key(|&row| examples.ids[row].len());
    shortest.truncate(GOLDEN_TEXTS);
    let (first, rest) = shortest.split_at(shortest.len().min(1));
    let mut inputs = Vec::new();
    for rows in [first, rest].into_iter().filter(|rows| !rows.is_empty()) {
        let named = predict::inputs(&examples.batch(rows))?;
        inputs.push(named.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect());
    }
    Ok(Golden::evaluate(&model.graph, inputs)?)
}
