//! Convolution and pooling.

use super::super::{ImportError, NodeContext, OperatorEntry, RANK_LIMIT};
use crate::op::{
    AveragePadding, Col2Im, Concat, Conv, ConvInteger, ConvTranspose, DeformConv, Expand,
    GlobalPool, Op, Pad, PadMode, Padding, Pool, PoolKind, Reduce, ReduceKind, ReshapeTo, Rounding,
    ScatterElements, Scattering, ShapeOf, StorageOrder, Window,
};
use crate::{Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "AveragePool", import: average_pool },
    OperatorEntry { name: "Col2Im", import: col2im },
    OperatorEntry { name: "Conv", import: conv },
    OperatorEntry { name: "ConvInteger", import: conv_integer },
    OperatorEntry { name: "ConvTranspose", import: conv_transpose },
    OperatorEntry { name: "DeformConv", import: deform_conv },
    OperatorEntry {
        name: "GlobalAveragePool",
        import: |node| global_pool(node, GlobalPool::Average),
    },
    OperatorEntry { name: "GlobalLpPool", import: global_lp_pool },
    OperatorEntry { name: "GlobalMaxPool", import: |node| global_pool(node, GlobalPool::Max) },
    OperatorEntry { name: "LpPool", import: lp_pool },
    OperatorEntry { name: "MaxPool", import: max_pool },
    OperatorEntry { name: "MaxUnpool", import: max_unpool },
];

/// A list of sizes, or `default` for each of `count` dimensions.
fn sizes(
    node: &NodeContext<'_, '_>,
    name: &str,
    count: usize,
    default: usize,
) -> Result<Vec<usize>, ImportError> {
    let Some(numbers) = node.ints(name) else { return Ok(vec![default; count]) };
    if numbers.len() != count {
        return Err(node.invalid(format!("expected {count} `{name}`, found {numbers:?}")));
    }
    let size = |&number: &i64| {
        let size = usize::try_from(number);
        size.map_err(|_| node.unsupported(format!("`{name}` = {numbers:?}")))
    };
    numbers.iter().map(size).collect()
}

fn padding(node: &NodeContext<'_, '_>, count: usize) -> Result<Padding, ImportError> {
    match node.text_or("auto_pad", "NOTSET").as_str() {
        "SAME_UPPER" => Ok(Padding::SameUpper),
        "SAME_LOWER" => Ok(Padding::SameLower),
        "VALID" => Ok(Padding::Explicit { before: vec![0; count], after: vec![0; count] }),
        "NOTSET" | "" => {
            let mut before = sizes(node, "pads", 2 * count, 0)?;
            let after = before.split_off(count);
            Ok(Padding::Explicit { before, after })
        }
        other => Err(node.unsupported(format!("auto_pad = `{other}`"))),
    }
}

/// The window of a node whose input has `count` spatial dimensions.
fn window(node: &NodeContext<'_, '_>, kernel: Vec<usize>) -> Result<Window, ImportError> {
    let count = kernel.len();
    Ok(Window {
        strides: sizes(node, "strides", count, 1)?,
        dilations: sizes(node, "dilations", count, 1)?,
        padding: padding(node, count)?,
        kernel,
    })
}

/// The kernel of a convolution: that of its weight where the node does not say.
fn conv_kernel(node: &NodeContext<'_, '_>, weight: ValueId) -> Result<Vec<usize>, ImportError> {
    let shape = node.shape(weight);
    let kernel = shape.get(2..).unwrap_or_default();
    if node.has("kernel_shape") {
        return sizes(node, "kernel_shape", kernel.len(), 1);
    }
    let kernel: Option<Vec<usize>> = kernel.iter().map(crate::Dim::fixed).collect();
    kernel.ok_or_else(|| node.unsupported("a weight whose shape is not fixed"))
}

/// The window and the groups of a convolution.
pub(super) fn convolution(
    node: &NodeContext<'_, '_>,
    weight: ValueId,
) -> Result<(Window, usize), ImportError> {
    let window = window(node, conv_kernel(node, weight)?)?;
    let groups = node.int_or("group", 1);
    let groups = usize::try_from(groups).ok().filter(|&groups| groups > 0);
    Ok((window, groups.ok_or_else(|| node.invalid("expected at least one group"))?))
}

/// The weight and what may follow it.
pub(super) fn conv_inputs(node: &NodeContext<'_, '_>) -> Result<Vec<ValueId>, ImportError> {
    Ok([Some(node.input(0)?), Some(node.input(1)?), node.optional(2)]
        .into_iter()
        .flatten()
        .collect())
}

fn conv(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (window, groups) = convolution(node, node.input(1)?)?;
    let inputs = conv_inputs(node)?;
    node.output(0, Op::Conv(Conv { window, groups }), &inputs)
}

fn conv_integer(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, weight) = (node.input(0)?, node.input(1)?);
    let (window, groups) = convolution(node, weight)?;
    let x_zero = super::quantization::zero_point(node, 2, x)?;
    let weight_zero = super::quantization::zero_point(node, 3, weight)?;
    let op = Op::ConvInteger(ConvInteger { window, groups });
    node.output(0, op, &[x, weight, x_zero, weight_zero])
}

fn conv_transpose(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (window, groups) = convolution(node, node.input(1)?)?;
    let count = window.kernel.len();
    let output_padding = sizes(node, "output_padding", count, 0)?;
    let output_shape = match node.ints("output_shape") {
        // Some files give the batch and the channels, too.
        Some(shape) if shape.len() == count + 2 => {
            let spatial = shape[2..].iter().map(|&size| usize::try_from(size));
            let spatial = spatial.collect::<Result<_, _>>();
            Some(spatial.map_err(|_| node.invalid(format!("output_shape = {shape:?}")))?)
        }
        Some(_) => Some(sizes(node, "output_shape", count, 0)?),
        None => None,
    };
    let inputs = conv_inputs(node)?;
    let op = ConvTranspose { window, groups, output_padding, output_shape };
    node.output(0, Op::ConvTranspose(op), &inputs)
}

/// The pool of one kind that a node stands for.
pub(super) fn pool(node: &NodeContext<'_, '_>, kind: PoolKind) -> Result<Pool, ImportError> {
    let count = node.rank(node.input(0)?).saturating_sub(2);
    if !node.has("kernel_shape") {
        return Err(node.unsupported("no `kernel_shape`"));
    }
    let window = window(node, sizes(node, "kernel_shape", count, 1)?)?;
    // Where the padding follows from the stride, every window is whole.
    let same = matches!(window.padding, Padding::SameUpper | Padding::SameLower);
    let ceil = node.flag("ceil_mode", false) && !same;
    Ok(Pool { kind, window, rounding: if ceil { Rounding::Ceil } else { Rounding::Floor } })
}

fn max_pool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let order = match node.int_or("storage_order", 0) {
        0 => StorageOrder::RowMajor,
        1 => StorageOrder::ColumnMajor,
        other => return Err(node.unsupported(format!("storage_order = {other}"))),
    };
    for (index, kind) in [PoolKind::Max, PoolKind::MaxIndex { order }].into_iter().enumerate() {
        let pool = pool(node, kind)?;
        node.output(index, Op::Pool(pool), &[x])?;
    }
    Ok(())
}

fn average_pool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let pool = averages(node)?;
    node.output(0, pool, &[x])
}

/// The average pool that a node stands for.
pub(super) fn averages(node: &NodeContext<'_, '_>) -> Result<Op, ImportError> {
    let padding = if node.flag("count_include_pad", false) {
        AveragePadding::Zeros
    } else {
        AveragePadding::Excluded
    };
    Ok(Op::Pool(pool(node, PoolKind::Average { padding })?))
}

/// The power of a norm, which was a float in version 1.
fn power(node: &NodeContext<'_, '_>) -> Result<f32, ImportError> {
    let p = if node.opset() < 2 { node.float_or("p", 2.0) } else { node.int_or("p", 2) as f32 };
    if p > 0.0 { Ok(p) } else { Err(node.unsupported(format!("p = {p}"))) }
}

fn lp_pool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let pool = pool(node, PoolKind::Lp { p: power(node)? })?;
    node.output(0, Op::Pool(pool), &[x])
}

fn global_lp_pool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let p = power(node)?;
    global_pool(node, GlobalPool::Lp { p })
}

fn global_pool(node: &mut NodeContext<'_, '_>, pool: GlobalPool) -> Result<(), ImportError> {
    let x = node.input(0)?;
    node.output(0, Op::GlobalPool(pool), &[x])
}

fn col2im(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let image = node.shape(node.input(1)?);
    let &[Dim::Fixed(axes)] = image.as_slice() else {
        return Err(node.unsupported("an image whose number of axes is not known"));
    };
    if axes > RANK_LIMIT {
        return Err(node.invalid(format!("expected {RANK_LIMIT} axes at most, found {axes}")));
    }
    let op = Col2Im {
        strides: sizes(node, "strides", axes, 1)?,
        dilations: sizes(node, "dilations", axes, 1)?,
        padding: padding(node, axes)?,
    };
    node.output(0, Op::Col2Im(op), &inputs)
}

fn deform_conv(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (window, groups) = convolution(node, node.input(1)?)?;
    if window.kernel.len() != 2 {
        return Err(node.unsupported("an input that is no image"));
    }
    let offset_groups = node.int_or("offset_group", 1);
    let offset_groups = usize::try_from(offset_groups).ok().filter(|&groups| groups > 0);
    let offset_groups =
        offset_groups.ok_or_else(|| node.invalid("expected at least one group of offsets"))?;
    let (bias, mask) = (node.optional(3).is_some(), node.optional(4).is_some());
    let inputs: Vec<ValueId> = node.inputs().iter().copied().flatten().collect();
    let op = DeformConv { window, groups, offset_groups, bias, mask };
    node.output(0, Op::DeformConv(op), &inputs)
}

/// Each element at the place that it had before the pool, as a flat index; zeros elsewhere.
fn max_unpool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, places) = (node.input(0)?, node.input(1)?);
    let rank = node.rank(x);
    if rank < 3 || !node.has("kernel_shape") {
        return Err(node.invalid("expected images and a kernel"));
    }
    let window = window(node, sizes(node, "kernel_shape", rank - 2, 1)?)?;
    let Padding::Explicit { before, after } = &window.padding else {
        return Err(node.unsupported("`auto_pad`"));
    };
    let outer = node.add(Op::ShapeOf(ShapeOf { start: 0, end: 2 }), &[x])?;
    let inner = node.add(Op::ShapeOf(ShapeOf { start: 2, end: rank }), &[x])?;
    let list = |numbers: &mut dyn Iterator<Item = i128>| -> Vec<i64> {
        numbers.map(|number| i64::try_from(number).unwrap_or(i64::MAX)).collect()
    };
    let strides = list(&mut window.strides.iter().map(|&stride| stride as i128));
    let beside = list(&mut (0..rank - 2).map(|axis| {
        let around = before[axis] as i128 + after[axis] as i128;
        window.kernel[axis] as i128 - window.strides[axis] as i128 - around
    }));
    let (strides, beside) = (node.list(&strides)?, node.list(&beside)?);
    let inner = node.add(Op::Mul, &[inner, strides])?;
    let inner = node.add(Op::Add, &[inner, beside])?;
    let shape = node.add(Op::Concat(Concat { axis: 0 }), &[outer, inner])?;
    let count = Reduce {
        kind: ReduceKind::Product,
        axes: Some(vec![0]),
        keep_dims: true,
        empty_means_none: false,
    };
    let count = node.add(Op::Reduce(count), &[shape])?;
    let zero = node.weight(Tensor::zeros(node.dtype(x), &[]))?;
    let zeros = node.add(Op::Expand(Expand {}), &[zero, count])?;
    let flat = node.list(&[-1])?;
    let reshape = Op::ReshapeTo(ReshapeTo { allow_zero: false });
    let places = node.add(reshape.clone(), &[places, flat])?;
    let elements = node.add(reshape.clone(), &[x, flat])?;
    let scatter = ScatterElements { axis: 0, reduction: Scattering::Replace };
    let y = node.add(Op::ScatterElements(scatter), &[zeros, places, elements])?;
    let Some(asked) = node.optional(2) else {
        return node.output(0, reshape, &[y, shape]);
    };
    // What the output has more comes after.
    let y = node.add(reshape, &[y, shape])?;
    let more = node.add(Op::Sub, &[asked, shape])?;
    let none = node.list(&vec![0; rank])?;
    let pads = node.add(Op::Concat(Concat { axis: 0 }), &[none, more])?;
    let axes = node.list(&(0..rank as i64).collect::<Vec<_>>())?;
    node.output(0, Op::Pad(Pad { mode: PadMode::Constant }), &[y, pads, zero, axes])
}
