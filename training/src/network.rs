//! A graph on a device, with the weights that are trained.

mod parameter;
mod source;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use graph::bert::WeightSlice;
use graph::{Bindings, DType, Graph, ValueId};

pub(crate) use self::parameter::{Parameter, Role};
use self::source::{Own, Shared};
pub use self::values::Values;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::examples::Inputs;
use crate::scales::{Quantization, Scales};
use crate::walk::floats::Floats;
use crate::walk::fused;
use crate::walk::plan::Plan;
use crate::walk::{Source, Value, Walk};

/// Tells by a weight's name whether something applies to it.
pub type Predicate = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// How a graph is put on a device.
#[derive(Default)]
pub struct NetworkOptions {
    /// Which weights are trained; all when absent. Constant scalars and integers never are.
    pub trainable: Option<Predicate>,
    /// How quantize-dequantize pairs in the graph behave.
    pub quantization: Quantization,
}

impl NetworkOptions {
    /// Nothing is trained: a teacher.
    pub fn frozen() -> Self {
        Self { trainable: Some(Box::new(|_| false)), ..Self::default() }
    }
}

impl fmt::Debug for NetworkOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NetworkOptions")
            .field("quantization", &self.quantization)
            .finish_non_exhaustive()
    }
}

/// How a forward pass is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// On a tape, so that a loss can be differentiated.
    Train {
        /// Part of the hidden values that is dropped, from 0 to below 1.
        dropout: f64,
        /// What decides which ones.
        seed: u64,
    },
    /// Without a tape and without dropout.
    Evaluate,
}

/// A graph on a device.
///
/// Constant scalars and integers of the graph stay constants; every other weight is on the device,
/// and trained unless the options say otherwise.
#[derive(Debug)]
pub struct Network {
    graph: Graph,
    device: Device,
    parameters: Vec<Parameter>,
    by_name: BTreeMap<String, usize>,
    scales: Mutex<Scales>,
    plans: Mutex<BTreeMap<Vec<ValueId>, Arc<Plan>>>,
    /// Real values of folded weights.
    constants: Mutex<BTreeMap<ValueId, Floats>>,
    /// Whether to use the CPU's one-node operations.
    fuse: bool,
}

impl Network {
    /// Puts `graph` on `device`.
    ///
    /// # Errors
    ///
    /// When the graph holds a quantization that cannot be trained through.
    pub fn new(graph: &Graph, device: &Device, options: &NetworkOptions) -> Result<Self> {
        let trainable = |name: &str| options.trainable.as_ref().is_none_or(|is| is(name));
        let scales = Scales::new(graph, device, &options.quantization)?;
        let mut network = Self {
            graph: graph.clone(),
            device: device.clone(),
            parameters: Vec::new(),
            by_name: BTreeMap::new(),
            plans: Mutex::default(),
            constants: Mutex::default(),
            fuse: device.is_cpu(),
            scales: Mutex::default(),
        };
        for (id, tensor) in graph.weights() {
            let name = graph.value_name(id);
            if tensor.dtype() == DType::F32 && !tensor.shape().is_empty() {
                let trained = trainable(name) && !scales.contains(name);
                network.insert(Parameter::new(device, Role::Weight, name, tensor, trained)?);
            }
        }
        if options.quantization.learned {
            for (name, tensor) in scales.initial(graph)? {
                let scale = Parameter::new(device, Role::Scale, &name, &tensor, trainable(&name))?;
                network.insert(scale);
            }
        }
        network.scales = Mutex::new(scales);
        Ok(network)
    }

    fn insert(&mut self, parameter: Parameter) {
        match self.by_name.get(&parameter.name) {
            Some(&index) => self.parameters[index] = parameter,
            None => {
                self.by_name.insert(parameter.name.clone(), self.parameters.len());
                self.parameters.push(parameter);
            }
        }
    }

    /// Where the network is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The graph it was made of, with the weights of then: for names, shapes and structure.
    pub fn source(&self) -> &Graph {
        &self.graph
    }

    /// The graph with the current weights and scales.
    pub fn graph(&self) -> Graph {
        let mut graph = self.graph.clone();
        for parameter in self.parameters.iter().filter(|parameter| parameter.role != Role::Extra) {
            if let Some(id) = graph.find(&parameter.name) {
                graph.set_weight(id, parameter.tensor());
            }
        }
        for (name, tensor) in self.scales() {
            let id = graph.find(&name).expect("scales are weights of the graph");
            graph.set_weight(id, tensor);
        }
        graph
    }

    /// Number of trained elements, extra tensors included.
    pub fn trained_count(&self) -> usize {
        let trained = self.parameters.iter().filter(|parameter| parameter.trained);
        trained.map(|parameter| parameter.shape.iter().product::<usize>()).sum()
    }

    fn named(&self, name: &str) -> Result<&Parameter> {
        let index = self.by_name.get(name).ok_or_else(|| Error::Missing {
            name: name.to_owned(),
            hint: "expected a float weight of the graph with at least one dimension, or an extra \
                   tensor of the objective"
                .to_owned(),
        })?;
        Ok(&self.parameters[*index])
    }

    /// A weight or extra tensor, on the tape when it is trained; a scalar has one dimension of 1.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it has another rank.
    pub fn parameter<const D: usize>(&self, name: &str) -> Result<Tensor<D>> {
        typed(name, &self.named(name)?.value)
    }

    /// The current value of a weight or extra tensor, on the host.
    ///
    /// # Errors
    ///
    /// When there is none of this name.
    pub fn tensor(&self, name: &str) -> Result<graph::Tensor> {
        Ok(self.named(name)?.tensor())
    }

    /// Replaces the value of a weight or extra tensor.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it has another shape.
    pub fn set_tensor(&mut self, name: &str, tensor: &graph::Tensor) -> Result<()> {
        let value = self.fitting(name, tensor)?;
        self.parameters[self.by_name[name]].set(value);
        Ok(())
    }

    /// Adds a trained tensor that is no weight of the graph; one of the same name is replaced.
    ///
    /// # Errors
    ///
    /// When the tensor is not `f32`, or a weight has the name.
    pub fn add_extra(&mut self, name: &str, tensor: &graph::Tensor) -> Result<()> {
        if self.graph.find(name).is_some() {
            return Err(Error::Graph(graph::GraphError::Duplicate(name.to_owned())));
        }
        let extra = Parameter::new(&self.device, Role::Extra, name, tensor, true)?;
        self.insert(extra);
        Ok(())
    }

    /// Multiplies a weight by `mask` now and after every optimizer step.
    ///
    /// # Errors
    ///
    /// When there is no such weight, or the mask has another shape.
    pub fn set_mask(&mut self, name: &str, mask: &graph::Tensor) -> Result<()> {
        let mask = self.fitting(name, mask)?;
        let parameter = &mut self.parameters[self.by_name[name]];
        parameter.mask = Some(mask);
        parameter.apply_mask();
        Ok(())
    }

    /// `tensor` on the device, when it has the shape of the parameter `name`.
    fn fitting(&self, name: &str, tensor: &graph::Tensor) -> Result<Floats> {
        let shape = &self.named(name)?.shape;
        if tensor.shape() != shape {
            return Err(Error::Shape {
                name: name.to_owned(),
                expected: format!("shape {shape:?}"),
                found: tensor.shape().to_vec(),
            });
        }
        let reason =
            |reason| Error::Graph(graph::GraphError::Weight { name: name.to_owned(), reason });
        Value::Host(tensor.clone()).floats(&self.device).map_err(reason)
    }

    /// Switches the observers of activation ranges on or off. While they are on, every forward pass
    /// in [`Mode::Train`] moves each activation's scale towards what it saw, padding included (which
    /// [`crate::calibrate()`] leaves out); evaluation never does, so that validation rows leave no
    /// trace. They start switched off.
    pub fn set_observing(&mut self, observing: bool) {
        self.scales_mut().observing = observing;
    }

    /// The current scale of every quantization, by name, on the host.
    pub fn scales(&self) -> BTreeMap<String, graph::Tensor> {
        let scales = self.scales.lock().unwrap_or_else(PoisonError::into_inner);
        scales.current(&|name| self.named(name).cloned())
    }

    pub(crate) fn scales_mut(&mut self) -> &mut Scales {
        self.scales.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives learned activation scales their start (2·mean|v|/√127, Esser et al. 2020) from these
    /// inputs, padding included, and observed ones their first range. The inputs pass unquantized
    /// activations.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub fn initialize_scales(&mut self, inputs: &[Inputs]) -> Result<()> {
        self.scales_mut().start_initializing();
        let outputs = self.graph.outputs().to_vec();
        let outputs: Vec<&str> = outputs.iter().map(|&id| self.graph.value_name(id)).collect();
        let outcome = inputs
            .iter()
            .try_for_each(|inputs| self.forward(inputs, &outputs, Mode::Evaluate).map(|_| ()));
        let found = self.scales_mut().finish_initializing();
        outcome?;
        for (name, scale) in found {
            self.set_tensor(&name, &graph::Tensor::scalar(scale))?;
        }
        Ok(())
    }

    /// The values named `taps`, for these inputs.
    ///
    /// # Errors
    ///
    /// When a name is not a value's, an input is missing or does not fit, or a node fails.
    pub fn forward(&self, inputs: &Inputs, taps: &[&str], mode: Mode) -> Result<Values> {
        let ids = find(&self.graph, taps)?;
        let cached = self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(&ids).cloned();
        let plan = match cached {
            Some(plan) => plan,
            None => {
                let plan = Arc::new(Plan::new(&self.graph, &ids)?);
                let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
                plans.insert(ids.clone(), plan.clone());
                plan
            }
        };
        let source = Own { network: self, taped: mode != Mode::Evaluate };
        self.walk(&self.graph, &source, &plan, &ids, inputs, mode)
    }

    /// The values named `taps` of a smaller graph whose weights are leading parts of this network's:
    /// gradients flow into those parts. `slices` says for each weight of `graph` where it is taken
    /// from (as [`graph::bert::weight_slices`] does).
    ///
    /// # Errors
    ///
    /// As [`Self::forward`], and when a slice does not fit.
    pub fn forward_subnetwork(
        &self,
        graph: &Graph,
        slices: &[WeightSlice],
        inputs: &Inputs,
        taps: &[&str],
        mode: Mode,
    ) -> Result<Values> {
        let ids = find(graph, taps)?;
        let plan = Plan::new(graph, &ids)?;
        let slices = slices.iter().map(|slice| (slice.name.as_str(), slice)).collect();
        let source = Own { network: self, taped: mode != Mode::Evaluate };
        self.walk(graph, &Shared { own: source, slices }, &plan, &ids, inputs, mode)
    }

    fn walk(
        &self,
        graph: &Graph,
        source: &dyn Source,
        plan: &Plan,
        taps: &[ValueId],
        inputs: &Inputs,
        mode: Mode,
    ) -> Result<Values> {
        let (bindings, values) = self.bind(graph, inputs)?;
        let dropout = match mode {
            Mode::Train { dropout, seed } => Some((dropout, seed)),
            Mode::Evaluate => None,
        };
        let device = &self.device;
        let walk = Walk { graph, device, source, bindings, dropout, fuse: self.fuse };
        let mut values = walk.run(plan, values)?;
        let mut named = BTreeMap::new();
        let taps: BTreeSet<ValueId> = taps.iter().copied().collect();
        for tap in taps {
            let value = match values.remove(&tap) {
                Some(value) => value,
                None => walk.weight(tap)?,
            };
            named.insert(graph.value_name(tap).to_owned(), value);
        }
        Ok(Values { values: named, device: self.device.clone() })
    }

    /// The sizes of the graph's symbols, and its inputs: floats on the device, the rest on the host.
    fn bind(&self, graph: &Graph, inputs: &Inputs) -> Result<(Bindings, BTreeMap<ValueId, Value>)> {
        let mut bindings = Bindings::default();
        let mut values = BTreeMap::new();
        for &id in graph.inputs() {
            let name = graph.value_name(id);
            let fail =
                |reason| Error::Graph(graph::GraphError::Input { name: name.to_owned(), reason });
            let given = inputs.0.iter().find(|(given, _)| given == name);
            let (_, tensor) =
                given.ok_or_else(|| fail("expected a tensor, none was given".to_owned()))?;
            let declared = graph.value_type(id);
            if tensor.dtype() != declared.dtype {
                return Err(fail(format!("expected {declared}, found {tensor:?}")));
            }
            bindings.bind(&declared.shape, tensor.shape()).map_err(fail)?;
            let host = Value::Host(tensor.clone());
            let value = match tensor.dtype() {
                DType::F32 => Value::Device(host.floats(&self.device).map_err(fail)?),
                _ => host,
            };
            values.insert(id, value);
        }
        Ok((bindings, values))
    }

    /// The gradient of `loss` by every trained weight and extra tensor that it depends on, by name,
    /// on the host: what importance scores are made of.
    pub fn gradients(&self, loss: &Tensor<1>) -> BTreeMap<String, graph::Tensor> {
        let mut gradients = fused::backward(loss);
        let trained = self.parameters.iter().filter(|parameter| parameter.trained);
        let found = trained.filter_map(|parameter| {
            let value = parameter.value.clone().typed::<1>();
            let gradient = Floats(value.grad_remove(&mut gradients)?.into_dispatch());
            let tensor = graph::Tensor::new(&parameter.shape, gradient.to_vec());
            Some((parameter.name.clone(), tensor.expect("a gradient has its weight's shape")))
        });
        found.collect()
    }

    /// Scales that observers move, for checkpoints.
    pub(crate) fn observed(&self) -> Vec<(String, Floats, bool)> {
        self.scales.lock().unwrap_or_else(PoisonError::into_inner).observed()
    }

    pub(crate) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    #[cfg(test)]
    pub(crate) fn set_fuse(&mut self, fuse: bool) {
        self.fuse = fuse;
    }
}

fn find(graph: &Graph, names: &[&str]) -> Result<Vec<ValueId>> {
    let id = |name: &&str| {
        graph.find(name).ok_or_else(|| Error::Missing {
            name: (*name).to_owned(),
            hint: format!("expected a value of the graph `{}`", graph.name),
        })
    };
    names.iter().map(id).collect()
}

fn typed<const D: usize>(name: &str, value: &Floats) -> Result<Tensor<D>> {
    let found = value.shape();
    if found.len() != D {
        let expected = format!("{D} dimensions");
        return Err(Error::Shape { name: name.to_owned(), expected, found });
    }
    Ok(value.clone().typed())
}
