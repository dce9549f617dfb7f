//! What a node costs: operations and bytes, and how long they take on a machine with given peaks
//! (the roofline of Williams et al. 2009, doi:10.1145/1498765.1498785).

use graph::Op;
use kernels::peaks::{Numbers, Peaks};
use kernels::{Activation, Tier};

use crate::module::{ActivatedConv, ChannelsLast, Id, Module, Node, Operation, SeveralOutputs};

/// How fast a kernel works at best, as each declares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// The numbers that it multiplies: the instruction that bounds it.
    pub(crate) numbers: Numbers,
    /// The part of that instruction's rate that it reaches where nothing else holds it up, above 0,
    /// at most 1.
    pub(crate) share: f64,
    /// From where on it works on all threads.
    pub(crate) parallel: Parallel,
}

/// The size of a node's work from which on a kernel uses all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parallel {
    /// Never.
    Never,
    /// With an output of more elements than this.
    Elements(usize),
    /// With this many multiplications and additions.
    MultiplyAdds(usize),
}

impl Default for Rate {
    /// Element by element: functions take tens of instructions for what counts as a few operations.
    fn default() -> Self {
        let parallel = Parallel::Elements(kernels::PARALLEL_ELEMENTS);
        Self { numbers: Numbers::F32, share: 0.1, parallel }
    }
}

/// What one run of a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Operations; a multiply and an add count as two.
    pub(crate) flops: u64,
    /// Bytes that are read and written at least once.
    pub(crate) bytes: u64,
    /// Elements of the output.
    elements: usize,
}

impl Work {
    /// Of a node whose values have these shapes, indexed as the module's values are, and whose
    /// kernel packed `packed` bytes of weights.
    pub(crate) fn of(module: &Module, node: &Node, shapes: &[Vec<usize>], packed: usize) -> Self {
        let inputs: Vec<Vec<usize>> = node.inputs.iter().map(|id| shapes[id.0].clone()).collect();
        let output = &shapes[node.output.0];
        let size = |id: Id| (product(&shapes[id.0]) * module.value(id).element_bytes()) as u64;
        let written = size(node.output);
        let gathers = matches!(
            node.operation,
            Operation::IntegerGather { .. } | Operation::Graph(Op::Gather(_))
        );
        let read = |(position, id): (usize, &Id)| match position {
            // Of a table only the rows that are wanted.
            0 if gathers => product(output) as u64 * module.value(*id).element_bytes() as u64,
            // The product reads the packed weights.
            1 if packed > 0 => packed as u64,
            _ => size(*id),
        };
        let mut distinct: Vec<(usize, &Id)> = node.inputs.iter().enumerate().collect();
        distinct.dedup_by_key(|(_, id)| **id);
        let bytes = written + distinct.into_iter().map(read).sum::<u64>();
        Self { flops: flops(&node.operation, &inputs, output), bytes, elements: product(output) }
    }

    /// Whether a kernel of this rate works on all threads.
    pub(crate) fn is_parallel(&self, rate: Rate) -> bool {
        match rate.parallel {
            Parallel::Never => false,
            Parallel::Elements(most) => self.elements > most,
            Parallel::MultiplyAdds(least) => self.flops / 2 >= least as u64,
        }
    }

    /// Milliseconds that the work takes at least, on the threads of `peaks`, for operations and
    /// for bytes.
    pub(crate) fn milliseconds(&self, rate: Rate, tier: Tier, peaks: &Peaks) -> Option<[f64; 2]> {
        let peak = peaks.fastest(rate.numbers, tier)?;
        // 10⁹ a second are 10⁶ a millisecond.
        let operations = self.flops as f64 / (peak.rate * rate.share * 1e6);
        Some([operations, self.bytes as f64 / (peaks.byte_rate(self.bytes) * 1e6)])
    }
}

fn product(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Operations of one run; a multiply and an add count as two.
fn flops(operation: &Operation, inputs: &[Vec<usize>], output: &[usize]) -> u64 {
    let elements = product(output) as u64;
    match operation {
        Operation::Graph(op) | Operation::Several(SeveralOutputs { op, .. }) => {
            op.operator().flops(inputs, output)
        }
        Operation::Linear { activation } => {
            linear(inputs, elements) + activation_flops(*activation) * elements
        }
        Operation::IntegerLinear(layer) => {
            linear(inputs, elements) + activation_flops(layer.activation) * elements
        }
        Operation::Conv(conv) => conv_flops(conv, inputs, output),
        Operation::ChannelsLast(ChannelsLast::Conv { conv, has_addend }) => {
            conv_flops(conv, inputs, output) + u64::from(*has_addend) * elements
        }
        Operation::ChannelsLast(ChannelsLast::IntegerConv(conv)) => {
            let (op, activation) = (conv.op.clone(), conv.layer.activation);
            conv_flops(&ActivatedConv { op, activation }, inputs, output)
        }
        Operation::ChannelsLast(ChannelsLast::ConvTranspose(conv)) => {
            Op::ConvTranspose(conv.clone()).operator().flops(inputs, output)
        }
        Operation::ChannelsLast(ChannelsLast::Pool(pool)) => {
            Op::Pool(pool.clone()).operator().flops(inputs, output)
        }
        Operation::ChannelsLast(ChannelsLast::GlobalPool(_)) => {
            inputs.first().map_or(0, |x| product(x) as u64)
        }
        Operation::ChannelsLast(ChannelsLast::ScaleShift { activation }) => {
            (2 + activation_flops(*activation)) * elements
        }
        Operation::Attention(split) => {
            let size = |input: usize, axis: usize| inputs[input].get(axis).copied().unwrap_or(1);
            let [queries, keys] = [0, 1].map(|part| size(part, split.places[part].token_axis()));
            let scores = (size(0, 0) * split.heads * queries * keys) as u64;
            // Two products, and a softmax of 5 operations an element.
            scores * (4 * split.head_size as u64 + 5)
        }
        // As many as the operator that it stands for, and the sum.
        Operation::ResidualLayerNorm { .. } => 9 * elements,
        Operation::IntegerSum(sum) => (1 + activation_flops(sum.activation)) * elements,
        Operation::IntegerGather { .. } => elements,
        Operation::Choose | Operation::OtherOutput { .. } => 0,
    }
}

/// A convolution and what is applied to its output; where the channels are does not matter.
fn conv_flops(conv: &ActivatedConv, inputs: &[Vec<usize>], output: &[usize]) -> u64 {
    Op::Conv(conv.op.clone()).operator().flops(inputs, output)
        + activation_flops(conv.activation) * product(output) as u64
}

/// A product with weights `[k, n]`, and a bias where there is one.
fn linear(inputs: &[Vec<usize>], elements: u64) -> u64 {
    let k = inputs.get(1).and_then(|weight| weight.first()).copied().unwrap_or(0) as u64;
    (2 * k + u64::from(inputs.len() > 2)) * elements
}

/// Operations an element, as the graph's operators count them.
fn activation_flops(activation: Activation) -> u64 {
    let op = match activation {
        Activation::Identity => return 0,
        Activation::Relu => Op::Relu,
        Activation::Tanh => Op::Tanh,
        Activation::Gelu => Op::Gelu(graph::op::Gelu::Erf),
        Activation::GeluTanh => Op::Gelu(graph::op::Gelu::Tanh),
        Activation::Map(_) => return 1,
    };
    op.operator().flops(&[vec![1]], &[1])
}
