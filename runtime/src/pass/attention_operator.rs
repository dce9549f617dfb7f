//! The operator of attention → the products and the softmax that it stands for, which later passes fuse
//! with what splits and merges its heads.

use graph::op::{
    Attention, AttentionPart, Concat, Expand, Reshape, Softmax, Transpose, Unary, Unsqueeze,
    VisibleKeys,
};
use graph::{DType, Dim, Op, Shape, Tensor};

use super::repeat;
use crate::module::{Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| rewrite(module, index).is_some())
}

/// Bytes of a mask that follows from sizes at most: a short file could ask for any memory.
const MOST_BYTES: usize = 16 << 20;

/// The operands of an attention, and their sizes.
struct Operands {
    op: Attention,
    query: Id,
    /// Key and value.
    pair: [Id; 2],
    mask: Option<Id>,
    past: Option<[Id; 2]>,
    batch: Dim,
    heads: usize,
    own: usize,
    queries: Dim,
    keys: Dim,
    /// Keys of the past, where that is a number.
    before: Option<usize>,
    size: usize,
    value_size: usize,
}

fn rewrite(module: &mut Module, index: usize) -> Option<()> {
    let operands = operands(module, index)?;
    let causal = match operands.op.visible {
        VisibleKeys::All => None,
        VisibleKeys::Causal => Some(causal_mask(&operands)?),
    };
    let name = module.nodes[index].name.clone();
    let mut steps = Steps { module, name, nodes: Vec::new() };
    let products = steps.weighted_values(&operands, causal);
    let nodes = std::mem::take(&mut steps.nodes);
    let inserted = nodes.len();
    let own_name = steps.name.clone();
    module.nodes.splice(index..index, nodes);
    let last = &mut module.nodes[index + inserted];
    last.operation = Operation::Graph(Op::MatMul);
    last.inputs = products.to_vec();
    last.fused_from = vec![own_name];
    Some(())
}

fn operands(module: &Module, index: usize) -> Option<Operands> {
    let node = &module.nodes[index];
    let Operation::Graph(Op::Attention(op)) = &node.operation else { return None };
    if op.part != AttentionPart::Output || op.lengths {
        return None;
    }
    let (&[query, key, value], rest) = node.inputs.split_first_chunk()?;
    let (mask, rest) = if op.mask { (Some(*rest.first()?), &rest[1..]) } else { (None, rest) };
    let past = if op.past { Some(<[Id; 2]>::try_from(rest).ok()?) } else { None };
    let shape = |id: Id| <&[Dim; 4]>::try_from(module.value(id).shape.as_slice()).ok();
    let ([batch, heads, queries, size], [_, own, new, _]) = (shape(query)?, shape(key)?);
    let (heads, own) = (heads.fixed()?, own.fixed()?);
    let (size, value_size) = (size.fixed()?, shape(value)?[3].fixed()?);
    let before = match past {
        Some([key, _]) => shape(key)?[2].fixed(),
        None => Some(0),
    };
    let keys = match past {
        Some(_) => Dim::Fixed(before? + new.fixed()?),
        None => new.clone(),
    };
    let unknown = [batch, queries, &keys].contains(&&Dim::Unknown);
    let mask_fits = mask.is_none_or(|mask| {
        let value = module.value(mask);
        let typed = matches!(value.dtype, DType::F32 | DType::Bool);
        typed && value.shape.len() <= 4 && value.shape.last() == Some(&keys)
    });
    let fits = !unknown && own > 0 && heads.is_multiple_of(own) && size > 0 && mask_fits;
    fits.then(|| Operands {
        op: *op,
        query,
        pair: [key, value],
        mask,
        past,
        batch: batch.clone(),
        heads,
        own,
        queries: queries.clone(),
        keys,
        before,
        size,
        value_size,
    })
}

/// −∞ on the keys that come after a query, `[1, 1, queries, keys]`.
fn causal_mask(operands: &Operands) -> Option<Tensor> {
    let (queries, keys) = (operands.queries.fixed()?, operands.keys.fixed()?);
    let before = operands.before?;
    let bytes = queries.checked_mul(keys)?.checked_mul(size_of::<f32>())?;
    let hidden = |index: usize| index % keys > index / keys + before;
    (bytes <= MOST_BYTES).then(|| {
        Tensor::from_fn(
            &[1, 1, queries, keys],
            |index| {
                if hidden(index) { f32::NEG_INFINITY } else { 0.0 }
            },
        )
    })
}

/// Nodes that go before the last one.
struct Steps<'a> {
    module: &'a mut Module,
    name: String,
    nodes: Vec<Node>,
}

impl Steps<'_> {
    fn add(&mut self, part: &str, op: Op, inputs: &[Id], shape: Shape) -> Id {
        let dtype = match op {
            Op::Unary(Unary::IsNan) => DType::Bool,
            _ => DType::F32,
        };
        let name = format!("{}/{part}", self.name);
        let output = self.module.add_value(name.clone(), dtype, shape);
        let operation = Operation::Graph(op);
        let fused_from = vec![self.name.clone()];
        self.nodes.push(Node { name, operation, inputs: inputs.to_vec(), output, fused_from });
        output
    }

    fn constant(&mut self, part: &str, tensor: Tensor) -> Id {
        self.module.add_constant(format!("{}/{part}", self.name), tensor)
    }

    /// A mask that all layers share.
    fn shared_constant(&mut self, mask: Tensor) -> Id {
        let known =
            self.module.values.iter().position(|value| value.constant.as_ref() == Some(&mask));
        known.map_or_else(|| self.constant("causal", mask), Id)
    }

    /// The two sides of the last product.
    fn weighted_values(&mut self, operands: &Operands, causal: Option<Tensor>) -> [Id; 2] {
        let Operands { op, batch, heads, queries, keys, size, value_size, .. } = operands;
        let by_head = |rest: [Dim; 2]| [&[batch.clone(), Dim::Fixed(*heads)], &rest[..]].concat();
        let mut pair = operands.pair;
        for (place, part) in pair.iter_mut().enumerate() {
            let size = if place == 0 { *size } else { *value_size };
            let name = ["key", "value"][place];
            let own = |tokens: &Dim| {
                vec![batch.clone(), Dim::Fixed(operands.own), tokens.clone(), Dim::Fixed(size)]
            };
            if let Some(past) = operands.past {
                let concat = Op::Concat(Concat { axis: 2 });
                *part = self.add(name, concat, &[past[place], *part], own(keys));
            }
            *part = self.repeated(name, *part, operands, size);
        }
        let [key, value] = pair;
        let turn = Op::Transpose(Transpose { permutation: vec![0, 1, 3, 2] });
        let turned = by_head([Dim::Fixed(*size), keys.clone()]);
        let key = self.add("turned", turn, &[key], turned);
        let scores = by_head([queries.clone(), keys.clone()]);
        let products = self.add("products", Op::MatMul, &[operands.query, key], scores.clone());
        let scale = op.scale.unwrap_or_else(|| 1.0 / (*size as f32).sqrt());
        let scale = self.constant("scale", Tensor::scalar(scale));
        let mut y = self.add("scaled", Op::Mul, &[products, scale], scores.clone());
        if op.softcap > 0.0 {
            let limit = self.constant("limit", Tensor::scalar(op.softcap));
            let share = self.add("share", Op::Div, &[y, limit], scores.clone());
            let share = self.add("bent", Op::Tanh, &[share], scores.clone());
            y = self.add("limited", Op::Mul, &[share, limit], scores.clone());
        }
        if let Some(causal) = causal {
            let causal = self.shared_constant(causal);
            y = self.add("seen", Op::Add, &[y, causal], scores.clone());
        }
        if let Some(mask) = operands.mask {
            let mask = self.mask(mask);
            y = self.add("masked", Op::Add, &[y, mask], scores.clone());
        }
        let mut weights = self.add("weights", Op::Softmax(Softmax {}), &[y], scores.clone());
        if operands.mask.is_some() {
            // What sees no key weighs nothing.
            let zero = self.constant("zero", Tensor::scalar(0f32));
            let none = self.add("none", Op::Unary(Unary::IsNan), &[weights], scores.clone());
            weights = self.add("kept", Op::Where, &[none, zero, weights], scores);
        }
        [weights, value]
    }

    /// A key or value for each head of the query.
    fn repeated(&mut self, name: &str, x: Id, operands: &Operands, size: usize) -> Id {
        let Operands { batch, heads, own, keys, .. } = operands;
        let sharing = heads / own;
        if sharing == 1 {
            return x;
        }
        let grouped = |sharing: usize| {
            vec![
                batch.clone(),
                Dim::Fixed(*own),
                Dim::Fixed(sharing),
                keys.clone(),
                Dim::Fixed(size),
            ]
        };
        let apart = Op::Unsqueeze(Unsqueeze { axes: vec![2] });
        let apart = self.add(&format!("{name}/apart"), apart, &[x], grouped(1));
        let sizes = Tensor::new(&[5], vec![1i64, 1, sharing as i64, 1, 1]).expect("five numbers");
        let sizes = self.constant(&format!("{name}/sizes"), sizes);
        let expand = Op::Expand(Expand {});
        let each = self.add(&format!("{name}/each"), expand, &[apart, sizes], grouped(sharing));
        let shape = vec![0, *heads as i64, -1, size as i64];
        let merged = vec![batch.clone(), Dim::Fixed(*heads), keys.clone(), Dim::Fixed(size)];
        self.add(&format!("{name}/heads"), Op::Reshape(Reshape { shape }), &[each], merged)
    }

    /// What is added to scores, in four dimensions.
    fn mask(&mut self, mask: Id) -> Id {
        let value = self.module.value(mask);
        let (is_truth, shape) = (value.dtype == DType::Bool, value.shape.clone());
        let missing = 4 - shape.len();
        let whole = [vec![Dim::Fixed(1); missing], shape.clone()].concat();
        let mut mask = mask;
        if is_truth {
            let [zero, hidden] = [("seen-key", 0.0), ("hidden-key", f32::NEG_INFINITY)]
                .map(|(name, number)| self.constant(name, Tensor::scalar(number)));
            mask = self.add("mask", Op::Where, &[mask, zero, hidden], shape);
        }
        if missing == 0 {
            return mask;
        }
        let axes = (0..missing).collect();
        self.add("mask/apart", Op::Unsqueeze(Unsqueeze { axes }), &[mask], whole)
    }
}
