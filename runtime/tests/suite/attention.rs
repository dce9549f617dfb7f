//! Attention in the forms that exporters write: fused where every side is whole.

use graph::op::{Cast, Reshape, Slice, Softmax, Transpose, Unary, Unsqueeze};
use graph::{DType, Dim, Graph, Op, Tensor, ValueId};
use runtime::{Level, compile};

use crate::passes::check_pass;
use crate::{Sketch, numbers, options};

/// Attention over `x`, projected three times; `change` may break the pattern.
pub(crate) struct AttentionSketch {
    scores_out: bool,
    divide: bool,
    mask_rank: usize,
    project: bool,
    /// The number that is written over scores, and whether they stay where the mask is 0.
    replaced: Option<(f32, bool)>,
    /// Whether the query is of one sequence for all, and the key of one token for all.
    repeated: [bool; 2],
}

impl AttentionSketch {
    pub(crate) const PLAIN: Self = Self {
        scores_out: false,
        divide: false,
        mask_rank: 4,
        project: true,
        replaced: None,
        repeated: [false; 2],
    };

    pub(crate) fn build(&self) -> Graph {
        let batch_tokens = || vec![Dim::symbol("batch"), Dim::symbol("sequence")];
        let (mut sketch, x) = Sketch::shaped([batch_tokens(), vec![12.into()]].concat());
        let mask = sketch.graph.add_input("mask", DType::F32, batch_tokens()).unwrap();
        let one = |sketch: &mut Sketch, name: &str, dims: [Dim; 2]| {
            let shape = [dims.to_vec(), vec![12.into()]].concat();
            sketch.graph.add_input(name, DType::F32, shape).unwrap()
        };
        let [of_one, of_each] = self.repeated;
        let x_of_query =
            if of_one { one(&mut sketch, "q", [1.into(), Dim::symbol("sequence")]) } else { x };
        let x_of_key =
            if of_each { one(&mut sketch, "k", [Dim::symbol("batch"), 1.into()]) } else { x };
        let heads = |sketch: &mut Sketch, x: ValueId, seed: u64, permutation: [usize; 4]| {
            let flat = if self.project {
                let w = sketch.weight(numbers(&[12, 12], seed, 0.3));
                let b = sketch.weight(numbers(&[12], seed + 10, 0.3));
                let product = sketch.node(Op::MatMul, &[x, w]);
                sketch.node(Op::Add, &[product, b])
            } else {
                let factors = sketch.weight(numbers(&[12], seed, 0.5));
                sketch.node(Op::Mul, &[x, factors])
            };
            let split = Op::Reshape(Reshape { shape: vec![0, 0, 3, 4] });
            let split = sketch.node(split, &[flat]);
            sketch.node(Op::Transpose(Transpose { permutation: permutation.to_vec() }), &[split])
        };
        let q = heads(&mut sketch, x_of_query, 1, [0, 2, 1, 3]);
        let k = heads(&mut sketch, x_of_key, 2, [0, 2, 3, 1]);
        let v = heads(&mut sketch, x, 3, [0, 2, 1, 3]);
        let product = sketch.node(Op::MatMul, &[q, k]);
        let factor = sketch.weight(Tensor::scalar(if self.divide { 2f32 } else { 0.5 }));
        let op = if self.divide { Op::Div } else { Op::Mul };
        let mut scores = sketch.node(op, &[product, factor]);
        if self.mask_rank == 4 {
            let axes = vec![1, 2];
            let mask = sketch.node(Op::Unsqueeze(Unsqueeze { axes }), &[mask]);
            scores = match self.replaced {
                None => sketch.node(Op::Add, &[mask, scores]),
                Some((number, keeps)) => {
                    let hidden = sketch.node(Op::Cast(Cast { to: DType::Bool }), &[mask]);
                    let kept = sketch.node(Op::Unary(Unary::Not), &[hidden]);
                    let number = sketch.weight(Tensor::scalar(number));
                    let condition = if keeps { kept } else { hidden };
                    let sides = if keeps { [scores, number] } else { [number, scores] };
                    sketch.node(Op::Where, &[condition, sides[0], sides[1]])
                }
            };
        }
        let weights = sketch.node(Op::Softmax(Softmax {}), &[scores]);
        let context = sketch.node(Op::MatMul, &[weights, v]);
        let order = Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] });
        let context = sketch.node(order, &[context]);
        let y = sketch.node(Op::Reshape(Reshape { shape: vec![0, 0, -1] }), &[context]);
        let outputs = if self.scores_out { vec![y, weights] } else { vec![y] };
        sketch.finish(&outputs)
    }

    pub(crate) fn inputs(&self) -> Vec<(&'static str, Tensor)> {
        let mask = Tensor::from_fn(&[3, 5], |i| if i % 5 > 2 { -1e4f32 } else { 0.0 });
        let mut inputs = vec![("x", numbers(&[3, 5, 12], 9, 1.0)), ("mask", mask)];
        let [of_one, of_each] = self.repeated;
        inputs.extend(of_one.then(|| ("q", numbers(&[1, 5, 12], 10, 1.0))));
        inputs.extend(of_each.then(|| ("k", numbers(&[3, 1, 12], 11, 1.0))));
        inputs
    }
}

#[test]
fn attention_and_merged_projections() {
    for (divide, mask_rank) in [(false, 4), (true, 4), (false, 0)] {
        let sketch = AttentionSketch { divide, mask_rank, ..AttentionSketch::PLAIN };
        check_pass(&sketch.build(), &sketch.inputs(), "attention", 1);
        check_pass(&sketch.build(), &sketch.inputs(), "merge-qkv", 1);
    }
    let model = compile(&AttentionSketch::PLAIN.build(), &options(Level::O3)).unwrap();
    let kinds: Vec<_> = model.explain().nodes.iter().map(|node| node.operation.as_str()).collect();
    assert_eq!(kinds, ["Linear", "Unsqueeze", "FusedAttention"]);
}

#[test]
fn scores_replaced_by_a_very_small_number_are_a_mask() {
    for (number, keeps, expected) in [
        (f32::NEG_INFINITY, true, 1),
        (f32::MIN, true, 1),
        (f32::MIN, false, 1),
        // Added to a score, it is another number.
        (-1e4, true, 0),
    ] {
        let sketch = AttentionSketch { replaced: Some((number, keeps)), ..AttentionSketch::PLAIN };
        check_pass(&sketch.build(), &sketch.inputs(), "attention", expected);
    }
}

#[test]
fn attention_with_a_side_that_repeats_stays() {
    for repeated in [[true, false], [false, true], [true, true]] {
        let sketch = AttentionSketch { repeated, ..AttentionSketch::PLAIN };
        check_pass(&sketch.build(), &sketch.inputs(), "attention", 0);
    }
}

#[test]
fn attention_whose_weights_are_asked_for_stays() {
    let sketch = AttentionSketch { scores_out: true, ..AttentionSketch::PLAIN };
    check_pass(&sketch.build(), &sketch.inputs(), "attention", 0);
    check_pass(&sketch.build(), &sketch.inputs(), "merge-qkv", 0);
}

#[test]
fn attention_without_projections_has_nothing_to_merge() {
    let sketch = AttentionSketch { project: false, ..AttentionSketch::PLAIN };
    check_pass(&sketch.build(), &sketch.inputs(), "attention", 1);
    check_pass(&sketch.build(), &sketch.inputs(), "merge-qkv", 0);
}

/// As GPT-2 has it: one layer for query, key and value, and slices of its columns.
#[test]
fn slices_of_the_columns_of_one_layer_are_read_where_they_lie() {
    for (sliced_out, expected) in [(false, 1), (true, 0)] {
        let (mut sketch, x) = Sketch::shaped(vec![2.into(), 5.into(), 12.into()]);
        let weight = sketch.weight(numbers(&[12, 36], 1, 0.3));
        let all = sketch.node(Op::MatMul, &[x, weight]);
        let parts = [0, 1, 2].map(|part| {
            let (start, end) = (12 * part, (12 * (part + 1)).into());
            sketch.node(Op::Slice(Slice { axis: 2, start, end }), &[all])
        });
        let mut heads = |x: ValueId, permutation: &[usize]| {
            let split = sketch.node(Op::Reshape(Reshape { shape: vec![0, 0, 3, 4] }), &[x]);
            let permutation = permutation.to_vec();
            sketch.node(Op::Transpose(Transpose { permutation }), &[split])
        };
        let [q, v] = [parts[0], parts[2]].map(|part| heads(part, &[0, 2, 1, 3]));
        let k = heads(parts[1], &[0, 2, 3, 1]);
        let scores = sketch.node(Op::MatMul, &[q, k]);
        let weights = sketch.node(Op::Softmax(Softmax {}), &[scores]);
        let context = sketch.node(Op::MatMul, &[weights, v]);
        let order = Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] });
        let rows = sketch.node(order, &[context]);
        let y = sketch.node(Op::Reshape(Reshape { shape: vec![0, 0, -1] }), &[rows]);
        let outputs = if sliced_out { vec![y, parts[1]] } else { vec![y] };
        let inputs = [("x", numbers(&[2, 5, 12], 9, 1.0))];
        check_pass(&sketch.finish(&outputs), &inputs, "merge-qkv", expected);
    }
}
