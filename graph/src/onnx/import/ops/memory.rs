//! What models keep from one part of a sequence to the next.

use super::super::{ImportError, NodeContext, OperatorEntry};
use super::arithmetic::factor;
use super::windows::convolution;
use crate::op::{
    Binary, Concat, Conv, Expand, LinearAttention, LinearAttentionPart, Op, Pad, PadMode, Padding,
    ReshapeTo, ScatterElements, Scattering, ShapeOf, SliceBy, Squeeze, Unary, UpdateRule,
};
use crate::{Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "CausalConvWithState", import: causal_convolution },
    OperatorEntry { name: "LinearAttention", import: linear_attention },
    OperatorEntry { name: "TensorScatter", import: tensor_scatter },
];

/// A convolution of each channel, `[batch, channels, length]`, with what lies before it: the state,
/// or zeros. The state after it is what the next part needs.
fn causal_convolution(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, weight) = (node.input(0)?, node.input(1)?);
    let (mut window, _) = convolution(node, weight)?;
    let channels = node.shape(weight).first().and_then(crate::Dim::fixed);
    let (Some(groups), &[size]) = (channels.filter(|&count| count > 0), &window.kernel[..]) else {
        return Err(node.unsupported("a weight that is not of one dimension, or of unknown size"));
    };
    window.padding = Padding::Explicit { before: vec![0], after: vec![0] };
    let before = size.saturating_sub(1) as i64;
    let padded = match node.optional(3) {
        Some(state) => node.add(Op::Concat(Concat { axis: 2 }), &[state, x])?,
        None => {
            let (pads, axes) = (node.list(&[before, 0])?, node.list(&[2])?);
            let zero = factor(node, 0.0, x)?;
            node.add(Op::Pad(Pad { mode: PadMode::Constant }), &[x, pads, zero, axes])?
        }
    };
    let inputs: Vec<ValueId> =
        [Some(padded), Some(weight), node.optional(2)].into_iter().flatten().collect();
    let conv = Op::Conv(Conv { window, groups });
    match node.text_or("activation", "none").as_str() {
        "none" => node.output(0, conv, &inputs)?,
        "silu" | "swish" => {
            let y = node.add(conv, &inputs)?;
            node.output(0, Op::Unary(Unary::Swish { alpha: 1.0 }), &[y])?;
        }
        other => return Err(node.unsupported(format!("activation = `{other}`"))),
    }
    if !node.wants(1) {
        return Ok(());
    }
    // Counted from the end; nothing is kept of a window of one.
    let start = if before == 0 { i64::MAX } else { -before };
    let lists = [start, i64::MAX, 2, 1].map(|number| node.list(&[number]));
    let [starts, ends, axes, steps] = lists;
    node.output(1, Op::SliceBy(SliceBy {}), &[padded, starts?, ends?, axes?, steps?])
}

/// A number of heads.
fn heads(node: &NodeContext<'_, '_>, name: &str) -> Result<usize, ImportError> {
    let count = node.int_or(name, 0);
    usize::try_from(count)
        .ok()
        .filter(|&count| count > 0)
        .ok_or_else(|| node.invalid(format!("{name} = {count}")))
}

fn linear_attention(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let rule = match node.text_or("update_rule", "gated_delta").as_str() {
        "linear" => UpdateRule::Linear,
        "gated" => UpdateRule::Gated,
        "delta" => UpdateRule::Delta,
        "gated_delta" => UpdateRule::GatedDelta,
        other => return Err(node.unsupported(format!("update_rule = `{other}`"))),
    };
    let scale = Some(node.float_or("scale", 0.0)).filter(|&scale| scale != 0.0);
    let (query_heads, heads) = (heads(node, "q_num_heads")?, heads(node, "kv_num_heads")?);
    let inputs: Vec<ValueId> = node.inputs().iter().copied().flatten().collect();
    let past = node.optional(3).is_some();
    for (index, part) in
        [LinearAttentionPart::Output, LinearAttentionPart::State].into_iter().enumerate()
    {
        let op = LinearAttention { rule, query_heads, heads, scale, past, part };
        node.output(index, Op::LinearAttention(op), &inputs)?;
    }
    Ok(())
}

/// An update written into a cache, for each entry of the batch from another place on.
fn tensor_scatter(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (cache, update) = (node.input(0)?, node.input(1)?);
    let rank = node.rank(cache);
    let axis = node.axis_of(node.int_or("axis", -2), rank)?;
    if axis == 0 || node.rank(update) != rank {
        return Err(node.invalid("expected an update of the cache along another axis than 0"));
    }
    let size = |node: &mut NodeContext<'_, '_>, x: ValueId| {
        let size = node.add(Op::ShapeOf(ShapeOf { start: axis, end: axis + 1 }), &[x])?;
        node.add(Op::Squeeze(Squeeze { axes: vec![0] }), &[size])
    };
    let (zero, one) = (node.weight(Tensor::scalar(0i64))?, node.weight(Tensor::scalar(1i64))?);
    let length = size(node, update)?;
    let mut places = node.add(Op::Range, &[zero, length, one])?;
    places = along(node, places, axis, rank)?;
    if let Some(starts) = node.optional(2) {
        let starts = along(node, starts, 0, rank)?;
        places = node.add(Op::Add, &[places, starts])?;
    }
    match node.text_or("mode", "linear").as_str() {
        "linear" => {}
        "circular" => {
            let length = size(node, cache)?;
            places = node.add(Op::Binary(Binary::Mod), &[places, length])?;
        }
        other => return Err(node.unsupported(format!("mode = `{other}`"))),
    }
    let sizes = node.add(Op::ShapeOf(ShapeOf { start: 0, end: rank }), &[update])?;
    let places = node.add(Op::Expand(Expand {}), &[places, sizes])?;
    let op = ScatterElements { axis, reduction: Scattering::Replace };
    node.output(0, Op::ScatterElements(op), &[cache, places, update])
}

/// A list along one axis of `rank`.
fn along(
    node: &mut NodeContext<'_, '_>,
    list: ValueId,
    axis: usize,
    rank: usize,
) -> Result<ValueId, ImportError> {
    let mut sizes = vec![1; rank];
    sizes[axis] = -1;
    let sizes = node.list(&sizes)?;
    node.add(Op::ReshapeTo(ReshapeTo { allow_zero: false }), &[list, sizes])
}
