//! Masks and transpositions in the forms that exporters write.

use graph::op::{Concat, GatherNd, Reshape, ReshapeTo, ShapeOf, Transpose, Unsqueeze};

use super::passes::check_pass;
use super::*;

/// `start, start + 1, …` up to the size of `x` in a dimension.
fn range(sketch: &mut Sketch, x: ValueId, axis: usize, start: i64) -> ValueId {
    let shape = sketch.node(Op::ShapeOf(ShapeOf { start: axis, end: axis + 1 }), &[x]);
    let size = sketch.node(Op::Squeeze(graph::op::Squeeze { axes: vec![0] }), &[shape]);
    let [start, one] = [start, 1].map(|number| sketch.weight(Tensor::scalar(number)));
    sketch.node(Op::Range, &[start, size, one])
}

#[test]
fn an_index_for_every_element_in_order_is_a_reshape() {
    for (start, expected) in [(0, 1), (1, 0)] {
        let dims = vec![Dim::symbol("batch"), Dim::symbol("tokens")];
        let (mut sketch, x) = Sketch::shaped(dims);
        let row = range(&mut sketch, x, 0, 0);
        let row = sketch.node(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[row]);
        let column = range(&mut sketch, x, 1, start);
        let column = sketch.node(Op::Unsqueeze(Unsqueeze { axes: vec![0] }), &[column]);
        let both = sketch.node(Op::Binary(graph::op::Binary::Max), &[row, column]);
        let shape = sketch.node(Op::ShapeOf(ShapeOf { start: 0, end: 2 }), &[both]);
        let parts = [row, column].map(|part| {
            let part = sketch.node(Op::Expand(graph::op::Expand {}), &[part, shape]);
            sketch.node(Op::Unsqueeze(Unsqueeze { axes: vec![2] }), &[part])
        });
        let index = sketch.node(Op::Concat(Concat { axis: 2 }), &parts);
        let y = sketch.node(Op::GatherNd(GatherNd { batch_dims: 0 }), &[x, index]);
        let y = sketch.node(Op::Relu, &[y]);
        let inputs = [("x", numbers(&[3, 4], 3, 1.0))];
        check_pass(&sketch.finish(&[y]), &inputs, "index-gather", expected);
    }
}

#[test]
fn transpositions_become_one() {
    let dims = || vec![Dim::symbol("batch"), 2.into(), Dim::symbol("tokens"), 3.into()];
    let transpose =
        |permutation: &[usize]| Op::Transpose(Transpose { permutation: permutation.to_vec() });
    let inputs = [("x", numbers(&[2, 2, 5, 3], 3, 1.0))];
    let (mut sketch, x) = Sketch::shaped(dims());
    let once = sketch.node(transpose(&[0, 2, 1, 3]), &[x]);
    let twice = sketch.node(transpose(&[1, 3, 0, 2]), &[once]);
    check_pass(&sketch.finish(&[twice]), &inputs, "transposes", 1);

    // As PyTorch's exporter transposes the keys: with batch and heads as one dimension.
    for (permutation, expected) in [([0, 2, 1], 1), ([2, 1, 0], 0)] {
        let (mut sketch, x) = Sketch::shaped(vec![4.into(), 2.into(), 4.into(), 3.into()]);
        let merged = sketch.node(Op::Reshape(Reshape { shape: vec![-1, 4, 3] }), &[x]);
        let turned = sketch.node(transpose(&permutation), &[merged]);
        let sizes = sketch.weight(Tensor::new(&[4], vec![4i64, 2, 3, 4]).unwrap());
        let y = sketch.node(Op::ReshapeTo(ReshapeTo { allow_zero: false }), &[turned, sizes]);
        let inputs = [("x", numbers(&[4, 2, 4, 3], 3, 1.0))];
        check_pass(&sketch.finish(&[y]), &inputs, "transposes", expected);
    }
}
