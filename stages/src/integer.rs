//! What both quantizing stages do: calibrate, fold to integers, check that the integer runtime
//! answers as training promised, and find the layers that int8 hurts.

use anyhow::{Context as _, Result, ensure};
use engine::{Metric, StageContext};
use graph::rewrite::observer::Method;
use graph::rewrite::quantize::{self, PointKind, QuantizeOptions};
use graph::{Graph, ModelFolder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::data::Dataset;
use training::metrics::{Classification, argmax};
use training::tokenizer::Tokenizer;
use training::{Bucket, Device, Examples, Network, NetworkOptions, calibrate, evaluate};

use crate::range::{Fraction, Positive};
use crate::{predict, score, texts};

/// What the stages that make a model int8 report.
pub(crate) const METRICS: [&str; 10] = [
    "validation/accuracy",
    "validation/macro-f1",
    "validation/cross-entropy",
    "validation/accuracy-drop",
    "model/weights",
    "model/size",
    "agreement/worst-difference",
    "agreement/other-class",
    "sensitivity/*",
    "mixed/float-layers",
];

/// Rows in a calibration batch, and in an evaluation.
const BATCH: usize = 32;

/// How ranges of activations are found.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum Observer {
    /// Moving average of each batch's greatest magnitude.
    Ema {
        /// Share of the past in the average.
        momentum: Fraction,
    },
    /// The magnitude that this percentage of all values does not exceed.
    Percentile {
        /// Percentage, 0 to 100.
        percentile: Positive,
    },
    /// The clipping point with the least mean squared error.
    Mse,
    /// The greatest magnitude of all.
    MinMax,
}

impl From<Observer> for Method {
    fn from(observer: Observer) -> Self {
        match observer {
            Observer::Ema { momentum } => Self::MovingAverage { momentum: momentum.get() },
            Observer::Percentile { percentile } => {
                Self::Percentile { percentile: percentile.get() }
            }
            Observer::Mse => Self::Mse,
            Observer::MinMax => Self::MinMax,
        }
    }
}

/// Gives layers back to float, worst first, until the accuracy holds.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct MixedPrecision {
    /// Most validation accuracy that may be lost against the float model.
    accuracy_drop_max: Fraction,
}

/// A float model, its data, and where to report.
pub(crate) struct Work<'a> {
    pub(crate) context: &'a StageContext,
    pub(crate) device: Device,
    pub(crate) dataset: &'a Dataset,
    pub(crate) train: Examples,
    pub(crate) validation: Examples,
    /// Answers of the float model to the validation rows.
    float_answers: Vec<Vec<f32>>,
}

impl<'a> Work<'a> {
    /// Encodes the rows and asks the float model for its answers.
    pub(crate) fn new(
        model: &ModelFolder,
        dataset: &'a Dataset,
        context: &'a StageContext,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::from_bytes(&model.tokenizer_json, model.info.max_length)?;
        let validation = texts::encode(&tokenizer, &dataset.validation)?;
        let compiled = predict::compile(&model.graph, context.threads())?;
        Ok(Self {
            context,
            device: Device::from_name(context.device())?,
            dataset,
            train: texts::encode(&tokenizer, &dataset.train)?,
            float_answers: predict::logits(&compiled, &validation)?,
            validation,
        })
    }

    /// `graph` with quantize/dequantize pairs whose activation scales come from training rows.
    pub(crate) fn insert(
        &self,
        graph: &Graph,
        float: &[String],
        observer: Observer,
        rows: usize,
    ) -> Result<Graph> {
        let mut batches = self.train.epoch(BATCH, Bucket::ByLength, self.context.seed(), 0);
        batches.truncate(rows.div_ceil(BATCH));
        let calibration = Calibration { rows: &self.train, batches: &batches, observer };
        with_scales(graph, float, &self.device, &calibration)
    }

    /// Answers of the integer runtime to the validation rows.
    fn answers(&self, quantized: &Graph) -> Result<Vec<Vec<f32>>> {
        let mut folded = quantized.clone();
        quantize::fold(&mut folded)?;
        predict::logits(&predict::compile(&folded, self.context.threads())?, &self.validation)
    }

    fn scores(&self, answers: &[Vec<f32>]) -> Result<Classification> {
        Ok(Classification::from_logits(
            answers,
            &self.validation.labels,
            self.dataset.labels.len(),
        )?)
    }

    /// What int8 loses in accuracy on the validation rows.
    fn accuracy_drop(&self, answers: &[Vec<f32>]) -> Result<f64> {
        Ok(self.scores(&self.float_answers)?.accuracy - self.scores(answers)?.accuracy)
    }

    /// How much each linear layer costs: the validation cross-entropy that is gained when it alone
    /// goes back to float. Worst first.
    fn sensitivity(&self, quantized: &Graph) -> Result<Vec<(String, f64)>> {
        let base = self.scores(&self.answers(quantized)?)?.cross_entropy;
        let mut gains = Vec::new();
        for linear in linears(quantized) {
            let mut reverted = quantized.clone();
            quantize::revert(&mut reverted, &linear)?;
            let gain = base - self.scores(&self.answers(&reverted)?)?.cross_entropy;
            self.context.metric(Metric {
                name: format!("sensitivity/{linear}"),
                value: gain,
                unit: "nats".to_owned(),
                split: Some("validation".to_owned()),
                samples: Some(self.validation.len() as u64),
                ..Metric::default()
            });
            gains.push((linear, gain));
            ensure!(!self.context.interrupted(), engine::Interrupted);
        }
        gains.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(gains)
    }

    /// Reverts the worst layers until the accuracy holds.
    fn mix(
        &self,
        quantized: &mut Graph,
        settings: &MixedPrecision,
        worst_first: &[(String, f64)],
    ) -> Result<()> {
        let limit = settings.accuracy_drop_max.get();
        let mut n_reverted = 0;
        let mut drop = self.accuracy_drop(&self.answers(quantized)?)?;
        for (linear, _) in worst_first {
            if drop <= limit {
                break;
            }
            quantize::revert(quantized, linear)?;
            n_reverted += 1;
            drop = self.accuracy_drop(&self.answers(quantized)?)?;
            self.context.log(format!("`{linear}` back to float: accuracy drop {drop:.4}"));
        }
        if drop > limit {
            self.context.log(format!(
                "accuracy drop {drop:.4} with every layer back to float; `mixed-precision.accuracy-drop-max` is {limit}"
            ));
        }
        self.context.metric(Metric {
            name: "mixed/float-layers".to_owned(),
            value: f64::from(n_reverted),
            unit: "count".to_owned(),
            ..Metric::default()
        });
        Ok(())
    }

    /// What both stages do once they have scales: measure what each layer costs (when `sensitivity`
    /// is on, or somebody has to be given back to float), mix, fold, check and report.
    pub(crate) fn complete(
        &self,
        mut quantized: Graph,
        model: &ModelFolder,
        sensitivity: bool,
        mixed_precision: Option<&MixedPrecision>,
    ) -> Result<Graph> {
        if sensitivity || mixed_precision.is_some() {
            let worst_first = self.sensitivity(&quantized)?;
            if let Some(settings) = mixed_precision {
                self.mix(&mut quantized, settings, &worst_first)?;
            }
        }
        self.finish(&quantized, model)
    }

    /// Folds, checks and reports the quantized model: what the stage hands on.
    fn finish(&self, quantized: &Graph, model: &ModelFolder) -> Result<Graph> {
        let mut folded = quantized.clone();
        quantize::fold(&mut folded)?;
        self.check_agreement(quantized, &folded, model)?;
        let answers = self.answers(quantized)?;
        let context = self.context;
        score::report(context, "", score::Split::Validation, &answers, &self.validation)?;
        let metric = |name: &str, value: f64, unit: &str| {
            context.metric(Metric {
                name: format!("validation/{name}"),
                value,
                unit: unit.to_owned(),
                split: Some("validation".to_owned()),
                samples: Some(self.validation.len() as u64),
                ..Metric::default()
            });
        };
        metric("accuracy-drop", self.accuracy_drop(&answers)?, "fraction");
        score::report_size(context, &folded);
        Ok(folded)
    }

    /// Holds the integer runtime against the fake-quantized forward pass of training, on every test
    /// row: the same class, and logits within one step of an int8 output, the greatest magnitude of
    /// the validation logits by 127. Labels are not looked at.
    fn check_agreement(
        &self,
        quantized: &Graph,
        folded: &Graph,
        model: &ModelFolder,
    ) -> Result<()> {
        let tokenizer = Tokenizer::from_bytes(&model.tokenizer_json, model.info.max_length)?;
        let test = texts::encode(&tokenizer, &self.dataset.test)?;
        let network = Network::new(quantized, &self.device, &NetworkOptions::frozen())?;
        let promised = evaluate(&network, &test, BATCH)?.logits;
        let served = predict::logits(&predict::compile(folded, self.context.threads())?, &test)?;
        let greatest =
            self.float_answers.iter().flatten().fold(0f32, |most, logit| most.max(logit.abs()));
        let step = greatest / quantize::LEVELS;
        let (worst, other_class) = differences(&promised, &served)?;
        let report = |name: &str, value: f64, unit: &str| {
            self.context.metric(Metric {
                name: format!("agreement/{name}"),
                value,
                unit: unit.to_owned(),
                split: Some("test".to_owned()),
                samples: Some(test.len() as u64),
                ..Metric::default()
            });
        };
        report("worst-difference", f64::from(worst / step), "quantization steps");
        report("other-class", other_class as f64, "count");
        ensure!(
            other_class == 0 && worst <= step,
            "the integer runtime and the fake-quantized model disagree on the test rows: {other_class} of {} rows in another class, logits up to {:.2} quantization steps apart (one is allowed)",
            test.len(),
            worst / step
        );
        Ok(())
    }
}

/// The greatest difference of two logits, and the number of rows with another class.
fn differences(promised: &[Vec<f32>], served: &[Vec<f32>]) -> Result<(f32, usize)> {
    let (rows, answers) = (promised.len(), served.len());
    ensure!(rows == answers, "{rows} test rows have {answers} answers of the integer runtime");
    let (mut worst, mut other_class) = (0f32, 0usize);
    for (row, (promised, served)) in promised.iter().zip(served).enumerate() {
        let comparable = promised.len() == served.len()
            && promised.iter().zip(served).all(|(a, b)| (a - b).is_finite());
        ensure!(
            comparable,
            "test row {row}: expected as many finite logits of both, found {promised:?} of the fake-quantized model and {served:?} of the integer runtime"
        );
        let difference = promised.iter().zip(served).map(|(a, b)| (a - b).abs());
        worst = difference.fold(worst, f32::max);
        other_class += usize::from(argmax(promised) != argmax(served));
    }
    Ok((worst, other_class))
}

/// Rows that ranges of activations are found on.
struct Calibration<'a> {
    rows: &'a Examples,
    batches: &'a [Vec<usize>],
    observer: Observer,
}

/// `graph` with quantize/dequantize pairs, but for the linear layers that stay float.
fn with_scales(
    graph: &Graph,
    float: &[String],
    device: &Device,
    calibration: &Calibration<'_>,
) -> Result<Graph> {
    let mut quantized = graph.clone();
    let options = QuantizeOptions { float: float.to_vec(), embeddings: true };
    quantize::insert(&mut quantized, &options)?;
    let points: Vec<(String, String)> = quantize::points(&quantized)
        .iter()
        .filter(|point| point.kind == PointKind::Activation)
        .map(|point| {
            let name = |id| quantized.value_name(id).to_owned();
            (name(point.input), name(point.scale))
        })
        .collect();
    let network = Network::new(graph, device, &NetworkOptions::frozen())?;
    let taps: Vec<&str> = points.iter().map(|(value, _)| value.as_str()).collect();
    let Calibration { rows, batches, observer } = *calibration;
    let scales = calibrate(&network, rows, &taps, observer.into(), batches)?;
    for (value, scale) in &points {
        quantize::set_activation_scale(&mut quantized, scale, scales[value])?;
    }
    Ok(quantized)
}

/// The linear layers that are quantized, by name.
fn linears(quantized: &Graph) -> Vec<String> {
    let mut names: Vec<String> = quantize::points(quantized)
        .into_iter()
        .filter(|point| point.kind == PointKind::Weight)
        .flat_map(|point| point.readers)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Checks that every name is a linear layer of the graph.
pub(crate) fn check_float(graph: &Graph, float: &[String]) -> Result<()> {
    let linears = graph::structure::linears(graph);
    let names: Vec<&str> = linears.iter().map(|linear| linear.name.as_str()).collect();
    match float.iter().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(anyhow::anyhow!(
            "no linear layer is named `{name}`; there are: {}",
            names.join(", ")
        ))
        .context("`float`"),
    }
}

#[cfg(test)]
mod tests {
    use graph::bert::{self, BertConfig, BertLayer, Pooling};

    use super::*;

    #[test]
    fn logits_that_cannot_be_compared_do_not_agree() {
        let promised = [vec![1.0, 2.0], vec![3.0, 0.5]];
        let found = differences(&promised, &[vec![1.5, 2.0], vec![0.25, 0.5]]).unwrap();
        assert_eq!(found, (2.75, 1));
        for (served, expected) in [
            (vec![vec![1.0, 2.0]], "2 test rows have 1 answers"),
            (vec![vec![1.0, 2.0], vec![3.0]], "test row 1"),
            (vec![vec![1.0, 2.0], vec![3.0, f32::NAN]], "test row 1"),
            (vec![vec![f32::NEG_INFINITY, 2.0], vec![3.0, 0.5]], "test row 0"),
        ] {
            let error = differences(&promised, &served).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let neither = [vec![f32::NAN, f32::NAN]];
        assert!(differences(&neither, &neither).is_err());
    }

    /// Hundreds of thousands of roundings: were the runtime's arithmetic off by a unit in the last
    /// place anywhere before one, some number would be rounded to another step.
    #[test]
    fn the_runtime_has_the_bits_of_the_fake_quantized_model() {
        let layer = BertLayer { heads: 4, intermediate: 256 };
        let config = BertConfig {
            positions: 48,
            pooling: Pooling::Cls,
            ..BertConfig::uniform(97, 128, 3, layer)
        };
        let random = &mut |name: &str, shape: &[usize]| Ok(bert::normal(5, name, shape, 0.15));
        let graph = bert::build(&config, random).unwrap();
        let text =
            |row: usize| (0..3 + row % 40).map(|i| ((row * 31 + i * 17) % 97) as u32).collect();
        let rows = Examples { ids: (0..96).map(text).collect(), labels: vec![0; 96] };
        let device = Device::cpu();
        let batches = [(0..BATCH).collect()];
        let calibration =
            Calibration { rows: &rows, batches: &batches, observer: Observer::MinMax };
        let quantized = with_scales(&graph, &[], &device, &calibration).unwrap();

        let network = Network::new(&quantized, &device, &NetworkOptions::frozen()).unwrap();
        let promised = evaluate(&network, &rows, BATCH).unwrap().logits;
        let mut folded = quantized.clone();
        quantize::fold(&mut folded).unwrap();
        let compiled = predict::compile(&folded, 2).unwrap();
        let served = predict::logits(&compiled, &rows).unwrap();
        assert!(linears(&quantized).len() > 6 * 3);
        assert_eq!(promised, served);
    }
}
