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
    let moved = quantize::insert(&mut quantized, options).map_err(fail)?;
    if quantized == float {
        let reason = format!("no layer of `{}` is left to quantize", graph.name);
        return Err(RuntimeError::Quantize { reason });
    }
    let mut activations = Activations::of(&quantized, &float, method).map_err(fail)?;
    activations.observe(&float, samples)?;
    activations.set_scales(&mut quantized, &moved).map_err(fail)?;
    quantize::fold(&mut quantized).map_err(fail)?;
    Ok(quantized)
}

fn fail(error: RewriteError) -> RuntimeError {
    RuntimeError::Quantize { reason: error.to_string() }
}

/// How much larger the range of values that integers are moved between may be than that of one of them: two
/// of its eight bits.
const WIDEST: f32 = 4.0;

/// What watches a value.
enum Watch {
    Symmetric(Observer),
    Unsigned(RangeObserver),
}

/// A value that is quantized.
struct Activation {
    value: String,
    /// Name of its scale.
    scale: String,
    watch: Watch,
}

/// The activations that were given scales to be set.
struct Activations(Vec<Activation>);

impl Activations {
    /// Those of `quantized` that the graph did not have before.
    fn of(quantized: &Graph, before: &Graph, method: Method) -> Result<Self, RewriteError> {
        let name = |id: ValueId| quantized.value_name(id).to_owned();
        let points = quantize::points(quantized).into_iter().filter(|point| {
            let is_new = before.find(quantized.value_name(point.scale)).is_none();
            point.kind == PointKind::Activation && is_new
        });
        let activation = |QuantizePoint { input, scale, zero_point, .. }: QuantizePoint| {
            let watch = match quantized.value_type(zero_point).dtype {
                DType::U8 => Watch::Unsigned(RangeObserver::default()),
                _ => Watch::Symmetric(Observer::new(method)?),
            };
            Ok(Activation { value: name(input), scale: name(scale), watch })
        };
        points.map(activation).collect::<Result<_, _>>().map(Self)
    }

    /// Runs the graph as it was before on each sample, and shows its values to their observers.
    fn observe(
        &mut self,
        graph: &Graph,
        samples: impl IntoIterator<Item = Vec<(String, Tensor)>>,
    ) -> Result<(), RuntimeError> {
        let find = |name: &String| graph.find(name).expect("pairs stand behind the graph's values");
        let taps: Vec<ValueId> = self.0.iter().map(|activation| find(&activation.value)).collect();
        let mut tapped = graph.clone();
        tapped.set_outputs(&taps);
        // Outputs may not be fused away, so every tap can be read.
        let options = CompileOptions { level: Level::O1, ..CompileOptions::default() };
        let compiled = compile(&tapped, &options)?;
        let mut session = compiled.session();
        for (index, sample) in samples.into_iter().enumerate() {
            let inputs: Vec<(&str, &Tensor)> =
                sample.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            let outputs = session.run_borrowed(&inputs)?;
            for (Activation { value, watch, .. }, output) in self.0.iter_mut().zip(outputs.iter()) {
                let numbers = output.elements::<f32>()?;
                let observed = match watch {
                    Watch::Symmetric(observer) => observer.observe(numbers),
                    Watch::Unsigned(observer) => observer.observe(numbers),
                };
                observed.map_err(|error| RuntimeError::Quantize {
                    reason: format!("run {index} of the samples, value `{value}`: {error}"),
                })?;
            }
        }
        Ok(())
    }

    /// Sets scales; of those that are `moved` between, to one range where it is not much wider than
    /// theirs.
    fn set_scales(&self, quantized: &mut Graph, moved: &[Vec<String>]) -> Result<(), RewriteError> {
        let mut ranges = BTreeMap::new();
        for Activation { scale, watch, .. } in &self.0 {
            match watch {
                Watch::Symmetric(observer) => {
                    set_activation_scale(quantized, scale, observer.scale()?)?;
                }
                Watch::Unsigned(observer) => {
                    ranges.insert(scale.as_str(), observer.range()?);
                }
            }
        }
        for together in moved {
            let own = together.iter().filter_map(|scale| ranges.get(scale.as_str()));
            let wide = own.fold([0f32; 2], |[low, high], own| [low.min(own[0]), high.max(own[1])]);
            for scale in together {
                if let Some(own) = ranges.get_mut(scale.as_str())
                    && wide[1] - wide[0] <= WIDEST * (own[1] - own[0])
                {
                    *own = wide;
                }
            }
        }
        ranges
            .into_iter()
            .try_for_each(|(scale, range)| set_activation_range(quantized, scale, range))
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
    /// Runs in which the output had another shape; they are not compared.
    pub other_shapes: usize,
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
    let mut sums: Vec<(String, Sum)> = Vec::new();
    for sample in samples {
        let inputs: Vec<(&str, &Tensor)> =
            sample.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let [float, int8] = sessions.each_mut().map(|session| session.run_borrowed(&inputs));
        for (index, (float, int8)) in float?.iter().zip(int8?.iter()).enumerate() {
            if sums.len() == index {
                sums.push((float.name().to_owned(), Sum::default()));
            }
            let (_, sum) = &mut sums[index];
            match float.dtype() {
                _ if float.shape() != int8.shape() => sum.other_shapes += 1,
                DType::F32 => sum.add(float.elements()?, int8.elements()?, float.shape()),
                _ => {}
            }
        }
    }
    let told = sums.into_iter().filter(|(_, sum)| sum.other_shapes > 0 || sum.numbers > 0);
    Ok(told.map(|(name, sum)| sum.difference(name)).collect())
}

/// What is summed over samples.
#[derive(Default)]
struct Sum {
    numbers: u64,
    squared_error: f64,
    squares: f64,
    places: u64,
    same: u64,
    other_shapes: usize,
}

impl Sum {
    fn add(&mut self, float: &[f32], int8: &[f32], shape: &[usize]) {
        for (a, b) in float.iter().zip(int8).map(|(a, b)| (f64::from(*a), f64::from(*b))) {
            // What is infinite or no number in both is the same.
            if a != b && (a.is_finite() || b.is_finite()) {
                self.squared_error += (a - b) * (a - b);
            }
            self.squares += if a.is_finite() { a * a } else { 0.0 };
        }
        self.numbers += float.len() as u64;
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
        OutputDifference { name, relative, same_class, other_shapes: self.other_shapes }
    }
}
