//! The graph as the passes see it: the operators of `graph`, and those that fusions make of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use graph::op::{Conv, ConvTranspose, GlobalPool, Pool};
use graph::{DType, Dim, Graph, Op, Shape, Tensor, ValueType};
use kernels::int8::Quantization;
use kernels::{Activation, Cpu, NoKeys, Tier};

use crate::compile::{CompileOptions, Level, Precision};

/// A value: an input, a constant, or what a node writes. An index into [`Module::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) usize);

/// Name, type and, for constants, content.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    pub(crate) constant: Option<Tensor>,
    /// Whether it lies in memory rounded to bf16, an f32 for all who do not read its bytes.
    pub(crate) as_bf16: bool,
}

impl Value {
    /// Bytes of an element in memory.
    pub(crate) fn element_bytes(&self) -> usize {
        if self.as_bf16 { 2 } else { self.dtype.size_bytes() }
    }

    /// Type and shape, as the graph's operators take them.
    pub(crate) fn value_type(&self) -> ValueType {
        ValueType { dtype: self.dtype, shape: self.shape.clone() }
    }

    /// Type and shape, as they are shown.
    pub(crate) fn kind(&self) -> String {
        let shape = graph::dim::display(&self.shape);
        if self.as_bf16 { format!("bf16{shape}") } else { format!("{}{shape}", self.dtype) }
    }
}

/// What a node computes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    /// An operator of the graph.
    Graph(Op),
    /// `activation(x·w + bias)`: inputs x, w, and bias where there is one.
    Linear { activation: Activation },
    /// The same with int8 w and f32 bias; an f32 x is rounded as it is read.
    IntegerLinear(IntegerLinear),
    /// A convolution with an activation: inputs as those of the graph's operator.
    Conv(ActivatedConv),
    /// An operation on images whose channels are last.
    ChannelsLast(ChannelsLast),
    /// `softmax(q·kᵀ·scale + mask)·v` for each head: inputs q, k, v, and mask where there is one.
    Attention(HeadSplit),
    /// Layer normalisation of a sum: inputs x, residual, scale, bias. The residual repeats over
    /// leading dimensions that it lacks.
    ResidualLayerNorm { epsilon: f32 },
    /// The sum of two int8 values of the same sizes, in int8.
    IntegerSum(IntegerSum),
    /// One of two values: inputs condition, what it is where that holds, what it is otherwise.
    Choose,
    /// An operator of the graph with several outputs, of which the node's is the first.
    Several(SeveralOutputs),
    /// Another output of a node with several, its only input: the one of this place among the others.
    OtherOutput { place: usize },
    /// Rows of an int8 table, dequantized: inputs table, scale, indices.
    IntegerGather { axis: Option<usize> },
}

/// The parameters of an int8 linear layer that are not tensors of the graph any more.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IntegerLinear {
    /// How x is written as int8.
    pub(crate) input: InputScale,
    /// Scale of each column of w.
    pub(crate) weight_scales: Vec<f32>,
    pub(crate) activation: Activation,
    /// How the result is written as int8; `None` for f32.
    pub(crate) output: Option<Quantization>,
}

/// An operator that runs once for several of its outputs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeveralOutputs {
    /// As it is for the node's own.
    pub(crate) op: Op,
    /// As it is for each of the others, and their types.
    pub(crate) others: Vec<(Op, ValueType)>,
}

/// How the input of an int8 layer is written as int8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum InputScale {
    Given(Quantization),
    /// So that the range of all its numbers and 0 are met, which a run finds out.
    OfRange,
}

impl InputScale {
    pub(crate) const fn given(self) -> Option<Quantization> {
        match self {
            Self::Given(input) => Some(input),
            Self::OfRange => None,
        }
    }
}

/// How the addends of a sum and what is made of it are written as int8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct IntegerSum {
    pub(crate) inputs: [Quantization; 2],
    pub(crate) activation: Activation,
    pub(crate) output: Quantization,
}

/// A convolution and what is applied to its output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ActivatedConv {
    pub(crate) op: Conv,
    pub(crate) activation: Activation,
}

/// A convolution with the parameters of an int8 layer, whose columns are its outputs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IntegerConv {
    pub(crate) op: Conv,
    pub(crate) layer: IntegerLinear,
}

/// What is done with images `[batch, …, channels]`, whose channels are last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ChannelsLast {
    /// A convolution with filters as the graph's operator has them: inputs x, weight, bias where there
    /// is one, and, behind that, where it says so what is added before the activation.
    Conv {
        /// The convolution.
        conv: ActivatedConv,
        /// Whether input 3 is added.
        has_addend: bool,
    },
    /// A convolution in integers, of one group or of as many as channels and outputs: inputs x and weight in
    /// int8, f32 bias where there is one.
    IntegerConv(IntegerConv),
    /// A transposed convolution of one group: inputs as those of the graph's operator.
    ConvTranspose(ConvTranspose),
    /// A pool over windows.
    Pool(Pool),
    /// A pool over whole images.
    GlobalPool(GlobalPool),
    /// `activation(x·scale + shift)` by channel: inputs x, scale, shift.
    ScaleShift { activation: Activation },
}

/// How an attention finds its heads in q, k and v.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadSplit {
    pub(crate) heads: usize,
    pub(crate) head_size: usize,
    pub(crate) scale: f32,
    /// Where q, k and v have theirs.
    pub(crate) places: [HeadPlace; 3],
    /// How many heads share one of k and v.
    pub(crate) sharing: usize,
    /// What a query gets whose keys are all masked by −∞.
    pub(crate) no_keys: NoKeys,
    /// How the result is written as int8; `None` for f32.
    pub(crate) output: Option<Quantization>,
}

/// Where heads lie in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadPlace {
    /// Side by side in rows of tokens, `[batch, tokens, width]` or `[batch, tokens, heads, size]`,
    /// from this column on: not 0 where one product computes q, k and v.
    InRows { column: usize },
    /// One after another: `[batch, heads, tokens, size]`.
    Apart,
}

impl HeadPlace {
    /// Dimension of the tokens.
    pub(crate) const fn token_axis(self) -> usize {
        match self {
            Self::InRows { .. } => 1,
            Self::Apart => 2,
        }
    }
}

impl Operation {
    /// The operator of the graph that it is, for each of its outputs; none for a fused one.
    pub(crate) fn operators(&self) -> impl Iterator<Item = &Op> {
        let (own, others) = match self {
            Self::Graph(op) => (Some(op), &[][..]),
            Self::Several(SeveralOutputs { op, others }) => (Some(op), others.as_slice()),
            _ => (None, &[][..]),
        };
        own.into_iter().chain(others.iter().map(|(op, _)| op))
    }

    /// What kernels are looked up by: the kind, but for operators that share their ONNX type with
    /// one that kernels know and that is not the same.
    pub(crate) fn kernel_kind(&self) -> &'static str {
        match self {
            Self::Graph(Op::BatchNormTraining(_)) => "BatchNormTraining",
            Self::Graph(Op::DequantizeBlocks(_)) => "DequantizeBlocks",
            Self::Graph(Op::LayerNormStatistic(_)) => "LayerNormStatistic",
            Self::Graph(Op::QuantizeBlocks(_)) => "QuantizeBlocks",
            Self::Graph(Op::Reduce(_)) => "Reduce",
            Self::Graph(Op::SliceBy(_)) => "SliceBy",
            other => other.kind(),
        }
    }

    /// What it is called where it is shown.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Graph(op) | Self::Several(SeveralOutputs { op, .. }) => op.operator().onnx_type(),
            Self::Linear { .. } => "Linear",
            Self::IntegerLinear(_) => "IntegerLinear",
            Self::IntegerSum(_) => "IntegerSum",
            Self::Conv(_) => "ActivatedConv",
            Self::ChannelsLast(ChannelsLast::Conv { .. }) => "ChannelsLastConv",
            Self::ChannelsLast(ChannelsLast::IntegerConv(conv)) if conv.op.groups > 1 => {
                "ChannelsLastIntegerDepthwise"
            }
            Self::ChannelsLast(ChannelsLast::IntegerConv(_)) => "ChannelsLastIntegerConv",
            Self::ChannelsLast(ChannelsLast::ConvTranspose(_)) => "ChannelsLastConvTranspose",
            Self::ChannelsLast(ChannelsLast::Pool(_)) => "ChannelsLastPool",
            Self::ChannelsLast(ChannelsLast::GlobalPool(_)) => "ChannelsLastGlobalPool",
            Self::ChannelsLast(ChannelsLast::ScaleShift { .. }) => "ScaleShift",
            Self::Attention(_) => "FusedAttention",
            Self::ResidualLayerNorm { .. } => "ResidualLayerNorm",
            Self::Choose => "Choose",
            Self::OtherOutput { .. } => "OtherOutput",
            Self::IntegerGather { .. } => "IntegerGather",
        }
    }
}

/// An application of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) operation: Operation,
    pub(crate) inputs: Vec<Id>,
    pub(crate) output: Id,
    /// Names of the graph's nodes that this one stands for; empty when it is one of them.
    pub(crate) fused_from: Vec<String>,
}

/// Whether two shapes are the same in every run; unknown sizes may differ.
pub(crate) fn same_sizes(a: &[Dim], b: &[Dim]) -> bool {
    a == b && !a.contains(&Dim::Unknown)
}

/// A graph under rewriting. Nodes are in an order in which they can run.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<Id>,
    pub(crate) outputs: Vec<Id>,
    /// What linear layers may round their operands to.
    pub(crate) precision: Precision,
    /// How much is rewritten, bodies of loops included.
    pub(crate) level: Level,
    /// Passes of the level that do not run.
    pub(crate) disabled_passes: Arc<[String]>,
    /// What its kernels may use.
    pub(crate) cpu: Cpu,
    /// Whether it is for a GPU, with `cpu` for what that has no kernels for.
    pub(crate) on_gpu: bool,
    /// The dimension along which a run may be cut into slices, where a pass found one.
    pub(crate) batch: Option<Arc<str>>,
}

impl Module {
    /// The module of a graph; weights are shared, not copied.
    pub(crate) fn new(graph: &Graph, options: &CompileOptions, cpu: Cpu) -> Self {
        let mut values = Vec::new();
        let mut ids = BTreeMap::new();
        let nodes = graph.nodes().map(|(_, node)| node.output);
        let all = graph.inputs().iter().copied().chain(graph.weights().map(|(id, _)| id));
        for id in all.chain(nodes) {
            let kind = graph.value_type(id);
            ids.insert(id, Id(values.len()));
            values.push(Value {
                name: graph.value_name(id).to_owned(),
                dtype: kind.dtype,
                shape: kind.shape.clone(),
                constant: graph.weight(id).cloned(),
                as_bf16: false,
            });
        }
        let map = |list: &[graph::ValueId]| list.iter().map(|id| ids[id]).collect::<Vec<_>>();
        let nodes = graph.nodes().map(|(_, node)| Node {
            name: node.name.clone(),
            operation: Operation::Graph(node.op.clone()),
            inputs: map(&node.inputs),
            output: ids[&node.output],
            fused_from: Vec::new(),
        });
        let nodes = nodes.collect();
        Self {
            values,
            nodes,
            inputs: map(graph.inputs()),
            outputs: map(graph.outputs()),
            precision: options.precision,
            level: options.level,
            disabled_passes: options.disabled_passes.as_slice().into(),
            cpu,
            on_gpu: options.device.is_gpu(),
            batch: None,
        }
    }

    /// Kinds of operation, and how many nodes have each.
    pub(crate) fn operations(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in &self.nodes {
            *counts.entry(node.operation.kind().to_owned()).or_default() += 1;
        }
        counts
    }

    /// Whether a size depends on values, so that memory cannot be planned before a run.
    pub(crate) fn is_dynamic(&self) -> bool {
        // What a body of a loop is given may be of unknown sizes where nothing that it computes is.
        let mut values =
            self.nodes.iter().map(|node| node.output).chain(self.inputs.iter().copied());
        values.any(|id| self.value(id).shape.contains(&Dim::Unknown))
    }

    /// Whether a node's sizes are known before a run, or a run can tell them from those of its inputs.
    pub(crate) fn has_enough_sizes(&self, node: &Node) -> bool {
        let is_known = |&id: &Id| !self.value(id).shape.contains(&Dim::Unknown);
        match node.operation {
            Operation::Graph(_)
            | Operation::Choose
            | Operation::Several(_)
            | Operation::OtherOutput { .. } => true,
            Operation::Linear { .. } | Operation::IntegerLinear(_) => {
                self.value(node.output).shape.last().is_some_and(|dim| dim.fixed().is_some())
            }
            _ => node.inputs.iter().chain([&node.output]).all(is_known),
        }
    }

    pub(crate) fn value(&self, id: Id) -> &Value {
        &self.values[id.0]
    }

    /// The content of a constant.
    pub(crate) fn constant(&self, id: Id) -> Option<&Tensor> {
        self.value(id).constant.as_ref()
    }

    /// The only element of an f32 constant.
    pub(crate) fn scalar(&self, id: Id) -> Option<f32> {
        match self.constant(id)?.elements::<f32>() {
            Ok([value]) => Some(*value),
            _ => None,
        }
    }

    /// Adds a constant.
    pub(crate) fn add_constant(&mut self, name: String, tensor: Tensor) -> Id {
        let shape = tensor.shape().iter().map(|&size| Dim::Fixed(size)).collect();
        let dtype = tensor.dtype();
        self.values.push(Value { name, dtype, shape, constant: Some(tensor), as_bf16: false });
        Id(self.values.len() - 1)
    }

    /// Adds a value that a node is going to write.
    pub(crate) fn add_value(&mut self, name: String, dtype: DType, shape: Shape) -> Id {
        self.values.push(Value { name, dtype, shape, constant: None, as_bf16: false });
        Id(self.values.len() - 1)
    }

    /// Index of the node that writes a value.
    pub(crate) fn producer(&self, id: Id) -> Option<usize> {
        self.nodes.iter().position(|node| node.output == id)
    }

    /// The graph operator that writes a value, and its node's index.
    pub(crate) fn produced(&self, id: Id) -> Option<(usize, &Op)> {
        let index = self.producer(id)?;
        match &self.nodes[index].operation {
            Operation::Graph(op) => Some((index, op)),
            _ => None,
        }
    }

    /// How often nodes and outputs read a value.
    pub(crate) fn uses(&self, id: Id) -> usize {
        let reads = |list: &[Id]| list.iter().filter(|&&input| input == id).count();
        self.nodes.iter().map(|node| reads(&node.inputs)).sum::<usize>() + reads(&self.outputs)
    }

    /// Index of the node that reads a value, when nothing else does and it is no output.
    pub(crate) fn only_consumer(&self, id: Id) -> Option<usize> {
        if self.uses(id) != 1 {
            return None;
        }
        self.nodes.iter().position(|node| node.inputs.contains(&id))
    }

    /// Puts `operation` with `inputs` in the place of node `last`, which is among `absorbed`;
    /// removes all absorbed nodes. The output keeps its name and place.
    pub(crate) fn fuse(
        &mut self,
        last: usize,
        absorbed: &[usize],
        operation: Operation,
        inputs: Vec<Id>,
    ) {
        let mut fused_from = Vec::new();
        let mut order = absorbed.to_vec();
        order.sort_unstable();
        for &index in &order {
            let node = &self.nodes[index];
            match node.fused_from.as_slice() {
                [] => fused_from.push(node.name.clone()),
                names => fused_from.extend(names.iter().cloned()),
            }
        }
        let node = &mut self.nodes[last];
        node.operation = operation;
        node.inputs = inputs;
        node.fused_from = fused_from;
        self.remove(|index| index != last && order.contains(&index));
    }

    /// Whether products of floats are to be, and are, faster in bf16.
    pub(crate) fn multiplies_bf16(&self) -> bool {
        self.precision == Precision::Bf16 && self.cpu.multiplies_bf16()
    }

    /// Whether images are multiplied faster in int8 than in f32.
    pub(crate) fn multiplies_integers(&self) -> bool {
        // On a portable CPU, one number at a time is slower than many floats.
        self.runs_on_gpu() || self.cpu.tier() > Tier::Portable
    }

    /// Whether its nodes run on a GPU: one of sizes that depend on values never does.
    pub(crate) fn runs_on_gpu(&self) -> bool {
        self.on_gpu && !self.is_dynamic()
    }

    /// Makes every node that reads `old` read `new`.
    pub(crate) fn replace_uses(&mut self, old: Id, new: Id) {
        for node in &mut self.nodes {
            node.inputs.iter_mut().filter(|id| **id == old).for_each(|id| *id = new);
        }
    }

    /// Removes the nodes whose index fits.
    pub(crate) fn remove(&mut self, fits: impl Fn(usize) -> bool) {
        let mut index = 0;
        self.nodes.retain(|_| {
            index += 1;
            !fits(index - 1)
        });
    }

    /// Removes what no output needs; returns how many nodes went.
    pub(crate) fn sweep(&mut self) -> usize {
        let mut needed = vec![false; self.values.len()];
        for id in &self.outputs {
            needed[id.0] = true;
        }
        let mut keep = vec![false; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            if needed[node.output.0] {
                keep[index] = true;
                for input in &node.inputs {
                    needed[input.0] = true;
                }
            }
        }
        let before = self.nodes.len();
        self.remove(|index| !keep[index]);
        before - self.nodes.len()
    }
}
