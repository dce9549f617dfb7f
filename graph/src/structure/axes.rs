//! Which dimensions of a graph's values are one and the same, and so can only change together.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Dim, Graph, Node, Op, ValueId};

/// A dimension of a value.
pub(crate) type Axis = (ValueId, usize);

/// The dimensions of all values, grouped: every operator ties the dimensions that it needs equal.
#[derive(Debug)]
pub(crate) struct Axes {
    parent: BTreeMap<Axis, Axis>,
}

impl Axes {
    /// Groups the dimensions of `graph`.
    pub(crate) fn of(graph: &Graph) -> Self {
        let mut axes = Self { parent: BTreeMap::new() };
        for (_, node) in graph.nodes() {
            for (a, b) in ties(graph, node) {
                axes.unite(a, b);
            }
        }
        axes
    }

    /// All dimensions that are tied to this one, itself included.
    pub(crate) fn tied(&self, axis: Axis) -> BTreeSet<Axis> {
        let root = self.root(axis);
        let members = self.parent.keys().copied().filter(|&other| self.root(other) == root);
        members.chain([axis]).collect()
    }

    fn root(&self, mut axis: Axis) -> Axis {
        while let Some(&parent) = self.parent.get(&axis)
            && parent != axis
        {
            axis = parent;
        }
        axis
    }

    fn unite(&mut self, a: Axis, b: Axis) {
        self.parent.entry(a).or_insert(a);
        self.parent.entry(b).or_insert(b);
        let (a, b) = (self.root(a), self.root(b));
        self.parent.insert(a.max(b), a.min(b));
    }
}

/// The pairs of dimensions that a node needs equal.
fn ties(graph: &Graph, node: &Node) -> Vec<(Axis, Axis)> {
    let rank = |value: ValueId| graph.value_type(value).shape.len();
    let output = node.output;
    let inputs = &node.inputs;
    let same = |value: ValueId| (0..rank(value)).map(move |axis| ((value, axis), (output, axis)));
    match &node.op {
        Op::Add | Op::Sub | Op::Mul | Op::Div => {
            inputs.iter().flat_map(|&input| broadcast(graph, input, output, 0)).collect()
        }
        Op::Relu | Op::Tanh | Op::Gelu(_) | Op::Softmax(_) | Op::Cast(_) => {
            same(inputs[0]).collect()
        }
        Op::LayerNorm(_) => {
            let last = rank(output) - 1;
            let parameters = inputs[1..].iter().map(|&input| ((input, 0), (output, last)));
            same(inputs[0]).chain(parameters).collect()
        }
        Op::MatMul => {
            let (a, b) = (inputs[0], inputs[1]);
            let (rows, inner) = (rank(a) - 2, rank(a) - 1);
            let out = rank(output);
            let mut ties = vec![
                ((a, rows), (output, out - 2)),
                ((b, rank(b) - 1), (output, out - 1)),
                ((a, inner), (b, rank(b) - 2)),
            ];
            ties.extend(broadcast(graph, a, output, 2));
            ties.extend(broadcast(graph, b, output, 2));
            ties
        }
        Op::Gather(gather) => {
            let (data, indices) = (inputs[0], inputs[1]);
            let shift = rank(indices);
            let picked = (0..shift).map(|axis| ((indices, axis), (output, gather.axis + axis)));
            let kept = (0..rank(data)).filter(|&axis| axis != gather.axis).map(|axis| {
                let place = if axis < gather.axis { axis } else { axis + shift - 1 };
                ((data, axis), (output, place))
            });
            picked.chain(kept).collect()
        }
        Op::Reshape(_) => {
            let pairs = same_dimensions(graph, inputs[0], output);
            pairs.into_iter().map(|(a, b)| ((inputs[0], a), (output, b))).collect()
        }
        Op::Transpose(transpose) => {
            let places = transpose.permutation.iter().enumerate();
            places.map(|(place, &axis)| ((inputs[0], axis), (output, place))).collect()
        }
        Op::Unsqueeze(unsqueeze) => {
            let places = (0..rank(output)).filter(|axis| !unsqueeze.axes.contains(axis));
            places.enumerate().map(|(axis, place)| ((inputs[0], axis), (output, place))).collect()
        }
        Op::Slice(slice) => same(inputs[0]).filter(|((_, axis), _)| *axis != slice.axis).collect(),
        Op::ReduceSum(sum) => {
            let kept = (0..rank(inputs[0])).filter(|&axis| axis != sum.axis);
            kept.enumerate().map(|(place, axis)| ((inputs[0], axis), (output, place))).collect()
        }
        Op::Quantize(_) | Op::Dequantize(_) => {
            let axis = match &node.op {
                Op::Quantize(quantize) => quantize.axis,
                Op::Dequantize(dequantize) => dequantize.axis,
                _ => None,
            };
            let parameters = axis.into_iter().flat_map(|axis| {
                inputs[1..].iter().map(move |&input| ((input, 0), (output, axis)))
            });
            same(inputs[0]).chain(parameters).collect()
        }
        Op::Identity => same(inputs[0]).collect(),
        // What is not followed here ties nothing: a cut that would need it fails when the types
        // are inferred anew.
        _ => Vec::new(),
    }
}

/// Ties `input` to `output` from the back, without the last `skip` dimensions of both and without
/// those that are repeated.
fn broadcast(graph: &Graph, input: ValueId, output: ValueId, skip: usize) -> Vec<(Axis, Axis)> {
    let (from, to) = (&graph.value_type(input).shape, &graph.value_type(output).shape);
    let places = (skip..from.len()).map(|back| (from.len() - 1 - back, to.len() - 1 - back));
    places.filter(|&(a, b)| from[a] == to[b]).map(|(a, b)| ((input, a), (output, b))).collect()
}

/// The dimensions that a reshape leaves alone, as (input, output): equal ones from the front, then
/// equal ones from the back.
pub(crate) fn same_dimensions(
    graph: &Graph,
    input: ValueId,
    output: ValueId,
) -> Vec<(usize, usize)> {
    let (from, to) = (&graph.value_type(input).shape, &graph.value_type(output).shape);
    let equal = |a: &Dim, b: &Dim| a == b;
    let front = from.iter().zip(to).take_while(|(a, b)| equal(a, b)).count();
    let (from_rest, to_rest) = (&from[front..], &to[front..]);
    let back =
        from_rest.iter().rev().zip(to_rest.iter().rev()).take_while(|(a, b)| equal(a, b)).count();
    let leading = (0..front).map(|axis| (axis, axis));
    let trailing = (1..=back).map(|back| (from.len() - back, to.len() - back));
    leading.chain(trailing).collect()
}
