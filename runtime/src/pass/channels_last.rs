//! Convolutions, and what stands between them, on images whose channels are last.
//!
//! From a convolution on, values exist with their channels last only, and so does what follows from
//! them element by element, by pools, norms, concatenations and shuffles of channels. Where an operation
//! knows channels first alone, its inputs are transposed back, and so are outputs.

use std::collections::{BTreeMap, BTreeSet};

use graph::op::{
    Concat, ConvTranspose, GlobalPool, Pool, PoolKind, Reduce, ReduceKind, Reshape, Resize,
    Transpose,
};
use graph::rewrite::scaling::by_channel;
use graph::{DType, Dim, Op, Tensor};
use kernels::Activation;

use super::batch_norm;
use super::transposes::reshape;
use crate::kernel::bf16_conv;
use crate::kernel::pool::pooling;
use crate::module::{ActivatedConv, ChannelsLast, Id, Module, Node, Operation};

/// Channels and outputs of one of several groups below which filters in f32 do better with channels first:
/// a panel has 16 columns, and every element of a window that many channels together. In bf16 groups
/// share panels.
const LEAST_CHANNELS: usize = 8;

pub(super) fn run(module: &mut Module) -> usize {
    let nodes = std::mem::take(&mut module.nodes);
    let constants = (0..module.values.len()).map(Id).filter(|&id| module.constant(id).is_some());
    let first = module.inputs.iter().copied().chain(constants).collect();
    let mut rewriter = Rewriter { module, last: BTreeMap::new(), first, nodes: Vec::new() };
    let fired = nodes.into_iter().filter(|node| rewriter.node(node)).count();
    for output in rewriter.module.outputs.clone() {
        rewriter.with_channels_first(output);
    }
    let nodes = rewriter.nodes;
    module.nodes = nodes;
    fired
}

struct Rewriter<'a> {
    module: &'a mut Module,
    /// Values that exist with channels last, by what the module knew them as.
    last: BTreeMap<Id, Twin>,
    /// Values that exist as the module knew them.
    first: BTreeSet<Id>,
    nodes: Vec<Node>,
}

/// A value whose channels are last.
#[derive(Clone, Copy)]
struct Twin {
    id: Id,
    /// Dimensions that the channels are split into, one unless they are being shuffled.
    dims: usize,
}

impl Rewriter<'_> {
    fn shape(&self, id: Id) -> &[Dim] {
        &self.module.value(id).shape
    }

    /// A value that exists with channels last only.
    fn only_last(&self, id: Id) -> Option<Twin> {
        self.last.get(&id).copied().filter(|_| !self.first.contains(&id))
    }

    /// What a value is with its channels last in one dimension, where it exists so.
    fn plain(&self, id: Id) -> Option<Id> {
        self.last.get(&id).filter(|twin| twin.dims == 1).map(|twin| twin.id)
    }

    /// Adds a node; tells whether it was rewritten.
    fn node(&mut self, node: &Node) -> bool {
        let rewritten = match &node.operation {
            Operation::Graph(Op::Conv(op)) => {
                let conv = ActivatedConv { op: op.clone(), activation: Activation::Identity };
                self.convolution(node, conv)
            }
            Operation::Conv(conv) => self.convolution(node, conv.clone()),
            Operation::Graph(Op::ConvTranspose(conv)) => self.transposed(node, conv),
            Operation::Graph(Op::Pool(pool)) if self.is_maximum_of_integers(node, pool) => {
                let x = self.with_channels_last(node.inputs[0]);
                Some((Operation::ChannelsLast(ChannelsLast::Pool(pool.clone())), vec![x]))
            }
            Operation::Graph(op) => self.follower(node, op),
            _ => None,
        };
        if rewritten.is_none() && (self.reordered(node) || self.shuffle(node)) {
            return true;
        }
        let Some((operation, inputs)) = rewritten else {
            node.inputs.iter().for_each(|&input| self.with_channels_first(input));
            self.first.insert(node.output);
            self.nodes.push(node.clone());
            return false;
        };
        let output = self.twin(node.output, 1);
        self.push(node, operation, inputs, output);
        true
    }

    /// Adds what a node becomes.
    fn push(&mut self, of: &Node, operation: Operation, inputs: Vec<Id>, output: Id) {
        let (name, fused_from) = (of.name.clone(), of.fused_from.clone());
        self.nodes.push(Node { name, operation, inputs, output, fused_from });
    }

    /// A convolution, on whatever images.
    fn convolution(&mut self, node: &Node, conv: ActivatedConv) -> Option<(Operation, Vec<Id>)> {
        let [x, weight, bias @ ..] = node.inputs.as_slice() else { return None };
        let filters = self.module.constant(*weight)?;
        let [outputs, inner, kernel @ ..] = filters.shape() else { return None };
        let groups = conv.op.groups;
        let per_group = outputs.checked_div(groups)?;
        let is_depthwise = *inner == 1 && per_group == 1;
        let floats = |&id: &Id| self.module.value(id).dtype == DType::F32;
        let fits = matches!(kernel.len(), 1 | 2)
            && has_known_images(self.shape(*x))
            && node.inputs.iter().all(floats)
            && (groups == 1
                || is_depthwise
                || per_group.min(*inner) >= LEAST_CHANNELS
                || self.module.multiplies_bf16()
                    && bf16_conv::gains(groups, filters.shape()).is_ok());
        if !fits {
            return None;
        }
        let x = self.with_channels_last(*x);
        let operation = ChannelsLast::Conv { conv, has_addend: false };
        Some((Operation::ChannelsLast(operation), [&[x, *weight], bias].concat()))
    }

    /// A transposed convolution, on whatever images.
    fn transposed(&mut self, node: &Node, conv: &ConvTranspose) -> Option<(Operation, Vec<Id>)> {
        let [x, weight, bias @ ..] = node.inputs.as_slice() else { return None };
        let filters = self.module.constant(*weight)?;
        let shape = self.shape(*x);
        let is_cut = |(axis, dim): (usize, &Dim)| {
            dim.fixed().is_some_and(|size| conv.axis(axis, size).is_ok_and(|(_, cut)| cut >= 0))
        };
        let fits = conv.groups == 1
            && has_known_images(shape)
            && shape[2..].iter().enumerate().all(is_cut)
            && self.module.value(*x).dtype == DType::F32
            && filters.elements::<f32>().is_ok();
        if !fits {
            return None;
        }
        let x = self.with_channels_last(*x);
        let operation = ChannelsLast::ConvTranspose(conv.clone());
        Some((Operation::ChannelsLast(operation), [&[x, *weight], bias].concat()))
    }

    /// Whether a pool takes the greatest of int8 images, for which there is a kernel with channels last alone.
    fn is_maximum_of_integers(&self, node: &Node, pool: &Pool) -> bool {
        let x = self.module.value(node.inputs[0]);
        pool.kind == PoolKind::Max && x.dtype == DType::I8 && has_known_images(&x.shape)
    }

    /// An operation that works on channels last where its input has them there.
    fn follower(&mut self, node: &Node, op: &Op) -> Option<(Operation, Vec<Id>)> {
        let (x, twin) = node.inputs.iter().find_map(|&id| Some((id, self.plain(id)?)))?;
        let rank = self.shape(x).len();
        if self.shape(node.output).len() != rank {
            return None;
        }
        let is_float = self.module.value(x).dtype == DType::F32;
        let graph = |op: &Op| Operation::Graph(op.clone());
        match op {
            Op::Pool(pool) if is_float && pooling(pool.kind).is_ok() => {
                Some((Operation::ChannelsLast(ChannelsLast::Pool(pool.clone())), vec![twin]))
            }
            Op::GlobalPool(pool @ (GlobalPool::Max | GlobalPool::Average)) if is_float => {
                Some((Operation::ChannelsLast(ChannelsLast::GlobalPool(*pool)), vec![twin]))
            }
            // Kernels of pools read bf16; those of reductions sum more exactly.
            Op::Reduce(reduce)
                if is_float && self.module.multiplies_bf16() && is_mean_of_pixels(reduce, rank) =>
            {
                let operation = ChannelsLast::GlobalPool(GlobalPool::Average);
                Some((Operation::ChannelsLast(operation), vec![twin]))
            }
            Op::Reduce(reduce) => Some((graph(&Op::Reduce(reduced(reduce, rank)?)), vec![twin])),
            Op::Resize(resize) if is_float && node.inputs.first() == Some(&x) => {
                let is_constant = |&id: &Id| self.module.constant(id).is_some();
                let axes = resize.axes.iter().map(|&axis| last_axis(axis, rank)).collect();
                let operation = Operation::Graph(Op::Resize(Resize { axes, ..resize.clone() }));
                let inputs = [&[twin], &node.inputs[1..]].concat();
                node.inputs[1..].iter().all(is_constant).then_some((operation, inputs))
            }
            Op::BatchNorm(norm) if node.inputs.first() == Some(&x) => {
                let scaling = batch_norm::of_norm(self.module, node, *norm)?;
                let mut constant = |what: &str, numbers: &[f64]| {
                    let tensor = Tensor::from_fn(&[numbers.len()], |i| numbers[i] as f32);
                    self.module.add_constant(format!("{}/{what}", node.name), tensor)
                };
                let scale = constant("scale", &scaling.factor);
                let shift = constant("shift", &scaling.summand);
                let operation = ChannelsLast::ScaleShift { activation: Activation::Identity };
                Some((Operation::ChannelsLast(operation), vec![twin, scale, shift]))
            }
            Op::Concat(concat) if concat.axis == 1 => {
                let fits = |&id: &Id| self.plain(id).is_some() || has_known_images(self.shape(id));
                if !node.inputs.iter().all(fits) {
                    return None;
                }
                let inputs = node.inputs.iter().map(|&id| self.with_channels_last(id)).collect();
                Some((Operation::Graph(Op::Concat(Concat { axis: rank - 1 })), inputs))
            }
            Op::Relu
            | Op::Tanh
            | Op::Gelu(_)
            | Op::Unary(_)
            | Op::Clip(_)
            | Op::Cast(_)
            | Op::Identity => self.element_by_element(node, graph(op)),
            Op::Quantize(quantize) if quantize.axis.is_none() => {
                self.element_by_element(node, graph(op))
            }
            Op::Dequantize(dequantize) if dequantize.axis.is_none() => {
                self.element_by_element(node, graph(op))
            }
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Binary(_) => {
                self.element_by_element(node, graph(op))
            }
            _ => None,
        }
    }

    /// The same operation, if every input that is not a single number can have its channels last.
    fn element_by_element(
        &mut self,
        node: &Node,
        operation: Operation,
    ) -> Option<(Operation, Vec<Id>)> {
        let rank = self.shape(node.output).len();
        let fits = |&id: &Id| {
            let has_rank = self.shape(id).len() == rank;
            is_single(self.shape(id))
                || self.module.constant(id).is_some_and(|tensor| by_channel(tensor, rank).is_some())
                || has_rank && (self.plain(id).is_some() || has_known_images(self.shape(id)))
        };
        if !node.inputs.iter().all(fits) {
            return None;
        }
        let inputs = node.inputs.iter().map(|&id| {
            if is_single(self.shape(id))
                && self.plain(id).is_none_or(|_| self.shape(id).len() != rank)
            {
                self.with_channels_first(id);
                return id;
            }
            let constant = self.module.constant(id).and_then(|tensor| by_channel(tensor, rank));
            match constant {
                Some(tensor) => {
                    let name = format!("{}/channels-last", self.module.value(id).name);
                    self.module.add_constant(name, tensor)
                }
                None => self.with_channels_last(id),
            }
        });
        let inputs = inputs.collect();
        Some((operation, inputs))
    }

    /// What a model does to have channels last for itself, or first again, for which nothing is to be
    /// done: transpositions, and images made rows of pixels. Tells whether it was.
    fn reordered(&mut self, node: &Node) -> bool {
        let Operation::Graph(op) = &node.operation else { return false };
        let Some(&x) = node.inputs.first() else { return false };
        let (from, to) = (self.shape(x).to_vec(), self.shape(node.output).to_vec());
        let twin = self.plain(x);
        let (operation, input, output) = match (op, twin) {
            (Op::Transpose(op), Some(twin)) if is_move(&op.permutation, Move::Last(1)) => {
                self.first.insert(node.output);
                (Op::Identity, twin, node.output)
            }
            (Op::Transpose(op), None)
                // Of three dimensions, it is as well one of matrices.
                if (to.len() == 4 || self.is_of_images(x))
                    && is_move(&op.permutation, Move::First(1))
                    && has_known_images(&to) =>
            {
                self.with_channels_first(x);
                self.last.insert(node.output, Twin { id: x, dims: 1 });
                return true;
            }
            // Of integers that several convolutions read so, there is one. Floats may be heads of an
            // attention.
            (Op::Transpose(op), None)
                if self.module.value(x).dtype == DType::I8
                    && to.len() == 4
                    && is_move(&op.permutation, Move::Last(1))
                    && has_known_images(&from) =>
            {
                let twin = self.with_channels_last(x);
                self.first.insert(node.output);
                (Op::Identity, twin, node.output)
            }
            (Op::Reshape(_) | Op::ReshapeTo(_), Some(twin))
                if from.get(..2) == to.get(..2) && has_known_images(&to) =>
            {
                let view = reshape(self.shape(twin), &moved(&to, Move::Last(1)));
                let Some(view) = view else { return false };
                (Op::Reshape(view), twin, self.twin(node.output, 1))
            }
            _ => return false,
        };
        self.push(node, Operation::Graph(operation), vec![input], output);
        true
    }

    /// Whether a value was written by what knows images with their channels last alone.
    fn is_of_images(&self, id: Id) -> bool {
        let node = self.nodes.iter().rev().find(|node| node.output == id);
        node.is_some_and(|node| matches!(node.operation, Operation::ChannelsLast(_)))
    }

    /// One step of a shuffle of channels: `[n, c, …]` as `[n, g, c / g, …]`, the two in the other
    /// order, and as `[n, c, …]` again (Zhang et al. 2018, arXiv:1707.01083). Tells whether it was.
    fn shuffle(&mut self, node: &Node) -> bool {
        let Operation::Graph(op) = &node.operation else { return false };
        let Some(Twin { id, dims }) = node.inputs.first().and_then(|&x| self.only_last(x)) else {
            return false;
        };
        let x = self.shape(node.inputs[0]).to_vec();
        let shape = self.shape(node.output).to_vec();
        let after = match op {
            Op::Reshape(_) | Op::ReshapeTo(_) => 3 - dims,
            Op::Transpose(_) if dims == 2 => 2,
            _ => return false,
        };
        let is_known = |shape: &[Dim]| shape[1..].iter().all(|dim| dim.fixed().is_some());
        if shape.len() < 2 + after || !is_known(&x) || !is_known(&shape) {
            return false;
        }
        if x[0] != shape[0] || x.get(1 + dims..) != shape.get(1 + after..) {
            return false;
        }
        let operation = match op {
            Op::Transpose(op) => {
                let swapped = [0, 2, 1].into_iter().chain(3..x.len());
                if !op.permutation.iter().copied().eq(swapped) {
                    return false;
                }
                let inner = x.len() - 2;
                let permutation = (0..inner).chain([inner + 1, inner]).collect();
                Op::Transpose(Transpose { permutation })
            }
            _ => match reshape(self.shape(id), &moved(&shape, Move::Last(after))) {
                Some(op) => Op::Reshape(op),
                None => return false,
            },
        };
        let output = self.twin(node.output, after);
        self.push(node, Operation::Graph(operation), vec![id], output);
        true
    }

    /// The value that a value is with channels last, which a node has to write.
    fn twin(&mut self, id: Id, dims: usize) -> Id {
        let value = self.module.value(id);
        let (name, dtype) = (format!("{}/channels-last", value.name), value.dtype);
        let shape = moved(&value.shape, Move::Last(dims));
        let twin = self.module.add_value(name, dtype, shape);
        self.last.insert(id, Twin { id: twin, dims });
        twin
    }

    /// A value with channels last, in one dimension; is transposed where it is not there yet.
    fn with_channels_last(&mut self, id: Id) -> Id {
        if let Some(twin) = self.plain(id) {
            return twin;
        }
        let constant = self.module.constant(id).and_then(transposed);
        if let Some(tensor) = constant {
            let name = format!("{}/channels-last", self.module.value(id).name);
            let twin = self.module.add_constant(name, tensor);
            self.last.insert(id, Twin { id: twin, dims: 1 });
            return twin;
        }
        self.with_channels_first(id);
        let twin = self.twin(id, 1);
        self.transpose(id, twin, Move::Last(1));
        twin
    }

    /// Sees to it that a value exists as the module knew it.
    fn with_channels_first(&mut self, id: Id) {
        if let Some(&Twin { id: twin, dims }) = self.last.get(&id)
            && self.first.insert(id)
        {
            self.transpose(twin, id, Move::First(dims));
        }
    }

    fn transpose(&mut self, from: Id, to: Id, direction: Move) {
        let shape = self.shape(from);
        let spatial = match direction {
            Move::Last(dims) => shape.get(1 + dims..),
            Move::First(dims) => shape.get(1..shape.len() - dims),
        };
        let is_pixel =
            spatial.is_some_and(|spatial| spatial.iter().all(|dim| *dim == Dim::Fixed(1)));
        let view: Option<Reshape> = reshape(shape, self.shape(to)).filter(|_| is_pixel);
        let operation = view.map_or_else(
            || Op::Transpose(Transpose { permutation: moved(&axes(shape.len()), direction) }),
            Op::Reshape,
        );
        self.nodes.push(Node {
            name: self.module.value(to).name.clone(),
            operation: Operation::Graph(operation),
            inputs: vec![from],
            output: to,
            fused_from: Vec::new(),
        });
    }
}

/// Whether it takes the mean of all pixels of an image.
fn is_mean_of_pixels(reduce: &Reduce, rank: usize) -> bool {
    reduce.kind == ReduceKind::Mean && reduce.axes.as_deref() == Some(&axes(rank)[2..])
}

/// Where channels go, which are so many dimensions.
#[derive(Clone, Copy)]
pub(super) enum Move {
    First(usize),
    Last(usize),
}

fn axes(rank: usize) -> Vec<usize> {
    (0..rank).collect()
}

/// The entries of dimensions in their new order.
pub(super) fn moved<T: Clone>(entries: &[T], direction: Move) -> Vec<T> {
    let mut entries = entries.to_vec();
    match direction {
        Move::Last(dims) => entries[1..].rotate_left(dims),
        Move::First(dims) => entries[1..].rotate_right(dims),
    }
    entries
}

fn is_move(permutation: &[usize], direction: Move) -> bool {
    matches!(permutation.len(), 3 | 4) && permutation == moved(&axes(permutation.len()), direction)
}

/// A constant with its channels last.
fn transposed(tensor: &Tensor) -> Option<Tensor> {
    let shape = moved(tensor.shape(), Move::Last(1));
    let (&channels, pixels) = shape.split_last()?;
    let pixels: usize = pixels.get(1..)?.iter().product();
    let elements = tensor.elements::<f32>().ok()?;
    let place = |index: usize| {
        let (pixel, channel) = (index / channels, index % channels);
        (pixel / pixels * channels + channel) * pixels + pixel % pixels
    };
    Some(Tensor::from_fn(&shape, |index| elements[place(index)]))
}

/// Where a dimension is when channels are last.
fn last_axis(axis: usize, rank: usize) -> usize {
    match axis {
        0 => 0,
        1 => rank - 1,
        spatial => spatial - 1,
    }
}

/// A reduction of what has its channels last, along neighbouring dimensions, which stay.
fn reduced(reduce: &Reduce, rank: usize) -> Option<Reduce> {
    let axes = reduce.axes.as_ref().filter(|_| reduce.keep_dims)?;
    let mut axes: Vec<usize> = axes.iter().map(|&axis| last_axis(axis, rank)).collect();
    axes.sort_unstable();
    let are_neighbours = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    are_neighbours.then(|| Reduce { axes: Some(axes), ..reduce.clone() })
}

/// Whether a shape is one of images or sequences whose sizes are numbers, but for the batch.
pub(super) fn has_known_images(shape: &[Dim]) -> bool {
    matches!(shape.len(), 3 | 4) && shape[1..].iter().all(|dim| dim.fixed().is_some())
}

fn is_single(shape: &[Dim]) -> bool {
    shape.iter().all(|dim| *dim == Dim::Fixed(1))
}
