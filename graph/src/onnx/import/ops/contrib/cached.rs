//! Attention of groups of query heads with a cache of keys and values.

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use super::attention::{
    Heads, added, additive, by_head, columns, head_count, places, refuse, refuse_inputs, scale,
};
use super::rotary::{Rotation, counted, pairs};
use crate::op::{
    Binary, Cast, Concat, GatherNd, Op, Reshape, ShapeOf, Slice, Squeeze, Transpose, Unsqueeze,
};
use crate::{DType, Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] =
    &[OperatorEntry { name: "GroupQueryAttention", import: group_query_attention }];

/// The new queries, keys and values by head: `[batch, heads, sequence, size]`.
struct New {
    query: ValueId,
    key: ValueId,
    value: ValueId,
    group: usize,
}

/// Where the new tokens stand.
struct Place {
    /// How many tokens are before them: `[batch]`, or `[1]` for all, i64.
    before: ValueId,
    /// Whether nothing is; only a run knows where it is `None`.
    first: Option<bool>,
    /// That as a truth value, where only a run knows.
    is_first: Option<ValueId>,
}

fn group_query_attention(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    check_supported(node)?;
    let mut new = New::of(node)?;
    let place = Place::of(node, &new)?;
    if node.flag("do_rotary", false) {
        new.rotate(node, &place)?;
    }
    let (key, value, hides_none) = cached(node, &new, &place)?;
    node.set(1, key);
    node.set(2, value);
    let seen = if hides_none { None } else { Some(seen_keys(node, &new, key, &place)?) };
    let mask = added(node, seen, node.optional(10))?;
    let scale = scale(node, new.query)?;
    let softcap = node.float_or("softcap", 0.0);
    Heads { query: new.query, key, value, mask, scale, softcap, group: new.group }.write(node)
}

fn check_supported(node: &NodeContext<'_, '_>) -> Result<(), ImportError> {
    refuse(node, &["sliding_window_cache", "qk_output"])?;
    // −1, as it is without it, is written out too.
    let smooth = node.int_or("smooth_softmax", -1);
    if smooth > 0 {
        return Err(node.unsupported(format!("smooth_softmax = {smooth}")));
    }
    if !node.flag("causal", true) {
        return Err(node.unsupported("causal = 0"));
    }
    let window = node.int_or("local_window_size", -1);
    if window == 0 || window < -1 {
        return Err(node.unsupported(format!("local_window_size = {window}")));
    }
    for name in ["k_quant_type", "v_quant_type"] {
        let kind = node.text_or(name, "NONE");
        if kind != "NONE" {
            return Err(node.unsupported(format!("{name} = `{kind}`")));
        }
    }
    let names = ["head_sink", "k_scale", "v_scale", "q_norm_weight", "k_norm_weight"];
    let names = names.into_iter().chain(["query_seqlens"]);
    refuse_inputs(node, &(11..).zip(names).collect::<Vec<_>>())?;
    if node.wants(3) {
        return Err(node.unsupported("the output output_qk"));
    }
    Ok(())
}

impl New {
    fn of(node: &mut NodeContext<'_, '_>) -> Result<Self, ImportError> {
        let heads = head_count(node, "num_heads")?;
        let key_heads = head_count(node, "kv_num_heads")?;
        if !heads.is_multiple_of(key_heads) {
            let reason = format!("{heads} heads do not share {key_heads} of keys evenly");
            return Err(node.invalid(reason));
        }
        let query = node.input(0)?;
        let [query, key, value] = match (node.optional(1), node.optional(2)) {
            (Some(key), Some(value)) => [query, key, value],
            (None, None) => unpacked(node, query, [heads, key_heads, key_heads])?,
            _ => return Err(node.invalid("expected both key and value, or neither")),
        };
        let query = by_head(node, query, heads)?;
        let (key, value) = (by_head(node, key, key_heads)?, by_head(node, value, key_heads)?);
        Ok(Self { query, key, value, group: heads / key_heads })
    }

    /// Rotates queries and keys by where they stand.
    fn rotate(&mut self, node: &mut NodeContext<'_, '_>, place: &Place) -> Result<(), ImportError> {
        let positions = place.positions(node, self.query)?;
        let (cos, sin) = (node.input(7)?, node.input(8)?);
        let pairs = pairs(node, "rotary_interleaved");
        let rotation = Rotation { cos, sin, positions, pairs };
        for x in [&mut self.query, &mut self.key] {
            let op = rotation.op(node, *x)?;
            *x = node.add(op, &rotation.inputs(*x))?;
        }
        Ok(())
    }

    /// The number of new tokens: a list of one, i64.
    fn length(&self, node: &mut NodeContext<'_, '_>) -> Result<ValueId, ImportError> {
        length(node, self.query)
    }
}

/// The number of entries of dimension 2: a list of one, i64.
fn length(node: &mut NodeContext<'_, '_>, x: ValueId) -> Result<ValueId, ImportError> {
    node.add(Op::ShapeOf(ShapeOf { start: 2, end: 3 }), &[x])
}

/// Parts of rows in which so many heads stand side by side.
fn unpacked(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    heads: [usize; 3],
) -> Result<[ValueId; 3], ImportError> {
    let width = node.shape(x).last().and_then(Dim::fixed);
    let width = width.ok_or_else(|| node.unsupported("rows of a length that is not fixed"))?;
    let all = heads.iter().sum::<usize>();
    if width == 0 || !width.is_multiple_of(all) {
        return Err(node.invalid(format!("expected rows of {all} heads, found {width} numbers")));
    }
    let mut parts = [x; 3];
    let mut start = 0;
    for (part, heads) in parts.iter_mut().zip(heads) {
        let end = start + heads * (width / all);
        *part = columns(node, x, start, end)?;
        start = end;
    }
    Ok(parts)
}

/// The input at `index` as a list, i64.
fn list_of(node: &mut NodeContext<'_, '_>, index: usize) -> Result<ValueId, ImportError> {
    let mut list = node.input(index)?;
    if node.rank(list) != 1 {
        list = node.add(Op::Reshape(Reshape { shape: vec![-1] }), &[list])?;
    }
    node.add(Op::Cast(Cast { to: DType::I64 }), &[list])
}

impl Place {
    fn of(node: &mut NodeContext<'_, '_>, new: &New) -> Result<Self, ImportError> {
        let zero = node.list(&[0])?;
        let past = match (node.optional(3), node.optional(4)) {
            (Some(key), Some(_)) => node.shape(key).get(2).cloned(),
            (None, None) => Some(Dim::Fixed(0)),
            _ => return Err(node.invalid("expected both past_key and past_value, or neither")),
        };
        let total = list_of(node, 6)?;
        let known_total = node.known_integers(total);
        let sizes = (node.shape(new.query)[2].fixed(), known_total.as_deref());
        let first = match (past, sizes) {
            (Some(Dim::Fixed(0)), _) => Some(true),
            (_, (Some(new), Some(&[total]))) => Some(new as i64 == total),
            _ => None,
        };
        if first == Some(true) {
            return Ok(Self { before: zero, first, is_first: None });
        }
        let ends = list_of(node, 5)?;
        let one = node.list(&[1])?;
        let ends = node.add(Op::Add, &[ends, one])?;
        let length = new.length(node)?;
        let mut before = node.add(Op::Sub, &[ends, length])?;
        let mut is_first = None;
        if first.is_none() {
            let same = node.add(Op::Binary(Binary::Equal), &[length, total])?;
            before = node.add(Op::Where, &[same, zero, before])?;
            is_first = Some(same);
        }
        Ok(Self { before, first, is_first })
    }

    /// The positions of the new tokens: `[batch, sequence]`, i64. Of those that are given only the
    /// first counts while nothing is before them.
    fn positions(
        &self,
        node: &mut NodeContext<'_, '_>,
        query: ValueId,
    ) -> Result<ValueId, ImportError> {
        let Some(given) = node.optional(9) else { return counted(node, query, 2, self.before) };
        if self.first == Some(false) {
            return Ok(given);
        }
        let mut start = given;
        for axis in 0..node.rank(given) {
            start = node.add(Op::Slice(Slice { axis, start: 0, end: Dim::Fixed(1) }), &[start])?;
        }
        let start = node.add(Op::Reshape(Reshape { shape: vec![1] }), &[start])?;
        let counted = counted(node, query, 2, start)?;
        match self.is_first {
            Some(is_first) => node.add(Op::Where, &[is_first, counted, given]),
            None => Ok(counted),
        }
    }
}

/// The keys and values of all tokens, each at its place, and whether every query sees all of them.
fn cached(
    node: &mut NodeContext<'_, '_>,
    new: &New,
    place: &Place,
) -> Result<(ValueId, ValueId, bool), ImportError> {
    let (Some(past_key), Some(past_value)) = (node.optional(3), node.optional(4)) else {
        return Ok((new.key, new.value, false));
    };
    let size = |node: &NodeContext<'_, '_>, x: ValueId, axis: usize| node.shape(x)[axis].fixed();
    if node.rank(past_key) != 4 || node.rank(past_value) != 4 {
        return Err(node.invalid("expected a past of 4 dimensions"));
    }
    let (past, fresh) = (size(node, past_key, 2), size(node, new.key, 2));
    if past == Some(0) {
        return Ok((new.key, new.value, false));
    }
    let total = list_of(node, 6)?;
    let known_total = node.known_integers(total);
    let known_total = known_total.and_then(|total| usize::try_from(*total.first()?).ok());
    let joined = past.zip(fresh).and_then(|(past, fresh)| past.checked_add(fresh));
    // One sequence has no padding.
    let plain = size(node, new.query, 0) == Some(1) && joined.is_some() && joined == known_total;
    let join = Op::Concat(Concat { axis: 2 });
    let key = node.add(join.clone(), &[past_key, new.key])?;
    let value = node.add(join, &[past_value, new.value])?;
    if plain {
        let window = node.int_or("local_window_size", -1);
        return Ok((key, value, fresh == Some(1) && window == -1));
    }
    let past = length(node, past_key)?;
    let all = match (size(node, past_key, 2), known_total) {
        (Some(past), Some(total)) => node.list(&[past.max(total) as i64])?,
        _ => node.add(Op::Binary(Binary::Max), &[past, total])?,
    };
    let sources = sources(node, new, place, past, all)?;
    Ok((picked(node, key, sources)?, picked(node, value, sources)?, false))
}

/// For each token of a cache of `all` the place among the past and the new ones:
/// `[batch, tokens, 1]`. What is behind the last is not specified.
fn sources(
    node: &mut NodeContext<'_, '_>,
    new: &New,
    place: &Place,
    past: ValueId,
    all: ValueId,
) -> Result<ValueId, ImportError> {
    let (zero, one) = (node.weight(Tensor::scalar(0i64))?, node.weight(Tensor::scalar(1i64))?);
    let end = node.add(Op::Squeeze(Squeeze { axes: vec![0] }), &[all])?;
    let tokens = node.add(Op::Range, &[zero, end, one])?;
    let length = new.length(node)?;
    let before = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[place.before])?;
    let after = node.add(Op::Sub, &[tokens, before])?;
    let own = node.add(Op::Add, &[after, past])?;
    let joined = node.add(Op::Add, &[past, length])?;
    let last = node.add(Op::Sub, &[joined, one])?;
    let rest = node.add(Op::Binary(Binary::Min), &[tokens, last])?;
    let is_past = node.add(Op::Binary(Binary::Less), &[tokens, before])?;
    let is_new = node.add(Op::Binary(Binary::Less), &[after, length])?;
    let place = node.add(Op::Where, &[is_new, own, rest])?;
    let place = node.add(Op::Where, &[is_past, rest, place])?;
    let batch = node.add(Op::ShapeOf(ShapeOf { start: 0, end: 1 }), &[new.query])?;
    let sizes = node.add(Op::Concat(Concat { axis: 0 }), &[batch, all])?;
    let place = node.add(Op::Expand(crate::op::Expand {}), &[place, sizes])?;
    node.add(Op::Unsqueeze(Unsqueeze { axes: vec![2] }), &[place])
}

/// The tokens of `[batch, heads, tokens, size]` at these places.
fn picked(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    places: ValueId,
) -> Result<ValueId, ImportError> {
    let swap = Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] });
    let x = node.add(swap.clone(), &[x])?;
    let x = node.add(Op::GatherNd(GatherNd { batch_dims: 1 }), &[x, places])?;
    node.add(swap, &[x])
}

/// 0 for keys that a query sees, itself and those before it, as many as a window has:
/// `[batch, 1, queries, keys]`, or one for all of the batch.
fn seen_keys(
    node: &mut NodeContext<'_, '_>,
    new: &New,
    key: ValueId,
    place: &Place,
) -> Result<ValueId, ImportError> {
    let before = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[place.before])?;
    let queries = places(node, new.query, 2)?;
    let queries = node.add(Op::Add, &[queries, before])?;
    let queries = node.add(Op::Unsqueeze(Unsqueeze { axes: vec![2] }), &[queries])?;
    let keys = places(node, key, 2)?;
    let mut seen = node.add(Op::Binary(Binary::LessOrEqual), &[keys, queries])?;
    let window = node.int_or("local_window_size", -1);
    if window > 0 {
        let window = node.weight(Tensor::scalar(window))?;
        let outside = node.add(Op::Sub, &[queries, window])?;
        let inside = node.add(Op::Binary(Binary::Greater), &[keys, outside])?;
        seen = node.add(Op::Binary(Binary::And), &[seen, inside])?;
    }
    let mask = additive(node, seen, f32::MIN)?;
    node.add(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[mask])
}
