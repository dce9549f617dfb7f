//! Arithmetic with broadcasting, and functions of single elements.

use graph::Op;
use kernels::Activation;
use kernels::gpu::{Gpu, Pair, activate, pairs};

use super::{Call, GpuEntry, GpuKernel, operator};
use crate::kernel::{floats, function_of};
use crate::module::{Module, Node};
use crate::pass::{activation_of, activation_of_node};

const fn pair(name: &'static str, operation: &'static str) -> GpuEntry {
    GpuEntry { name, operation, prepare: prepare_pair }
}

const fn function(name: &'static str, operation: &'static str) -> GpuEntry {
    GpuEntry { name, operation, prepare: prepare_function }
}

pub(super) const KERNELS: &[GpuEntry] = &[
    pair("gpu.add", "Add"),
    pair("gpu.sub", "Sub"),
    pair("gpu.mul", "Mul"),
    pair("gpu.div", "Div"),
    function("gpu.relu", "Relu"),
    function("gpu.tanh", "Tanh"),
    function("gpu.gelu", "Gelu"),
    function("gpu.abs", "Abs"),
    function("gpu.neg", "Neg"),
    function("gpu.reciprocal", "Reciprocal"),
    function("gpu.floor", "Floor"),
    function("gpu.ceil", "Ceil"),
    function("gpu.sqrt", "Sqrt"),
    function("gpu.exp", "Exp"),
    function("gpu.log", "Log"),
    function("gpu.erf", "Erf"),
    function("gpu.sigmoid", "Sigmoid"),
    function("gpu.swish", "Swish"),
    function("gpu.hard-sigmoid", "HardSigmoid"),
    function("gpu.hard-swish", "HardSwish"),
    function("gpu.leaky-relu", "LeakyRelu"),
    function("gpu.elu", "Elu"),
    GpuEntry { name: "gpu.clip", operation: "Clip", prepare: prepare_clip },
];

struct Pairs(Pair);

fn prepare_pair(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    super::movement::few_dimensions(module, node)?;
    Ok(Box::new(Pairs(match operator(node) {
        Some(Op::Sub) => Pair::Sub,
        Some(Op::Mul) => Pair::Mul,
        Some(Op::Div) => Pair::Div,
        _ => Pair::Add,
    })))
}

impl GpuKernel for Pairs {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let [a, b] = [0, 1].map(|input| (&call.inputs[input].buffer, call.inputs[input].shape));
        pairs(gpu, self.0, [a, b], (&call.output, call.shape));
        Ok(())
    }
}

struct Function(Activation);

fn prepare_function(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    let named = |op| activation_of(op).or_else(|| function_of(op).map(Activation::Map));
    let found = operator(node).and_then(named).ok_or("does not know the function")?;
    Ok(Box::new(Function(found)))
}

fn prepare_clip(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    let found = activation_of_node(module, node).ok_or("takes constant bounds only")?;
    Ok(Box::new(Function(found)))
}

impl GpuKernel for Function {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        activate(gpu, self.0, &call.inputs[0].buffer, &call.output);
        Ok(())
    }
}
