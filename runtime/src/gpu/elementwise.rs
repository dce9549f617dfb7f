//! Arithmetic with broadcasting, activations that stand alone, functions of single elements.

use graph::Op;
use kernels::gpu::{Gpu, Pair, activate, map, pairs};
use kernels::{Activation, Function};

use super::{Call, GpuEntry, GpuKernel, operator};
use crate::kernel::floats;
use crate::kernel::function::function_of;
use crate::module::{Module, Node};
use crate::pass::activation_of;

const fn pair(name: &'static str, operation: &'static str) -> GpuEntry {
    GpuEntry { name, operation, prepare: prepare_pair }
}

const fn activation(name: &'static str, operation: &'static str) -> GpuEntry {
    GpuEntry { name, operation, prepare: prepare_activation }
}

const fn function(name: &'static str, operation: &'static str) -> GpuEntry {
    GpuEntry { name, operation, prepare: prepare_function }
}

pub(super) const KERNELS: &[GpuEntry] = &[
    pair("gpu.add", "Add"),
    pair("gpu.sub", "Sub"),
    pair("gpu.mul", "Mul"),
    pair("gpu.div", "Div"),
    activation("gpu.relu", "Relu"),
    activation("gpu.tanh", "Tanh"),
    activation("gpu.gelu", "Gelu"),
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

struct Activated(Activation);

fn prepare_activation(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    let found = operator(node).and_then(activation_of).ok_or("does not know the activation")?;
    Ok(Box::new(Activated(found)))
}

impl GpuKernel for Activated {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        activate(gpu, self.0, &call.inputs[0].buffer, &call.output);
        Ok(())
    }
}

struct Mapped(Function);

fn prepare_function(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    Ok(Box::new(Mapped(function_of(node).ok_or("does not know the function")?)))
}

impl GpuKernel for Mapped {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        map(gpu, self.0, &call.inputs[0].buffer, &call.output);
        Ok(())
    }
}
