//! Scales of quantize-dequantize pairs: computed from weights, observed, or learned.

use std::collections::{BTreeMap, BTreeSet};

use graph::{Graph, Op, Tensor};
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::Result;
use crate::network::Parameter;
use crate::walk::floats::Floats;
use crate::walk::plan::{FakeQuantize, Kernel, Plan};
use crate::walk::quantize::greatest_magnitude;

/// Greatest 8-bit magnitude that symmetric scales use.
const LEVELS: f32 = 127.0;

/// How quantize-dequantize pairs in the graph behave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantization {
    /// Whether scales are trained (LSQ, Esser et al. 2020, arXiv:1902.08153). Else those of trained
    /// weights follow the weights, and those of activations are observed or stay.
    pub learned: bool,
    /// Part of an activation's old range that an observer keeps at each batch, in 0..1.
    pub momentum: f32,
    /// Whether the graph's activation scales are good already. Else the first observed batch sets
    /// them.
    pub calibrated: bool,
}

impl Default for Quantization {
    fn default() -> Self {
        Self { learned: false, momentum: 0.99, calibrated: true }
    }
}

/// Where a scale stands.
#[derive(Clone, Debug)]
struct Scale {
    quantization: FakeQuantize,
    /// The scale of an activation, or of a weight that is not trained, on no tape.
    value: Floats,
    /// Whether an observer has something to move on from.
    seen: bool,
    /// Sum of mean magnitudes and number of batches, while scales get their start.
    start: (f64, usize),
}

/// What decides which scale is used.
#[derive(Debug)]
pub(crate) struct ScaleState {
    /// Whether what is quantized is a weight that is trained.
    pub(crate) trained: bool,
    /// The trained scale, where there is one.
    pub(crate) learned: Option<Floats>,
    /// Whether the forward pass is trained through.
    pub(crate) taped: bool,
}

/// The scales of one network.
#[derive(Debug, Default)]
pub(crate) struct Scales {
    scales: BTreeMap<String, Scale>,
    /// Scales of folded weights, which are constants.
    folded: BTreeSet<String>,
    momentum: f32,
    learned: bool,
    initializing: bool,
    pub(crate) observing: bool,
}

impl Scales {
    /// The scales of `graph`; those of weights that are trained follow the weights.
    ///
    /// # Errors
    ///
    /// When the graph holds a quantization that cannot be trained through.
    pub(crate) fn new(graph: &Graph, device: &Device, options: &Quantization) -> Result<Self> {
        let quantized = graph.nodes().any(|(_, node)| matches!(node.op, Op::Dequantize(_)));
        let Quantization { learned, momentum, calibrated } = *options;
        let mut scales = Self { momentum, learned, ..Self::default() };
        if !quantized {
            return Ok(scales);
        }
        for step in Plan::new(graph, graph.outputs())?.instructions {
            let quantization = match step.kernel {
                Kernel::FakeQuantize(quantization) => quantization,
                Kernel::Constant(folded) => {
                    scales.folded.insert(folded.scale);
                    continue;
                }
                _ => continue,
            };
            let id = graph.find(&quantization.scale).expect("the plan took the name from here");
            let tensor = graph.weight(id).expect("the plan checked that it is a constant");
            let elements = tensor.elements::<f32>().expect("the shape rules checked the type");
            let value = Floats(device.upload(&[elements.len()], elements.to_vec()));
            let name = quantization.scale.clone();
            scales
                .scales
                .insert(name, Scale { quantization, value, seen: calibrated, start: (0.0, 0) });
        }
        Ok(scales)
    }

    /// Whether a scale has this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.scales.contains_key(name) || self.folded.contains(name)
    }

    /// Where learned scales start: 2·mean|v|/√127 for weights, the graph's for activations.
    pub(crate) fn initial(&self, graph: &Graph) -> Result<Vec<(String, Tensor)>> {
        let mut initial = Vec::new();
        for (name, scale) in &self.scales {
            let id = graph.find(name).expect("scales are weights of the graph");
            let mut tensor = graph.weight(id).expect("scales are weights of the graph").clone();
            if let Some(weight) = &scale.quantization.weight {
                let id = graph.find(weight).expect("the plan took the name from here");
                let weight = graph.weight(id).expect("the plan took a weight");
                tensor = mean_scales(weight, scale.quantization.axis, tensor.shape());
            }
            initial.push((name.clone(), tensor));
        }
        Ok(initial)
    }

    /// The scale for quantizing `x` now; `None` to leave `x` as it is.
    pub(crate) fn scale(
        &mut self,
        quantization: &FakeQuantize,
        x: &Floats,
        state: ScaleState,
    ) -> Option<Floats> {
        let ScaleState { trained, learned, taped } = state;
        let (momentum, observing, initializing) =
            (self.momentum, self.observing, self.initializing);
        let scale = self.scales.get_mut(&quantization.scale)?;
        let activation = quantization.weight.is_none();
        if activation && initializing {
            scale.collect(x, self.learned);
            return None;
        }
        if let Some(learned) = learned {
            return Some(scale.learned(x, learned));
        }
        if activation && observing && taped && scale.is_symmetric() {
            scale.observe(x, momentum);
        }
        if !activation && trained && scale.is_symmetric() {
            return Some(range_scale(x.clone().inner(), quantization.axis));
        }
        Some(scale.value.clone())
    }

    /// From now on activations pass unquantized, and their magnitudes are collected.
    pub(crate) fn start_initializing(&mut self) {
        self.initializing = true;
        for scale in self.scales.values_mut() {
            scale.start = (0.0, 0);
            scale.seen = false;
        }
    }

    /// Ends it; the starts of learned activation scales, by name.
    pub(crate) fn finish_initializing(&mut self) -> Vec<(String, f32)> {
        self.initializing = false;
        let learned = self.scales.iter().filter(|(_, scale)| scale.start.1 > 0);
        let start = |(name, scale): (&String, &Scale)| {
            let mean = scale.start.0 / scale.start.1 as f64;
            (name.clone(), start_scale(mean))
        };
        if self.learned { learned.map(start).collect() } else { Vec::new() }
    }

    /// Every scale by name, except learned ones, which are parameters. `parameter` gives a weight.
    pub(crate) fn current(
        &self,
        parameter: &dyn Fn(&str) -> Result<Parameter>,
    ) -> BTreeMap<String, Tensor> {
        let mut current = BTreeMap::new();
        for (name, scale) in self.scales.iter().filter(|_| !self.learned) {
            let quantization = &scale.quantization;
            let weight = quantization.weight.as_ref().and_then(|weight| parameter(weight).ok());
            let value = match weight.filter(|weight| weight.trained && scale.is_symmetric()) {
                Some(weight) => range_scale(weight.value.inner(), quantization.axis),
                None => scale.value.clone(),
            };
            let shape = value.shape();
            let shape = if quantization.axis.is_none() { &[][..] } else { &shape };
            let tensor = Tensor::new(shape, value.to_vec()).expect("one scale a channel");
            current.insert(name.clone(), tensor);
        }
        current
    }

    /// The scales that observers move, and whether they have something to move on from.
    pub(crate) fn observed(&self) -> Vec<(String, Floats, bool)> {
        let activations =
            self.scales.iter().filter(|(_, scale)| scale.quantization.weight.is_none());
        activations.map(|(name, scale)| (name.clone(), scale.value.clone(), scale.seen)).collect()
    }

    /// Sets an observed scale.
    pub(crate) fn set_observed(&mut self, name: &str, value: Floats, seen: bool) -> bool {
        let scale = self.scales.get_mut(name);
        let scale = scale.filter(|scale| scale.value.shape() == value.shape());
        scale.map(|scale| (scale.value, scale.seen) = (value, seen)).is_some()
    }
}

impl Scale {
    /// Whether a range around 0 can be observed for it.
    fn is_symmetric(&self) -> bool {
        self.quantization.range.0 < 0.0
            && self.quantization.zero_points.iter().all(|&zero| zero == 0.0)
    }

    fn collect(&mut self, x: &Floats, learned: bool) {
        let x = x.clone().inner();
        if learned {
            let count = x.shape().iter().product::<usize>().max(1) as f64;
            self.start.0 += f64::from(x.abs().sum().to_vec()[0]) / count;
            self.start.1 += 1;
        } else if self.is_symmetric() {
            let found = range_scale(x, self.quantization.axis);
            self.value = if self.seen { self.value.clone().maximum(found) } else { found };
            self.seen = true;
        }
    }

    /// Moves towards the range of `x`, on the device.
    fn observe(&mut self, x: &Floats, momentum: f32) {
        let found = range_scale(x.clone().inner(), self.quantization.axis);
        self.value = if self.seen {
            self.value.clone().scale(momentum).add(found.scale(1.0 - momentum))
        } else {
            found
        };
        self.seen = true;
    }

    /// The trained scale, its gradient times 1/√(N·127) for N elements a scale (LSQ, §2.2).
    fn learned(&self, x: &Floats, scale: Floats) -> Floats {
        let elements: usize = x.shape().iter().product();
        let channels = self.quantization.zero_points.len().max(1);
        let factor = 1.0 / ((elements / channels).max(1) as f32 * LEVELS).sqrt();
        let slow = scale.clone().scale(factor);
        // Exactly the scale, with the gradient of `slow`.
        scale.detach().add(slow.clone().sub(slow.detach()))
    }
}

/// Greatest magnitude / 127 of each channel; where all is zero (or too small to divide by), 1/127,
/// so that zero stays zero. The same numbers as `graph::rewrite::quantize::weight_scales`.
fn range_scale(x: Floats, axis: Option<usize>) -> Floats {
    let scale = greatest_magnitude(x, axis).divide_scalar(LEVELS).typed::<1>();
    let small = scale.clone().lower_elem(f32::MIN_POSITIVE);
    Floats(scale.mask_fill(small, 1.0 / LEVELS).into_dispatch())
}

/// 2·mean/√127, positive.
fn start_scale(mean: f64) -> f32 {
    let scale = (2.0 * mean / f64::from(LEVELS).sqrt()) as f32;
    if scale.is_normal() { scale } else { 1.0 / LEVELS }
}

/// [`start_scale`] of each channel of `weight`.
fn mean_scales(weight: &Tensor, axis: Option<usize>, shape: &[usize]) -> Tensor {
    let elements = weight.elements::<f32>().expect("quantized weights are f32");
    let (channels, inner) = match axis {
        None => (1, elements.len().max(1)),
        Some(axis) => (weight.shape()[axis], weight.shape()[axis + 1..].iter().product()),
    };
    let mut sums = vec![0f64; channels];
    for (index, element) in elements.iter().enumerate() {
        sums[index / inner % channels] += f64::from(element.abs());
    }
    let count = (elements.len() / channels.max(1)).max(1) as f64;
    Tensor::from_fn(shape, |channel| start_scale(sums[channel] / count))
}
