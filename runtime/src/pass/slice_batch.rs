//! Finds the dimension whose elements a model computes each by itself, so that a run may be cut into
//! slices that threads compute on their own (see `slices`).

use std::sync::Arc;

use graph::{Dim, Op};

use crate::module::{ChannelsLast, Id, InputScale, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    module.batch = batch(module);
    usize::from(module.batch.is_some())
}

fn batch(module: &Module) -> Option<Arc<str>> {
    let Dim::Symbol(symbol) = module.value(*module.outputs.first()?).shape.first()? else {
        return None;
    };
    let along = Along { module, symbol };
    let leads = |id: &Id| along.place(*id) == Where::Leads;
    let inside = |id: &Id| along.place(*id) == Where::Inside;
    let fits = module.outputs.iter().all(leads)
        && module.inputs.iter().any(leads)
        && !module.inputs.iter().any(inside)
        && module.nodes.iter().all(|node| along.is_apart(node));
    fits.then(|| symbol.clone())
}

/// Where the dimension is among those of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Nowhere,
    /// It is the outermost and no other.
    Leads,
    Inside,
}

struct Along<'a> {
    module: &'a Module,
    symbol: &'a Arc<str>,
}

impl Along<'_> {
    fn place(&self, id: Id) -> Where {
        let is_it = |dim: &Dim| matches!(dim, Dim::Symbol(name) if name == self.symbol);
        match self.module.value(id).shape.as_slice() {
            [_, inner @ ..] if inner.iter().any(is_it) => Where::Inside,
            [outermost, ..] if is_it(outermost) => Where::Leads,
            _ => Where::Nowhere,
        }
    }

    fn rank(&self, id: Id) -> usize {
        self.module.value(id).shape.len()
    }

    /// Whether each element of the output needs only the inputs' of the same index.
    fn is_apart(&self, node: &Node) -> bool {
        let places: Vec<Where> = node.inputs.iter().map(|&id| self.place(id)).collect();
        match self.place(node.output) {
            Where::Inside => false,
            Where::Nowhere => places.iter().all(|&place| place == Where::Nowhere),
            Where::Leads => {
                places.iter().all(|&place| place != Where::Inside)
                    && self.keeps_apart(node, &places)
            }
        }
    }

    /// [`Self::is_apart`] where the dimension leads the output, and every input that has it.
    fn keeps_apart(&self, node: &Node, places: &[Where]) -> bool {
        let leads = |input: usize| places.get(input) == Some(&Where::Leads);
        let others_lack_it = || places[1..].iter().all(|&place| place == Where::Nowhere);
        let first_alone = |least_rank: usize| {
            leads(0) && others_lack_it() && self.rank(node.inputs[0]) >= least_rank
        };
        // Shorter shapes are broadcast from the right.
        let aligned = || {
            let rank = self.rank(node.output);
            let inputs = node.inputs.iter().zip(places);
            inputs.into_iter().all(|(&id, &place)| place != Where::Leads || self.rank(id) == rank)
        };
        let op = match &node.operation {
            // A scale of all numbers is none of each.
            Operation::IntegerLinear(layer) if layer.input == InputScale::OfRange => return false,
            Operation::Linear { .. } | Operation::IntegerLinear(_) => return first_alone(2),
            Operation::ChannelsLast(ChannelsLast::Conv { has_addend: true, .. }) => {
                return leads(0) && !leads(1) && !leads(2) && leads(3);
            }
            Operation::Conv(_) | Operation::ChannelsLast(_) => return first_alone(3),
            Operation::Attention(_) => return leads(0) && leads(1) && leads(2),
            Operation::ResidualLayerNorm { .. } => {
                return leads(0) && self.rank(node.output) >= 2 && aligned();
            }
            Operation::IntegerSum(_) => return leads(0) && leads(1),
            Operation::Choose => return !leads(0) && leads(1) && leads(2),
            Operation::Several(_) | Operation::OtherOutput { .. } => return false,
            Operation::IntegerGather { .. } => return !leads(0) && !leads(1) && leads(2),
            Operation::Graph(op) => op,
        };
        match op {
            Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Relu
            | Op::Tanh
            | Op::Gelu(_)
            | Op::Cast(_)
            | Op::Identity
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Where
            | Op::Clip(_) => aligned(),
            Op::Softmax(_) | Op::LayerNorm(_) | Op::RmsNorm(_) | Op::SoftmaxRelative(_) => {
                first_alone(2)
            }
            Op::Reshape(_) | Op::Transpose(_) | Op::Unsqueeze(_) | Op::Squeeze(_) => leads(0),
            Op::Slice(slice) => leads(0) && slice.axis != 0,
            Op::Concat(concat) => {
                concat.axis != 0 && places.iter().all(|&place| place == Where::Leads)
            }
            Op::ReduceSum(sum) => leads(0) && sum.axis != 0,
            Op::Gather(gather) if leads(0) => gather.axis != 0 && others_lack_it(),
            Op::Gather(gather) => gather.axis == 0 && leads(1),
            Op::Quantize(quantize) => quantize.axis != Some(0) && first_alone(1),
            Op::Dequantize(dequantize) => dequantize.axis != Some(0) && first_alone(1),
            // Of two matrices neither has it as rows or columns that the other's would meet.
            Op::MatMul => match (leads(0), leads(1)) {
                (true, false) => self.rank(node.inputs[0]) >= 2 && aligned(),
                _ => self.rank(node.output) >= 3 && aligned(),
            },
            Op::Conv(_) | Op::Pool(_) | Op::GlobalPool(_) | Op::BatchNorm(_) => first_alone(3),
            _ => false,
        }
    }
}
