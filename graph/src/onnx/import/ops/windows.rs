//! Convolution and pooling.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::ValueId;
use crate::op::{
    AveragePadding, Conv, ConvInteger, ConvTranspose, GlobalPool, Op, Padding, Pool, PoolKind,
    Rounding, StorageOrder, Window,
};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "AveragePool", import: average_pool },
    OperatorEntry { name: "Conv", import: conv },
    OperatorEntry { name: "ConvInteger", import: conv_integer },
    OperatorEntry { name: "ConvTranspose", import: conv_transpose },
    OperatorEntry {
        name: "GlobalAveragePool",
        import: |node| global_pool(node, GlobalPool::Average),
    },
    OperatorEntry { name: "GlobalLpPool", import: global_lp_pool },
    OperatorEntry { name: "GlobalMaxPool", import: |node| global_pool(node, GlobalPool::Max) },
    OperatorEntry { name: "LpPool", import: lp_pool },
    OperatorEntry { name: "MaxPool", import: max_pool },
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
