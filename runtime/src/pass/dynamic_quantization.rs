//! Products in integers whose scales a run finds out, as tools write them that quantize finished models:
//! `DynamicQuantizeLinear`, `MatMulInteger`, cast, scaled → an int8 layer that finds the range of its
//! input. Where the weights do not fit int8 around their zero point, and of convolutions, the product of
//! the same integers in floats: exact up to 2²⁴.

use graph::op::{Cast, Conv, DynamicQuantization};
use graph::{DType, Op, Tensor};
use kernels::Activation;

use super::integer_linear::column_sums_fit;
use super::repeat;
use crate::module::{Id, InputScale, IntegerLinear, Module, Node, Operation};

/// Layers.
pub(super) fn run(module: &mut Module) -> usize {
    let fired = repeat(module, |module, index| layer(module, index).is_some());
    module.sweep();
    fired
}

/// What is left, in floats.
pub(super) fn run_floats(module: &mut Module) -> usize {
    let fired = repeat(module, |module, index| in_floats(module, index).is_some());
    module.sweep();
    fired
}

/// `cast((quantized x)·w)·(scale of x · scale of w)` → a layer.
fn layer(module: &mut Module, index: usize) -> Option<()> {
    let Operation::Graph(Op::Mul) = module.nodes[index].operation else { return None };
    let [a, b] = module.nodes[index].inputs[..] else { return None };
    let (cast, product, scale) = [(a, b), (b, a)].into_iter().find_map(|(product, scale)| {
        let (cast, product) = cast_product(module, product)?;
        Some((cast, product, scale))
    })?;
    let Operation::Graph(Op::MatMulInteger) = module.nodes[product].operation else { return None };
    let [quantized, weight, zero, weight_zero] = module.nodes[product].inputs[..] else {
        return None;
    };
    let x = dynamically_quantized(module, quantized, zero)?;
    let centred = centred(module, weight, weight_zero)?;
    let &[_, columns] = centred.shape() else { return None };
    let weight_scales = weight_scales(module, x, scale, columns)?;
    let elements = int8_elements(&centred)?;
    let rank = |id: Id| module.value(id).shape.len();
    let is_as_deep = rank(x) >= 2 && rank(module.nodes[index].output) == rank(x);
    if !column_sums_fit(&elements, columns) || !is_as_deep {
        return None;
    }
    let tensor = Tensor::new(centred.shape(), elements).ok()?;
    let weight = module.add_constant(format!("{}/centred", module.value(weight).name), tensor);
    let operation = Operation::IntegerLinear(IntegerLinear {
        input: InputScale::OfRange,
        weight_scales,
        activation: Activation::Identity,
        output: None,
    });
    module.fuse(index, &[product, cast, index], operation, vec![x, weight]);
    Some(())
}

/// The cast to f32 that writes `id`, and the node before it, where nothing else reads either.
fn cast_product(module: &Module, id: Id) -> Option<(usize, usize)> {
    let (cast, &Op::Cast(Cast { to: DType::F32 })) = module.produced(id)? else { return None };
    let product = module.nodes[cast].inputs[0];
    let alone = module.uses(id) == 1 && module.uses(product) == 1;
    alone.then_some((cast, module.producer(product)?))
}

/// Whether `id` is a part of the quantization that meets the range of `x`.
fn is_of_range(module: &Module, id: Id, part: DynamicQuantization, x: Id) -> bool {
    module.produced(id).is_some_and(|(node, op)| {
        *op == Op::DynamicQuantization(part) && module.nodes[node].inputs == [x]
    })
}

/// What is quantized so that its own range is met.
fn dynamically_quantized(module: &Module, quantized: Id, zero: Id) -> Option<Id> {
    let (node, Op::Quantize(op)) = module.produced(quantized)? else { return None };
    let [x, scale, own_zero] = module.nodes[node].inputs[..] else { return None };
    let fits = op.axis.is_none()
        && is_of_range(module, scale, DynamicQuantization::Scale, x)
        && is_of_range(module, own_zero, DynamicQuantization::ZeroPoint, x)
        && is_of_range(module, zero, DynamicQuantization::ZeroPoint, x);
    fits.then_some(x)
}

/// Constant 8-bit integers less their zero points, in f32.
fn centred(module: &Module, weight: Id, zero: Id) -> Option<Tensor> {
    let numbers = |tensor: &Tensor| -> Option<Vec<f32>> {
        Some(match tensor.dtype() {
            DType::I8 => tensor.elements::<i8>().ok()?.iter().map(|&x| f32::from(x)).collect(),
            DType::U8 => tensor.elements::<u8>().ok()?.iter().map(|&x| f32::from(x)).collect(),
            _ => return None,
        })
    };
    let (weight, zero) = (module.constant(weight)?, module.constant(zero)?);
    let (elements, zeros) = (numbers(weight)?, numbers(zero)?);
    // One for all, or one for each column of a matrix.
    let columns = match (zeros.as_slice(), weight.shape()) {
        ([_], _) => 1,
        (_, [_, columns]) if zeros.len() == *columns => *columns,
        _ => return None,
    };
    let values = elements.iter().enumerate().map(|(index, x)| x - zeros[index % columns]);
    Tensor::new(weight.shape(), values.collect::<Vec<f32>>()).ok()
}

fn int8_elements(centred: &Tensor) -> Option<Vec<i8>> {
    let to_int8 = |&x: &f32| (-128.0..=127.0).contains(&x).then_some(x as i8);
    centred.elements::<f32>().ok()?.iter().map(to_int8).collect()
}

/// The constant scales, one a column, that the scale of x is multiplied with.
fn weight_scales(module: &Module, x: Id, scale: Id, columns: usize) -> Option<Vec<f32>> {
    let (node, Op::Mul) = module.produced(scale)? else { return None };
    let [a, b] = module.nodes[node].inputs[..] else { return None };
    let of_x = |id| is_of_range(module, id, DynamicQuantization::Scale, x);
    let other = module.constant(if of_x(a) { b } else { of_x(b).then_some(a)? })?;
    match (other.elements::<f32>().ok()?, other.shape()) {
        (&[one], _) => Some(vec![one; columns]),
        (scales, [count]) if *count == columns => Some(scales.to_vec()),
        _ => None,
    }
}

/// A product of integers → a product of floats: where it is cast to f32, and where all its sums are whole
/// numbers that floats hold, which are cast back.
fn in_floats(module: &mut Module, index: usize) -> Option<()> {
    let node = &module.nodes[index];
    let Operation::Graph(op) = &node.operation else { return None };
    let op = match op {
        Op::MatMulInteger => Op::MatMul,
        Op::ConvInteger(op) => Op::Conv(Conv { window: op.window.clone(), groups: op.groups }),
        _ => return None,
    };
    let [quantized, weight, zero, weight_zero] = node.inputs[..] else { return None };
    if !module.value(zero).shape.iter().all(|dim| dim.fixed() == Some(1)) {
        return None;
    }
    let (name, product) = (node.name.clone(), node.output);
    let weights = centred(module, weight, weight_zero)?;
    let is_cast =
        |node: &Node| node.operation == Operation::Graph(Op::Cast(Cast { to: DType::F32 }));
    let cast = module.only_consumer(product).filter(|&next| is_cast(&module.nodes[next]));
    if cast.is_none() && !sums_are_exact(&weights, matches!(op, Op::Conv(_))) {
        return None;
    }
    let weight = module.add_constant(format!("{name}/weight"), weights);
    let mut before = Vec::new();
    let mut add = |part: &str, op: Op, inputs: Vec<Id>, like: Id| {
        let shape = module.value(like).shape.clone();
        let name = format!("{name}/{part}");
        let output = module.add_value(name.clone(), DType::F32, shape);
        let operation = Operation::Graph(op);
        before.push(Node { name, operation, inputs, output, fused_from: Vec::new() });
        output
    };
    let [x, zero] = [("x", quantized), ("zero-point", zero)]
        .map(|(part, id)| add(part, Op::Cast(Cast { to: DType::F32 }), vec![id], id));
    let x = add("centred", Op::Sub, vec![x, zero], quantized);
    if let Some(cast) = cast {
        let inserted = before.len();
        module.nodes.splice(index..index, before);
        let (index, cast) = (index + inserted, cast + inserted);
        module.fuse(cast, &[index, cast], Operation::Graph(op), vec![x, weight]);
    } else {
        let y = add("product", op, vec![x, weight], product);
        let inserted = before.len();
        module.nodes.splice(index..index, before);
        let node = &mut module.nodes[index + inserted];
        node.operation = Operation::Graph(Op::Cast(Cast { to: DType::I32 }));
        node.inputs = vec![y];
    }
    Some(())
}

/// Whether no sum of products with numbers of 8 bits leaves the whole numbers that f32 holds: weights are
/// those of an output, in rows, or in columns.
fn sums_are_exact(weights: &Tensor, in_rows: bool) -> bool {
    const MOST: f64 = (1u32 << f32::MANTISSA_DIGITS) as f64 / 255.0;
    let (Ok(elements), Some(&columns)) = (weights.elements::<f32>(), weights.shape().last()) else {
        return false;
    };
    let row_len: usize = weights.shape().iter().skip(1).product();
    let outputs = if in_rows { weights.shape()[0] } else { columns };
    let mut sums = vec![0f64; outputs];
    for (index, weight) in elements.iter().enumerate() {
        let output = if in_rows { index / row_len } else { index % columns };
        sums[output] += f64::from(weight.abs());
    }
    sums.iter().all(|&sum| sum <= MOST)
}
