//! `pipeline infer MODEL`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use graph::{ModelFolder, Tensor};
use runtime::{CompiledModel, Explanation, FailedTier};
use serde::Serialize;
use training::tokenizer::Tokenizer;

use super::answer::{Answer, Facts, columns};
use super::failure::Failure;
use super::model::{Compilation, NamedFile, Source, failed_tiers, place, read_npy, write_npy};

/// Runs a model once, on texts or on tensors.
#[derive(Debug, clap::Args)]
pub(super) struct Infer {
    #[command(flatten)]
    source: Source,
    /// A text to classify; may be repeated
    #[arg(long, value_name = "TEXT", conflicts_with = "input")]
    text: Vec<String>,
    /// A tensor for an input, as a NumPy file; one for each input of the model
    #[arg(long, value_name = "NAME=FILE.npy")]
    input: Vec<NamedFile>,
    /// Folder for the outputs, one NumPy file each
    #[arg(long, value_name = "DIR", conflicts_with = "text")]
    out: Option<PathBuf>,
    #[command(flatten)]
    compilation: Compilation,
    #[command(flatten)]
    facts: Facts,
}

/// What came out.
#[derive(Debug, Default, Serialize)]
struct Report {
    device: String,
    /// Why no GPU runs it although one was welcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_reason: Option<String>,
    tier: String,
    /// Faster tiers whose kernels failed the package's self-test on this machine, and why.
    failed_tiers: Vec<FailedTier>,
    texts: Vec<TextAnswer>,
    outputs: Vec<OutputFile>,
}

/// The classes of one text.
#[derive(Debug, Serialize)]
struct TextAnswer {
    text: String,
    label: String,
    probability: f32,
    logits: Vec<f32>,
}

/// One output of a run on tensors.
#[derive(Debug, Serialize)]
struct OutputFile {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

impl Infer {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let wrong = |error: anyhow::Error| Failure::Other(error, super::failure::WRONG);
        let read = self.input.iter().map(|input| read_npy(&input.file));
        let tensors = read.collect::<Result<Vec<Tensor>>>().map_err(wrong)?;
        let names = self.input.iter().map(|input| input.name.as_str());
        let mut inputs: Vec<(&str, &Tensor)> = names.zip(&tensors).collect();
        let opened = self.source.open_for(&inputs)?;
        inputs.retain(|(name, _)| !opened.bound.iter().any(|bound| bound == name));
        let (compiled, failed_tiers) = self.compilation.compile(&opened)?;
        let explanation = compiled.explain();
        let mut report = Report {
            device: explanation.device.clone(),
            device_reason: explanation.device_reason.clone(),
            tier: explanation.tier.clone(),
            failed_tiers,
            ..Report::default()
        };
        if self.text.is_empty() {
            report.outputs = self.tensors(&compiled, &inputs).map_err(wrong)?;
        } else {
            report.texts = self.texts(&compiled, &opened.model).map_err(wrong)?;
        }
        Ok(self.facts.answer(&report, || text(&report, compiled.explain())))
    }

    fn texts(&self, compiled: &CompiledModel, model: &ModelFolder) -> Result<Vec<TextAnswer>> {
        ensure!(
            !model.tokenizer_json.is_empty(),
            "the model has no tokenizer: give tensors with --input, or --tokenizer for an ONNX model"
        );
        let tokenizer = Tokenizer::from_bytes(&model.tokenizer_json, model.info.max_length)?;
        let mut session = compiled.session();
        let answer = |text: &String| {
            let ids: Vec<i64> = tokenizer.encode(text)?.into_iter().map(i64::from).collect();
            let shape = [1, ids.len()];
            let mask = Tensor::from_fn(&shape, |_| 1i64);
            let kinds = Tensor::from_fn(&shape, |_| 0i64);
            let ids = Tensor::new(&shape, ids)?;
            let all = [("input_ids", &ids), ("attention_mask", &mask), ("token_type_ids", &kinds)];
            let wanted = model.graph.inputs().iter().map(|&id| model.graph.value_name(id));
            let inputs: Vec<(&str, &Tensor)> = wanted
                .filter_map(|name| all.into_iter().find(|(known, _)| *known == name))
                .collect();
            let outputs = session.run_borrowed(&inputs)?;
            let output = outputs.iter().next().context("the model has no output")?;
            classified(text, output.elements::<f32>()?, &model.info.labels)
        };
        self.text.iter().map(answer).collect()
    }

    fn tensors(
        &self,
        compiled: &CompiledModel,
        inputs: &[(&str, &Tensor)],
    ) -> Result<Vec<OutputFile>> {
        let mut session = compiled.session();
        let mut files = Vec::new();
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        for output in session.run_borrowed(inputs)?.iter() {
            let file = self
                .out
                .as_ref()
                .map(|folder| folder.join(format!("{}.npy", output.name().replace('/', "_"))));
            if let Some(file) = &file {
                write_npy(file, &output.to_tensor()?)?;
            }
            files.push(OutputFile {
                name: output.name().to_owned(),
                dtype: output.dtype().to_string(),
                shape: output.shape().to_vec(),
                file,
            });
        }
        Ok(files)
    }
}

/// The most likely class of one text.
fn classified(text: &str, logits: &[f32], labels: &[String]) -> Result<TextAnswer> {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let best = best.context("the model's output is empty")?;
    let sum: f32 = logits.iter().map(|logit| (logit - logits[best]).exp()).sum();
    Ok(TextAnswer {
        text: text.to_owned(),
        label: labels.get(best).cloned().unwrap_or_else(|| best.to_string()),
        probability: 1.0 / sum,
        logits: logits.to_vec(),
    })
}

fn text(report: &Report, explanation: &Explanation) -> String {
    let mut text = place(explanation);
    text.push_str(&failed_tiers(&report.failed_tiers, &report.tier));
    if !report.texts.is_empty() {
        let rows: Vec<[String; 3]> = report
            .texts
            .iter()
            .map(|answer| {
                let share = format!("{:.1} %", 100.0 * answer.probability);
                [answer.label.clone(), share, answer.text.clone()]
            })
            .collect();
        text.push_str(&columns(&rows));
    }
    for output in &report.outputs {
        let file = output.file.as_ref().map(|file| format!(" → {}", file.display()));
        let (name, dtype, shape) = (&output.name, &output.dtype, &output.shape);
        text.push_str(&format!("{name}: {dtype}{shape:?}{}\n", file.unwrap_or_default()));
    }
    text
}
