//! What becomes the one mask that attention adds to scores. Scores replaced by a very small number where
//! a condition says so → the number added to them there; it has to be so small that adding a score to it
//! changes nothing, and scores have to be finite. Two masks, such as a bias by position and one that
//! hides → their sum.

use graph::{DType, Dim, Op, Shape, Tensor};

use crate::module::{Id, Module, Node, Operation};

/// Numbers up to this swallow any score that a product of floats of ordinary size gives.
const SMALL_ENOUGH: f32 = -1e30;

/// What has to be done before scores have one mask.
#[derive(Clone, Copy)]
pub(super) enum Unready {
    Choice(Choice),
    Sum(Sum),
}

/// Does it; gives where the node is then that was at `index`, behind all that changes.
pub(super) fn add(module: &mut Module, step: Unready, index: usize) -> usize {
    let before = module.nodes.len();
    match step {
        Unready::Choice(choice) => choice.add(module),
        Unready::Sum(sum) => sum.add(module),
    }
    index + module.nodes.len() - before
}

/// A node that adds a second mask to scores.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    node: usize,
    /// The one that adds the first.
    inner: usize,
    pub(super) scores: Id,
    pub(super) masks: [Id; 2],
}

impl Sum {
    /// The node that writes `masked`, when it is one and nothing else reads what is between.
    pub(super) fn find(module: &Module, masked: Id) -> Option<Self> {
        let added = |id: Id| {
            let (node, Op::Add) = module.produced(id)? else { return None };
            let [a, b] = module.nodes[node].inputs[..] else { return None };
            (module.uses(id) == 1).then_some((node, [a, b]))
        };
        let is_product = |id: Id| {
            matches!(module.produced(id), Some((_, Op::MatMul | Op::Mul | Op::Div)))
                && module.value(id).shape == module.value(masked).shape
        };
        let (node, [a, b]) = added(masked)?;
        let sides = [(a, b), (b, a)];
        sides.into_iter().find_map(|(sum, second)| {
            let (inner, [a, b]) = added(sum)?;
            let (scores, first) =
                if is_product(a) { (a, b) } else { is_product(b).then_some((b, a))? };
            // Of two products, either could be the scores.
            let are_masks = !is_product(first) && !is_product(second);
            are_masks.then_some(Self { node, inner, scores, masks: [first, second] })
        })
    }

    /// Adds the sum of both instead.
    fn add(self, module: &mut Module) {
        let Self { node, inner, scores, masks } = self;
        let names = [inner, node].map(|index| module.nodes[index].name.clone());
        // Layers that share their masks share the sum.
        let is_sum = |node: &&Node| {
            matches!(node.operation, Operation::Graph(Op::Add)) && node.inputs == masks
        };
        let known = module.nodes[..node].iter().find(is_sum).map(|node| node.output);
        let mask = known.unwrap_or_else(|| {
            let name = format!("{}/mask", names[1]);
            let shape = self.shape(module).expect("only such sums are taken");
            let mask = module.add_value(name.clone(), DType::F32, shape);
            let operation = Operation::Graph(Op::Add);
            let inputs = masks.to_vec();
            let fused_from = names.to_vec();
            let sum = Node { name, operation, inputs, output: mask, fused_from };
            module.nodes.insert(node, sum);
            mask
        });
        module.nodes[node + usize::from(known.is_none())].inputs = vec![scores, mask];
        module.remove(|index| index == inner);
    }

    /// Sizes of the sum, where both masks have four dimensions.
    pub(super) fn shape(&self, module: &Module) -> Option<Shape> {
        let [a, b] = self.masks.map(|id| &module.value(id).shape);
        let of = |(a, b): (&Dim, &Dim)| match (a, b) {
            (a, b) if a == b => Some(a.clone()),
            (Dim::Fixed(1), other) | (other, Dim::Fixed(1)) => Some(other.clone()),
            _ => None,
        };
        (a.len() == 4 && b.len() == 4).then(|| a.iter().zip(b).map(of).collect())?
    }
}

/// A node that writes a very small number over some scores.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    node: usize,
    pub(super) condition: Id,
    pub(super) scores: Id,
    number: f32,
    /// Whether the scores stay where the condition holds.
    keeps: bool,
}

impl Choice {
    /// The node that writes `masked`, when it is one and nothing else reads it.
    pub(super) fn find(module: &Module, masked: Id) -> Option<Self> {
        let (node, Op::Where) = module.produced(masked)? else { return None };
        let [condition, a, b] = module.nodes[node].inputs[..] else { return None };
        let small = |id: Id| module.scalar(id).filter(|number| *number <= SMALL_ENOUGH);
        let (scores, number, keeps) = match (small(a), small(b)) {
            (None, Some(number)) => (a, number, true),
            (Some(number), None) => (b, number, false),
            _ => return None,
        };
        (module.uses(masked) == 1).then_some(Self { node, condition, scores, number, keeps })
    }

    /// Adds the number instead.
    fn add(self, module: &mut Module) {
        let Self { node, condition, scores, number, keeps } = self;
        let name = module.nodes[node].name.clone();
        let shape = module.value(condition).shape.clone();
        let zero = module.add_constant(format!("{name}/zero"), Tensor::scalar(0f32));
        let number = module.add_constant(format!("{name}/masked"), Tensor::scalar(number));
        let mask = module.add_value(format!("{name}/mask"), DType::F32, shape);
        let [yes, no] = if keeps { [zero, number] } else { [number, zero] };
        module.nodes[node].operation = Operation::Graph(Op::Add);
        module.nodes[node].inputs = vec![scores, mask];
        let chosen = Node {
            name: format!("{name}/mask"),
            operation: Operation::Graph(Op::Where),
            inputs: vec![condition, yes, no],
            output: mask,
            fused_from: vec![name],
        };
        module.nodes.insert(node, chosen);
    }
}
