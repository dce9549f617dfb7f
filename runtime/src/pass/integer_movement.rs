//! Dequantized int8 values that are only moved, or of which the greatest are taken, and quantized again as they
//! were → the same of integers. What else reads the result reads it dequantized: the same floats.

use graph::op::{Padding, PoolKind, Window};
use graph::{DType, Op};

use super::channels_last::has_known_images;
use super::integer_linear::{activation, quantization_of};
use crate::module::{Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    // Where convolutions multiply floats, what stands between them is one, too.
    if !module.multiplies_integers() {
        return 0;
    }
    let (mut fired, mut index) = (0, 0);
    while index < module.nodes.len() {
        if let Some(moved) = found(module, index) {
            replace(module, index, moved);
            fired += 1;
            index += 1;
        }
        index += 1;
    }
    module.sweep();
    fired
}

/// A node that moves dequantized values.
struct Moved {
    /// Its inputs in int8.
    inputs: Vec<Id>,
    /// The node that dequantizes the first.
    dequantize: usize,
    /// What quantizes the result as it was.
    quantized: Vec<Id>,
}

/// How many of a node's inputs are moved, if it only moves them.
fn movable(module: &Module, node: &Node) -> Option<usize> {
    let Operation::Graph(op) = &node.operation else { return None };
    match op {
        Op::Concat(_) => Some(node.inputs.len()),
        Op::Slice(_) | Op::Split(_) => Some(1),
        op if op.rearranges() => Some(1),
        Op::Pool(pool) => {
            let fits = has_known_images(&module.value(node.inputs[0]).shape);
            (pool.kind == PoolKind::Max && fits && meets_images(&pool.window)).then_some(1)
        }
        _ => None,
    }
}

/// Whether no window lies in the padding alone, where floats have no greatest.
fn meets_images(window: &Window) -> bool {
    let is_smaller = |padding: &[usize]| padding.iter().zip(&window.kernel).all(|(p, k)| p < k);
    window.dilations.iter().all(|&dilation| dilation == 1)
        && match &window.padding {
            Padding::Explicit { before, after } => is_smaller(before) && is_smaller(after),
            _ => true,
        }
}

fn found(module: &Module, index: usize) -> Option<Moved> {
    let node = &module.nodes[index];
    let count = movable(module, node)?;
    let sources: Vec<_> =
        node.inputs[..count].iter().map(|&id| activation(module, id)).collect::<Option<_>>()?;
    let (first, as_first) = *sources.first()?;
    if sources.iter().any(|&(_, quantization)| quantization != as_first) {
        return None;
    }
    let readers = (0..module.nodes.len()).filter_map(|reader| {
        let (x, quantization) = quantization_of(module, reader)?;
        let output = module.nodes[reader].output;
        // Outputs keep their own values.
        let fits = quantization == as_first && !module.outputs.contains(&output);
        (x == node.output && fits).then_some(output)
    });
    let quantized: Vec<Id> = readers.collect();
    let moved = sources.iter().map(|(source, _)| source.quantized);
    let inputs = moved.chain(node.inputs[count..].iter().copied()).collect();
    (!quantized.is_empty()).then_some(Moved { inputs, dequantize: first.dequantize, quantized })
}

/// Moves integers instead, dequantizes the result, and drops what quantizes it.
fn replace(module: &mut Module, index: usize, Moved { inputs, dequantize, quantized }: Moved) {
    let output = module.nodes[index].output;
    let (name, shape) = (module.value(output).name.clone(), module.value(output).shape.clone());
    let integers = module.add_value(format!("{name}/int8"), DType::I8, shape);
    let like = module.nodes[dequantize].clone();
    let node = &mut module.nodes[index];
    (node.inputs, node.output) = (inputs, integers);
    let inputs = [&[integers], &like.inputs[1..]].concat();
    let name = format!("{name}/dequantized");
    let dequantized = Node { name, inputs, output, operation: like.operation, fused_from: vec![] };
    module.nodes.insert(index + 1, dequantized);
    for id in quantized {
        module.replace_uses(id, integers);
    }
}
