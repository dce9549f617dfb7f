//! Attention, with its projection or after it. It is written with products and a
//! softmax, as exporters write it, so that the pass that fuses those finds it.

mod mask;

pub(super) use mask::{Span, added, additive, places};

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use super::super::arithmetic::scaled;
use super::super::quantization::{scalar_of_one, zero_point};
use crate::op::{
    Concat, Dequantize, Expand, Gather, Op, Reshape, Slice, Softmax, Squeeze, Transpose, Unsqueeze,
};
use crate::{Dim, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "Attention", import: attention },
    OperatorEntry { name: "MultiHeadAttention", import: multi_head_attention },
    OperatorEntry { name: "QAttention", import: quantized_attention },
];

/// What attention reads, by head.
///
/// # Shapes
///
/// - query: `[batch, heads, queries, size]`
/// - key, value: `[batch, heads / group, keys, size]`
/// - mask: broadcasts to `[batch, heads, queries, keys]`; what is added to the products
pub(super) struct Heads {
    pub(super) query: ValueId,
    pub(super) key: ValueId,
    pub(super) value: ValueId,
    pub(super) mask: Option<ValueId>,
    /// Factor of the products.
    pub(super) scale: f32,
    /// Products are limited to `softcap · tanh(product / softcap)`; 0 for no limit.
    pub(super) softcap: f32,
    /// How many heads in a row read the same key and value.
    pub(super) group: usize,
}

impl Heads {
    /// Writes the first output: the weighted values with the heads side by side.
    pub(super) fn write(self, node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
        let Self { query, key, value, mask, scale, softcap, .. } = self.repeated(node)?;
        let keys = node.add(transpose([0, 1, 3, 2]), &[key])?;
        let products = node.add(Op::MatMul, &[query, keys])?;
        let mut scores = scaled(node, products, scale)?;
        if softcap > 0.0 {
            let limit = node.scalar(softcap)?;
            let share = node.add(Op::Div, &[scores, limit])?;
            let share = node.add(Op::Tanh, &[share])?;
            scores = node.add(Op::Mul, &[share, limit])?;
        }
        if let Some(mask) = mask {
            scores = node.add(Op::Add, &[scores, mask])?;
        }
        let weights = node.add(Op::Softmax(Softmax {}), &[scores])?;
        let values = node.add(Op::MatMul, &[weights, value])?;
        let values = node.add(transpose([0, 2, 1, 3]), &[values])?;
        node.output(0, Op::Reshape(Reshape { shape: vec![0, 0, -1] }), &[values])
    }

    /// With a key and a value for each head, as exporters repeat them.
    fn repeated(mut self, node: &mut NodeContext<'_, '_>) -> Result<Self, ImportError> {
        if self.group == 1 {
            return Ok(self);
        }
        let shape = node.shape(self.query);
        let (Some(heads), Some(size)) = (shape[1].fixed(), shape[3].fixed()) else {
            return Err(node.unsupported("heads whose number and size are not fixed"));
        };
        let sizes = vec![1, 1, self.group as i64, 1, 1];
        let sizes = node.weight(crate::Tensor::new(&[5], sizes).expect("five numbers"))?;
        for part in [&mut self.key, &mut self.value] {
            let apart = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![2] }), &[*part])?;
            let repeated = node.add(Op::Expand(Expand {}), &[apart, sizes])?;
            let shape = vec![0, heads as i64, -1, size as i64];
            *part = node.add(Op::Reshape(Reshape { shape }), &[repeated])?;
        }
        Ok(self)
    }
}

/// Another order of four dimensions.
pub(super) fn transpose(permutation: [usize; 4]) -> Op {
    Op::Transpose(Transpose { permutation: permutation.to_vec() })
}

/// `[batch, sequence, heads · size]` as `[batch, heads, sequence, size]`.
pub(super) fn by_head(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    heads: usize,
) -> Result<ValueId, ImportError> {
    if node.rank(x) != 3 {
        return Err(node.invalid(format!("expected 3 dimensions, found {}", node.rank(x))));
    }
    let shape = vec![0, 0, heads as i64, -1];
    let x = node.add(Op::Reshape(Reshape { shape }), &[x])?;
    node.add(transpose([0, 2, 1, 3]), &[x])
}

/// The number of heads that an attribute gives.
pub(super) fn head_count(node: &NodeContext<'_, '_>, name: &str) -> Result<usize, ImportError> {
    let found = node.int_or(name, 0);
    let heads = usize::try_from(found).ok().filter(|heads| (1..=1 << 20).contains(heads));
    heads.ok_or_else(|| node.invalid(format!("expected {name} above 0, found {found}")))
}

/// The factor of the products: what the node says, or one over the root of the size of a head.
pub(super) fn scale(node: &NodeContext<'_, '_>, query: ValueId) -> Result<f32, ImportError> {
    let given = node.float_or("scale", 0.0);
    if given != 0.0 {
        return Ok(given);
    }
    let size = node.shape(query).last().and_then(Dim::fixed).filter(|&size| size > 0);
    let size = size.ok_or_else(|| node.unsupported("heads of a size that is not fixed"))?;
    Ok(1.0 / (size as f32).sqrt())
}

/// Entries `start..end` of the last dimension.
pub(super) fn columns(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    start: usize,
    end: usize,
) -> Result<ValueId, ImportError> {
    let axis = node.rank(x).saturating_sub(1);
    node.add(Op::Slice(Slice { axis, start, end: end.into() }), &[x])
}

/// Refuses attributes that are not 0.
pub(super) fn refuse(node: &NodeContext<'_, '_>, names: &[&str]) -> Result<(), ImportError> {
    match names.iter().find(|name| node.flag(name, false)) {
        Some(name) => Err(node.unsupported(format!("{name} = {}", node.int_or(name, 0)))),
        None => Ok(()),
    }
}

/// Refuses inputs that are there.
pub(super) fn refuse_inputs(
    node: &NodeContext<'_, '_>,
    inputs: &[(usize, &str)],
) -> Result<(), ImportError> {
    match inputs.iter().find(|(index, _)| node.optional(*index).is_some()) {
        Some((_, name)) => Err(node.unsupported(format!("the input {name}"))),
        None => Ok(()),
    }
}

/// Widths of queries, keys and values in a merged projection of `total` columns.
fn widths(node: &NodeContext<'_, '_>, weight: ValueId) -> Result<[usize; 3], ImportError> {
    let total = node.shape(weight).last().and_then(Dim::fixed);
    let total = total.ok_or_else(|| node.unsupported("weights of a size that is not fixed"))?;
    let widths = match node.ints("qkv_hidden_sizes") {
        Some(sizes) if !sizes.is_empty() => {
            let sizes = sizes.iter().map(|&size| usize::try_from(size).ok());
            sizes.collect::<Option<Vec<usize>>>().and_then(|sizes| sizes.try_into().ok())
        }
        _ => total.is_multiple_of(3).then_some([total / 3; 3]),
    };
    let fits = |widths: &[usize; 3]| {
        let sum = widths.iter().try_fold(0usize, |sum, &width| sum.checked_add(width));
        sum == Some(total)
    };
    let widths = widths.filter(fits);
    widths.ok_or_else(|| node.invalid(format!("expected three parts of {total} columns")))
}

/// The three parts of a merged projection, each its own layer, which a pass merges again.
fn projected(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    weight: impl Fn(&mut NodeContext<'_, '_>, usize, usize) -> Result<ValueId, ImportError>,
    bias: Option<ValueId>,
    widths: [usize; 3],
) -> Result<[ValueId; 3], ImportError> {
    let mut parts = [x; 3];
    let mut start = 0;
    for (part, width) in parts.iter_mut().zip(widths) {
        let end = start + width;
        let weight = weight(node, start, end)?;
        *part = node.add(Op::MatMul, &[x, weight])?;
        if let Some(bias) = bias {
            let bias = columns(node, bias, start, end)?;
            *part = node.add(Op::Add, &[*part, bias])?;
        }
        start = end;
    }
    Ok(parts)
}

fn attention(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    refuse(node, &["do_rotary", "past_present_share_buffer"])?;
    refuse_inputs(node, &[(6, "past_sequence_length")])?;
    let (x, weight) = (node.input(0)?, node.input(1)?);
    let widths = widths(node, weight)?;
    let part = |node: &mut NodeContext<'_, '_>, start, end| columns(node, weight, start, end);
    let parts = projected(node, x, part, node.optional(2), widths)?;
    attend(node, parts, [3, 4], node.optional(5))
}

/// The same with a projection of 8-bit integers.
fn quantized_attention(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    refuse(node, &["do_rotary", "past_present_share_buffer"])?;
    let (x, scale) = (node.input(0)?, node.input(3)?);
    let scale = scalar_of_one(node, scale)?;
    let zero = zero_point(node, 6, x)?;
    let x = node.add(Op::Dequantize(Dequantize { axis: None }), &[x, scale, zero])?;
    let weight = node.input(1)?;
    let (scale, zero) = (node.input(4)?, zero_point(node, 7, weight)?);
    let scale = scalar_of_one(node, scale)?;
    if node.rank(scale) != node.rank(zero) {
        return Err(node.unsupported("zero points that are not as many as scales"));
    }
    let axis = (node.rank(scale) == 1).then_some(1);
    let part = |node: &mut NodeContext<'_, '_>, start, end| {
        let part = columns(node, weight, start, end)?;
        let (mut scale, mut zero) = (scale, zero);
        if axis.is_some() {
            scale = columns(node, scale, start, end)?;
            zero = columns(node, zero, start, end)?;
        }
        node.add(Op::Dequantize(Dequantize { axis }), &[part, scale, zero])
    };
    let widths = widths(node, weight)?;
    let bias = node.input(2)?;
    let parts = projected(node, x, part, Some(bias), widths)?;
    attend(node, parts, [5, 8], None)
}

/// Attention of projected queries, keys and values; mask and past are the inputs at two places, and
/// `added_bias` is added to the products.
fn attend(
    node: &mut NodeContext<'_, '_>,
    [query, key, value]: [ValueId; 3],
    [mask, past]: [usize; 2],
    added_bias: Option<ValueId>,
) -> Result<(), ImportError> {
    let heads = head_count(node, "num_heads")?;
    let query = by_head(node, query, heads)?;
    let (mut key, mut value) = (by_head(node, key, heads)?, by_head(node, value, heads)?);
    let scale = scale(node, query)?;
    if let Some(past) = node.optional(past) {
        for (part, place) in [(&mut key, 0i64), (&mut value, 1)] {
            let place = node.weight(crate::Tensor::scalar(place))?;
            let before = node.add(Op::Gather(Gather { axis: 0 }), &[past, place])?;
            *part = node.add(Op::Concat(Concat { axis: 2 }), &[before, *part])?;
        }
    }
    if node.wants(1) {
        let unsqueeze = Op::Unsqueeze(Unsqueeze { axes: vec![0] });
        let parts = [node.add(unsqueeze.clone(), &[key])?, node.add(unsqueeze, &[value])?];
        node.output(1, Op::Concat(Concat { axis: 0 }), &parts)?;
    }
    let span = Span { query, key };
    let mask = span.mask(node, node.optional(mask), added_bias)?;
    Heads { query, key, value, mask, scale, softcap: 0.0, group: 1 }.write(node)
}

/// The query, key and value of a MultiHeadAttention by head, each with its part of the bias.
fn separate(node: &mut NodeContext<'_, '_>) -> Result<[ValueId; 3], ImportError> {
    let heads = head_count(node, "num_heads")?;
    let query = node.input(0)?;
    if node.rank(query) == 5 {
        refuse_inputs(
            node,
            &[(1, "key beside packed queries"), (2, "value beside packed queries")],
        )?;
        return packed(node, query);
    }
    let (key, bias) = (node.input(1)?, node.optional(3));
    let width = |node: &NodeContext<'_, '_>, x| node.shape(x).last().and_then(Dim::fixed);
    let mut start = 0;
    let mut biased = |node: &mut NodeContext<'_, '_>, x: ValueId| {
        let Some(bias) = bias else { return Ok(x) };
        let Some(width) = width(node, x) else {
            return Err(node.unsupported("a bias for rows of a length that is not fixed"));
        };
        let part = columns(node, bias, start, start + width)?;
        start += width;
        node.add(Op::Add, &[x, part])
    };
    let query = biased(node, query)?;
    let query = by_head(node, query, heads)?;
    match node.rank(key) {
        5 if bias.is_none() => {
            let [key, value] = packed(node, key)?;
            Ok([query, key, value])
        }
        5 => Err(node.unsupported("a bias beside packed keys")),
        // They are there already, by head, and the bias is that of the queries alone.
        4 => Ok([query, key, node.input(2)?]),
        _ => {
            let value = node.input(2)?;
            let (key, value) = (biased(node, key)?, biased(node, value)?);
            Ok([query, by_head(node, key, heads)?, by_head(node, value, heads)?])
        }
    }
}

/// The `N` parts of `[batch, sequence, heads, N, size]`, each `[batch, heads, sequence, size]`.
fn packed<const N: usize>(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
) -> Result<[ValueId; N], ImportError> {
    let mut parts = [x; N];
    for (place, part) in parts.iter_mut().enumerate() {
        let slice = Op::Slice(Slice { axis: 3, start: place, end: (place + 1).into() });
        let sliced = node.add(slice, &[x])?;
        let one = node.add(Op::Squeeze(Squeeze { axes: vec![3] }), &[sliced])?;
        *part = node.add(transpose([0, 2, 1, 3]), &[one])?;
    }
    Ok(parts)
}

fn multi_head_attention(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    refuse_inputs(node, &[(8, "past_sequence_length"), (9, "cache_indirection")])?;
    if node.wants(3) {
        return Err(node.unsupported("the output qk"));
    }
    if node.rank(node.input(0)?) == 5 {
        refuse_inputs(node, &[(3, "bias beside packed queries")])?;
    }
    let [query, mut key, mut value] = separate(node)?;
    let scale = scale(node, query)?;
    match (node.optional(6), node.optional(7)) {
        (Some(past_key), Some(past_value)) => {
            key = node.add(Op::Concat(Concat { axis: 2 }), &[past_key, key])?;
            value = node.add(Op::Concat(Concat { axis: 2 }), &[past_value, value])?;
        }
        (None, None) => {}
        _ => return Err(node.invalid("expected both past_key and past_value, or neither")),
    }
    node.set(1, key);
    node.set(2, value);
    let span = Span { query, key };
    let mask = span.mask(node, node.optional(4), node.optional(5))?;
    Heads { query, key, value, mask, scale, softcap: 0.0, group: 1 }.write(node)
}
