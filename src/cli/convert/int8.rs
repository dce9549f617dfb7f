//! `--quantize int8`: what is quantized, on which samples, and what that changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use graph::op::Slice;
use graph::rewrite::observer::Method;
use graph::rewrite::quantize::{self, PointKind, QuantizeOptions};
use graph::{Bindings, Graph, ModelFolder, Op, Tensor, structure};
use runtime::calibrate::{self, OutputDifference};
use serde::Serialize;
use training::tokenizer::Tokenizer;

use crate::cli::model::{NamedFile, read_npy};

/// Samples that ranges are found on when there are more.
const SAMPLES: usize = 320;

/// The inputs of one run, by name.
type Sample = Vec<(String, Tensor)>;

/// How a model's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// 8-bit integers, with scales from calibration.
    Int8,
}

/// What samples come from.
#[derive(Clone, Debug)]
enum Samples {
    Texts(PathBuf),
    Tensor(NamedFile),
    /// Of the only input.
    Only(PathBuf),
}

impl FromStr for Samples {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.ends_with(".npy") {
            true if text.contains('=') => text.parse().map(Self::Tensor),
            true => Ok(Self::Only(text.into())),
            false => Ok(Self::Texts(text.into())),
        }
    }
}

/// Whether and how a model becomes one of integers.
#[derive(Debug, clap::Args)]
pub(super) struct Quantization {
    /// Store linear layers, convolutions and word tables as this
    #[arg(long, value_enum, requires = "calibrate")]
    quantize: Option<Format>,
    /// Samples like those the model will see, for the ranges of activations: a TSV file of texts
    /// (plain or .gz), or a NumPy file for each input (NAME=FILE.npy, or FILE.npy for the only one),
    /// with one sample after another along its first dimension, cut into batches where the model has a
    /// fixed size there, else one by one; the first 320 count
    #[arg(long, value_name = "FILE", requires = "quantize")]
    calibrate: Vec<Samples>,
    /// Column of the texts
    #[arg(long, value_name = "COLUMN", default_value = "text", requires = "calibrate")]
    text_column: String,
    /// Linear layers and convolutions that stay float: convolutions by the names of their outputs, as
    /// `explain-model` shows them, linear layers by those of their weights
    #[arg(long, value_name = "LAYER", value_delimiter = ',', requires = "quantize")]
    float: Vec<String>,
}

/// What quantization did to a model.
#[derive(Debug, Serialize)]
pub(super) struct Quantized {
    /// Linear layers, convolutions and word tables whose weights are integers.
    layers: usize,
    /// Runs on samples that ranges were found on, and outputs compared.
    runs: usize,
    differences: Vec<OutputDifference>,
}

impl Quantization {
    /// The model in integers, and what that changed, if it was asked for.
    ///
    /// # Errors
    /// When samples do not fit the model, or it has nothing to quantize.
    pub(super) fn apply(&self, model: ModelFolder) -> Result<(ModelFolder, Option<Quantized>)> {
        if self.quantize.is_none() {
            return Ok((model, None));
        }
        let samples = self.samples(&model)?;
        let embeddings = structure::word_embedding(&model.graph).is_ok();
        let float = self.float.iter().map(|name| name.trim().to_owned()).collect();
        let options = QuantizeOptions { float, embeddings };
        let graph =
            calibrate::quantized(&model.graph, &options, Method::Mse, samples.iter().cloned())?;
        let points = quantize::points(&graph);
        let quantized = Quantized {
            layers: points.iter().filter(|point| point.kind == PointKind::Weight).count(),
            runs: samples.len(),
            differences: calibrate::compare(&model.graph, &graph, &samples)?,
        };
        Ok((ModelFolder { graph, ..model }, Some(quantized)))
    }

    fn samples(&self, model: &ModelFolder) -> Result<Vec<Sample>> {
        let inputs: Vec<&str> = input_names(&model.graph).collect();
        let mut tensors = BTreeMap::new();
        for samples in &self.calibrate {
            let (name, file) = match (samples, inputs.as_slice()) {
                (Samples::Texts(file), _) if self.calibrate.len() == 1 => {
                    let texts = training::data::texts(file, &self.text_column)?;
                    ensure!(!texts.is_empty(), "{} has no texts", file.display());
                    return encoded(model, &texts[..texts.len().min(SAMPLES)]);
                }
                (Samples::Tensor(NamedFile { name, file }), _) => (name.as_str(), file),
                (Samples::Only(file), &[name]) => (name, file),
                (Samples::Texts(file) | Samples::Only(file), _) => bail!(
                    "expected --calibrate with one file of texts, or NAME=FILE.npy for each input ({}), \
                     found `{}`",
                    inputs.join(", "),
                    file.display()
                ),
            };
            let twice = tensors.insert(name, read_npy(file)?);
            ensure!(twice.is_none(), "expected one file for the input `{name}`, found two");
        }
        cut(&model.graph, &tensors)
    }
}

/// The inputs of a text model for each text.
fn encoded(model: &ModelFolder, texts: &[String]) -> Result<Vec<Sample>> {
    ensure!(
        !model.tokenizer_json.is_empty(),
        "calibration takes texts, and the model has no tokenizer: give one with --tokenizer, or \
         tensors with --calibrate NAME=FILE.npy"
    );
    let tokenizer = Tokenizer::from_bytes(&model.tokenizer_json, model.info.max_length)?;
    let names: Vec<&str> = input_names(&model.graph).collect();
    let encoded = tokenizer.encode_batch(texts)?;
    encoded.iter().map(|ids| text_inputs(&names, ids)).collect()
}

fn input_names(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.inputs().iter().map(|&id| graph.value_name(id))
}

/// The inputs of a text model for one text.
fn text_inputs(names: &[&str], ids: &[u32]) -> Result<Sample> {
    let shape = [1, ids.len()];
    let input = |&name: &&str| {
        let tensor = match name {
            "input_ids" => Tensor::from_fn(&shape, |index| i64::from(ids[index])),
            "attention_mask" => Tensor::from_fn(&shape, |_| 1i64),
            "token_type_ids" => Tensor::from_fn(&shape, |_| 0i64),
            other => bail!(
                "expected the inputs input_ids, attention_mask and token_type_ids, found `{other}`; \
                 give tensors with --calibrate NAME=FILE.npy"
            ),
        };
        Ok((name.to_owned(), tensor))
    };
    names.iter().map(input).collect()
}

/// The inputs of as many runs as tensors hold samples: along the first dimension, a batch of the size
/// that the model takes, or one at a time where it takes any. Single numbers are the same in all.
fn cut(graph: &Graph, tensors: &BTreeMap<&str, Tensor>) -> Result<Vec<Sample>> {
    let known: Vec<&str> = input_names(graph).collect();
    if let Some(name) = tensors.keys().find(|name| !known.contains(name)) {
        bail!(
            "expected --calibrate with inputs of the model ({}), found `{name}`",
            known.join(", ")
        );
    }
    let mut runs: Option<(usize, &str)> = None;
    let mut batches = Vec::new();
    for &id in graph.inputs() {
        let (name, value_type) = (graph.value_name(id), graph.value_type(id));
        let Some(tensor) = tensors.get(name) else {
            bail!("expected --calibrate {name}=FILE.npy: samples of every input");
        };
        let fits = |inner: usize| {
            let dims = value_type.shape[inner..].iter().zip(&tensor.shape()[inner..]);
            tensor.dtype() == value_type.dtype
                && tensor.shape().len() == value_type.shape.len()
                && dims.clone().all(|(dim, &size)| dim.fixed().is_none_or(|fixed| fixed == size))
        };
        let Some(batch) = value_type.shape.first() else {
            ensure!(fits(0), "expected a number for `{name}`, {value_type}, found {tensor:?}");
            batches.push((name, tensor, 0));
            continue;
        };
        let batch = batch.fixed().unwrap_or(1);
        let rows = tensor.shape().first().copied().unwrap_or(0);
        ensure!(
            batch > 0 && rows >= batch && fits(1),
            "expected samples of the input `{name}`, {value_type}, one after another along the first \
             dimension, found {tensor:?}"
        );
        let (count, first) = *runs.get_or_insert((rows / batch, name));
        ensure!(
            count == rows / batch,
            "expected as many samples of every input, found {count} of `{first}` and {} of `{name}`",
            rows / batch
        );
        batches.push((name, tensor, batch));
    }
    let (count, _) = runs.unwrap_or((1, ""));
    let rows = batches.iter().map(|(_, _, batch)| *batch).max().unwrap_or(1).max(1);
    let sample = |run: usize| {
        let inputs = batches.iter().map(|&(name, tensor, batch)| {
            if batch == 0 {
                return Ok((name.to_owned(), tensor.clone()));
            }
            let (start, end) = (run * batch, (run + 1) * batch);
            let slice = Op::Slice(Slice { axis: 0, start, end: end.into() });
            let rows = slice.operator().evaluate(&[tensor], &Bindings::default());
            Ok((name.to_owned(), rows.map_err(anyhow::Error::msg)?))
        });
        inputs.collect()
    };
    (0..count.min(SAMPLES.div_ceil(rows))).map(sample).collect()
}

/// What to tell people of it.
pub(super) fn text(quantized: &Quantized) -> String {
    let Quantized { layers, runs, differences } = quantized;
    let mut text =
        format!("int8: weights of {layers} layers, ranges from {runs} runs on samples\n");
    for OutputDifference { name, relative, same_class, other_shapes } in differences {
        if *other_shapes > 0 {
            text.push_str(&format!(
                "{name}: of another shape than float's in {other_shapes} runs\n"
            ));
        }
        let same = same_class.map_or_else(String::new, |share| {
            format!(", the same greatest class in {:.1} %", 100.0 * share)
        });
        text.push_str(&format!(
            "{name}: differs from float by {:.2} % (root mean square){same}\n",
            100.0 * relative
        ));
    }
    text
}
