//! Transposed convolutions in models whose sizes depend on values, which no pass gives channels that are
//! last: they are, while it runs.

use graph::op::{ConvTranspose, Padding};
use graph::{DType, Dim, Op};
use kernels::float::PackedWeights;
use kernels::{Cpu, channels_last, permute};

use super::channels_last::transposed_sizes;
use super::{Call, Kernel, KernelEntry, Prepared, Scratch, elements_mut, floats, run};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "conv-transpose.f32",
    operation: "ConvTranspose",
    tier: None,
    cost: 1,
    accepts,
    prepare,
}];

fn operator(node: &Node) -> &ConvTranspose {
    match &node.operation {
        Operation::Graph(Op::ConvTranspose(op)) => op,
        _ => unreachable!("the table pairs this kernel with transposed convolutions"),
    }
}

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    let (op, rank) = (operator(node), module.value(node.inputs[0]).shape.len());
    let fits = module.is_dynamic()
        && op.groups == 1
        && matches!(rank, 3 | 4)
        && module.constant(node.inputs[1]).is_some();
    if !fits {
        let reason = "takes constant filters of one group in one or two dimensions, where sizes depend \
                      on values";
        return Err(reason.to_owned());
    }
    adds_nothing_before(op, &module.value(node.inputs[0]).shape[2..])
}

/// Accepts outputs that are what is computed without its ends, and never more at the start.
pub(super) fn adds_nothing_before(op: &ConvTranspose, sizes: &[Dim]) -> Result<(), String> {
    let cuts = |(axis, dim): (usize, &Dim)| match dim.fixed() {
        Some(size) => op.axis(axis, size).is_ok_and(|(_, cut)| cut >= 0),
        // What is cut follows from the size where the padding is not given.
        None => op.output_shape.is_none() && matches!(op.window.padding, Padding::Explicit { .. }),
    };
    if sizes.iter().enumerate().all(cuts) {
        return Ok(());
    }
    Err("takes outputs that nothing is added before".to_owned())
}

fn prepare(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let tensor = module.constant(node.inputs[1]).expect("`accepts` saw a constant");
    let shape = tensor.shape();
    let (outputs, taps) = (shape[1], shape[2..].iter().product());
    let elements = tensor.elements().expect("`accepts` saw f32 filters");
    let weights = channels_last::pack_transposed(elements, [shape[0], outputs, taps]);
    run(Transposed { cpu, op: operator(node).clone(), outputs, weights })
}

struct Transposed {
    cpu: Cpu,
    op: ConvTranspose,
    outputs: usize,
    weights: PackedWeights,
}

/// `[batch, channels, …]` as `[batch, …, channels]`.
fn turned(shape: &[usize]) -> Vec<usize> {
    let [batch, channels, image @ ..] = shape else { return shape.to_vec() };
    [&[*batch], image, &[*channels]].concat()
}

impl Kernel for Transposed {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (values, x, y) = (call.f32(0), call.inputs[0].shape, call.shape);
        let sizes = transposed_sizes(&self.op, &turned(x), self.outputs)?;
        let bias: Option<&[f32]> = call.inputs.get(2).map(|bias| bias.elements());
        if bias.is_some_and(|bias| bias.len() != self.outputs) {
            return Err(format!("expected a bias for {} outputs", self.outputs));
        }
        let product = |shape: &[usize]| shape.iter().product::<usize>();
        let scratch: &mut [f32] = elements_mut(call.scratch);
        let (x_last, rest) = scratch.split_at_mut(product(x));
        let (y_last, rest) = rest.split_at_mut(product(y));
        let last = x.len() - 1;
        let to_last: Vec<usize> = [&[0], &(2..=last).collect::<Vec<_>>()[..], &[1]].concat();
        let to_first: Vec<usize> = [&[0, last], &(1..last).collect::<Vec<_>>()[..]].concat();
        permute(self.cpu, values, x, &to_last, x_last);
        channels_last::conv_transpose2d(
            self.cpu,
            &sizes,
            x_last,
            &self.weights,
            bias,
            y_last,
            rest,
        );
        permute(self.cpu, y_last, &turned(y), &to_first, elements_mut(call.output));
        Ok(())
    }

    /// Both images with channels that are last, and what every pixel adds.
    fn scratch(&self, inputs: &[&[Dim]], output: &[Dim]) -> Option<Scratch> {
        let fixed = |shape: &[Dim]| shape.iter().map(Dim::fixed).collect::<Option<Vec<usize>>>();
        let (x, y) = (fixed(inputs.first()?)?, fixed(output)?);
        let sizes = transposed_sizes(&self.op, &turned(&x), self.outputs).ok()?;
        let elements = [&x, &y].map(|shape| shape.iter().product::<usize>());
        let elements = channels_last::transposed_scratch_len(&sizes) + elements[0] + elements[1];
        Some(Scratch { element_bytes: DType::F32.size_bytes(), shape: vec![Dim::Fixed(elements)] })
    }

    fn packed_bytes(&self) -> usize {
        self.weights.size_bytes()
    }
}
