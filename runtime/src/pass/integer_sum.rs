//! Sum of two dequantized int8 values of the same sizes, perhaps an activation function, quantized again
//! → the sum of integers.

use graph::Op;
use kernels::Activation;

use super::activation::activation_at;
use super::integer_linear::{activation as dequantized, quantization_of};
use super::quantize_epilogue::limited;
use super::repeat;
use crate::module::{Id, IntegerSum, Module, Operation, same_sizes};

pub(super) fn run(module: &mut Module) -> usize {
    let fired = repeat(module, rewrite);
    module.sweep();
    fired
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let found = || {
        let node = &module.nodes[index];
        let (Operation::Graph(Op::Add), &[a, b]) = (&node.operation, node.inputs.as_slice()) else {
            return None;
        };
        let [(a, of_a), (b, of_b)] = [dequantized(module, a)?, dequantized(module, b)?];
        let shape = |id: Id| &module.value(id).shape;
        let fits = |id: Id| same_sizes(shape(id), shape(node.output));
        if !fits(a.quantized) || !fits(b.quantized) {
            return None;
        }
        let mut absorbed = vec![index];
        let mut last = module.only_consumer(node.output)?;
        let mut activation = Activation::Identity;
        if let Some(found) = activation_at(module, last) {
            activation = found;
            absorbed.push(last);
            last = module.only_consumer(module.nodes[last].output)?;
        }
        let (x, output) = quantization_of(module, last)?;
        let is_next = module.nodes[*absorbed.last()?].output == x;
        absorbed.push(last);
        let (activation, output) = limited(activation, output);
        let sum = IntegerSum { inputs: [of_a, of_b], activation, output };
        let names = [a, b].map(|source| module.nodes[source.dequantize].name.clone());
        is_next.then_some((last, absorbed, sum, [a.quantized, b.quantized], names))
    };
    let Some((last, absorbed, sum, inputs, names)) = found() else { return false };
    let output = module.nodes[last].output;
    module.fuse(last, &absorbed, Operation::IntegerSum(sum), inputs.to_vec());
    if let Some(node) = module.nodes.iter_mut().find(|node| node.output == output) {
        node.fused_from.splice(0..0, names);
    }
    true
}
