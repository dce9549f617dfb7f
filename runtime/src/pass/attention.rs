//! Split into heads, scaled and masked scores, softmax, weighted sum, merged heads → one node
//! that never holds all scores. Heads are found in rows of tokens, where one product may compute query,
//! key and value, and by a second pass wherever they lie: behind a rotary embedding each head has rows
//! of its own, and decoders repeat keys and values for several heads of the query.

mod score_mask;

use graph::op::Unary;
use graph::{Dim, Op, Shape};
use kernels::NoKeys;

use self::score_mask::{Choice, Sum, Unready};
use super::repeat;
use crate::module::{HeadPlace, HeadSplit, Id, Module, Operation, same_sizes};

/// Heads that are split off rows of tokens.
pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| rewrite(module, index, Sources::Rows).is_some())
}

/// Heads from anywhere.
pub(super) fn run_heads(module: &mut Module) -> usize {
    repeat(module, |module, index| rewrite(module, index, Sources::Any).is_some())
}

/// Where heads may come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sources {
    /// Splits of `[batch, tokens, heads·size]`.
    Rows,
    Any,
}

fn rewrite(module: &mut Module, mut index: usize, sources: Sources) -> Option<()> {
    let mut found = find(module, index, sources)?;
    while let Some(step) = found.unready {
        index = score_mask::add(module, step, index);
        found = find(module, index, sources)?;
    }
    let operation = Operation::Attention(found.split);
    module.fuse(index, &found.absorbed, operation, found.inputs);
    Some(())
}

struct Found {
    split: HeadSplit,
    inputs: Vec<Id>,
    absorbed: Vec<usize>,
    /// What has to be done before scores have one mask.
    unready: Option<Unready>,
}

/// Walks back from what turns the result's heads into rows: the reshape that merges them, or, where it
/// does something else, the transposition before it.
fn find(module: &Module, index: usize, sources: Sources) -> Option<Found> {
    let mut walk = Walk { module, sources, absorbed: vec![index] };
    let product = match &module.nodes[index].operation {
        Operation::Graph(Op::Reshape(_)) => {
            let [merged] = walk.inputs_of(index)?;
            walk.transposed(merged, &[0, 2, 1, 3])?
        }
        Operation::Graph(Op::Transpose(op))
            if sources == Sources::Any && op.permutation == [0, 2, 1, 3] =>
        {
            module.nodes[index].inputs[0]
        }
        _ => return None,
    };
    let [weights, value] = walk.step(product, |op| matches!(op, Op::MatMul))?;
    let (weights, no_keys) = walk.guarded(weights);
    let readers = if no_keys == NoKeys::Zero { 2 } else { 1 };
    let [scores] = walk.step_with(readers, weights, |op| matches!(op, Op::Softmax(_)))?;
    let (scaled, mask, unready) = walk.masked(scores);
    let (raw, scale) = walk.scaled(scaled);
    let [query, key] = walk.step(raw, |op| matches!(op, Op::MatMul))?;
    // Exporters of PyTorch scale both sides by the root.
    let (query, query_scale) = walk.scaled(query);
    let (key, key_scale) = walk.scaled(key);
    let query = walk.heads(query)?;
    let (key, turned_scale) = walk.turned_heads(key)?;
    let value = walk.shared_heads(value)?;
    let scale = scale * query_scale * key_scale * turned_scale;
    let sharing = key.sharing;
    let same = query.size == key.size
        && (key.heads, key.size, sharing) == (value.heads, value.size, value.sharing)
        && key.heads.checked_mul(sharing) == Some(query.heads)
        && sizes_fit([&query, &key, &value], [raw, scores].map(|id| &module.value(id).shape[..]))
        && is_last(module, index, &query)
        && mask.as_ref().is_none_or(|(_, mask)| mask_fits(mask, &module.value(scores).shape));
    let split = HeadSplit {
        heads: query.heads,
        head_size: query.size,
        scale,
        places: [query.place, key.place, value.place],
        sharing,
        no_keys,
        output: None,
    };
    let mut inputs = vec![query.id, key.id, value.id];
    inputs.extend(mask.map(|(mask, _)| mask));
    same.then_some(Found { split, inputs, absorbed: walk.absorbed, unready })
}

/// Whether a node gives the rows of all heads, and no other node is to take in more.
fn is_last(module: &Module, index: usize, query: &Part) -> bool {
    let rows = |rest: &[Dim]| [&[query.batch.clone(), query.tokens.clone()], rest].concat();
    let merged = rows(&[Dim::Fixed(query.heads * query.size)]);
    let node = &module.nodes[index];
    if let Operation::Graph(Op::Reshape(_)) = node.operation {
        return module.value(node.output).shape == merged;
    }
    let merges = |next: usize| {
        let next = &module.nodes[next];
        matches!(next.operation, Operation::Graph(Op::Reshape(_)))
            && module.value(next.output).shape == merged
    };
    module.value(node.output).shape == rows(&[Dim::Fixed(query.heads), Dim::Fixed(query.size)])
        && !module.only_consumer(node.output).is_some_and(merges)
}

/// The heads of query, key or value.
struct Part {
    id: Id,
    place: HeadPlace,
    batch: Dim,
    tokens: Dim,
    heads: usize,
    size: usize,
    /// How many heads of the query share one.
    sharing: usize,
}

/// Whether query, key and value are of as many sequences, and the scores of each query and key: no
/// side repeats.
fn sizes_fit([query, key, value]: [&Part; 3], scores: [&[Dim]; 2]) -> bool {
    let expected =
        [query.batch.clone(), Dim::Fixed(query.heads), query.tokens.clone(), key.tokens.clone()];
    let same_tokens =
        key.batch == query.batch && (&key.batch, &key.tokens) == (&value.batch, &value.tokens);
    same_tokens && scores.iter().all(|shape| same_sizes(shape, &expected))
}

/// Whether the mask broadcasts to the scores over their leading dimensions only.
fn mask_fits(mask: &[Dim], scores: &[Dim]) -> bool {
    mask.len() == 4
        && mask.last() == scores.last()
        && mask.iter().zip(scores).all(|(mask, scores)| mask == scores || *mask == Dim::Fixed(1))
}

/// A way back through nodes that have one reader each.
struct Walk<'a> {
    module: &'a Module,
    sources: Sources,
    absorbed: Vec<usize>,
}

impl Walk<'_> {
    fn inputs_of<const N: usize>(&self, index: usize) -> Option<[Id; N]> {
        self.module.nodes[index].inputs.as_slice().try_into().ok()
    }

    /// Absorbs the node that writes `id`, when its operator fits and nothing else reads it.
    fn step<const N: usize>(&mut self, id: Id, fits: impl Fn(&Op) -> bool) -> Option<[Id; N]> {
        self.step_with(1, id, fits)
    }

    /// The same for a value that is read more often.
    fn step_with<const N: usize>(
        &mut self,
        readers: usize,
        id: Id,
        fits: impl Fn(&Op) -> bool,
    ) -> Option<[Id; N]> {
        let (index, op) = self.module.produced(id)?;
        if !fits(op) || self.module.uses(id) != readers {
            return None;
        }
        let inputs = self.inputs_of(index)?;
        self.absorbed.push(index);
        Some(inputs)
    }

    fn transposed(&mut self, id: Id, permutation: &[usize]) -> Option<Id> {
        let fits = |op: &Op| matches!(op, Op::Transpose(op) if op.permutation == permutation);
        self.step(id, fits).map(|[x]: [Id; 1]| x)
    }

    /// `[batch, heads, tokens, size]`, taken from where the elements lie.
    fn heads(&mut self, id: Id) -> Option<Part> {
        let before = self.absorbed.len();
        let in_rows = self.transposed(id, &[0, 2, 1, 3]).and_then(|split| self.rows(split));
        in_rows.or_else(|| {
            self.absorbed.truncate(before);
            self.apart(id)
        })
    }

    /// The same of `[batch, heads, size, tokens]`, and a factor on it.
    fn turned_heads(&mut self, id: Id) -> Option<(Part, f32)> {
        let before = self.absorbed.len();
        let in_rows = self.transposed(id, &[0, 2, 3, 1]).and_then(|split| self.rows(split));
        if let Some(part) = in_rows {
            return Some((part, 1.0));
        }
        self.absorbed.truncate(before);
        if self.sources == Sources::Rows {
            return None;
        }
        let turned = self.transposed(id, &[0, 1, 3, 2])?;
        let (key, scale) = self.scaled(turned);
        self.shared_heads(key).map(|part| (part, scale))
    }

    /// [`Self::heads`], each of which may be repeated for some heads of the query.
    fn shared_heads(&mut self, id: Id) -> Option<Part> {
        let before = self.absorbed.len();
        let repeated = self.repeated(id).and_then(|(own, sharing)| {
            let part = self.heads(own)?;
            Some(Part { sharing, ..part })
        });
        repeated.or_else(|| {
            self.absorbed.truncate(before);
            self.heads(id)
        })
    }

    /// Takes off `[batch, heads, tokens, size]` → `[batch, heads, sharing, tokens, size]`, merged.
    fn repeated(&mut self, id: Id) -> Option<(Id, usize)> {
        if self.sources == Sources::Rows {
            return None;
        }
        let shape = |id: Id| self.module.value(id).shape.clone();
        let [expanded] = self.step(id, |op| matches!(op, Op::Reshape(_)))?;
        let [grouped, _] = self.step(expanded, |op| matches!(op, Op::Expand(_)))?;
        let (index, op) = self.module.produced(grouped)?;
        let (Op::Unsqueeze(_) | Op::Reshape(_)) = op else { return None };
        let own = *self.module.nodes[index].inputs.first()?;
        if self.module.uses(grouped) != 1 {
            return None;
        }
        self.absorbed.push(index);
        let [batch, heads, tokens, size] = shape(own).try_into().ok()?;
        let sharing = shape(expanded).get(2)?.fixed()?;
        let merged = heads.fixed()?.checked_mul(sharing)?;
        let with = |middle: usize| {
            vec![batch.clone(), heads.clone(), Dim::Fixed(middle), tokens.clone(), size.clone()]
        };
        let fits = shape(grouped) == with(1)
            && shape(expanded) == with(sharing)
            && shape(id) == [batch.clone(), Dim::Fixed(merged), tokens.clone(), size.clone()];
        fits.then_some((own, sharing))
    }

    /// `[batch, tokens, heads, size]`, or what it is split off.
    fn rows(&mut self, split: Id) -> Option<Part> {
        let [batch, tokens, heads, size] = self.module.value(split).shape.as_slice() else {
            return None;
        };
        let (heads, size) = (heads.fixed()?, size.fixed()?);
        let part = |id| Part {
            id,
            place: HeadPlace::InRows { column: 0 },
            batch: batch.clone(),
            tokens: tokens.clone(),
            heads,
            size,
            sharing: 1,
        };
        let before = self.absorbed.len();
        let flat = self.step(split, |op| matches!(op, Op::Reshape(_)));
        let expected = [batch.clone(), tokens.clone(), Dim::Fixed(heads * size)];
        if let Some([flat]) = flat.filter(|[flat]| self.module.value(*flat).shape == expected) {
            return Some(part(flat));
        }
        self.absorbed.truncate(before);
        (self.sources == Sources::Any).then(|| part(split))
    }

    /// Heads that lie one after another.
    fn apart(&self, id: Id) -> Option<Part> {
        let [batch, heads, tokens, size] = self.module.value(id).shape.as_slice() else {
            return None;
        };
        (self.sources == Sources::Any).then_some(Part {
            id,
            place: HeadPlace::Apart,
            batch: batch.clone(),
            tokens: tokens.clone(),
            heads: heads.fixed()?,
            size: size.fixed()?,
            sharing: 1,
        })
    }

    /// Takes off what writes 0 over weights that are no numbers: those of a query whose keys are
    /// all masked by −∞.
    fn guarded(&mut self, weights: Id) -> (Id, NoKeys) {
        let found = || {
            let (choice, Op::Where) = self.module.produced(weights)? else { return None };
            let [condition, zero, kept] = self.inputs_of(choice)?;
            let (test, Op::Unary(Unary::IsNan)) = self.module.produced(condition)? else {
                return None;
            };
            let uses = |id| self.module.uses(id);
            let fits = self.module.nodes[test].inputs == [kept]
                && self.module.scalar(zero) == Some(0.0)
                && [uses(weights), uses(condition), uses(kept)] == [1, 1, 2];
            fits.then_some((kept, [choice, test]))
        };
        match found() {
            Some((kept, nodes)) => {
                self.absorbed.extend(nodes);
                (kept, NoKeys::Zero)
            }
            None => (weights, NoKeys::NotANumber),
        }
    }

    /// Takes off a mask that is added to the scores, or finds what would make one, and its shape.
    fn masked(&mut self, scores: Id) -> (Id, Option<(Id, Shape)>, Option<Unready>) {
        let with_shape = |mask: Id| Some((mask, self.module.value(mask).shape.clone()));
        if let Some(choice) = Choice::find(self.module, scores).filter(|c| self.is_scores(c.scores))
        {
            let mask = with_shape(choice.condition);
            return (choice.scores, mask, Some(Unready::Choice(choice)));
        }
        let sum = Sum::find(self.module, scores).filter(|sum| self.is_scores(sum.scores));
        if let Some((sum, shape)) = sum.and_then(|sum| Some((sum, sum.shape(self.module)?))) {
            return (sum.scores, Some((sum.masks[0], shape)), Some(Unready::Sum(sum)));
        }
        let Some([a, b]) = self.step(scores, |op| matches!(op, Op::Add)) else {
            return (scores, None, None);
        };
        // The scores are the side of full shape that a product or a scaling writes.
        let (scores, mask) = if self.is_scores(a) { (a, b) } else { (b, a) };
        (scores, Some((mask, self.module.value(mask).shape.clone())), None)
    }

    fn is_scores(&self, id: Id) -> bool {
        let produced = self.module.produced(id);
        matches!(produced, Some((_, Op::MatMul | Op::Mul | Op::Div)))
            && self.module.value(id).shape.get(2) != Some(&Dim::Fixed(1))
    }

    /// Takes off a constant factor or divisor, where there is one.
    fn scaled(&mut self, id: Id) -> (Id, f32) {
        let before = self.absorbed.len();
        let mut found = || match self.module.produced(id)?.1 {
            Op::Mul => {
                let [a, b] = self.step(id, |_| true)?;
                let with = |x, factor| self.module.scalar(factor).map(|factor| (x, factor));
                with(a, b).or_else(|| with(b, a))
            }
            Op::Div => {
                let [x, divisor] = self.step(id, |_| true)?;
                Some((x, 1.0 / self.module.scalar(divisor)?))
            }
            _ => None,
        };
        let found = found();
        found.unwrap_or_else(|| {
            self.absorbed.truncate(before);
            (id, 1.0)
        })
    }
}
