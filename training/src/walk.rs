//! Executes a graph on Burn tensors, node by node, so that gradients flow.
//!
//! One file an operator family. On the CPU the heavy operations are one node each on Burn's tape
//! (`fused`), elsewhere they are composed of Burn's own; both are tested against the reference
//! evaluation.

mod attention;
mod broadcast;
mod dropout;
mod elementwise;
pub(crate) mod floats;
pub(crate) mod fused;
mod linear;
mod movement;
mod normalize;
pub(crate) mod plan;
pub(crate) mod quantize;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use graph::{Bindings, DType, Graph, Op, Tensor, ValueId};

use crate::device::Device;
use crate::error::{Error, Result};
use broadcast::Combine;
use floats::Floats;
use plan::{FakeQuantize, Instruction, Kernel, Plan};

/// A value of the walked graph: on the host what is known without the device, else on the device.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Host(Tensor),
    Device(Floats),
}

impl Value {
    /// The value on the device.
    pub(crate) fn floats(&self, device: &Device) -> std::result::Result<Floats, String> {
        match self {
            Self::Device(floats) => Ok(floats.clone()),
            Self::Host(tensor) => {
                let elements = tensor.elements::<f32>().map_err(|error| error.to_string())?;
                let shape = tensor.shape();
                let shape = if shape.is_empty() { &[1] } else { shape };
                Ok(Floats(device.upload(shape, elements.to_vec())))
            }
        }
    }

    fn host(&self) -> std::result::Result<&Tensor, String> {
        match self {
            Self::Host(tensor) => Ok(tensor),
            Self::Device(_) => Err("expected a value known on the host".to_owned()),
        }
    }
}

/// Where a walk gets weights and scales from.
pub(crate) trait Source {
    /// The float weight of this name, on the tape when it is trained.
    fn weight(&self, name: &str) -> Result<Floats>;

    /// The scale for quantizing `x`, `[1]` or `[channels]`; `None` to leave `x` as it is.
    fn scale(&self, quantization: &FakeQuantize, x: &Floats) -> Result<Option<Floats>>;

    /// The constant `id`, computed when it is not known yet.
    fn constant(&self, id: ValueId, compute: &dyn Fn() -> Result<Floats>) -> Result<Floats>;
}

/// What a walk runs in.
pub(crate) struct Walk<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) device: &'a Device,
    pub(crate) source: &'a dyn Source,
    pub(crate) bindings: Bindings,
    /// Rate and seed.
    pub(crate) dropout: Option<(f64, u64)>,
    /// Whether to use the CPU's one-node operations.
    pub(crate) fuse: bool,
}

impl Walk<'_> {
    /// The values that `plan` was made for, from the graph's inputs.
    pub(crate) fn run(
        &self,
        plan: &Plan,
        mut values: BTreeMap<ValueId, Value>,
    ) -> Result<BTreeMap<ValueId, Value>> {
        let mut scales = BTreeMap::new();
        for step in &plan.instructions {
            for &input in &step.inputs {
                if let Entry::Vacant(place) = values.entry(input) {
                    place.insert(self.weight(input)?);
                }
            }
            let inputs: Vec<&Value> = step.inputs.iter().map(|input| &values[input]).collect();
            let value = self.execute(step, &inputs, &mut scales)?;
            values.insert(step.output, self.dropped(step, value));
            for value in &step.release {
                values.remove(value);
            }
        }
        Ok(values)
    }

    /// A weight: integers and scalars stay on the host, they are constants.
    pub(crate) fn weight(&self, id: ValueId) -> Result<Value> {
        let name = self.graph.value_name(id);
        let tensor = self.graph.weight(id).ok_or_else(|| Error::Missing {
            name: name.to_owned(),
            hint: "it is an input of the graph, and was not given".to_owned(),
        })?;
        if tensor.dtype() != DType::F32 || tensor.shape().is_empty() {
            return Ok(Value::Host(tensor.clone()));
        }
        Ok(Value::Device(self.source.weight(name)?))
    }

    fn dropped(&self, step: &Instruction, value: Value) -> Value {
        match (self.dropout, step.dropout, value) {
            (Some((rate, seed)), Some(place), Value::Device(x)) if rate > 0.0 => {
                Value::Device(dropout::dropout(self.fuse, self.device, x, rate, seed, place))
            }
            (_, _, value) => value,
        }
    }

    /// `scales` are those of the symmetric quantizations so far, by the value they made.
    fn execute(
        &self,
        step: &Instruction,
        inputs: &[&Value],
        scales: &mut BTreeMap<ValueId, Vec<f32>>,
    ) -> Result<Value> {
        let fail = |reason: String| {
            let id = self.graph.producer_id(step.output).expect("a step computes a node's value");
            plan::node_error(self.graph.node(id), reason)
        };
        let floats = |index: usize| inputs[index].floats(self.device).map_err(fail);
        Ok(Value::Device(match &step.kernel {
            Kernel::Host(op) => {
                let tensors: Vec<&Tensor> = inputs
                    .iter()
                    .map(|value| value.host())
                    .collect::<std::result::Result<_, _>>()
                    .map_err(fail)?;
                let output = op.operator().evaluate(&tensors, &self.bindings).map_err(fail)?;
                return Ok(Value::Host(output));
            }
            Kernel::Linear => {
                let steps = steps(scales.get(&step.inputs[0]), scales.get(&step.inputs[1]));
                linear::linear(self.fuse, floats(0)?, floats(1)?, Some(floats(2)?), steps)
            }
            Kernel::Attention(sizes) => {
                let mask = inputs.get(3).map(|mask| mask.host()).transpose().map_err(fail)?;
                let inputs = [floats(0)?, floats(1)?, floats(2)?];
                attention::attention(self.fuse, self.device, *sizes, inputs, mask)
            }
            Kernel::FakeQuantize(quantization) => {
                let x = floats(0)?;
                match self.source.scale(quantization, &x)? {
                    Some(scale) => {
                        if self.fuse && quantization.is_symmetric() {
                            scales.insert(step.output, scale.clone().inner().to_vec());
                        }
                        quantize::fake_quantize(self.fuse, self.device, quantization, x, scale)
                    }
                    None => x,
                }
            }
            Kernel::Constant(quantization) => {
                let integers = inputs[0].host().map_err(fail)?;
                let compute = || self.dequantize(quantization, integers);
                self.source.constant(step.output, &compute)?
            }
            Kernel::Device(op) => self.operator(op, inputs).map_err(fail)?,
        }))
    }

    /// The real values of a folded weight.
    fn dequantize(&self, quantization: &FakeQuantize, integers: &Tensor) -> Result<Floats> {
        let id = self.graph.find(&quantization.scale).expect("the plan took the name from here");
        let scale = self.weight(id)?.floats(self.device).expect("scales are f32").inner();
        let spread = quantize::channel_shape(quantization.axis, integers.shape());
        let x = Floats(self.device.upload(integers.shape(), plan::integers(integers)));
        let zero_points = self.device.upload(&spread, quantization.zero_points.clone());
        Ok(x.sub(Floats(zero_points)).mul(scale.reshape(&spread)))
    }

    fn operator(&self, op: &Op, inputs: &[&Value]) -> std::result::Result<Floats, String> {
        let floats = |index: usize| inputs[index].floats(self.device);
        let fuse = self.fuse;
        Ok(match op {
            Op::Add => broadcast::combine(fuse, Combine::Add, floats(0)?, floats(1)?),
            Op::Sub => broadcast::combine(fuse, Combine::Sub, floats(0)?, floats(1)?),
            Op::Mul => broadcast::combine(fuse, Combine::Mul, floats(0)?, floats(1)?),
            Op::Div => broadcast::combine(fuse, Combine::Div, floats(0)?, floats(1)?),
            Op::Relu => elementwise::relu(fuse, floats(0)?),
            Op::Tanh => elementwise::tanh(fuse, floats(0)?),
            Op::Gelu(op) => elementwise::gelu(fuse, *op, floats(0)?),
            Op::MatMul => linear::matmul(fuse, floats(0)?, floats(1)?),
            Op::Softmax(_) => normalize::softmax(fuse, floats(0)?),
            Op::LayerNorm(op) => {
                normalize::layer_norm(fuse, op, floats(0)?, floats(1)?, floats(2)?)
            }
            Op::Gather(op) => {
                movement::gather(fuse, self.device, op, floats(0)?, inputs[1].host()?)?
            }
            Op::Reshape(op) => movement::reshape(op, floats(0)?),
            Op::Transpose(op) => floats(0)?.permute(&op.permutation),
            Op::Unsqueeze(op) => movement::unsqueeze(op, floats(0)?),
            Op::Slice(op) => movement::slice(op, floats(0)?, &self.bindings)?,
            Op::Cast(op) if op.to == DType::F32 => floats(0)?,
            Op::Cast(op) => {
                return Err(format!("a cast of a computed value to {} has no gradient", op.to));
            }
            Op::ReduceSum(op) => broadcast::reduce_sum(fuse, op, floats(0)?),
            Op::Quantize(_) | Op::Dequantize(_) => {
                return Err("expected a quantize followed by its dequantize".to_owned());
            }
            Op::Identity => floats(0)?,
            other => {
                return Err(format!("no gradient is known for {}", other.operator().onnx_type()));
            }
        })
    }
}

/// The steps of a product of two quantized factors: one scale for `x`, one a column for `weight`.
fn steps(x: Option<&Vec<f32>>, weight: Option<&Vec<f32>>) -> Option<linear::Steps> {
    let &[x] = x?.as_slice() else { return None };
    Some(linear::Steps { x, weight: weight?.clone().into() })
}
