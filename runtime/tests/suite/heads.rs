//! Attention as decoders have it: heads that something else made, keys and values shared by several
//! heads of the query, a bias by position beside the mask.

use graph::op::{
    Attention, AttentionPart, Expand, Reshape, Slice, Softmax, Transpose, Unary, Unsqueeze,
    VisibleKeys,
};
use graph::{DType, Graph, Op, Tensor, ValueId};

use crate::passes::check_pass;
use crate::{Sketch, numbers};

const TOKENS: usize = 5;
const SIZE: usize = 4;

/// Attention over heads that a ReLU gives.
#[derive(Clone, Copy)]
struct HeadsSketch {
    /// Heads of key and value, of the query's four.
    own: usize,
    /// Whether the last two dimensions of the keys are turned with the others merged.
    merged: bool,
    /// Whether query and key are read as rows `[batch, tokens, heads, size]`.
    in_rows: bool,
    masks: usize,
    /// Whether weights that are no number become 0.
    guarded: bool,
    /// Shape in which the result is read.
    result: &'static [i64],
}

impl HeadsSketch {
    const PLAIN: Self = Self {
        own: 4,
        merged: false,
        in_rows: false,
        masks: 1,
        guarded: false,
        result: &[0, 0, -1],
    };

    fn build(&self) -> Graph {
        let transpose =
            |permutation: &[usize]| Op::Transpose(Transpose { permutation: permutation.to_vec() });
        let reshape = |shape: &[i64]| Op::Reshape(Reshape { shape: shape.to_vec() });
        let rows = vec![2.into(), TOKENS.into(), 4.into(), SIZE.into()];
        let (mut sketch, q) = Sketch::shaped(rows);
        let heads = |sketch: &mut Sketch, name: &str| {
            let shape = vec![2.into(), self.own.into(), TOKENS.into(), SIZE.into()];
            let x = sketch.graph.add_input(name, DType::F32, shape).unwrap();
            sketch.node(Op::Relu, &[x])
        };
        let q = sketch.node(Op::Tanh, &[q]);
        let q = sketch.node(transpose(&[0, 2, 1, 3]), &[q]);
        let q = if self.in_rows { q } else { sketch.node(Op::Relu, &[q]) };
        let [k, v] = ["k", "v"].map(|name| heads(&mut sketch, name));
        let [k, v] = [k, v].map(|x| self.repeat(&mut sketch, x));
        let k = if self.merged {
            let flat = sketch.node(reshape(&[-1, TOKENS as i64, SIZE as i64]), &[k]);
            let turned = sketch.node(transpose(&[0, 2, 1]), &[flat]);
            sketch.node(reshape(&[-1, 4, SIZE as i64, TOKENS as i64]), &[turned])
        } else {
            sketch.node(transpose(&[0, 1, 3, 2]), &[k])
        };
        let root = sketch.weight(Tensor::scalar(0.7f32));
        let [q, k] = [q, k].map(|side| sketch.node(Op::Mul, &[side, root]));
        let mut scores = sketch.node(Op::MatMul, &[q, k]);
        let biases = [
            numbers(&[1, 4, TOKENS, TOKENS], 5, 2.0),
            Tensor::from_fn(&[1, 1, TOKENS, TOKENS], |i| {
                if i % TOKENS > i / TOKENS { f32::MIN } else { 0.0 }
            }),
        ];
        for bias in biases.into_iter().take(self.masks) {
            let bias = sketch.weight(bias);
            // What folds is no mask of a model.
            let bias = sketch.node(Op::Add, &[bias, root]);
            scores = sketch.node(Op::Add, &[scores, bias]);
        }
        let mut weights = sketch.node(Op::Softmax(Softmax {}), &[scores]);
        if self.guarded {
            let wrong = sketch.node(Op::Unary(Unary::IsNan), &[weights]);
            let zero = sketch.weight(Tensor::scalar(0f32));
            weights = sketch.node(Op::Where, &[wrong, zero, weights]);
        }
        let context = sketch.node(Op::MatMul, &[weights, v]);
        let rows = sketch.node(transpose(&[0, 2, 1, 3]), &[context]);
        let y = sketch.node(reshape(self.result), &[rows]);
        let y = sketch.node(Op::Tanh, &[y]);
        sketch.finish(&[y])
    }

    /// Each head of key or value as often as the query has heads for it.
    fn repeat(&self, sketch: &mut Sketch, x: ValueId) -> ValueId {
        if self.own == 4 {
            return x;
        }
        let grouped = sketch.node(Op::Unsqueeze(Unsqueeze { axes: vec![2] }), &[x]);
        let sharing = 4 / self.own as i64;
        let sizes = sketch.weight(Tensor::new(&[5], vec![1, 1, sharing, 1, 1]).unwrap());
        let expanded = sketch.node(Op::Expand(Expand {}), &[grouped, sizes]);
        let shape = vec![0, 4, TOKENS as i64, SIZE as i64];
        sketch.node(Op::Reshape(Reshape { shape }), &[expanded])
    }

    fn check(&self, expected: usize) {
        let x = |heads: usize, seed| numbers(&[2, heads, TOKENS, SIZE], seed, 1.0);
        let q = numbers(&[2, TOKENS, 4, SIZE], 1, 1.0);
        let inputs = [("x", q), ("k", x(self.own, 2)), ("v", x(self.own, 3))];
        check_pass(&self.build(), &inputs, "attention-heads", expected);
        check_pass(&self.build(), &inputs, "attention", 0);
    }
}

/// The operator of ONNX, between splits and merges as PyTorch's exporter writes them.
#[test]
fn the_operator_of_attention_is_fused() {
    let plain = Attention {
        scale: None,
        softcap: 0.0,
        visible: VisibleKeys::All,
        mask: false,
        past: false,
        lengths: false,
        part: AttentionPart::Output,
    };
    let causal = Attention { visible: VisibleKeys::Causal, ..plain };
    let numbers_of = |shape: &[usize], seed| numbers(shape, seed, 1.0);
    let hides = Tensor::from_fn(&[2, 1, TOKENS, TOKENS], |i| i % 3 != 0 && i / TOKENS != 2);
    let bias = numbers_of(&[4, TOKENS, TOKENS], 7);
    for (op, own, mask, fused) in [
        (plain, 4, None, 1),
        (causal, 4, None, 1),
        (causal, 2, None, 1),
        (Attention { mask: true, ..plain }, 1, Some(hides.clone()), 1),
        (Attention { mask: true, scale: Some(0.3), ..causal }, 4, Some(bias), 1),
        (Attention { softcap: 2.0, ..plain }, 4, None, 0),
    ] {
        let shape = vec![2.into(), TOKENS.into(), 4.into(), SIZE.into()];
        let (mut sketch, x) = Sketch::shaped(shape);
        let transpose = Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] });
        let q = sketch.node(transpose.clone(), &[x]);
        let mut inputs = vec![("x", numbers_of(&[2, TOKENS, 4, SIZE], 1))];
        let mut operands = vec![q];
        for (name, seed) in [("k", 2), ("v", 3)] {
            let dims = vec![2.into(), own.into(), TOKENS.into(), SIZE.into()];
            operands.push(sketch.graph.add_input(name, DType::F32, dims).unwrap());
            inputs.push((name, numbers_of(&[2, own, TOKENS, SIZE], seed)));
        }
        operands.extend(mask.map(|mask| sketch.weight(mask)));
        let context = sketch.node(Op::Attention(op), &operands);
        let rows = sketch.node(transpose, &[context]);
        let y = sketch.node(Op::Reshape(Reshape { shape: vec![0, 0, -1] }), &[rows]);
        let graph = sketch.finish(&[y]);
        check_pass(&graph, &inputs, "attention-operator", 1);
        check_pass(&graph, &inputs, "attention-heads", fused);
    }
}

#[test]
fn the_operator_of_attention_takes_a_past() {
    let op = Attention {
        scale: None,
        softcap: 0.0,
        visible: VisibleKeys::Causal,
        mask: false,
        past: true,
        lengths: false,
        part: AttentionPart::Output,
    };
    let (mut sketch, q) = Sketch::shaped(vec![1.into(), 4.into(), 2.into(), SIZE.into()]);
    let mut inputs = vec![("x", numbers(&[1, 4, 2, SIZE], 1, 1.0))];
    let mut operands = vec![q];
    for (name, tokens) in [("k", 2), ("v", 2), ("past-k", 3), ("past-v", 3)] {
        let dims = vec![1.into(), 2.into(), tokens.into(), SIZE.into()];
        operands.push(sketch.graph.add_input(name, DType::F32, dims).unwrap());
        inputs.push((name, numbers(&[1, 2, tokens, SIZE], tokens as u64, 1.0)));
    }
    let y = sketch.node(Op::Attention(op), &operands);
    check_pass(&sketch.finish(&[y]), &inputs, "attention-operator", 1);
}

#[test]
fn heads_that_something_made_are_fused() {
    HeadsSketch::PLAIN.check(1);
    HeadsSketch { masks: 0, guarded: true, ..HeadsSketch::PLAIN }.check(1);
    HeadsSketch { in_rows: true, ..HeadsSketch::PLAIN }.check(1);
}

#[test]
fn queries_share_keys_and_values() {
    for own in [1, 2] {
        for merged in [false, true] {
            HeadsSketch { own, merged, ..HeadsSketch::PLAIN }.check(1);
        }
    }
}

#[test]
fn two_masks_become_one() {
    HeadsSketch { masks: 2, ..HeadsSketch::PLAIN }.check(1);
}

/// PyTorch's linear layers of newer exporters take rows of all sequences at once.
#[test]
fn results_are_read_in_any_shape() {
    HeadsSketch { result: &[-1, 16], ..HeadsSketch::PLAIN }.check(1);
    HeadsSketch { result: &[0, 0, 4, 2, 2], ..HeadsSketch::PLAIN }.check(1);
}

/// Scores by content and by position: either product could be what the other is added to.
#[test]
fn sums_of_two_products_stay() {
    let shape = || vec![2.into(), 4.into(), TOKENS.into(), SIZE.into()];
    let (mut sketch, q) = Sketch::shaped(shape());
    let [k, r, v] =
        ["k", "r", "v"].map(|name| sketch.graph.add_input(name, DType::F32, shape()).unwrap());
    let turn = Op::Transpose(Transpose { permutation: vec![0, 1, 3, 2] });
    let mask = sketch.weight(numbers(&[1, 1, 1, TOKENS], 5, 2.0));
    let products = [k, r].map(|side| {
        let turned = sketch.node(turn.clone(), &[side]);
        sketch.node(Op::MatMul, &[q, turned])
    });
    let scores = sketch.node(Op::Add, &products);
    let scores = sketch.node(Op::Add, &[scores, mask]);
    let weights = sketch.node(Op::Softmax(Softmax {}), &[scores]);
    let context = sketch.node(Op::MatMul, &[weights, v]);
    let order = Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] });
    let rows = sketch.node(order, &[context]);
    let y = sketch.node(Op::Reshape(Reshape { shape: vec![0, 0, -1] }), &[rows]);
    let x = |seed| numbers(&[2, 4, TOKENS, SIZE], seed, 1.0);
    let inputs = [("x", x(1)), ("k", x(2)), ("r", x(3)), ("v", x(4))];
    check_pass(&sketch.finish(&[y]), &inputs, "attention-heads", 0);
}

/// One matrix for every head, and layers of which only a part is read: no layer of all heads.
#[test]
fn only_layers_of_all_heads_are_merged() {
    for per_head in [true, false] {
        let (mut sketch, x) = Sketch::shaped(vec![2.into(), TOKENS.into(), 16.into()]);
        let split = Op::Reshape(Reshape { shape: vec![0, 0, 4, SIZE as i64] });
        let heads = [1, 2, 3].map(|seed| {
            let rows = if per_head {
                let rows = sketch.node(split.clone(), &[x]);
                let weight = sketch.weight(numbers(&[SIZE, SIZE], seed, 0.5));
                sketch.node(Op::MatMul, &[rows, weight])
            } else {
                let weight = sketch.weight(numbers(&[16, 32], seed, 0.5));
                let all = sketch.node(Op::MatMul, &[x, weight]);
                let part = Op::Slice(Slice { axis: 2, start: 0, end: 16.into() });
                let part = sketch.node(part, &[all]);
                sketch.node(split.clone(), &[part])
            };
            let permutation = if seed == 2 { vec![0, 2, 3, 1] } else { vec![0, 2, 1, 3] };
            sketch.node(Op::Transpose(Transpose { permutation }), &[rows])
        });
        let scores = sketch.node(Op::MatMul, &heads[..2]);
        let weights = sketch.node(Op::Softmax(Softmax {}), &[scores]);
        let context = sketch.node(Op::MatMul, &[weights, heads[2]]);
        let order = Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] });
        let rows = sketch.node(order, &[context]);
        let y = sketch.node(Op::Reshape(Reshape { shape: vec![0, 0, -1] }), &[rows]);
        let inputs = [("x", numbers(&[2, TOKENS, 16], 9, 1.0))];
        let merges = usize::from(!per_head);
        check_pass(&sketch.finish(&[y]), &inputs, "merge-qkv", merges);
    }
}
