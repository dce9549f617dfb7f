//! Convolution of dequantized int8 images with dequantized constant int8 filters → the convolution in
//! integers, on images whose channels are last, between transpositions: of one group, and on a GPU or with
//! AVX-512 of filters that see one channel each. The pass `channels-last` takes the transpositions out where
//! neighbours have their channels last too; without it they stay.

use graph::op::Transpose;
use graph::{DType, Op};
use kernels::{Activation, Tier};

use super::channels_last::{Move, has_known_images, moved};
use super::integer_linear::{activation, constant_weight, row_sums_fit};
use crate::module::{
    ChannelsLast, Id, InputScale, IntegerConv, IntegerLinear, Module, Node, Operation,
};

/// Most elements of a filter that sees one channel: it lies in memory some hundred times, in columns that
/// windows share.
const MOST_TAPS: usize = 1 << 10;

/// The same on a GPU, whose sums of so many integers f32 has.
const MOST_TAPS_ON_GPU: usize = 1 << 9;

pub(super) fn run(module: &mut Module) -> usize {
    if !module.multiplies_integers() {
        return 0;
    }
    let (mut fired, mut index) = (0, 0);
    while index < module.nodes.len() {
        if let Some(found) = found(module, index) {
            replace(module, index, found);
            fired += 1;
            index += 2;
        }
        index += 1;
    }
    module.sweep();
    fired
}

/// What a convolution becomes.
struct Found {
    conv: IntegerConv,
    /// In int8, and whatever bias there is.
    inputs: Vec<Id>,
    fused_from: Vec<String>,
}

fn found(module: &Module, index: usize) -> Option<Found> {
    let node = &module.nodes[index];
    let Operation::Graph(Op::Conv(op)) = &node.operation else { return None };
    let [x, w, bias @ ..] = node.inputs.as_slice() else { return None };
    let (x, input) = activation(module, *x)?;
    let (w, weight_scales) = constant_weight(module, *w, 0)?;
    let filters = module.constant(w.quantized)?;
    let &[outputs, inner, ..] = filters.shape() else { return None };
    let row_len = filters.shape()[1..].iter().try_fold(1usize, |len, n| len.checked_mul(*n))?;
    // A norm goes into float filters instead.
    let next = module.only_consumer(node.output).map(|next| &module.nodes[next].operation);
    // Of several groups, those of single channels, where floats are not as fast.
    let on_gpu = module.runs_on_gpu();
    let most_taps = if on_gpu { MOST_TAPS_ON_GPU } else { MOST_TAPS };
    let is_faster = row_len <= most_taps && (on_gpu || module.cpu.tier() >= Tier::Avx512);
    let is_depthwise = inner == 1 && outputs == op.groups && is_faster;
    let fits = (op.groups == 1 || is_depthwise)
        && matches!(op.window.kernel.len(), 1 | 2)
        && has_known_images(&module.value(x.quantized).shape)
        && bias.iter().all(|&id| module.value(id).dtype == DType::F32)
        && !matches!(next, Some(Operation::Graph(Op::BatchNorm(_))))
        && row_sums_fit(filters.elements().ok()?, row_len);
    let activation = Activation::Identity;
    let layer =
        IntegerLinear { input: InputScale::Given(input), weight_scales, activation, output: None };
    let sources = [x.dequantize, w.dequantize].map(|source| module.nodes[source].name.clone());
    fits.then(|| Found {
        conv: IntegerConv { op: op.clone(), layer },
        inputs: [&[x.quantized, w.quantized], bias].concat(),
        fused_from: [&sources[..], std::slice::from_ref(&node.name)].concat(),
    })
}

/// Puts the convolution and two transpositions in the place of a node.
fn replace(module: &mut Module, index: usize, found: Found) {
    let Found { conv, mut inputs, fused_from } = found;
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
            fused_from,
        },
        transposed("channels-first", after, node.output, Move::First(1)),
    ];
    module.nodes.splice(index..=index, nodes);
}
