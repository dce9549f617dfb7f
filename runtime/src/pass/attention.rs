//! Split into heads, scaled and masked scores, softmax, weighted sum, merged heads → one node
//! that never holds all scores.

mod score_mask;

use graph::op::Unary;
use graph::{Dim, Op};
use kernels::NoKeys;

use self::score_mask::Choice;
use super::repeat;
use crate::module::{HeadSplit, Id, Module, Operation, same_sizes};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| rewrite(module, index).is_some())
}

fn rewrite(module: &mut Module, mut index: usize) -> Option<()> {
    let mut found = find(module, index)?;
    if let Some(choice) = found.choice {
        index += score_mask::add(module, choice);
        found = find(module, index)?;
    }
    let operation = Operation::Attention(found.split);
    module.fuse(index, &found.absorbed, operation, found.inputs);
    Some(())
}

struct Found {
    split: HeadSplit,
    inputs: Vec<Id>,
    absorbed: Vec<usize>,
    /// What writes a small number over scores: it is no mask yet.
    choice: Option<Choice>,
}

/// Walks back from the reshape that merges the heads.
fn find(module: &Module, index: usize) -> Option<Found> {
    let Operation::Graph(Op::Reshape(_)) = module.nodes[index].operation else { return None };
    let mut walk = Walk { module, absorbed: vec![index] };
    let [merged] = walk.inputs_of(index)?;
    let product = walk.transposed(merged, &[0, 2, 1, 3])?;
    let [weights, value] = walk.step(product, |op| matches!(op, Op::MatMul))?;
    let (weights, no_keys) = walk.guarded(weights);
    let readers = if no_keys == NoKeys::Zero { 2 } else { 1 };
    let [scores] = walk.step_with(readers, weights, |op| matches!(op, Op::Softmax(_)))?;
    let (scaled, mask, choice) = walk.masked(scores);
    let (raw, scale) = walk.scaled(scaled)?;
    let [query, key] = walk.step(raw, |op| matches!(op, Op::MatMul))?;
    // Exporters of PyTorch scale both sides by the root.
    let (query, query_scale) = walk.scaled(query)?;
    let (key, key_scale) = walk.scaled(key)?;
    let scale = scale * query_scale * key_scale;
    let (query, heads, head_size) = walk.heads(query, &[0, 2, 1, 3])?;
    let (key, key_heads, key_size) = walk.heads(key, &[0, 2, 3, 1])?;
    let (value, value_heads, value_size) = walk.heads(value, &[0, 2, 1, 3])?;
    let same = (heads, head_size) == (key_heads, key_size)
        && (heads, head_size) == (value_heads, value_size)
        && sizes_fit(module, [query, key, value], heads, [raw, scores])
        && module.value(module.nodes[index].output).shape == module.value(query).shape
        && mask.is_none_or(|mask| mask_fits(module, mask, scores));
    let split = HeadSplit { heads, head_size, scale, offsets: [0; 3], no_keys, output: None };
    let mut inputs = vec![query, key, value];
    inputs.extend(mask);
    same.then_some(Found { split, inputs, absorbed: walk.absorbed, choice })
}

/// Whether query, key and value are of as many sequences, and the scores of each query and key: no
/// side repeats.
fn sizes_fit(module: &Module, qkv: [Id; 3], heads: usize, scores: [Id; 2]) -> bool {
    let [query, key, value] = qkv.map(|id| &module.value(id).shape[..]);
    let expected = [query[0].clone(), Dim::Fixed(heads), query[1].clone(), key[1].clone()];
    let same_tokens = key[0] == query[0] && same_sizes(&key[..2], &value[..2]);
    same_tokens && scores.iter().all(|&id| same_sizes(&module.value(id).shape, &expected))
}

/// Whether the mask broadcasts to the scores over their leading dimensions only.
fn mask_fits(module: &Module, mask: Id, scores: Id) -> bool {
    let (mask, scores) = (&module.value(mask).shape, &module.value(scores).shape);
    mask.len() == 4
        && mask.last() == scores.last()
        && mask.iter().zip(scores).all(|(mask, scores)| mask == scores || *mask == Dim::Fixed(1))
}

/// A way back through nodes that have one reader each.
struct Walk<'a> {
    module: &'a Module,
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

    /// `[batch, tokens, heads·size]` split into heads and transposed; gives the flat value.
    fn heads(&mut self, id: Id, permutation: &[usize]) -> Option<(Id, usize, usize)> {
        let split = self.transposed(id, permutation)?;
        let [flat] = self.step(split, |op| matches!(op, Op::Reshape(_)))?;
        let [batch, tokens, heads, size] = self.module.value(split).shape.as_slice() else {
            return None;
        };
        let (heads, size) = (heads.fixed()?, size.fixed()?);
        let expected = [batch.clone(), tokens.clone(), Dim::Fixed(heads * size)];
        (self.module.value(flat).shape == expected).then_some((flat, heads, size))
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

    /// Takes off a mask that is added to the scores, or the condition of one that replaces them.
    fn masked(&mut self, scores: Id) -> (Id, Option<Id>, Option<Choice>) {
        if let Some(choice) = Choice::find(self.module, scores).filter(|c| self.is_scores(c.scores))
        {
            return (choice.scores, Some(choice.condition), Some(choice));
        }
        let Some([a, b]) = self.step(scores, |op| matches!(op, Op::Add)) else {
            return (scores, None, None);
        };
        // The scores are the side of full shape that a product or a scaling writes.
        if self.is_scores(a) { (a, Some(b), None) } else { (b, Some(a), None) }
    }

    fn is_scores(&self, id: Id) -> bool {
        let produced = self.module.produced(id);
        matches!(produced, Some((_, Op::MatMul | Op::Mul | Op::Div)))
            && self.module.value(id).shape.get(2) != Some(&Dim::Fixed(1))
    }

    /// Takes off a constant factor or divisor.
    fn scaled(&mut self, id: Id) -> Option<(Id, f32)> {
        match self.module.produced(id)?.1 {
            Op::Mul => {
                let [a, b] = self.step(id, |_| true)?;
                let with = |x, factor| self.module.scalar(factor).map(|factor| (x, factor));
                with(a, b).or_else(|| with(b, a))
            }
            Op::Div => {
                let [x, divisor] = self.step(id, |_| true)?;
                Some((x, 1.0 / self.module.scalar(divisor)?))
            }
            _ => Some((id, 1.0)),
        }
    }
}
