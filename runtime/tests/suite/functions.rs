//! Functions of one and of two elements, and concatenation.

use graph::op::{
    Binary, Cast, Clip, Concat, Expand, Gather, GatherElements, GatherNd, GroupNorm, InstanceNorm,
    Reduce, ReduceKind, RmsNorm, RotaryEmbedding, RotaryPairs, SliceBy, Unary,
};
use graph::{DType, Dim, Graph, Op, Tensor};

use runtime::{Level, compile};

use crate::{Sketch, check, numbers, options, run};

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
        (Unary::Tan, "tan.f32"),
        (Unary::Atan, "atan.f32"),
        (Unary::Sinh, "sinh.f32"),
        (Unary::Cosh, "cosh.f32"),
        (Unary::Asinh, "asinh.f32"),
        (Unary::Shrink { bias: 0.1, lambda: 0.5 }, "reference"),
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
    let small = Tensor::from_fn(&[3, 21], |index| index as f32 / 31.0 - 1.0);
    let large = Tensor::from_fn(&[3, 21], |index| 1.0 + index as f32 / 3.0);
    for (op, x, kernel) in [
        (Unary::Asin, &small, "asin.f32"),
        (Unary::Acos, &small, "acos.f32"),
        (Unary::Acosh, &large, "acosh.f32"),
    ] {
        let (mut sketch, input) = Sketch::new(21);
        let y = sketch.node(Op::Unary(op), &[input]);
        check_kernel(sketch, y, &[("x", x.clone())], kernel);
    }
    let (mut sketch, input) = Sketch::new(20);
    let y = sketch.node(Op::Unary(Unary::Atanh), &[input]);
    let inside = Tensor::from_fn(&[3, 20], |index| index as f32 / 31.0 - 0.95);
    check_kernel(sketch, y, &[("x", inside)], "atanh.f32");
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
        (Binary::Mod, "mod"),
        (Binary::Remainder, "mod"),
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

/// Quotients and remainders of integers, and what is done with their bits.
#[test]
fn integers_divide_and_combine_bits() {
    use Binary::{BitwiseAnd, BitwiseOr, BitwiseXor, Mod, Remainder, ShiftLeft, ShiftRight};
    let of = |op| Op::Binary(op);
    let all = [
        (Op::Div, "div.broadcast"),
        (of(Mod), "mod"),
        (of(Remainder), "mod"),
        (of(BitwiseAnd), "bitwise-and"),
        (of(BitwiseOr), "bitwise-or"),
        (of(BitwiseXor), "bitwise-xor"),
        (of(ShiftLeft), "bit-shift"),
        (of(ShiftRight), "bit-shift"),
    ];
    for dtype in [DType::I64, DType::I32, DType::I8, DType::U8] {
        for (op, kernel) in &all {
            if *kernel == "bit-shift" && dtype != DType::U8 {
                continue;
            }
            for [left, right] in [[&[3, 5][..], &[3, 5]], [&[3, 5], &[1]], [&[5], &[3, 1]]] {
                let shape = |sizes: &[usize]| sizes.iter().map(|&size| Dim::Fixed(size)).collect();
                let mut sketch = Sketch { graph: Graph::new("sketch") };
                let a = sketch.graph.add_input("a", dtype, shape(left)).unwrap();
                let b = sketch.graph.add_input("b", dtype, shape(right)).unwrap();
                let direct = sketch.node(op.clone(), &[a, b]);
                // Values that nothing else reads, so that the result may lie over one.
                let [c, d] = [a, b].map(|x| sketch.node(of(Binary::Max), &[x, x]));
                let over = sketch.node(op.clone(), &[c, d]);
                let graph = sketch.finish(&[direct, over]);
                // 23 numbers of which one is 0, that of the divisors left out.
                let divisors = integers(dtype, right, 14);
                let inputs = [("a", integers(dtype, left, 0)), ("b", divisors.clone())];
                let model = check(&graph, &inputs, 0.0);
                let nodes = &model.explain().nodes;
                assert_eq!(nodes.iter().filter(|node| node.kernel == *kernel).count(), 2);
                if matches!(*kernel, "div.broadcast" | "mod") {
                    let zeros = Tensor::zeros(dtype, right);
                    let inputs = [("a", &inputs[0].1), ("b", &zeros)];
                    let error = model.session().run(&inputs).unwrap_err().to_string();
                    assert!(error.contains("divided by 0"), "{error}");
                }
            }
        }
    }
}

#[test]
fn integers_are_clipped() {
    for dtype in [DType::I64, DType::I32, DType::I8, DType::U8] {
        for (low, high) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut sketch = Sketch { graph: Graph::new("sketch") };
            let x = sketch.graph.add_input("x", dtype, vec![Dim::symbol("batch")]).unwrap();
            let mut bounds = Vec::new();
            bounds.extend(low.then(|| sketch.weight(integers(dtype, &[1], 2))));
            bounds.extend(high.then(|| sketch.weight(integers(dtype, &[1], 15))));
            let doubled = sketch.node(Op::Add, &[x, x]);
            let clip = Op::Clip(Clip { low, high });
            let y = [x, doubled].map(|x| sketch.node(clip.clone(), &[&[x], &bounds[..]].concat()));
            let graph = sketch.finish(&y);
            for size in [0, 1, 40] {
                let model = check(&graph, &[("x", integers(dtype, &[size], 0))], 0.0);
                let nodes = &model.explain().nodes;
                assert!(nodes.iter().any(|node| node.kernel == "clip.integers"), "{nodes:#?}");
            }
        }
    }
}

/// Numbers of a type, of both signs where it has them.
fn integers(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let at = |index: usize| (index as u64 * 7 + seed) % 23;
    match dtype {
        DType::I64 => Tensor::from_fn(shape, |i| at(i) as i64 - 11),
        DType::I32 => Tensor::from_fn(shape, |i| at(i) as i32 - 11),
        DType::I8 => Tensor::from_fn(shape, |i| at(i) as i8 - 11),
        DType::U8 => Tensor::from_fn(shape, |i| at(i) as u8),
        DType::Bool => Tensor::from_fn(shape, |i| at(i) % 3 == 0),
        DType::F32 => numbers(shape, seed, 1.0),
    }
}

#[test]
fn integers_and_truth_values_broadcast() {
    let whole = [DType::I64, DType::I32, DType::I8, DType::U8];
    let arithmetic = [
        (Op::Add, "add.broadcast"),
        (Op::Sub, "sub.broadcast"),
        (Op::Mul, "mul.broadcast"),
        (Op::Binary(Binary::Max), "max"),
        (Op::Binary(Binary::Less), "less"),
    ];
    let truth = [
        (Op::Binary(Binary::And), "and"),
        (Op::Binary(Binary::Or), "or"),
        (Op::Binary(Binary::Xor), "xor"),
        (Op::Binary(Binary::Equal), "equal"),
    ];
    let cases = whole.iter().flat_map(|dtype| arithmetic.iter().map(move |case| (*dtype, case)));
    for (dtype, (op, kernel)) in cases.chain(truth.iter().map(|case| (DType::Bool, case))) {
        for shape in [&[2, 5][..], &[5], &[2, 1], &[]] {
            let mut sketch = Sketch { graph: Graph::new("sketch") };
            let x = sketch.graph.add_input("x", dtype, vec![2.into(), 5.into()]);
            let other = sketch.weight(integers(dtype, shape, 5));
            let y = sketch.node(op.clone(), &[x.unwrap(), other]);
            check_kernel(sketch, y, &[("x", integers(dtype, &[2, 5], 1))], kernel);
        }
    }
}

#[test]
fn truth_of_single_elements() {
    let odd = Tensor::new(&[1, 4], vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]).unwrap();
    for (op, kernel) in [
        (Unary::IsNan, "is-nan.f32"),
        (Unary::IsInf { negative: true, positive: true }, "is-infinite.f32"),
        (Unary::IsInf { negative: true, positive: false }, "is-infinite.f32"),
        (Unary::IsInf { negative: false, positive: true }, "is-infinite.f32"),
    ] {
        let (mut sketch, x) = Sketch::new(4);
        let y = sketch.node(Op::Unary(op), &[x]);
        let model = compile(&sketch.finish(&[y]), &options(Level::O3)).unwrap();
        assert_eq!(model.explain().nodes[0].kernel, kernel);
        let found = run(&model, &[("x", odd.clone())]);
        let expected = odd.elements::<f32>().unwrap().iter().map(|x| match op {
            Unary::IsNan => x.is_nan(),
            Unary::IsInf { negative, positive } => {
                x.is_infinite() && if *x < 0.0 { negative } else { positive }
            }
            _ => unreachable!("tests only"),
        });
        assert_eq!(found[0].elements::<bool>().unwrap(), expected.collect::<Vec<_>>());
    }
    let (mut sketch, x) = Sketch::new(21);
    let zero = sketch.weight(Tensor::scalar(0f32));
    let below = sketch.node(Op::Binary(Binary::Less), &[x, zero]);
    let y = sketch.node(Op::Unary(Unary::Not), &[below]);
    check_kernel(sketch, y, &[("x", rows(1.0))], "not");
}

#[test]
fn elements_of_any_type_are_repeated_and_picked() {
    for dtype in [DType::F32, DType::I64, DType::I32, DType::U8, DType::Bool] {
        let input = |sketch: &mut Sketch| {
            let shape = vec![Dim::symbol("batch"), 3.into(), 4.into()];
            sketch.graph.add_input("x", dtype, shape).unwrap()
        };
        let sketch = || Sketch { graph: Graph::new("sketch") };
        let data = [("x", integers(dtype, &[2, 3, 4], 3))];
        for sizes in [[5i64, 1, 1, 1], [1, 1, 3, 1]] {
            let mut sketch = sketch();
            let x = input(&mut sketch);
            let sizes = sketch.weight(Tensor::new(&[4], sizes.to_vec()).unwrap());
            let y = sketch.node(Op::Expand(Expand {}), &[x, sizes]);
            check_kernel(sketch, y, &data, "expand.copy");
        }
        for axis in [1, 2] {
            for wide in [false, true] {
                let mut sketch = sketch();
                let x = input(&mut sketch);
                let index = if wide {
                    Tensor::new(&[2, 2], vec![0i64, 2, -1, -3]).unwrap()
                } else {
                    Tensor::new(&[3], vec![-1i32, 0, 2]).unwrap()
                };
                let index = sketch.weight(index);
                let y = sketch.node(Op::Gather(Gather { axis }), &[x, index]);
                check_kernel(sketch, y, &data, "gather.copy");
            }
        }
        for axis in [0, 1, 2] {
            let mut sketch = sketch();
            let x = input(&mut sketch);
            let index = Tensor::from_fn(&[2, 2, 4], |i| (i % 4) as i64 % 2 - 1);
            let index = sketch.weight(index);
            let y = sketch.node(Op::GatherElements(GatherElements { axis }), &[x, index]);
            check_kernel(sketch, y, &data, "gather-elements.copy");
        }
        for (batch_dims, index) in [
            (0, Tensor::new(&[2, 2], vec![1i64, 2, 0, -1]).unwrap()),
            (1, Tensor::new(&[2, 1, 2], vec![1i64, -4, 2, 3]).unwrap()),
        ] {
            let mut sketch = sketch();
            let shape = vec![2.into(), 3.into(), 4.into()];
            let x = sketch.graph.add_input("x", dtype, shape).unwrap();
            let index = sketch.weight(index);
            let y = sketch.node(Op::GatherNd(GatherNd { batch_dims }), &[x, index]);
            check_kernel(sketch, y, &data, "gather-nd.copy");
        }
    }
}

#[test]
fn indices_that_name_nothing_are_refused() {
    let gather = |op: Op, index: Tensor| {
        let (mut sketch, x) = Sketch::shaped(vec![2.into(), 3.into()]);
        let index = sketch
            .graph
            .add_input("index", DType::I64, vec![index.shape()[0].into(), index.shape()[1].into()])
            .unwrap();
        let y = sketch.node(op, &[x, index]);
        compile(&sketch.finish(&[y]), &options(Level::O3)).unwrap()
    };
    let index = Tensor::new(&[1, 2], vec![0i64, 3]).unwrap();
    for op in [
        Op::Gather(Gather { axis: 1 }),
        Op::GatherElements(GatherElements { axis: 1 }),
        Op::GatherNd(GatherNd { batch_dims: 0 }),
    ] {
        let model = gather(op, index.clone());
        let x = numbers(&[2, 3], 1, 1.0);
        let error = model.session().run(&[("x", &x), ("index", &index)]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("index 3 is outside a dimension of size 3"), "{error}");
    }
}

#[test]
fn norms_of_instances_and_groups() {
    for (op, kernel) in [
        (Op::InstanceNorm(InstanceNorm { epsilon: 1e-5 }), "instance-norm.f32"),
        (Op::GroupNorm(GroupNorm { groups: 3, epsilon: 1e-5 }), "group-norm.f32"),
        (Op::GroupNorm(GroupNorm { groups: 1, epsilon: 1e-5 }), "group-norm.f32"),
    ] {
        for image in [&[7][..], &[3, 5], &[0]] {
            let sizes = image.iter().map(|&size| size.into());
            let shape = [Dim::symbol("batch"), 6.into()].into_iter().chain(sizes).collect();
            let (mut sketch, x) = Sketch::shaped(shape);
            let parameters = [1, 2].map(|seed| sketch.weight(numbers(&[6], seed, 1.0)));
            let y = sketch.node(op.clone(), &[x, parameters[0], parameters[1]]);
            let input = numbers(&[&[2, 6], image].concat(), 3, 2.0);
            check_kernel(sketch, y, &[("x", input)], kernel);
        }
    }
}

#[test]
fn rotary_embeddings() {
    for (pairs, width, by_position) in [
        (RotaryPairs::Halves, None, false),
        (RotaryPairs::Halves, Some(4), true),
        (RotaryPairs::Interleaved, None, true),
        (RotaryPairs::Interleaved, Some(2), false),
    ] {
        let half = width.unwrap_or(6) / 2;
        let (mut sketch, x) = Sketch::shaped(vec![2.into(), 3.into(), 5.into(), 6.into()]);
        let mut inputs = vec![sketch.node(Op::Tanh, &[x])];
        let shape: &[usize] = if by_position { &[7, half] } else { &[2, 5, half] };
        inputs.extend([1, 2].map(|seed| sketch.weight(numbers(shape, seed, 1.0))));
        if by_position {
            let places = Tensor::from_fn(&[2, 5], |i| (i % 7) as i64);
            inputs.push(sketch.weight(places));
        }
        let y = sketch.node(Op::RotaryEmbedding(RotaryEmbedding { pairs, width }), &inputs);
        check_kernel(sketch, y, &[("x", numbers(&[2, 3, 5, 6], 3, 1.0))], "rotary.f32");
    }
}

#[test]
fn root_mean_square_norms() {
    let (mut sketch, x) = Sketch::new(21);
    let scale = sketch.weight(numbers(&[21], 1, 1.0));
    let norm = Op::RmsNorm(RmsNorm { epsilon: 1e-5 });
    let y = sketch.node(norm.clone(), &[x, scale]);
    check_kernel(sketch, y, &[("x", rows(1.0))], "rms-norm.f32");
    // Over its input, which no output keeps.
    let (mut sketch, x) = Sketch::new(21);
    let scale = sketch.weight(numbers(&[21], 1, 1.0));
    let sum = sketch.node(Op::Add, &[x, x]);
    let y = sketch.node(norm, &[sum, scale]);
    check_kernel(sketch, y, &[("x", rows(1.0))], "rms-norm.f32");
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
        let neighbours = kind != LogSumExp;
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
    let cases: [[&[i64]; 4]; 7] = [
        [&[0, 1], &[far, far], &[2, 1], &[2, 2]],
        [&[5, -1, 0], &[0, -far, far], &[2, -1, 1], &[-1, -2, 1]],
        [&[-1], &[-far], &[1], &[-1]],
        [&[1], &[5], &[-1], &[3]],
        [&[4], &[1], &[2], &[1]],
        [&[0], &[far], &[0], &[2]],
        [&[], &[], &[], &[]],
    ];
    for (lists, known) in cases.into_iter().flat_map(|lists| [0, 2, 4].map(|known| (lists, known)))
    {
        for dtype in [DType::F32, DType::I64] {
            let mut graph = Graph::new("steps");
            let x = graph.add_input("x", dtype, vec![3.into(), 5.into(), 7.into()]).unwrap();
            let values = match dtype {
                DType::F32 => numbers(&[3, 5, 7], 8, 1.0),
                _ => Tensor::from_fn(&[3, 5, 7], |index| index as i64),
            };
            let (mut inputs, mut sketch) = (vec![("x", values)], Sketch { graph });
            let names = ["starts", "ends", "axes", "steps"];
            let lists = [0, 1, 2, 3].map(|index| {
                let list = Tensor::new(&[lists[index].len()], lists[index].to_vec()).unwrap();
                if index >= 4 - known {
                    return sketch.weight(list);
                }
                let shape = vec![lists[index].len().into()];
                inputs.push((names[index], list));
                sketch.graph.add_input(names[index], DType::I64, shape).unwrap()
            });
            let y = sketch.node(Op::SliceBy(SliceBy {}), &[&[x], &lists[..]].concat());
            check_kernel(sketch, y, &inputs, "slice.steps");
        }
    }
}
