//! Quantization to unsigned integers, then only dequantizations → the same with signed ones, 128 lower,
//! which integer kernels know. NaN, which became 0, becomes 128 steps more: ONNX does not say what it is.

use graph::{DType, Op, Tensor};

use super::repeat;
use crate::module::{Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let output = node.output;
    let is_unsigned = module.value(output).dtype == DType::U8;
    if !is_unsigned || !matches!(node.operation, Operation::Graph(Op::Quantize(_))) {
        return false;
    }
    let reads = |node: &Node| node.inputs.contains(&output);
    let readers: Vec<usize> =
        (0..module.nodes.len()).filter(|&reader| reads(&module.nodes[reader])).collect();
    let dequantizes = |&reader: &usize| {
        let node = &module.nodes[reader];
        matches!(node.operation, Operation::Graph(Op::Dequantize(_)))
            && node.inputs.first() == Some(&output)
    };
    if module.outputs.contains(&output) || !readers.iter().all(dequantizes) {
        return false;
    }
    let all: Vec<usize> = [&[index], readers.as_slice()].concat();
    let lowered: Option<Vec<Tensor>> = all.iter().map(|&node| lowered(module, node)).collect();
    let Some(lowered) = lowered else { return false };
    for (node, zeros) in all.into_iter().zip(lowered) {
        let name = format!("{}/zero-point", module.nodes[node].name);
        module.nodes[node].inputs[2] = module.add_constant(name, zeros);
    }
    module.values[output.0].dtype = DType::I8;
    true
}

/// The constant zero points of a node, 128 lower.
fn lowered(module: &Module, node: usize) -> Option<Tensor> {
    let zeros: Id = *module.nodes[node].inputs.get(2)?;
    let zeros = module.constant(zeros)?;
    let elements = zeros.elements::<u8>().ok()?;
    // Flipping the highest bit takes 128 off, in two's complement.
    Some(Tensor::from_fn(zeros.shape(), |index| (elements[index] ^ 0x80).cast_signed()))
}
