//! Normalizations of sums.

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use super::super::normalization::{Normalized, layer, root_mean_square};
use super::super::quantization::{scalar_of_one, zero_point};
use super::layout::{channels_first, channels_last, is_channels_last};
use crate::op::{
    Binary, Cast, Dequantize, Gather, GroupNorm, Op, Reduce, ReduceKind, ShapeOf, Slice, SliceBy,
    Unary, Unsqueeze,
};
use crate::{DType, Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "EmbedLayerNormalization", import: embeddings },
    OperatorEntry { name: "GroupNorm", import: group },
    OperatorEntry { name: "LayerNormalization", import: layer },
    OperatorEntry { name: "QEmbedLayerNormalization", import: quantized_embeddings },
    OperatorEntry { name: "SimplifiedLayerNormalization", import: root_mean_square },
    OperatorEntry { name: "SkipGroupNorm", import: skip_group },
    OperatorEntry { name: "SkipLayerNormalization", import: skip_layer },
    OperatorEntry { name: "SkipSimplifiedLayerNormalization", import: skip_simplified },
];

/// What is added to variances where the node does not say.
const EPSILON: f32 = 1e-12;

/// `x + skip`, and a bias where there is one, which is also the fourth output. The bias comes from the
/// layer before `skip`.
fn skip_sum(node: &mut NodeContext<'_, '_>, bias: Option<ValueId>) -> Result<ValueId, ImportError> {
    let (x, mut skip) = (node.input(0)?, node.input(1)?);
    if let Some(bias) = bias {
        skip = node.add(Op::Add, &[skip, bias])?;
    }
    let sum = node.add(Op::Add, &[x, skip])?;
    node.set(3, sum);
    Ok(sum)
}

fn skip_layer(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (scale, bias) = (node.input(2)?, node.optional(3));
    let x = skip_sum(node, node.optional(4))?;
    let epsilon = node.float_or("epsilon", EPSILON);
    let layer = Normalized { x, scale, bias, axis: -1, epsilon };
    layer.write_statistics(node)?;
    layer.write(node)
}

fn skip_simplified(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    if node.wants(1) || node.wants(2) {
        return Err(node.unsupported("an output of statistics"));
    }
    let scale = node.input(2)?;
    let x = skip_sum(node, node.optional(3))?;
    let epsilon = node.float_or("epsilon", EPSILON);
    Normalized { x, scale, bias: None, axis: -1, epsilon }.write_simplified(node)
}

/// Embeddings of words, positions and segments, added and normalized.
fn embeddings(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let positions = node.optional(8);
    embedded(node, positions, |_, x, _| Ok(x))
}

/// The same with tables and parameters of 8-bit integers: their scales stand from 8 on, their zero
/// points from 13 on.
fn quantized_embeddings(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    embedded(node, None, |node, x, table| {
        let scale = node.input(6 + table)?;
        let (scale, zero) = (scalar_of_one(node, scale)?, zero_point(node, 11 + table, x)?);
        node.add(Op::Dequantize(Dequantize { axis: None }), &[x, scale, zero])
    })
}

/// Writes what an embedding layer gives; `floats` makes floats of rows that come from the input of a
/// number.
fn embedded(
    node: &mut NodeContext<'_, '_>,
    places: Option<ValueId>,
    floats: impl Fn(&mut NodeContext<'_, '_>, ValueId, usize) -> Result<ValueId, ImportError>,
) -> Result<(), ImportError> {
    let pick = Op::Gather(Gather { axis: 0 });
    let (ids, words) = (node.input(0)?, node.input(2)?);
    let words = node.add(pick.clone(), &[words, ids])?;
    let words = floats(node, words, 2)?;
    let positions = match places {
        Some(places) => node.add(pick.clone(), &[node.input(3)?, places])?,
        None => first_positions(node, ids)?,
    };
    let positions = floats(node, positions, 3)?;
    let mut sum = node.add(Op::Add, &[words, positions])?;
    match (node.optional(1), node.optional(4)) {
        (Some(segments), Some(table)) => {
            let segments = node.add(pick, &[table, segments])?;
            let segments = floats(node, segments, 4)?;
            sum = node.add(Op::Add, &[sum, segments])?;
        }
        (None, None) => {}
        _ => return Err(node.invalid("expected both segments and their embeddings, or neither")),
    }
    let (scale, bias) = (node.input(5)?, node.input(6)?);
    let (scale, bias) = (floats(node, scale, 5)?, Some(floats(node, bias, 6)?));
    if node.wants(1) {
        let counts = word_counts(node, ids)?;
        node.set(1, counts);
    }
    node.set(2, sum);
    let epsilon = node.float_or("epsilon", EPSILON);
    Normalized { x: sum, scale, bias, axis: -1, epsilon }.write(node)
}

/// As many of the embeddings of positions as there are words.
fn first_positions(node: &mut NodeContext<'_, '_>, ids: ValueId) -> Result<ValueId, ImportError> {
    let table = node.input(3)?;
    let length = node.shape(ids).get(1).cloned();
    let length = length.ok_or_else(|| node.invalid("expected ids of two dimensions"))?;
    if length != Dim::Unknown {
        return node.add(Op::Slice(Slice { axis: 0, start: 0, end: length }), &[table]);
    }
    let end = node.add(Op::ShapeOf(ShapeOf { start: 1, end: 2 }), &[ids])?;
    let (zero, one) = (node.list(&[0])?, node.list(&[1])?);
    node.add(Op::SliceBy(SliceBy {}), &[table, zero, end, zero, one])
}

/// How many of a sequence's places the mask keeps, 0 without one: `[batch]`, i32.
fn word_counts(node: &mut NodeContext<'_, '_>, ids: ValueId) -> Result<ValueId, ImportError> {
    let kept = match node.optional(7) {
        Some(mask) => {
            let one = node.weight(Tensor::scalar(1i32))?;
            let mask = node.add(Op::Cast(Cast { to: DType::I32 }), &[mask])?;
            node.add(Op::Binary(Binary::Equal), &[mask, one])?
        }
        None => {
            let none = node.weight(Tensor::scalar(false))?;
            let any = node.add(Op::Cast(Cast { to: DType::Bool }), &[ids])?;
            node.add(Op::Binary(Binary::And), &[any, none])?
        }
    };
    let kept = node.add(Op::Cast(Cast { to: DType::I32 }), &[kept])?;
    let (kind, axes) = (ReduceKind::Sum, Some(vec![1]));
    node.add(Op::Reduce(Reduce { kind, axes, keep_dims: false, empty_means_none: false }), &[kept])
}

fn group(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    grouped(node, x)
}

/// `x + skip + bias`, which is also the second output, by group; `skip` may be one number a channel.
fn skip_group(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    if !is_channels_last(node, true) {
        return Err(node.unsupported("channels_last = 0"));
    }
    let (x, mut skip) = (node.input(0)?, node.input(3)?);
    let rank = node.rank(x);
    if node.rank(skip) == 2 && rank > 2 {
        skip = node.add(Op::Unsqueeze(Unsqueeze { axes: (1..rank - 1).collect() }), &[skip])?;
    }
    let mut sum = node.add(Op::Add, &[x, skip])?;
    if let Some(bias) = node.optional(4) {
        sum = node.add(Op::Add, &[sum, bias])?;
    }
    node.set(1, sum);
    grouped(node, sum)
}

/// Normalizes groups of channels of `x`, perhaps with an activation after it.
fn grouped(node: &mut NodeContext<'_, '_>, mut x: ValueId) -> Result<(), ImportError> {
    let last = is_channels_last(node, true);
    let (scale, bias) = (node.input(1)?, node.input(2)?);
    let groups = usize::try_from(node.int_or("groups", 0)).ok().filter(|&groups| groups > 0);
    let groups = groups.ok_or_else(|| node.invalid("expected at least one group"))?;
    if last {
        x = channels_first(node, x)?;
    }
    let epsilon = node.float_or("epsilon", 1e-5);
    let mut y = node.add(Op::GroupNorm(GroupNorm { groups, epsilon }), &[x, scale, bias])?;
    match node.int_or("activation", 0) {
        0 => {}
        1 => y = node.add(Op::Unary(Unary::Swish { alpha: 1.0 }), &[y])?,
        other => return Err(node.unsupported(format!("activation = {other}"))),
    }
    let op = if last { channels_last(node.rank(y)) } else { Op::Identity };
    node.output(0, op, &[y])
}
