//! Normalization of images `[batch, channels, d1, …]` with one scale and bias a channel.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// `(x − mean) / √(variance + epsilon) · scale + bias` by channel, inputs
/// `(x, scale, bias, mean, variance)` (Ioffe & Szegedy 2015, arXiv:1502.03167).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// Added to the variance, > 0.
    pub epsilon: f32,
}

/// Batch normalization by the mean and the variance of the batch itself, inputs as those of
/// [`BatchNorm`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNormTraining {
    /// Added to the variance, > 0.
    pub epsilon: f32,
    /// Share of the given statistics in the new ones, 0 to 1.
    pub momentum: f32,
    /// Which output this is.
    pub part: BatchNormPart,
}

/// An output of [`BatchNormTraining`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchNormPart {
    /// The normalized images.
    Output,
    /// `momentum · mean + (1 − momentum) · mean of the batch`.
    RunningMean,
    /// `momentum · variance + (1 − momentum) · variance of the batch`.
    RunningVariance,
}

/// Normalization of each channel of each image by its own mean and variance, inputs
/// `(x, scale, bias)` (Ulyanov et al. 2016, arXiv:1607.08022).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceNorm {
    /// Added to the variance, > 0.
    pub epsilon: f32,
}

/// Normalization of groups of channels of each image by their own mean and variance, inputs
/// `(x, scale, bias)` (Wu & He 2018, arXiv:1803.08494).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupNorm {
    /// Number of groups, > 0; divides the number of channels.
    pub groups: usize,
    /// Added to the variance, > 0.
    pub epsilon: f32,
}

/// Local response normalization across channels (Krizhevsky et al. 2012, section 3.3):
/// `x / (bias + alpha / size · Σ x²)^beta`, the sum over `size` channels around each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalResponseNorm {
    /// Channels in each sum, > 0; of an even number one more comes after than before.
    pub size: usize,
    /// Factor of the sum.
    pub alpha: f32,
    /// Power of the denominator.
    pub beta: f32,
    /// Added to the sum.
    pub bias: f32,
}

/// Checks `(x, one vector with an entry a channel, …)` and gives the type of x.
fn infer_by_channel(inputs: &[Argument<'_>]) -> Result<ValueType, String> {
    let [x, parameters @ ..] = inputs else { return Err("expected inputs".to_owned()) };
    x.expect(DType::F32)?;
    let channels = x.shape.get(1).ok_or_else(|| format!("expected channels, found {x}"))?;
    for parameter in parameters {
        parameter.expect(DType::F32)?;
        if parameter.shape.len() != 1 || !parameter.shape[0].may_equal(channels) {
            return Err(format!("expected a number a channel ({channels}), found {parameter}"));
        }
    }
    Ok(x.value_type.clone())
}

/// Number of channels and of elements of each; checks that every parameter has one entry a
/// channel.
fn channels_of(x: &Tensor, parameters: &[&Tensor]) -> Result<(usize, usize), String> {
    let [_, channels, spatial @ ..] = x.shape() else {
        return Err(format!("expected a batch with channels, found {x:?}"));
    };
    match parameters.iter().find(|parameter| parameter.shape() != [*channels]) {
        Some(found) => Err(format!("expected {channels} numbers, found {found:?}")),
        None => Ok((*channels, spatial.iter().product())),
    }
}

/// Mean and variance of a population.
#[derive(Clone, Copy)]
struct Statistics {
    mean: f64,
    variance: f64,
}

impl Statistics {
    fn of(values: impl Iterator<Item = f32> + Clone) -> Self {
        let count = values.clone().count() as f64;
        let mean = values.clone().map(f64::from).sum::<f64>() / count;
        let squares = values.map(|value| (f64::from(value) - mean).powi(2));
        Self { mean, variance: squares.sum::<f64>() / count }
    }

    fn normalize(self, x: f32, epsilon: f32, scale: f32, bias: f32) -> f32 {
        let deviation = (self.variance + f64::from(epsilon)).sqrt();
        ((f64::from(x) - self.mean) / deviation * f64::from(scale) + f64::from(bias)) as f32
    }
}

/// The normalized x, with the statistics for each flat index.
fn normalized(
    x: &Tensor,
    scale: &Tensor,
    bias: &Tensor,
    epsilon: f32,
    statistics: impl Fn(usize) -> Statistics,
) -> Result<Tensor, String> {
    let (channels, image) = channels_of(x, &[scale, bias])?;
    let (values, scale, bias) = (floats(x)?, floats(scale)?, floats(bias)?);
    Ok(Tensor::from_fn(x.shape(), |index| {
        let channel = index / image % channels;
        statistics(index).normalize(values[index], epsilon, scale[channel], bias[channel])
    }))
}

/// [`normalized`] by the statistics of runs of `length` elements.
fn normalized_runs(
    x: &Tensor,
    scale: &Tensor,
    bias: &Tensor,
    epsilon: f32,
    length: usize,
) -> Result<Tensor, String> {
    let runs = floats(x)?.chunks(length.max(1)).map(|run| Statistics::of(run.iter().copied()));
    let runs: Vec<Statistics> = runs.collect();
    normalized(x, scale, bias, epsilon, |index| runs[index / length])
}

fn epsilon_form(epsilon: f32) -> OnnxForm {
    OnnxForm::default().attribute("epsilon", OnnxAttribute::Float(epsilon))
}

impl Operator for BatchNorm {
    fn onnx_type(&self) -> &'static str {
        "BatchNormalization"
    }

    fn onnx(&self) -> OnnxForm {
        epsilon_form(self.epsilon)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        infer_by_channel(&exactly::<_, 5>(inputs)?)
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, bias, mean, variance] = exactly(inputs)?;
        let (channels, image) = channels_of(x, &[mean, variance])?;
        let (mean, variance) = (floats(mean)?, floats(variance)?);
        normalized(x, scale, bias, self.epsilon, |index| {
            let channel = index / image % channels;
            let (mean, variance) = (f64::from(mean[channel]), f64::from(variance[channel]));
            Statistics { mean, variance }
        })
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        2 * elements(output)
    }
}

impl Operator for BatchNormTraining {
    fn onnx_type(&self) -> &'static str {
        "BatchNormalization"
    }

    fn onnx(&self) -> OnnxForm {
        epsilon_form(self.epsilon)
            .attribute("momentum", OnnxAttribute::Float(self.momentum))
            .attribute("training_mode", OnnxAttribute::Int(1))
            .output(match self.part {
                BatchNormPart::Output => 0,
                BatchNormPart::RunningMean => 1,
                BatchNormPart::RunningVariance => 2,
            })
            .of_outputs(3)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let inputs: [Argument<'_>; 5] = exactly(inputs)?;
        let x = infer_by_channel(&inputs)?;
        Ok(match self.part {
            BatchNormPart::Output => x,
            BatchNormPart::RunningMean | BatchNormPart::RunningVariance => {
                inputs[3].value_type.clone()
            }
        })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, bias, mean, variance] = exactly(inputs)?;
        let (channels, image) = channels_of(x, &[scale, bias, mean, variance])?;
        let values = floats(x)?;
        let batch: Vec<Statistics> = (0..channels)
            .map(|channel| {
                let images = (0..x.shape()[0]).map(|index| (index * channels + channel) * image);
                Statistics::of(
                    images.flat_map(|start| values[start..start + image].iter().copied()),
                )
            })
            .collect();
        let momentum = f64::from(self.momentum);
        let running = |old: &Tensor, new: &dyn Fn(Statistics) -> f64| {
            let old = floats(old)?;
            Ok(Tensor::from_fn(&[channels], |channel| {
                let new = new(batch[channel]);
                (momentum * f64::from(old[channel]) + (1.0 - momentum) * new) as f32
            }))
        };
        match self.part {
            BatchNormPart::Output => {
                normalized(x, scale, bias, self.epsilon, |index| batch[index / image % channels])
            }
            BatchNormPart::RunningMean => running(mean, &|batch| batch.mean),
            BatchNormPart::RunningVariance => running(variance, &|batch| batch.variance),
        }
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        8 * elements(&inputs[0])
    }
}

impl Operator for InstanceNorm {
    fn onnx_type(&self) -> &'static str {
        "InstanceNormalization"
    }

    fn onnx(&self) -> OnnxForm {
        epsilon_form(self.epsilon)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        infer_by_channel(&exactly::<_, 3>(inputs)?)
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, bias] = exactly(inputs)?;
        let (_, image) = channels_of(x, &[])?;
        normalized_runs(x, scale, bias, self.epsilon, image)
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        8 * elements(output)
    }
}

impl Operator for GroupNorm {
    fn onnx_type(&self) -> &'static str {
        "GroupNormalization"
    }

    fn onnx(&self) -> OnnxForm {
        // Before 21 there was one scale a group.
        epsilon_form(self.epsilon)
            .attribute("num_groups", OnnxAttribute::Int(self.groups as i64))
            .since(21)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let x = infer_by_channel(&exactly::<_, 3>(inputs)?)?;
        let channels = x.shape.get(1).and_then(Dim::fixed);
        if self.groups == 0 || channels.is_some_and(|count| !count.is_multiple_of(self.groups)) {
            return Err(format!("the channels of {x} do not fall into {} groups", self.groups));
        }
        Ok(x)
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, scale, bias] = exactly(inputs)?;
        let (channels, image) = channels_of(x, &[])?;
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            return Err(format!("{channels} channels do not fall into {} groups", self.groups));
        }
        normalized_runs(x, scale, bias, self.epsilon, channels / self.groups * image)
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        8 * elements(output)
    }
}

impl Operator for LocalResponseNorm {
    fn onnx_type(&self) -> &'static str {
        "LRN"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("size", OnnxAttribute::Int(self.size as i64))
            .attribute("alpha", OnnxAttribute::Float(self.alpha))
            .attribute("beta", OnnxAttribute::Float(self.beta))
            .attribute("bias", OnnxAttribute::Float(self.bias))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        if self.size == 0 {
            return Err("expected a size above 0, found 0".to_owned());
        }
        infer_by_channel(&exactly::<_, 1>(inputs)?)
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let (channels, image) = channels_of(x, &[])?;
        let values = floats(x)?;
        let size = self.size.max(1);
        Ok(Tensor::from_fn(x.shape(), |index| {
            let channel = index / image % channels;
            let first = channel.saturating_sub((size - 1) / 2);
            let end = channel.saturating_add(size / 2 + 1).min(channels);
            let start = index - channel * image;
            let squares: f64 = (first..end)
                .map(|channel| f64::from(values[start + channel * image]).powi(2))
                .sum();
            let sum = f64::from(self.alpha) / size as f64 * squares + f64::from(self.bias);
            (f64::from(values[index]) / sum.powf(f64::from(self.beta))) as f32
        }))
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        (2 * self.size as u64 + 4) * elements(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[f32]) -> Tensor {
        Tensor::new(&[values.len()], values.to_vec()).unwrap()
    }

    #[test]
    fn groups_of_one_channel_are_instances() {
        let x = Tensor::from_fn(&[2, 4, 3], |index| (index * 5 % 7) as f32);
        let (scale, bias) = (vector(&[1.0, 2.0, 3.0, 4.0]), vector(&[0.0, 0.5, 1.0, 1.5]));
        let inputs = [&x, &scale, &bias];
        let bindings = Bindings::default();
        let instances = InstanceNorm { epsilon: 1e-5 }.evaluate(&inputs, &bindings).unwrap();
        let groups = GroupNorm { groups: 4, epsilon: 1e-5 }.evaluate(&inputs, &bindings).unwrap();
        assert_eq!(instances, groups);
        assert!(GroupNorm { groups: 3, epsilon: 1e-5 }.evaluate(&inputs, &bindings).is_err());
    }

    #[test]
    fn momentum_is_the_share_of_what_was() {
        let x = Tensor::new(&[2, 1, 1], vec![1f32, 5.0]).unwrap();
        let part = |part| {
            let norm = BatchNormTraining { epsilon: 0.0, momentum: 0.75, part };
            let (one, zero) = (vector(&[1.0]), vector(&[0.0]));
            let inputs = [&x, &one, &zero, &vector(&[7.0]), &vector(&[8.0])];
            let output = norm.evaluate(&inputs, &Bindings::default()).unwrap();
            output.elements::<f32>().unwrap().to_vec()
        };
        assert_eq!(part(BatchNormPart::Output), [-1.0, 1.0]);
        assert_eq!(part(BatchNormPart::RunningMean), [6.0]);
        assert_eq!(part(BatchNormPart::RunningVariance), [7.0]);
    }

    #[test]
    fn an_even_response_looks_one_channel_further_ahead() {
        let x = Tensor::new(&[1, 3], vec![1f32, 2.0, 4.0]).unwrap();
        let norm = LocalResponseNorm { size: 2, alpha: 2.0, beta: 1.0, bias: 0.0 };
        let y = norm.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [1.0 / 5.0, 2.0 / 20.0, 4.0 / 16.0]);
    }

    #[test]
    fn empty_images_stay_empty() {
        let x = Tensor::zeros(DType::F32, &[1, 2, 0]);
        let (scale, bias) = (vector(&[1.0, 1.0]), vector(&[0.0, 0.0]));
        let norm = InstanceNorm { epsilon: 1e-5 };
        let y = norm.evaluate(&[&x, &scale, &bias], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [1, 2, 0]);
    }
}
