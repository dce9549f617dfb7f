//! Operators of 8-bit integers: each is its function of floats between a dequantization and a
//! quantization, which passes turn into integers where they can.

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use super::super::arithmetic::{over_one, over_the_rest, scaled};
use super::super::quantization::{
    bias_of, conv_of, dequantize, dequantized, quantize, repeated, requantized, scalar_of_one,
    zero_point,
};
use super::super::recurrent::{LSTM_FUNCTIONS, with_weights};
use super::super::windows::{averages, pool};
use super::layout::{channels_first, channels_last, is_channels_last};
use crate::op::{
    Cast, Cell, Concat, Dequantize, DynamicQuantization, GlobalPool, Op, PoolKind, Quantize,
    Reduce, ReduceKind, Softmax, Transpose, Unary, Unsqueeze,
};
use crate::{DType, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "DequantizeLinear", import: dequantize },
    OperatorEntry { name: "DynamicQuantizeLSTM", import: lstm },
    OperatorEntry { name: "DynamicQuantizeMatMul", import: dynamic_matmul },
    OperatorEntry { name: "MatMulIntegerToFloat", import: integer_matmul },
    OperatorEntry { name: "NhwcMaxPool", import: max_pool },
    OperatorEntry { name: "QGemm", import: gemm },
    OperatorEntry { name: "QLinearAdd", import: |node| binary(node, Op::Add) },
    OperatorEntry { name: "QLinearAveragePool", import: average_pool },
    OperatorEntry { name: "QLinearConcat", import: concat },
    OperatorEntry { name: "QLinearConv", import: conv },
    OperatorEntry { name: "QLinearGlobalAveragePool", import: global_average_pool },
    OperatorEntry { name: "QLinearLeakyRelu", import: leaky_relu },
    OperatorEntry { name: "QLinearMul", import: |node| binary(node, Op::Mul) },
    OperatorEntry { name: "QLinearReduceMean", import: mean },
    OperatorEntry { name: "QLinearSigmoid", import: |node| unary(node, Op::Unary(Unary::Sigmoid)) },
    OperatorEntry { name: "QLinearSoftmax", import: softmax },
    OperatorEntry { name: "QLinearWhere", import: choose },
    OperatorEntry { name: "QuantizeLinear", import: quantize },
];

/// Applies `op` to floats and writes what it gives by the scale at `index`.
fn requantize(
    node: &mut NodeContext<'_, '_>,
    op: Op,
    inputs: &[ValueId],
    index: usize,
) -> Result<(), ImportError> {
    let y = node.add(op, inputs)?;
    let (op, inputs) = requantized(node, y, index)?;
    node.output(0, op, &inputs)
}

fn unary(node: &mut NodeContext<'_, '_>, op: Op) -> Result<(), ImportError> {
    let x = dequantized(node, 0, 0)?;
    requantize(node, op, &[x], 3)
}

fn leaky_relu(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let alpha = node.float_or("alpha", 0.01);
    unary(node, Op::Unary(Unary::LeakyRelu { alpha }))
}

fn binary(node: &mut NodeContext<'_, '_>, op: Op) -> Result<(), ImportError> {
    let (a, b) = (dequantized(node, 0, 0)?, dequantized(node, 3, 0)?);
    requantize(node, op, &[a, b], 6)
}

fn choose(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let condition = node.input(0)?;
    let (a, b) = (dequantized(node, 1, 0)?, dequantized(node, 4, 0)?);
    let y = node.add(Op::Where, &[condition, a, b])?;
    quantized_like(node, y, [7, 8], 1)
}

/// Writes `y` by the scale and the zero point at two places, which has the type of the input at
/// `like` where there is none.
fn quantized_like(
    node: &mut NodeContext<'_, '_>,
    y: ValueId,
    [scale, zero]: [usize; 2],
    like: usize,
) -> Result<(), ImportError> {
    let scale = node.input(scale)?;
    let scale = scalar_of_one(node, scale)?;
    let zero = zero_point(node, zero, node.input(like)?)?;
    node.output(0, Op::Quantize(Quantize { axis: None }), &[y, scale, zero])
}

/// The output's scale and zero point come first, then each input with its own.
fn concat(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let count = node.inputs().len();
    if count < 5 || count % 3 != 2 {
        let reason = format!("expected a scale and a zero point an input, found {count} inputs");
        return Err(node.invalid(reason));
    }
    let axis = node.axis_of(node.int_or("axis", 0), node.rank(node.input(2)?))?;
    let parts = (2..count).step_by(3).map(|index| dequantized(node, index, 0));
    let parts = parts.collect::<Result<Vec<ValueId>, _>>()?;
    let y = node.add(Op::Concat(Concat { axis }), &parts)?;
    quantized_like(node, y, [0, 1], 2)
}

fn softmax(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = dequantized(node, 0, 0)?;
    let old = node.int_or("opset", 13) < 13;
    // The last one of either kind, unlike that of ONNX's own.
    let axis = node.axis_of(node.int_or("axis", -1), node.rank(x))?;
    let op = Op::Softmax(Softmax {});
    let last = if old { over_the_rest(node, op, x, axis) } else { over_one(node, op, x, axis) };
    let (op, inputs) = last?;
    requantize(node, op, &inputs, 3)
}

fn mean(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = dequantized(node, 0, 0)?;
    let rank = node.rank(x);
    let axes = match node.ints("axes") {
        Some(axes) if !axes.is_empty() => node.axes_of(&axes, rank)?,
        _ => (0..rank).collect(),
    };
    let (kind, keep_dims) = (ReduceKind::Mean, node.flag("keepdims", true));
    let op = Reduce { kind, axes: Some(axes), keep_dims, empty_means_none: false };
    requantize(node, Op::Reduce(op), &[x], 3)
}

/// Applies `op` to a quantized image, whose channels are the last dimension where the node says so,
/// and writes what it gives by the scale at `index`.
fn of_image(
    node: &mut NodeContext<'_, '_>,
    index: usize,
    apply: impl FnOnce(&mut NodeContext<'_, '_>, ValueId) -> Result<ValueId, ImportError>,
) -> Result<(), ImportError> {
    let last = is_channels_last(node, false);
    let mut x = dequantized(node, 0, 0)?;
    if last {
        x = channels_first(node, x)?;
    }
    let y = apply(node, x)?;
    let (op, inputs) = requantized(node, y, index)?;
    if !last {
        return node.output(0, op, &inputs);
    }
    let y = node.add(op, &inputs)?;
    node.output(0, channels_last(node.rank(y)), &[y])
}

fn average_pool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    of_image(node, 3, |node, x| {
        let pool = averages(node)?;
        node.add(pool, &[x])
    })
}

fn global_average_pool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    of_image(node, 3, |node, x| node.add(Op::GlobalPool(GlobalPool::Average), &[x]))
}

fn conv(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    of_image(node, 6, conv_of)
}

/// Of integers, as maxima are.
fn max_pool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let pool = pool(node, PoolKind::Max)?;
    let x = node.input(0)?;
    let x = channels_first(node, x)?;
    let y = node.add(Op::Pool(pool), &[x])?;
    node.output(0, channels_last(node.rank(y)), &[y])
}

/// A product of matrices that may be transposed, with an i32 bias. Without a scale of the output, that
/// is of floats.
fn gemm(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let swap = |flag: bool, node: &mut NodeContext<'_, '_>, x| {
        let swap = Op::Transpose(Transpose { permutation: vec![1, 0] });
        if flag { node.add(swap, &[x]) } else { Ok(x) }
    };
    let a = dequantized(node, 0, 0)?;
    let a = swap(node.flag("transA", false), node, a)?;
    // Constants are turned as the integers that they are.
    let b = node.input(3)?;
    let b = swap(node.flag("transB", false), node, b)?;
    let b = dequantized_columns(node, b, [4, 5])?;
    let alpha = node.float_or("alpha", 1.0);
    let y = node.add(Op::MatMul, &[a, b])?;
    let mut y = scaled(node, y, alpha)?;
    if let Some(bias) = node.optional(6) {
        let bias = bias_of(node, bias, alpha)?;
        y = node.add(Op::Add, &[y, bias])?;
    }
    if node.optional(7).is_none() {
        node.set(0, y);
        return Ok(());
    }
    let (op, inputs) = requantized(node, y, 7)?;
    node.output(0, op, &inputs)
}

/// The f32 form of the matrix `x` by a scale and a zero point in all or a column, which are the inputs
/// at two places.
fn dequantized_columns(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    [scale, zero]: [usize; 2],
) -> Result<ValueId, ImportError> {
    let scale = node.input(scale)?;
    let mut scale = scalar_of_one(node, scale)?;
    let mut zero = zero_point(node, zero, x)?;
    let axis = match (node.rank(scale), node.rank(zero)) {
        (0, 0) => None,
        (0, 1) => {
            scale = repeated(node, scale, zero)?;
            Some(node.rank(x).saturating_sub(1))
        }
        (1, 0) => {
            zero = repeated(node, zero, scale)?;
            Some(node.rank(x).saturating_sub(1))
        }
        (1, 1) => Some(node.rank(x).saturating_sub(1)),
        (rank, _) => return Err(node.unsupported(format!("a scale of {rank} dimensions"))),
    };
    node.add(Op::Dequantize(Dequantize { axis }), &[x, scale, zero])
}

/// Writes the product of floats, with a bias where the input at `bias` is there.
fn product(
    node: &mut NodeContext<'_, '_>,
    a: ValueId,
    b: ValueId,
    bias: usize,
) -> Result<(), ImportError> {
    if node.rank(a) < 2 || node.rank(b) < 2 {
        return Err(node.unsupported("a vector"));
    }
    let Some(bias) = node.optional(bias) else { return node.output(0, Op::MatMul, &[a, b]) };
    let product = node.add(Op::MatMul, &[a, b])?;
    node.output(0, Op::Add, &[product, bias])
}

/// The product of integers is exact, as is that of the floats that they stand for but for rounding.
fn integer_matmul(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (a, scale) = (node.input(0)?, node.input(2)?);
    let scale = scalar_of_one(node, scale)?;
    let zero = zero_point(node, 4, a)?;
    if node.rank(scale) != 0 || node.rank(zero) != 0 {
        return Err(node.unsupported("several scales of the first input"));
    }
    let a = node.add(Op::Dequantize(Dequantize { axis: None }), &[a, scale, zero])?;
    let b = node.input(1)?;
    let b = dequantized_columns(node, b, [3, 5])?;
    product(node, a, b, 6)
}

/// As [`integer_matmul`] of a first input that is rounded by its own range.
fn dynamic_matmul(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let a = node.input(0)?;
    let a = rounded(node, a)?;
    let b = node.input(1)?;
    let b = dequantized_columns(node, b, [2, 3])?;
    product(node, a, b, 4)
}

/// `x` as u8 with the scale and zero point of its range, and back.
fn rounded(node: &mut NodeContext<'_, '_>, x: ValueId) -> Result<ValueId, ImportError> {
    let scale = node.add(Op::DynamicQuantization(DynamicQuantization::Scale), &[x])?;
    let zero = node.add(Op::DynamicQuantization(DynamicQuantization::ZeroPoint), &[x])?;
    let quantized = node.add(Op::Quantize(Quantize { axis: None }), &[x, scale, zero])?;
    node.add(Op::Dequantize(Dequantize { axis: None }), &[quantized, scale, zero])
}

/// An LSTM with the weights that the integers stand for. What onnxruntime also rounds, input and states
/// of each step, stays as it is, which is nearer to the layer that was quantized.
fn lstm(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let weights = [lstm_weight(node, 1, 8)?, lstm_weight(node, 2, 10)?];
    let input_forget = node.flag("input_forget", false);
    with_weights(node, Cell::Lstm { input_forget }, &LSTM_FUNCTIONS, weights)
}

/// The weight at `index`, `[directions, size, 4 · hidden]`, as `[directions, 4 · hidden, size]` of
/// floats. Scale and zero point, at `scale` and behind it, are one a direction or one a column of a
/// direction.
fn lstm_weight(
    node: &mut NodeContext<'_, '_>,
    index: usize,
    scale: usize,
) -> Result<ValueId, ImportError> {
    let (x, zero, scale) = (node.input(index)?, node.input(scale + 1)?, node.input(scale)?);
    if !matches!(node.dtype(x), DType::I8 | DType::U8) || node.rank(x) != 3 {
        return Err(node.invalid("expected weights of 8-bit integers in three dimensions"));
    }
    let to_floats =
        |node: &mut NodeContext<'_, '_>, x| node.add(Op::Cast(Cast { to: DType::F32 }), &[x]);
    let aligned = |node: &mut NodeContext<'_, '_>, parameter| match node.rank(parameter) {
        1 => node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1, 2] }), &[parameter]),
        2 => node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[parameter]),
        rank => Err(node.unsupported(format!("a scale of {rank} dimensions"))),
    };
    let zero = to_floats(node, zero)?;
    let (zero, scale) = (aligned(node, zero)?, aligned(node, scale)?);
    let x = to_floats(node, x)?;
    let centred = node.add(Op::Sub, &[x, zero])?;
    let scaled = node.add(Op::Mul, &[centred, scale])?;
    node.add(Op::Transpose(Transpose { permutation: vec![0, 2, 1] }), &[scaled])
}
