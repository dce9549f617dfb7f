//! `export`: writes a model as the package that is served, with ONNX as the way out.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use engine::{Metric, Port, Stage, StageContext};
use graph::ModelFolder;
use graph::package::{Golden, GoldenExample, Package, Slo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::tokenizer::Tokenizer;

use crate::range::Positive;
use crate::{predict, texts};

/// Texts whose answers the package remembers.
const GOLDEN_TEXTS: usize = 8;

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
        Port { name: "data", kind: "dataset", required: true, about: "texts; a few validation rows become the package's self-test" },
        Port { name: "model", kind: "model", required: true, about: "what is packed" },
    ];
    const OUTPUTS: &'static [Port] =
        &[Port { name: "package", kind: "package", required: true, about: "graph, weights, tokenizer, golden answers, ONNX" }];

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let model = ModelFolder::read(context.input("model")?)?;
        let dataset = texts::load(context)?;
        let golden = golden(&model, &dataset.validation, context.threads())?;
        let provenance = BTreeMap::from([
            ("seed".to_owned(), context.seed().to_string()),
            ("tool".to_owned(), concat!("pipeline ", env!("CARGO_PKG_VERSION")).to_owned()),
        ]);
        let name = params.name.unwrap_or_else(|| context.name().to_owned());
        let slo = params.slo_p99_ms.map(|limit| Slo { p99_ms: limit.get() });
        let package = Package { name, model, golden, provenance, slo };
        let folder = context.output("package");
        package.write(&folder)?;

        // What was written is read back and tested before anyone may rely on it.
        let package = Package::read(&folder).context("reading the package back")?;
        let compiled = predict::compile(&package.model.graph, context.threads())?;
        predict::self_test(&package, &compiled)?;
        for (name, file) in [("package/weights-size", "weights.safetensors"), ("package/onnx-size", "model.onnx")] {
            let size_bytes = folder.join(file).metadata().with_context(|| format!("reading the size of {file}"))?.len();
            context.metric(Metric { name: name.to_owned(), value: size_bytes as f64, unit: "bytes".to_owned(), ..Metric::default() });
        }
        Ok(())
    }
}

/// Answers of the runtime to a few texts: one alone, the others in padded batches.
fn golden(model: &ModelFolder, rows: &[training::data::Row], threads: usize) -> Result<Golden> {
    let tokenizer = Tokenizer::from_bytes(&model.tokenizer_json, model.info.max_length)?;
    let examples = texts::encode(&tokenizer, &rows[..rows.len().min(GOLDEN_TEXTS)])?;
    let compiled = predict::compile(&model.graph, threads)?;
    let mut session = compiled.session();
    let names: Vec<String> =
        model.graph.outputs().iter().map(|&id| model.graph.value_name(id).to_owned()).collect();
    let all: Vec<usize> = (0..examples.len()).collect();
    let (first, rest) = all.split_at(all.len().min(1));
    let mut golden = Golden::default();
    for rows in [first, rest].into_iter().filter(|rows| !rows.is_empty()) {
        let inputs = predict::inputs(&examples.batch(rows))?;
        let borrowed: Vec<_> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let outputs = session.run(&borrowed)?;
        golden.examples.push(GoldenExample {
            inputs: inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect(),
            outputs: names.iter().cloned().zip(outputs).collect(),
        });
    }
    Ok(golden)
}
