//! Computes the dequantized weights that no integer pass could use: they run in f32.

use graph::Op;

use super::fold_constants::fold;
use super::repeat;
use crate::module::Module;
use crate::module::Operation;

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| {
        let dequantize =
            matches!(module.nodes[index].operation, Operation::Graph(Op::Dequantize(_)));
        dequantize && fold(module, index)
    })
}
