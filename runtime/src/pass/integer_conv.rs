//! Convolution of dequantized int8 images with dequantized constant int8 filters → the convolution in
//! integers, on images whose channels are last. Transpositions around it go where its neighbours have
//! their channels last too (pass `channels-last`).

use graph::op::Transpose;
use graph::{DType, Op};
use kernels::Activation;

use super::channels_last::{Move, has_known_images, moved};
use super::integer_linear::{activation, constant_weight, row_sums_fit};
use crate::module::{ChannelsLast, Id, IntegerConv, IntegerLinear, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let (mut fired, mut index) = (0, 0);
    while index < module.nodes.len() {
        if let Some((conv, inputs)) = found(module, index) {
            replace(module, index, conv, inputs);
            fired += 1;
            index += 2;
        }
        index += 1;
    }
    module.sweep();
    fired
}

/// What a node becomes, with inputs in int8 and whatever bias it has.
fn found(module: &Module, index: usize) -> Option<(IntegerConv, Vec<Id>)> {
    let node = &module.nodes[index];
    let Operation::Graph(Op::Conv(op)) = &node.operation else { return None };
    let [x, w, bias @ ..] = node.inputs.as_slice() else { return None };
    let (x, input) = activation(module, *x)?;
    let (w, weight_scales) = constant_weight(module, *w, 0)?;
    let filters = module.constant(w.quantized)?;
    let row_len = filters.shape()[1..].iter().product();
    let fits = op.groups == 1
        && matches!(op.window.kernel.len(), 1 | 2)
        && has_known_images(&module.value(x.quantized).shape)
        && bias.iter().all(|&id| module.value(id).dtype == DType::F32)
        && row_sums_fit(filters.elements().ok()?, row_len);
    let activation = Activation::Identity;
    let layer = IntegerLinear { input, weight_scales, activation, output: None };
    let conv = IntegerConv { op: op.clone(), layer };
    fits.then(|| (conv, [&[x.quantized, w.quantized], bias].concat()))
}

/// Puts the convolution and two transpositions in the place of a node.
fn replace(module: &mut Module, index: usize, conv: IntegerConv, mut inputs: Vec<Id>) {
    let node = module.nodes[index].clone();
    let mut last = |id: Id, name: String| {
        let value = module.value(id);
        let (dtype, shape) = (value.dtype, moved(&value.shape, Move::Last(1)));
        module.add_value(name, dtype, shape)
    };
    let x = inputs[0];
    let before = last(x, format!("{}/input", node.name));
    let after = last(node.output, format!("{}/output", node.name));
    inputs[0] = before;
    let transposed = |name: &str, from: Id, to: Id, direction: Move| {
        let axes: Vec<usize> = (0..module.value(from).shape.len()).collect();
        let permutation = moved(&axes, direction);
        Node {
            name: format!("{}/{name}", node.name),
            operation: Operation::Graph(Op::Transpose(Transpose { permutation })),
            inputs: vec![from],
            output: to,
            fused_from: Vec::new(),
        }
    };
    let nodes = [
        transposed("channels-last", x, before, Move::Last(1)),
        Node {
            name: node.name.clone(),
            operation: Operation::ChannelsLast(ChannelsLast::IntegerConv(conv)),
            inputs,
            output: after,
            fused_from: node.fused_from.clone(),
        },
        transposed("channels-first", after, node.output, Move::First(1)),
    ];
    module.nodes.splice(index..=index, nodes);
}
