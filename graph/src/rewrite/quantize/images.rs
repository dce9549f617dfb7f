//! Which images are kept in integers: what convolutions read, and what can be added, pooled and put
//! together without leaving integers.
//!
//! Values that are put together, and what comes of it, are best given one range: their integers are only
//! moved then. What is cut out of a value has a range of its own, which may be far smaller.

use std::collections::{BTreeMap, BTreeSet};

use super::{Insertion, RewriteError};
use crate::op::{GlobalPool, PoolKind, ReduceKind};
use crate::structure::Convolution;
use crate::{DType, Graph, NodeId, Op, Tensor, ValueId};

impl Insertion {
    /// Pairs for filters, and for the images that convolutions multiply in integers.
    ///
    /// Where groups have several channels, or images more than two dimensions, filters alone are
    /// quantized: what reads their images would be no faster.
    ///
    /// Gives the scales between which integers are only moved, those together.
    pub(super) fn images(
        &mut self,
        convolutions: &[&Convolution],
    ) -> Result<Vec<Vec<String>>, RewriteError> {
        let mut images = Images::default();
        for convolution in convolutions {
            // One that reads a pair already keeps it.
            let is_plain = self.graph.node(convolution.node).inputs[0] == convolution.input;
            if is_plain && multiplies_integers(&self.graph, convolution) {
                images.read_by(&self.graph, convolution);
            }
        }
        let mut scales = Vec::new();
        for values in images.by_range() {
            let mut together = Vec::new();
            for value in values {
                together.push(self.image(value, &images)?);
            }
            scales.push(together);
        }
        for convolution in convolutions {
            self.weight(convolution.node, 1, convolution.filters, 0)?;
        }
        scales.retain(|together| together.len() > 1);
        Ok(scales)
    }

    /// The pair of an image, for those of its readers that take integers; gives the name of its scale.
    fn image(&mut self, value: ValueId, images: &Images) -> Result<String, RewriteError> {
        let name = self.graph.value_name(value).to_owned();
        let readers = self.graph.consumers(value);
        let parameters = self.parameters(&name, (Tensor::scalar(1f32), Tensor::scalar(0u8)))?;
        let pair = self.pair_of(&name, value, None, parameters)?;
        for reader in readers {
            if images.takes_integers(&self.graph, reader) {
                self.read(reader, value, pair);
            }
        }
        Ok(self.graph.value_name(parameters[0]).to_owned())
    }

    /// Makes a node read the pair of a value instead of the value.
    fn read(&mut self, reader: NodeId, value: ValueId, pair: ValueId) {
        let inputs = self.graph.node(reader).inputs.iter();
        let inputs = inputs.map(|&input| if input == value { pair } else { input }).collect();
        self.graph.set_node_inputs(reader, inputs);
    }
}

/// Whether kernels multiply a convolution in integers: of one group or of single channels, over one or two
/// spatial dimensions.
fn multiplies_integers(graph: &Graph, convolution: &Convolution) -> bool {
    let filters = graph.weight(convolution.filters).map(Tensor::shape);
    let Some([outputs, inner, kernel @ ..]) = filters else { return false };
    let is_depthwise = *inner == 1 && *outputs == convolution.groups;
    matches!(kernel.len(), 1 | 2) && (convolution.groups == 1 || is_depthwise)
}

/// Images that are kept in integers.
#[derive(Debug, Default)]
struct Images {
    values: BTreeSet<ValueId>,
    /// Values of which one is made of elements of the other.
    same_range: Vec<[ValueId; 2]>,
    /// What reads integers: convolutions, and what adds or moves.
    readers: BTreeSet<NodeId>,
}

impl Images {
    /// Adds what a convolution reads, and what can be kept in integers on the way there.
    fn read_by(&mut self, graph: &Graph, convolution: &Convolution) {
        self.readers.insert(convolution.node);
        let mut open = vec![convolution.input];
        while let Some(value) = open.pop() {
            if !is_float(graph, value) || !self.values.insert(value) {
                continue;
            }
            let Some(inputs) = moved(graph, value) else {
                if let Some((sum, inputs)) = summed(graph, value) {
                    self.readers.insert(sum);
                    open.extend(inputs);
                }
                continue;
            };
            self.readers.extend(graph.producer_id(value));
            self.same_range.extend(inputs.iter().map(|&input| [value, input]));
            open.extend(inputs);
        }
    }

    /// The values, those of one range together.
    fn by_range(&self) -> Vec<Vec<ValueId>> {
        let mut first: BTreeMap<ValueId, ValueId> =
            self.values.iter().map(|&value| (value, value)).collect();
        for pair in &self.same_range {
            let [a, b] = pair.map(|value| first[&value]);
            first
                .values_mut()
                .filter(|first| **first == a.max(b))
                .for_each(|first| *first = a.min(b));
        }
        let mut by_range: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
        for (value, first) in first {
            by_range.entry(first).or_default().push(value);
        }
        by_range.into_values().collect()
    }

    /// Whether a node that reads one of the values reads its pair. Means lose little by it, and what
    /// writes integers alone need not write floats as well for them.
    fn takes_integers(&self, graph: &Graph, reader: NodeId) -> bool {
        let is_mean = || match &graph.node(reader).op {
            Op::Pool(pool) => matches!(pool.kind, PoolKind::Average { .. }),
            Op::GlobalPool(pool) => *pool == GlobalPool::Average,
            Op::Reduce(reduce) => reduce.kind == ReduceKind::Mean,
            _ => false,
        };
        self.readers.contains(&reader) || is_mean()
    }
}

/// Whether a value is computed (or given) in f32, not dequantized.
fn is_float(graph: &Graph, value: ValueId) -> bool {
    let is_dequantized =
        graph.producer(value).is_some_and(|node| matches!(node.op, Op::Dequantize(_)));
    graph.value_type(value).dtype == DType::F32 && graph.weight(value).is_none() && !is_dequantized
}

/// The values that `value` consists of elements of, where all of them may be kept in integers.
fn moved(graph: &Graph, value: ValueId) -> Option<Vec<ValueId>> {
    let node = graph.producer(value)?;
    let inputs = match &node.op {
        Op::Concat(_) => node.inputs.clone(),
        op if op.rearranges() => vec![node.inputs[0]],
        Op::Pool(pool) if pool.kind == PoolKind::Max => vec![node.inputs[0]],
        _ => return None,
    };
    inputs.iter().all(|&input| is_float(graph, input)).then_some(inputs)
}

/// The sum that `value` is, perhaps behind an activation function, and what is added.
fn summed(graph: &Graph, value: ValueId) -> Option<(NodeId, [ValueId; 2])> {
    let node = graph.producer(value)?;
    let sum = match node.op {
        Op::Relu | Op::Clip(_) => {
            let input = node.inputs[0];
            graph.producer_id(input).filter(|_| graph.consumers(input).len() == 1)?
        }
        _ => graph.producer_id(value)?,
    };
    let node = graph.node(sum);
    let (Op::Add, &[a, b]) = (&node.op, node.inputs.as_slice()) else { return None };
    let shape = |value| &graph.value_type(value).shape;
    let fits = |value| is_float(graph, value) && shape(value) == shape(node.output);
    (fits(a) && fits(b)).then_some((sum, [a, b]))
}
