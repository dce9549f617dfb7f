//! Between floats and 8-bit integers, and arithmetic of the latter.

use super::super::{ImportError, NodeContext, OperatorEntry};
use super::windows::convolution;
use crate::op::{
    Conv, Dequantize, DequantizeBlocks, DynamicQuantization, Op, Quantize, QuantizeBlocks, Reshape,
    Unsqueeze,
};
use crate::{DType, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "DequantizeLinear", import: dequantize },
    OperatorEntry { name: "DynamicQuantizeLinear", import: dynamic_quantize },
    OperatorEntry { name: "MatMulInteger", import: matmul_integer },
    OperatorEntry { name: "QLinearConv", import: quantized_conv },
    OperatorEntry { name: "QLinearMatMul", import: quantized_matmul },
    OperatorEntry { name: "QuantizeLinear", import: quantize },
];

/// A tensor as a scalar when it is one of one element.
pub(super) fn scalar_of_one(
    node: &mut NodeContext<'_, '_>,
    id: ValueId,
) -> Result<ValueId, ImportError> {
    match node.fixed_dims(id).as_deref() {
        Some([1]) => node.add(Op::Reshape(Reshape { shape: Vec::new() }), &[id]),
        _ => Ok(id),
    }
}

/// Zeros of an integer type.
pub(super) fn zeros(
    node: &mut NodeContext<'_, '_>,
    dtype: DType,
    shape: &[usize],
) -> Result<ValueId, ImportError> {
    if crate::weights::checked_elements(shape).is_none_or(|elements| elements > 1 << 31) {
        return Err(node.invalid(format!("too many zero points: {shape:?}")));
    }
    node.weight(Tensor::zeros(dtype, shape))
}

/// The zero point at `index`, or that of 0, of the type of the value `like`.
pub(super) fn zero_point(
    node: &mut NodeContext<'_, '_>,
    index: usize,
    like: ValueId,
) -> Result<ValueId, ImportError> {
    match node.optional(index) {
        Some(zero) => scalar_of_one(node, zero),
        None => {
            let dtype = node.dtype(like);
            zeros(node, dtype, &[])
        }
    }
}

/// How a tensor is quantized.
enum Scheme {
    /// By one scale in all, or one an entry of a dimension.
    Scales(Option<usize>),
    /// By one scale a block.
    Blocks { axis: usize, block: usize },
}

/// The scheme, the scale, and the zero point of type `dtype` where the node has none.
fn scheme(
    node: &mut NodeContext<'_, '_>,
    dtype: DType,
) -> Result<(Scheme, ValueId, ValueId), ImportError> {
    let (x, scale) = (node.input(0)?, node.input(1)?);
    let scale = scalar_of_one(node, scale)?;
    let zero = match node.optional(2) {
        Some(zero) => scalar_of_one(node, zero)?,
        None => {
            let shape = node.fixed_dims(scale);
            let shape = shape.ok_or_else(|| {
                node.unsupported("a zero point left out for scales whose number is not fixed")
            })?;
            zeros(node, dtype, &shape)?
        }
    };
    let block = usize::try_from(node.int_or("block_size", 0));
    let block = block.map_err(|_| node.invalid("expected a block size of at least 0"))?;
    let scheme = if node.rank(scale) == 0 {
        Scheme::Scales(None)
    } else {
        let axis = node.axis_of(node.int_or("axis", 1), node.rank(x))?;
        if block == 0 { Scheme::Scales(Some(axis)) } else { Scheme::Blocks { axis, block } }
    };
    Ok((scheme, scale, zero))
}

pub(super) fn quantize(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let named = node.int("output_dtype").filter(|&number| number != 0);
    let dtype = match named {
        Some(_) => node.element_type("output_dtype")?.unwrap_or(DType::U8),
        None => DType::U8,
    };
    if !matches!(dtype, DType::I8 | DType::U8) {
        return Err(node.unsupported(format!("`output_dtype` = {dtype}")));
    }
    let (scheme, scale, zero) = scheme(node, dtype)?;
    if node.dtype(x) == DType::I32 {
        return Err(node.unsupported("an input of type i32"));
    }
    let op = match scheme {
        Scheme::Scales(axis) => Op::Quantize(Quantize { axis }),
        Scheme::Blocks { axis, block } => Op::QuantizeBlocks(QuantizeBlocks { axis, block }),
    };
    node.output(0, op, &[x, scale, zero])
}

pub(super) fn dequantize(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let dtype = node.dtype(x);
    let (scheme, scale, zero) = scheme(node, dtype)?;
    let op = match scheme {
        Scheme::Scales(axis) => Op::Dequantize(Dequantize { axis }),
        Scheme::Blocks { axis, block } => Op::DequantizeBlocks(DequantizeBlocks { axis, block }),
    };
    node.output(0, op, &[x, scale, zero])
}

fn dynamic_quantize(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let scale = node.add(Op::DynamicQuantization(DynamicQuantization::Scale), &[x])?;
    let zero = node.add(Op::DynamicQuantization(DynamicQuantization::ZeroPoint), &[x])?;
    node.output(0, Op::Quantize(Quantize { axis: None }), &[x, scale, zero])?;
    node.set(1, scale);
    node.set(2, zero);
    Ok(())
}

fn matmul_integer(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    if node.rank(a) < 2 || node.rank(b) < 2 {
        return Err(node.unsupported("a vector"));
    }
    let mut a_zero = zero_point(node, 2, a)?;
    // One zero point a row stands in a column.
    if node.rank(a_zero) == 1 {
        a_zero = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[a_zero])?;
    }
    let b_zero = zero_point(node, 3, b)?;
    node.output(0, Op::MatMulInteger, &[a, b, a_zero, b_zero])
}

/// The f32 form of the quantized input at `index`, whose scale and zero point follow it; a scale
/// for each entry is one for each of dimension `axis`.
pub(super) fn dequantized(
    node: &mut NodeContext<'_, '_>,
    index: usize,
    axis: usize,
) -> Result<ValueId, ImportError> {
    let (x, scale) = (node.input(index)?, node.input(index + 1)?);
    let scale = scalar_of_one(node, scale)?;
    let axis = match node.rank(scale) {
        0 => None,
        1 => Some(axis),
        rank => return Err(node.unsupported(format!("a scale of {rank} dimensions"))),
    };
    let mut zero = zero_point(node, index + 2, x)?;
    if axis.is_some() && node.rank(zero) == 0 {
        zero = repeated(node, zero, scale)?;
    }
    node.add(Op::Dequantize(Dequantize { axis }), &[x, scale, zero])
}

/// The scalar `x` once for each entry of the vector `like`.
pub(super) fn repeated(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    like: ValueId,
) -> Result<ValueId, ImportError> {
    let Some([count]) = node.fixed_dims(like).and_then(|sizes| <[usize; 1]>::try_from(sizes).ok())
    else {
        return Err(node.unsupported("scales whose number is not fixed"));
    };
    if crate::weights::checked_elements(&[count]).is_none_or(|count| count > 1 << 31) {
        return Err(node.invalid(format!("too many scales: {count}")));
    }
    let x = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![0] }), &[x])?;
    let first = node.weight(Tensor::zeros(DType::I64, &[count]))?;
    node.add(Op::Gather(crate::op::Gather { axis: 0 }), &[x, first])
}

/// Writes the f32 value `y` as the quantized output, whose scale is at `index`.
fn requantize(node: &mut NodeContext<'_, '_>, y: ValueId, index: usize) -> Result<(), ImportError> {
    let (op, inputs) = requantized(node, y, index)?;
    node.output(0, op, &inputs)
}

/// The f32 value `y` by the scale at `index` and the zero point behind it: what comes last, and its
/// inputs.
pub(super) fn requantized(
    node: &mut NodeContext<'_, '_>,
    y: ValueId,
    index: usize,
) -> Result<(Op, Vec<ValueId>), ImportError> {
    let scale = node.input(index)?;
    let scale = scalar_of_one(node, scale)?;
    let zero = zero_point(node, index + 1, node.input(0)?)?;
    if node.rank(scale) != 0 {
        return Err(node.unsupported("several scales of the output"));
    }
    Ok((Op::Quantize(Quantize { axis: None }), vec![y, scale, zero]))
}

fn quantized_matmul(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (a, b) = (node.input(0)?, node.input(3)?);
    if node.rank(a) < 2 || node.rank(b) < 2 {
        return Err(node.unsupported("a vector"));
    }
    let (row, column) = (node.rank(a) - 2, node.rank(b) - 1);
    let a = dequantized(node, 0, row)?;
    let b = dequantized(node, 3, column)?;
    let y = node.add(Op::MatMul, &[a, b])?;
    requantize(node, y, 6)
}

fn quantized_conv(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = dequantized(node, 0, 1)?;
    let y = conv_of(node, x)?;
    requantize(node, y, 6)
}

/// The convolution of the f32 value `x` with the quantized weight; its i32 bias has the product of
/// the two scales.
pub(super) fn conv_of(node: &mut NodeContext<'_, '_>, x: ValueId) -> Result<ValueId, ImportError> {
    let (window, groups) = convolution(node, node.input(3)?)?;
    let weight = dequantized(node, 3, 0)?;
    let mut inputs = vec![x, weight];
    if let Some(bias) = node.optional(8) {
        inputs.push(bias_of(node, bias, 1.0)?);
    }
    node.add(Op::Conv(Conv { window, groups }), &inputs)
}

/// A bias of i32 whose scale is `factor` times those of the operands, at 1 and 4.
pub(super) fn bias_of(
    node: &mut NodeContext<'_, '_>,
    bias: ValueId,
    factor: f32,
) -> Result<ValueId, ImportError> {
    let (x_scale, weight_scale) = (node.input(1)?, node.input(4)?);
    let x_scale = scalar_of_one(node, x_scale)?;
    let weight_scale = scalar_of_one(node, weight_scale)?;
    let scale = node.add(Op::Mul, &[x_scale, weight_scale])?;
    let scale = super::arithmetic::scaled(node, scale, factor)?;
    let axis = (node.rank(scale) == 1).then(|| node.rank(bias).saturating_sub(1));
    let mut zero = zeros(node, DType::I32, &[])?;
    if axis.is_some() {
        zero = repeated(node, zero, scale)?;
    }
    node.add(Op::Dequantize(Dequantize { axis }), &[bias, scale, zero])
}
