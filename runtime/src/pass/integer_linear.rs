//! Product of a dequantized int8 activation with dequantized constant int8 weights, perhaps
//! transposed → the product in integers. The quantized activation may have other readers: only the detour through f32 goes.

use graph::op::Dequantize;
use graph::{DType, Op, Tensor};
use kernels::Activation;
use kernels::int8::Quantization;

use super::repeat;
use crate::module::{Id, InputScale, IntegerLinear, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, turn_weights);
    let fired = repeat(module, rewrite);
    module.sweep();
    fired
}

/// A dequantized constant int8 matrix that is transposed, as `Gemm` wants it → the transposed matrix,
/// dequantized.
fn turn_weights(module: &mut Module, index: usize) -> bool {
    let found = || {
        let node = &module.nodes[index];
        let Operation::Graph(Op::Transpose(transpose)) = &node.operation else { return None };
        let (dequantize, Op::Dequantize(op)) = module.produced(*node.inputs.first()?)? else {
            return None;
        };
        let inputs = module.nodes[dequantize].inputs.clone();
        let tensor = module.constant(*inputs.first()?)?;
        let (&[rows, columns], [1, 0]) = (tensor.shape(), transpose.permutation.as_slice()) else {
            return None;
        };
        let elements = tensor.elements::<i8>().ok()?;
        let turned = Tensor::from_fn(&[columns, rows], |i| elements[i % rows * columns + i / rows]);
        let op = Dequantize { axis: op.axis.map(|axis| 1 - axis) };
        let names = [dequantize, index].map(|node| module.nodes[node].name.clone());
        Some((turned, op, inputs, names))
    };
    let Some((turned, op, mut inputs, names)) = found() else { return false };
    inputs[0] = module.add_constant(format!("{}/turned", names[1]), turned);
    let node = &mut module.nodes[index];
    node.fused_from = names.to_vec();
    node.operation = Operation::Graph(Op::Dequantize(op));
    node.inputs = inputs;
    true
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let (Operation::Graph(Op::MatMul), [x, w]) = (&node.operation, node.inputs.as_slice()) else {
        return false;
    };
    let (Some((x, input)), Some((w, weight_scales))) = (activation(module, *x), weight(module, *w))
    else {
        return false;
    };
    let names = [x, w].into_iter().flat_map(|source| {
        let node = &module.nodes[source.dequantize];
        match node.fused_from.as_slice() {
            [] => vec![node.name.clone()],
            names => names.to_vec(),
        }
    });
    let names: Vec<String> = names.collect();
    let activation = Activation::Identity;
    let layer =
        IntegerLinear { input: InputScale::Given(input), weight_scales, activation, output: None };
    module.fuse(index, &[index], Operation::IntegerLinear(layer), vec![x.quantized, w.quantized]);
    module.nodes[index].fused_from.splice(0..0, names);
    true
}

/// An int8 value and the node that dequantizes it.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) quantized: Id,
    pub(super) dequantize: usize,
}

/// An activation with one constant scale and zero point.
pub(super) fn activation(module: &Module, id: Id) -> Option<(Source, Quantization)> {
    let (dequantize, Op::Dequantize(op)) = module.produced(id)? else { return None };
    let [quantized, scale, zero_point] = module.nodes[dequantize].inputs[..] else { return None };
    if op.axis.is_some() || module.value(quantized).dtype != DType::I8 {
        return None;
    }
    let source = Source { quantized, dequantize };
    Some((source, per_tensor(module, scale, zero_point)?))
}

/// The quantization of one constant scale and one constant int8 zero point.
pub(crate) fn per_tensor(module: &Module, scale: Id, zero_point: Id) -> Option<Quantization> {
    let scale = module.scalar(scale).filter(|scale| *scale > 0.0 && scale.is_finite())?;
    let [zero_point] = *module.constant(zero_point)?.elements::<i8>().ok()? else { return None };
    Some(Quantization { zero_point, ..Quantization::symmetric(scale) })
}

/// What a node quantizes and how, when it is a quantization to int8 with one constant scale.
pub(super) fn quantization_of(module: &Module, index: usize) -> Option<(Id, Quantization)> {
    let node = &module.nodes[index];
    let Operation::Graph(Op::Quantize(op)) = &node.operation else { return None };
    let [x, scale, zero_point] = node.inputs[..] else { return None };
    let to_int8 = op.axis.is_none() && module.value(node.output).dtype == DType::I8;
    let to = per_tensor(module, scale, zero_point).filter(|_| to_int8)?;
    Some((x, to))
}

/// Constant weights `[k, n]` with zero points 0 and a scale for all or for each column.
fn weight(module: &Module, id: Id) -> Option<(Source, Vec<f32>)> {
    let found = constant_weight(module, id, 1)?;
    let tensor: &Tensor = module.constant(found.0.quantized)?;
    let &[_, columns] = tensor.shape() else { return None };
    column_sums_fit(tensor.elements().ok()?, columns).then_some(found)
}

/// Constant int8 weights with zero points 0 and a scale for all or for each index along `axis`.
pub(super) fn constant_weight(module: &Module, id: Id, axis: usize) -> Option<(Source, Vec<f32>)> {
    let (dequantize, Op::Dequantize(op)) = module.produced(id)? else { return None };
    let [quantized, scale, zero_point] = module.nodes[dequantize].inputs[..] else { return None };
    let tensor = module.constant(quantized)?;
    let columns = *tensor.shape().get(axis)?;
    let zeros = module.constant(zero_point)?.elements::<i8>().ok()?;
    let scales = module.constant(scale)?.elements::<f32>().ok()?;
    if tensor.elements::<i8>().is_err() || zeros.iter().any(|&zero| zero != 0) {
        return None;
    }
    let scales = match op.axis {
        None => vec![*scales.first()?; columns],
        Some(found) if found == axis => scales.to_vec(),
        Some(_) => return None,
    };
    Some((Source { quantized, dequantize }, scales))
}

/// The most that weights may sum up to whose products with int8 inputs fit an `i32`: an input is at most
/// 255 steps from its zero point.
const MOST: u64 = i32::MAX as u64 / 255;

/// Whether so many weights are so few that their sums always fit: none is beyond ±128.
fn are_few(weights: usize) -> bool {
    weights as u64 * 128 <= MOST
}

/// Whether each sum of products of a column fits an `i32`.
pub(super) fn column_sums_fit(weights: &[i8], columns: usize) -> bool {
    if are_few(weights.len() / columns.max(1)) {
        return true;
    }
    let mut sums = vec![0u64; columns];
    for row in weights.chunks_exact(columns) {
        for (sum, weight) in sums.iter_mut().zip(row) {
            *sum += u64::from(weight.unsigned_abs());
        }
    }
    sums.iter().all(|sum| *sum <= MOST)
}

/// The same for rows of so many weights.
pub(super) fn row_sums_fit(weights: &[i8], row_len: usize) -> bool {
    let sum = |row: &[i8]| row.iter().map(|weight| u64::from(weight.unsigned_abs())).sum::<u64>();
    are_few(row_len) || weights.chunks(row_len.max(1)).all(|row| sum(row) <= MOST)
}

#[cfg(test)]
mod tests {
    use super::column_sums_fit;

    #[test]
    fn sums_are_bounded_column_by_column() {
        let most = i32::MAX as usize / 255 / 127;
        for (rows, fits) in [(most, true), (most + 1, false)] {
            let weights: Vec<i8> = (0..rows).flat_map(|_| [1, -127, 0]).collect();
            assert_eq!(column_sums_fit(&weights, 3), fits, "{rows} rows");
        }
        assert!(column_sums_fit(&[], 0));
    }
}
