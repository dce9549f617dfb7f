//! Functions of one and of two elements, and concatenation.

use graph::op::{Binary, Cast, Clip, Concat, Reduce, ReduceKind, SliceBy, Unary};
use graph::{DType, Dim, Graph, Op, Tensor};

use crate::{Sketch, check, numbers};

/// The bounds that the kernels' functions state, on numbers up to about 4.
const FLOAT: f32 = 2e-6;

fn rows(magnitude: f64) -> Tensor {
    numbers(&[3, 21], 7, magnitude)
}

/// Compares with the definition and checks which kernel ran last.
#[track_caller]
fn check_kernel(sketch: Sketch, y: graph::ValueId, inputs: &[(&str, Tensor)], kernel: &str) {
    let model = check(&sketch.finish(&[y]), inputs, FLOAT);
    assert_eq!(model.explain().nodes.last().unwrap().kernel, kernel);
}

#[test]
fn functions_of_one_element() {
    for (op, kernel) in [
        (Unary::Abs, "abs.f32"),
        (Unary::Neg, "neg.f32"),
        (Unary::Floor, "floor.f32"),
        (Unary::Ceil, "ceil.f32"),
        (Unary::Exp, "exp.f32"),
        (Unary::Erf, "erf.f32"),
        (Unary::Sigmoid, "sigmoid.f32"),
        (Unary::Swish { alpha: 1.5 }, "swish.f32"),
        (Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }, "hard-sigmoid.f32"),
        (Unary::HardSwish, "hard-swish.f32"),
        (Unary::LeakyRelu { alpha: 0.1 }, "leaky-relu.f32"),
        (Unary::Elu { alpha: 1.5 }, "elu.f32"),
        (Unary::Sign, "sign.f32"),
        (Unary::Round, "round.f32"),
        (Unary::Sin, "sin.f32"),
        (Unary::Cos, "cos.f32"),
        (Unary::Softplus, "softplus.f32"),
        (Unary::Softsign, "softsign.f32"),
        (Unary::Mish, "mish.f32"),
        (Unary::Celu { alpha: 1.5 }, "celu.f32"),
        (Unary::Selu { alpha: 1.5, gamma: 1.1 }, "selu.f32"),
        (Unary::Tan, "reference"),
    ] {
        let (mut sketch, x) = Sketch::new(21);
        let y = sketch.node(Op::Unary(op), &[x]);
        check_kernel(sketch, y, &[("x", rows(1.0))], kernel);
        // Over its input, which no output keeps.
        let (mut sketch, x) = Sketch::new(21);
        let sum = sketch.node(Op::Add, &[x, x]);
        let y = sketch.node(Op::Unary(op), &[sum]);
        check_kernel(sketch, y, &[("x", rows(0.5))], kernel);
    }
}

#[test]
fn functions_of_positive_elements() {
    let positive = Tensor::from_fn(&[3, 21], |index| 0.1 + index as f32 / 3.0);
    for (op, kernel) in
        [(Unary::Sqrt, "sqrt.f32"), (Unary::Log, "log.f32"), (Unary::Reciprocal, "reciprocal.f32")]
    {
        let (mut sketch, x) = Sketch::new(21);
        let y = sketch.node(Op::Unary(op), &[x]);
        check_kernel(sketch, y, &[("x", positive.clone())], kernel);
    }
    for exponent in [2.0, 0.5] {
        let (mut sketch, x) = Sketch::new(21);
        let exponent = sketch.weight(Tensor::scalar(exponent));
        let y = sketch.node(Op::Binary(Binary::Pow), &[x, exponent]);
        check_kernel(sketch, y, &[("x", positive.clone())], "pow.f32");
    }
}

#[test]
fn integers_take_the_definition() {
    let shape = vec![Dim::symbol("batch")];
    let mut sketch = Sketch { graph: graph::Graph::new("sketch") };
    let x = sketch.graph.add_input("x", DType::I64, shape).unwrap();
    let y = sketch.node(Op::Unary(Unary::Neg), &[x]);
    let input = Tensor::from_fn(&[4], |index| index as i64 - 2);
    check_kernel(sketch, y, &[("x", input)], "reference");
}

#[test]
fn clips_with_and_without_bounds() {
    for (low, high) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut sketch, x) = Sketch::new(21);
        let mut inputs = vec![x];
        inputs.extend(low.then(|| sketch.weight(Tensor::scalar(-0.5f32))));
        inputs.extend(high.then(|| sketch.weight(Tensor::scalar(0.7f32))));
        let y = sketch.node(Op::Clip(Clip { low, high }), &inputs);
        check_kernel(sketch, y, &[("x", rows(1.0))], "clip.f32");
    }
}

#[test]
fn functions_of_two_elements_broadcast() {
    for (op, kernel) in [
        (Binary::PRelu, "prelu.f32"),
        (Binary::Max, "max"),
        (Binary::Min, "min"),
        (Binary::Equal, "equal"),
        (Binary::Greater, "greater"),
        (Binary::GreaterOrEqual, "greater-or-equal"),
        (Binary::Less, "less"),
        (Binary::LessOrEqual, "less-or-equal"),
    ] {
        for shape in [&[][..], &[21], &[1], &[3, 1], &[3, 21], &[2, 1, 1]] {
            let (mut sketch, x) = Sketch::shaped(vec![3.into(), 21.into()]);
            let other = sketch.weight(numbers(shape, 3, 1.0));
            for inputs in [[x, other], [other, x], [x, x]] {
                let y = sketch.node(Op::Binary(op), &inputs);
                let mut one = Sketch { graph: sketch.graph.clone() };
                one.graph.set_outputs(&[y]);
                check_kernel(one, y, &[("x", rows(1.0))], kernel);
            }
        }
    }
}

#[test]
fn parts_of_any_type_are_put_together() {
    for axis in [0, 1, 2] {
        let (mut sketch, x) = Sketch::shaped(vec![2.into(), 3.into(), 4.into()]);
        let mut shape = [2, 3, 4];
        shape[axis] = 5;
        let other = sketch.weight(numbers(&shape, 3, 1.0));
        shape[axis] = 0;
        let empty = sketch.weight(Tensor::zeros(DType::F32, &shape));
        let y = sketch.node(Op::Concat(Concat { axis }), &[x, empty, other, x]);
        check_kernel(sketch, y, &[("x", numbers(&[2, 3, 4], 1, 1.0))], "concat.copy");
    }
    let mut sketch = Sketch { graph: graph::Graph::new("sketch") };
    let x = sketch.graph.add_input("x", DType::I64, vec![Dim::symbol("batch"), 2.into()]).unwrap();
    let y = sketch.node(Op::Concat(Concat { axis: 1 }), &[x, x]);
    let input = Tensor::from_fn(&[4, 2], |index| index as i64);
    check_kernel(sketch, y, &[("x", input)], "concat.copy");
}

#[test]
fn integers_are_compared_and_cast() {
    let compared = [
        (Binary::Equal, "equal"),
        (Binary::Greater, "greater"),
        (Binary::GreaterOrEqual, "greater-or-equal"),
        (Binary::Less, "less"),
        (Binary::LessOrEqual, "less-or-equal"),
    ];
    for (binary, kernel) in compared {
        for dtype in [DType::I64, DType::I32] {
            // Which class each token has, as an embedding without a table says it.
            let mut sketch = Sketch { graph: graph::Graph::new("classes") };
            let shape = vec![Dim::symbol("batch"), 5.into(), 1.into()];
            let x = sketch.graph.add_input("x", dtype, shape).unwrap();
            let classes = match dtype {
                DType::I64 => Tensor::from_fn(&[1, 1, 7], |index| index as i64 - 2),
                _ => Tensor::from_fn(&[1, 1, 7], |index| index as i32 - 2),
            };
            let classes = sketch.weight(classes);
            let is_class = sketch.node(Op::Binary(binary), &[x, classes]);
            let y = sketch.node(Op::Cast(Cast { to: DType::F32 }), &[is_class]);
            let graph = sketch.finish(&[y]);
            let x = match dtype {
                DType::I64 => Tensor::from_fn(&[3, 5, 1], |index| index as i64 % 6 - 1),
                _ => Tensor::from_fn(&[3, 5, 1], |index| index as i32 % 6 - 1),
            };
            let model = check(&graph, &[("x", x)], FLOAT);
            let kernels: Vec<&str> =
                model.explain().nodes.iter().map(|node| node.kernel.as_str()).collect();
            assert_eq!(kernels, [kernel, "cast.copy"]);
        }
    }
}

#[test]
fn elements_are_chosen() {
    let condition = |shape: &[usize]| Tensor::from_fn(shape, |index| index % 3 != 1);
    for (sizes, a, b) in [
        (&[3usize, 21][..], &[21usize][..], &[][..]),
        (&[3, 1], &[3, 21], &[1, 21]),
        (&[1], &[3, 1], &[21]),
        (&[3, 21], &[3, 21], &[3, 21]),
    ] {
        let (mut sketch, x) = Sketch::shaped(vec![3.into(), 21.into()]);
        let holds = sketch.weight(condition(sizes));
        let sides = [sketch.weight(numbers(a, 1, 1.0)), sketch.weight(numbers(b, 2, 1.0))];
        // A sum with the input, lest it folds.
        let zero = sketch.node(Op::Sub, &[x, x]);
        let a = sketch.node(Op::Add, &[zero, sides[0]]);
        let y = sketch.node(Op::Where, &[holds, a, sides[1]]);
        check_kernel(sketch, y, &[("x", rows(1.0))], "where.copy");
    }
    for numbers in
        [Tensor::from_fn(&[3, 21], |i| i as i64), Tensor::from_fn(&[3, 21], |i| i % 2 == 0)]
    {
        let (mut sketch, _) = Sketch::new(21);
        let shape = vec![Dim::symbol("batch"), 21.into()];
        let z = sketch.graph.add_input("z", numbers.dtype(), shape).unwrap();
        let holds = sketch.weight(condition(&[21]));
        let one = sketch.weight(match numbers.dtype() {
            DType::I64 => Tensor::scalar(7i64),
            _ => Tensor::scalar(true),
        });
        let y = sketch.node(Op::Where, &[holds, z, one]);
        check_kernel(sketch, y, &[("x", rows(1.0)), ("z", numbers)], "where.copy");
    }
}

#[test]
fn reductions() {
    use ReduceKind::{L1, L2, LogSumExp, Max, Mean, Min, Product, Sum, SumSquare};
    for kind in [Sum, Mean, Max, Min, L1, L2, SumSquare, Product, LogSumExp] {
        let neighbours = !matches!(kind, Product | LogSumExp);
        for (axes, at_once) in [
            (&[0usize][..], true),
            (&[2], true),
            (&[1, 2], true),
            (&[0, 1, 2], true),
            (&[1], true),
            (&[0, 2], false),
            (&[], false),
        ] {
            let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("batch"), 70.into(), 67.into()]);
            let axes = Some(axes.to_vec());
            let op = Reduce { kind, axes, keep_dims: false, empty_means_none: true };
            let y = sketch.node(Op::Reduce(op), &[x]);
            let x = numbers(&[3, 70, 67], 4, 1.0);
            let kernel = if at_once && neighbours { "reduce.f32" } else { "reference" };
            check_kernel(sketch, y, &[("x", x)], kernel);
        }
    }
}

#[test]
fn entries_at_distances() {
    let far = i64::from(i32::MAX);
    let cases: [[&[i64]; 4]; 6] = [
        [&[0, 1], &[far, far], &[2, 1], &[2, 2]],
        [&[-1], &[-far], &[1], &[-1]],
        [&[1], &[5], &[-1], &[3]],
        [&[4], &[1], &[2], &[1]],
        [&[0], &[far], &[0], &[2]],
        [&[], &[], &[], &[]],
    ];
    for lists in cases {
        for dtype in [DType::F32, DType::I64] {
            let mut graph = Graph::new("steps");
            let x = graph.add_input("x", dtype, vec![3.into(), 5.into(), 7.into()]).unwrap();
            let list = |list: &[i64]| Tensor::new(&[list.len()], list.to_vec()).unwrap();
            let mut sketch = Sketch { graph };
            let [starts, ends, axes, steps] = lists.map(|numbers| sketch.weight(list(numbers)));
            let y = sketch.node(Op::SliceBy(SliceBy {}), &[x, starts, ends, axes, steps]);
            let x = match dtype {
                DType::F32 => numbers(&[3, 5, 7], 8, 1.0),
                _ => Tensor::from_fn(&[3, 5, 7], |index| index as i64),
            };
            check_kernel(sketch, y, &[("x", x)], "slice.steps");
        }
    }
}
