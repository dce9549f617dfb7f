//! int8 without training, for any graph: ranges of activations from runs on sample inputs.

use std::collections::BTreeMap;

use graph::rewrite::observer::{Method, Observer, RangeObserver};
use graph::rewrite::quantize::{
    self, PointKind, QuantizeOptions, QuantizePoint, set_activation_range, set_activation_scale,
};
use graph::rewrite::{RewriteError, scaling};
use graph::{DType, Graph, Tensor, ValueId};
use serde::Serialize;

use crate::{CompileOptions, CompiledModel, Level, RuntimeError, compile};

/// `graph` in int8: norms folded into filters, quantize/dequantize pairs around its linear layers,
/// convolutions and embeddings, with the activations' scales from what `samples` make of them, and
/// weights rounded.
///
/// Activations of linear layers are symmetric, their clipping point chosen by `method`; images have
/// the range of the least mean squared error.
///
/// # Errors
/// When the graph has no layer to quantize, no samples are given, or a sample does not run.
pub fn quantized(
    graph: &Graph,
    options: &QuantizeOptions,
    method: Method,
    samples: impl IntoIterator<Item = Vec<(String, Tensor)>>,
) -> Result<Graph, RuntimeError> {
    let mut float = graph.clone();
    scaling::fold_scalings(&mut float).map_err(fail)?;
    let mut quantized = float.clone();
    quantize::insert(&mut quantized, options).map_err(fail)?;
    if quantize::points(&quantized).is_empty() {
        let reason = format!("no layer of `{}` is left to quantize", graph.name);
        return Err(RuntimeError::Quantize { reason });
    }
    let mut activations = Activations::of(&quantized, method).map_err(fail)?;
    activations.observe(&float, samples)?;
    activations.set_scales(&mut quantized).map_err(fail)?;
    quantize::fold(&mut quantized).map_err(fail)?;
    Ok(quantized)
}

fn fail(error: RewriteError) -> RuntimeError {
    RuntimeError::Quantize { reason: error.to_string() }
}

/// What watches the values of one scale.
enum Watch {
    Symmetric(Observer),
    Unsigned(RangeObserver),
}

/// Observers of a graph's activations, by the name of the scale.
struct Activations {
    watches: BTreeMap<String, Watch>,
    /// Names of the values that are quantized, and of their scales.
    values: Vec<(String, String)>,
}

impl Activations {
    fn of(quantized: &Graph, method: Method) -> Result<Self, RewriteError> {
        let points = quantize::points(quantized);
        let activations = points.iter().filter(|point| point.kind == PointKind::Activation);
        let (mut watches, mut values) = (BTreeMap::new(), Vec::new());
        for QuantizePoint { input, scale, zero_point, .. } in activations {
            let name = |id: ValueId| quantized.value_name(id).to_owned();
            let watch = match quantized.value_type(*zero_point).dtype {
                DType::U8 => Watch::Unsigned(RangeObserver::default()),
                _ => Watch::Symmetric(Observer::new(method)?),
            };
            watches.entry(name(*scale)).or_insert(watch);
            values.push((name(*input), name(*scale)));
        }
        Ok(Self { watches, values })
    }

    /// Runs the graph as it was before on each sample, and shows its values to their observers.
    fn observe(
        &mut self,
        graph: &Graph,
        samples: impl IntoIterator<Item = Vec<(String, Tensor)>>,
    ) -> Result<(), RuntimeError> {
        let mut tapped = graph.clone();
        let find =
            |value: &String| graph.find(value).expect("pairs stand behind the graph's values");
        let taps: Vec<ValueId> = self.values.iter().map(|(value, _)| find(value)).collect();
        tapped.set_outputs(&taps);
        // Outputs may not be fused away, so every tap can be read.
        let options = CompileOptions { level: Level::O1, ..CompileOptions::default() };
        let compiled = compile(&tapped, &options)?;
        let mut session = compiled.session();
        for sample in samples {
            let inputs: Vec<(&str, &Tensor)> =
                sample.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            let outputs = session.run_borrowed(&inputs)?;
            for ((_, scale), output) in self.values.iter().zip(outputs.iter()) {
                let numbers = output.elements::<f32>()?;
                match self.watches.get_mut(scale).expect("every value's scale is watched") {
                    Watch::Symmetric(observer) => observer.observe(numbers).map_err(fail)?,
                    Watch::Unsigned(observer) => observer.observe(numbers).map_err(fail)?,
                }
            }
        }
        Ok(())
    }

    fn set_scales(&self, quantized: &mut Graph) -> Result<(), RewriteError> {
        for (name, watch) in &self.watches {
            match watch {
                Watch::Symmetric(observer) => {
                    set_activation_scale(quantized, name, observer.scale()?)?;
                }
                Watch::Unsigned(observer) => {
                    set_activation_range(quantized, name, observer.range()?)?;
                }
            }
        }
        Ok(())
    }
}

/// How an output of the quantized graph differs from the float graph's on the same samples.
#[derive(Clone, Debug, Serialize)]
pub struct OutputDifference {
    /// Name of the output.
    pub name: String,
    /// Root of the mean squared difference, by that of the float output's numbers.
    pub relative: f64,
    /// Share of the places whose greatest class is the same: along the second dimension of images, the
    /// last of others, where that has several entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_class: Option<f64>,
}

/// Runs both graphs on each sample, and compares their outputs of type f32.
///
/// # Errors
/// When a sample does not run.
pub fn compare(
    graph: &Graph,
    quantized: &Graph,
    samples: &[Vec<(String, Tensor)>],
) -> Result<Vec<OutputDifference>, RuntimeError> {
    let options = CompileOptions::default();
    let models = [compile(graph, &options)?, compile(quantized, &options)?];
    let mut sessions = models.each_ref().map(CompiledModel::session);
    let mut sums = BTreeMap::new();
    for sample in samples {
        let inputs: Vec<(&str, &Tensor)> =
            sample.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let [float, int8] = sessions.each_mut().map(|session| session.run_borrowed(&inputs));
        for (float, int8) in float?.iter().zip(int8?.iter()) {
            if float.dtype() == DType::F32 {
                let sum: &mut Sum = sums.entry(float.name().to_owned()).or_default();
                sum.add(float.elements()?, int8.elements()?, float.shape());
            }
        }
    }
    Ok(sums.into_iter().map(|(name, sum)| sum.difference(name)).collect())
}

/// What is summed over samples.
#[derive(Default)]
struct Sum {
    squared_error: f64,
    squares: f64,
    places: u64,
    same: u64,
}

impl Sum {
    fn add(&mut self, float: &[f32], int8: &[f32], shape: &[usize]) {
        for (a, b) in float.iter().zip(int8).map(|(a, b)| (f64::from(*a), f64::from(*b))) {
            self.squared_error += (a - b) * (a - b);
            self.squares += a * a;
        }
        let (classes, inner) = match shape {
            [_, channels, height, width] => (*channels, height * width),
            [.., last] => (*last, 1),
            [] => return,
        };
        if classes < 2 || inner == 0 {
            return;
        }
        // The greatest of `classes` numbers that lie `inner` apart.
        let class = |numbers: &[f32], place: usize| {
            let at = |class: usize| numbers[class * inner + place];
            (0..classes).reduce(|a, b| if at(b) > at(a) { b } else { a })
        };
        for (float, int8) in float.chunks(classes * inner).zip(int8.chunks(classes * inner)) {
            self.places += inner as u64;
            let same = (0..inner).filter(|&place| class(float, place) == class(int8, place));
            self.same += same.count() as u64;
        }
    }

    fn difference(&self, name: String) -> OutputDifference {
        let relative = match self.squared_error {
            0.0 => 0.0,
            error => (error / self.squares).sqrt(),
        };
        let same_class = (self.places > 0).then(|| self.same as f64 / self.places as f64);
        OutputDifference { name, relative, same_class }
    }
}
