//! Gather of a dequantized int8 table → gather of int8 rows that dequantizes what it picks.
//! The table stays a quarter of its size.

use graph::{DType, Op};

use super::repeat;
use crate::module::{Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let fired = repeat(module, rewrite);
    module.sweep();
    fired
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let (Operation::Graph(Op::Gather(gather)), [table, indices]) =
        (&node.operation, node.inputs.as_slice())
    else {
        return false;
    };
    let Some((producer, Op::Dequantize(dequantize))) = module.produced(*table) else {
        return false;
    };
    let [table, scale, zero_point] = module.nodes[producer].inputs[..] else { return false };
    let zero = module.constant(zero_point).and_then(|tensor| tensor.elements::<i8>().ok());
    let fits = gather.axis == 0
        && module.value(table).dtype == DType::I8
        && module.value(table).shape.len() == 2
        && module.value(*indices).dtype == DType::I64
        && module.constant(table).is_some()
        && module.constant(scale).is_some()
        && zero.is_some_and(|zero| zero.iter().all(|&zero| zero == 0));
    if !fits {
        return false;
    }
    let (axis, indices) = (dequantize.axis, *indices);
    let name = module.nodes[producer].name.clone();
    let operation = Operation::IntegerGather { axis };
    module.fuse(index, &[index], operation, vec![table, scale, indices]);
    module.nodes[index].fused_from.insert(0, name);
    true
}
