//! Elements that go to places, or are read at places, that follow from values; and lines of which the
//! best entries are wanted.

use graph::op::{
    ArgExtreme, BoxForm, Col2Im, CumulativeSum, DeformConv, DepthOrder, DepthToSpace, GridMode,
    GridOutside, GridSample, NonMaxSuppression, OneHot, Padding, Reduce, ReduceKind,
    RegionCoordinates, RegionPooling, RoiAlign, ScatterElements, ScatterNd, Scattering,
    SoftmaxRelative, SpaceToDepth, Tile, TopK, TopKPart, Triangle, Window,
};
use graph::{DType, Dim, Element, Graph, Op, Tensor, ValueId, reference};
use runtime::{Level, compile};

use crate::{Sketch, check, numbers, options, run};

/// Kernels sum in f32 what the definitions sum in f64.
const FLOAT: f32 = 2e-6;

/// A graph under construction whose inputs have the types of these.
fn sketch_of(inputs: &[(&str, Tensor)]) -> (Sketch, Vec<ValueId>) {
    let mut sketch = Sketch { graph: Graph::new("sketch") };
    let ids = inputs.iter().map(|(name, tensor)| {
        let shape = tensor.shape().iter().map(|&size| Dim::Fixed(size)).collect();
        sketch.graph.add_input(name, tensor.dtype(), shape).unwrap()
    });
    let ids = ids.collect();
    (sketch, ids)
}

/// Compares a node, alone and of values that nothing else reads, with its definition; checks which
/// kernel ran it.
#[track_caller]
fn check_node(op: Op, inputs: &[(&str, Tensor)], kernel: &str) {
    let (mut sketch, ids) = sketch_of(inputs);
    let alone = sketch.node(op.clone(), &ids);
    let mut outputs = vec![alone];
    if inputs[0].1.dtype() == DType::F32 {
        let doubled = sketch.node(Op::Add, &[ids[0], ids[0]]);
        outputs.push(sketch.node(op, &[&[doubled], &ids[1..]].concat()));
    }
    let count = outputs.len();
    let model = check(&sketch.finish(&outputs), inputs, FLOAT);
    let nodes = &model.explain().nodes;
    let found = nodes.iter().filter(|node| node.kernel == kernel).count();
    assert_eq!(found, count, "{nodes:#?}");
}

/// Numbers of which some are equal, and some 0 and −0.
fn ranked(shape: &[usize]) -> Tensor {
    Tensor::from_fn(shape, |index| match index % 23 {
        3 => -0.0,
        7 => 99.0,
        other => (other * 37 % 11) as f32 - 4.0,
    })
}

fn whole<T: Element>(shape: &[usize], number: fn(i64) -> T) -> Tensor {
    Tensor::from_fn(shape, |index| number((index * 37 % 101) as i64 - 50))
}

#[test]
fn places_of_extremes() {
    for axis in [0, 1, 2] {
        for (largest, keep_dims, kernel) in [(true, false, "arg-max"), (false, true, "arg-min")] {
            let op = ArgExtreme { largest, axis, keep_dims, last: false };
            check_node(Op::ArgExtreme(op), &[("x", ranked(&[3, 19, 5]))], kernel);
            check_node(Op::ArgExtreme(op), &[("x", whole(&[3, 4, 5], |x| x << 40))], kernel);
            check_node(Op::ArgExtreme(op), &[("x", whole(&[3, 4, 5], |x| x as i32))], kernel);
        }
    }
    let last = ArgExtreme { largest: true, axis: 1, keep_dims: false, last: true };
    check_node(Op::ArgExtreme(last), &[("x", ranked(&[3, 19, 5]))], "reference");
}

#[test]
fn best_entries() {
    for part in [TopKPart::Values, TopKPart::Indices] {
        for (axis, largest, k) in [(0, true, 3), (1, false, 7), (1, true, 19), (2, true, 1)] {
            let op = Op::TopK(TopK { axis, largest, part });
            for x in [
                ranked(&[3, 19, 5]),
                whole(&[3, 19, 5], |x| x << 40),
                whole(&[3, 19, 5], |x| x as i32),
            ] {
                let (mut sketch, k) = (Sketch { graph: Graph::new("sketch") }, [k as i64]);
                let shape = x.shape().iter().map(|&size| Dim::Fixed(size)).collect();
                let input = sketch.graph.add_input("x", x.dtype(), shape).unwrap();
                let k = sketch.weight(Tensor::new(&[1], k.to_vec()).unwrap());
                let y = sketch.node(op.clone(), &[input, k]);
                let model = check(&sketch.finish(&[y]), &[("x", x)], 0.0);
                assert_eq!(model.explain().nodes.last().unwrap().kernel, "top-k");
            }
        }
    }
}

/// Values and places of the best entries come from one ranking, NaN among them.
#[test]
fn best_entries_and_their_places() {
    let op = |part| Op::TopK(TopK { axis: 1, largest: true, part });
    let odd = [f32::NAN, f32::INFINITY, -f32::NAN, f32::NEG_INFINITY];
    let floats = Tensor::from_fn(&[3, 19, 5], |index| match index % 7 {
        3 => odd[index / 7 % 4],
        other => other as f32,
    });
    for x in [floats, whole(&[3, 19, 5], |x| x << 40), whole(&[3, 19, 5], |x| x as i32)] {
        for (k, known) in [(0, true), (1, true), (4, true), (19, true), (4, false)] {
            let k = Tensor::new(&[1], vec![k as i64]).unwrap();
            let inputs = [("x", x.clone()), ("k", k.clone())];
            let (mut sketch, ids) = sketch_of(if known { &inputs[..1] } else { &inputs });
            let k = ids.get(1).copied().unwrap_or_else(|| sketch.weight(k));
            // One of the places is read by nobody.
            let places = sketch.node(op(TopKPart::Indices), &[ids[0], k]);
            let values = sketch.node(op(TopKPart::Values), &[ids[0], k]);
            sketch.node(op(TopKPart::Indices), &[ids[0], k]);
            let graph = sketch.finish(&[values, places]);
            let expected = reference::evaluate(&graph, &inputs[..ids.len()]).unwrap();
            for level in [Level::O0, Level::O3] {
                let model = compile(&graph, &options(level)).unwrap();
                let found = run(&model, &inputs[..ids.len()]);
                assert_eq!(found[1], expected[1]);
                // NaN is equal to no other.
                assert_eq!(found[0].bytes(), expected[0].bytes());
                let rankings =
                    model.explain().nodes.iter().filter(|node| node.kernel == "top-k").count();
                assert_eq!(rankings, if level == Level::O3 { 1 } else { 3 });
                assert_eq!(model.explain().dynamic, !known);
            }
        }
    }
}

/// The best entries of as many as only a run tells, and more than there are.
#[test]
fn too_few_entries_are_an_error() {
    let inputs = [("x", ranked(&[4])), ("k", Tensor::new(&[1], vec![5i64]).unwrap())];
    let (mut sketch, ids) = sketch_of(&inputs);
    let outputs = [TopKPart::Values, TopKPart::Indices]
        .map(|part| sketch.node(Op::TopK(TopK { axis: 0, largest: false, part }), &ids));
    let model = compile(&sketch.finish(&outputs), &options(Level::O3)).unwrap();
    let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
    let error = model.session().run(&borrowed).unwrap_err().to_string();
    assert!(error.contains("at most 4 entries, found k = 5"), "{error}");
}

#[test]
fn running_sums() {
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        for axis in [0i64, 1, -1] {
            let op = Op::CumulativeSum(CumulativeSum { exclusive, reverse });
            let axis = ("axis", Tensor::scalar(axis));
            for x in [
                numbers(&[3, 19, 5], 3, 1.0),
                whole(&[3, 4, 5], |x| x << 60),
                whole(&[3, 4, 5], |x| (x as i32) << 26),
            ] {
                check_node(op.clone(), &[("x", x), axis.clone()], "cumulative-sum");
            }
        }
    }
}

#[test]
fn scattered_elements_and_slices() {
    use Scattering::{Add, Max, Min, Mul, Replace};
    let indices = |shape: &[usize], size: i64| {
        Tensor::from_fn(shape, move |index| (index as i64 * 7) % (2 * size) - size)
    };
    for reduction in [Replace, Add, Mul, Max, Min] {
        for axis in [0, 1, 2] {
            let op = Op::ScatterElements(ScatterElements { axis, reduction });
            let places = ("indices", indices(&[2, 3, 4], [3, 4, 5][axis]));
            let data = [
                (numbers(&[3, 4, 5], 1, 1.0), numbers(&[2, 3, 4], 2, 1.0)),
                (whole(&[3, 4, 5], |x| x), whole(&[2, 3, 4], |x| x)),
                (whole(&[3, 4, 5], |x| x as i32), whole(&[2, 3, 4], |x| x as i32)),
            ];
            for (x, updates) in data {
                let inputs = [("x", x), places.clone(), ("updates", updates)];
                check_node(op.clone(), &inputs, "scatter-elements");
            }
        }
        let op = Op::ScatterNd(ScatterNd { reduction });
        for length in [1, 2, 3] {
            let rows = indices(&[6, length], 3);
            let updates = [&[6][..], &[3, 4, 5][length..]].concat();
            let inputs = [
                ("x", ranked(&[3, 4, 5])),
                ("indices", rows),
                ("updates", numbers(&updates, 2, 1.0)),
            ];
            check_node(op.clone(), &inputs, "scatter-nd");
        }
    }
    let bytes = [
        ("x", whole(&[5], |x| x as u8)),
        ("indices", Tensor::new(&[2], vec![-1i32, 0]).unwrap()),
        ("updates", whole(&[2], |x| x as u8)),
    ];
    let replace = Op::ScatterElements(ScatterElements { axis: 0, reduction: Replace });
    check_node(replace, &bytes, "scatter-elements");
    let add = Op::ScatterElements(ScatterElements { axis: 0, reduction: Add });
    check_node(add, &bytes, "reference");
    // Nothing is written anywhere, however far it would reach.
    let nothing = [
        ("x", ranked(&[3, 4])),
        ("indices", Tensor::from_fn(&[0, 5], |_| 0i64)),
        ("updates", numbers(&[0, 5], 2, 1.0)),
    ];
    let op = ScatterElements { axis: 0, reduction: Replace };
    check_node(Op::ScatterElements(op), &nothing, "scatter-elements");
}

#[test]
fn grids() {
    let grid = numbers(&[2, 7, 30, 2], 5, 1.2);
    let inputs = [("x", numbers(&[2, 3, 9, 11], 4, 1.0)), ("grid", grid)];
    for mode in [GridMode::Linear, GridMode::Nearest] {
        for outside in [GridOutside::Zeros, GridOutside::Border, GridOutside::Reflection] {
            for align_corners in [false, true] {
                let op = Op::GridSample(GridSample { mode, outside, align_corners });
                check_node(op, &inputs, "grid-sample.f32");
            }
        }
    }
    // A place that is no number is that of the first entry, or none.
    let nowhere = Tensor::new(&[1, 1, 2, 2], vec![f32::NAN, 0.0, 0.2, f32::NAN]).unwrap();
    let nowhere = [("x", numbers(&[1, 3, 9, 11], 4, 1.0)), ("grid", nowhere)];
    for outside in [GridOutside::Zeros, GridOutside::Border, GridOutside::Reflection] {
        let op = GridSample { mode: GridMode::Nearest, outside, align_corners: false };
        check_node(Op::GridSample(op), &nowhere, "grid-sample.f32");
    }
    let cubic =
        GridSample { mode: GridMode::Cubic, outside: GridOutside::Zeros, align_corners: false };
    check_node(Op::GridSample(cubic), &inputs, "reference");
}

#[test]
fn regions() {
    let corners =
        vec![0f32, 0.0, 9.0, 13.0, 3.3, 2.2, 3.4, 8.7, -9.0, -8.0, 40.0, 41.0, 5.0, 5.0, 2.0, 1.0];
    let inputs = [
        ("x", numbers(&[2, 5, 9, 11], 4, 1.0)),
        ("regions", Tensor::new(&[4, 4], corners).unwrap()),
        ("images", Tensor::new(&[4], vec![0i64, 1, 1, 0]).unwrap()),
    ];
    for coordinates in [RegionCoordinates::HalfPixel, RegionCoordinates::OutputHalfPixel] {
        for samples in [None, Some(2)] {
            let pooling = RegionPooling::Average;
            let op = RoiAlign { pooling, coordinates, height: 3, width: 2, samples, scale: 0.7 };
            check_node(Op::RoiAlign(op), &inputs, "roi-align.f32");
        }
    }
}

#[test]
fn squares_of_pixels() {
    let data = |shape: &[usize]| {
        [
            numbers(shape, 1, 1.0),
            whole(shape, |x| x),
            whole(shape, |x| x as i32),
            whole(shape, |x| x as i8),
        ]
    };
    for x in data(&[2, 24, 3, 5]) {
        for order in [DepthOrder::DepthColumnRow, DepthOrder::ColumnRowDepth] {
            let op = Op::DepthToSpace(DepthToSpace { block: 2, order });
            check_node(op, &[("x", x.clone())], "depth-to-space.copy");
        }
    }
    for x in data(&[2, 3, 6, 9]) {
        let op = Op::SpaceToDepth(SpaceToDepth { block: 3 });
        check_node(op, &[("x", x)], "space-to-depth.copy");
    }
}

#[test]
fn copies_one_after_another() {
    for repeats in [vec![2i64, 1, 3], vec![1, 1, 1], vec![1, 5, 2], vec![0, 2, 2]] {
        for x in
            [numbers(&[2, 3, 4], 1, 1.0), whole(&[2, 3, 4], |x| x), whole(&[2, 1, 4], |x| x as u8)]
        {
            let mut sketch = Sketch { graph: Graph::new("sketch") };
            let shape = x.shape().iter().map(|&size| Dim::Fixed(size)).collect();
            let input = sketch.graph.add_input("x", x.dtype(), shape).unwrap();
            let repeats = sketch.weight(Tensor::new(&[3], repeats.clone()).unwrap());
            let y = sketch.node(Op::Tile(Tile {}), &[input, repeats]);
            let model = check(&sketch.finish(&[y]), &[("x", x)], 0.0);
            assert_ne!(model.explain().nodes.last().unwrap().kernel, "reference");
        }
    }
}

#[test]
fn triangles() {
    for upper in [false, true] {
        let op = Op::Triangle(Triangle { upper });
        check_node(op.clone(), &[("x", numbers(&[2, 4, 7], 1, 1.0))], "triangle.copy");
        for diagonal in [-9i64, -2, 0, 1, 9, i64::MIN, i64::MAX] {
            for x in [numbers(&[2, 4, 7], 1, 1.0), whole(&[7, 4], |x| x), whole(&[3, 3], |x| x > 0)]
            {
                let inputs = [("x", x), ("k", Tensor::scalar(diagonal))];
                check_node(op.clone(), &inputs, "triangle.copy");
            }
        }
    }
}

#[test]
fn logarithms_of_softmax() {
    let op = Op::SoftmaxRelative(SoftmaxRelative::LogSoftmax);
    for shape in [vec![3, 80], vec![1, 1], vec![40, 1000]] {
        check_node(op.clone(), &[("x", numbers(&shape, 1, 4.0))], "log-softmax.f32");
    }
}

#[test]
fn integers_along_axes() {
    for (kind, kernel) in [
        (ReduceKind::Sum, "reduce.integers"),
        (ReduceKind::Product, "reduce.integers"),
        (ReduceKind::Max, "reduce.integers"),
        (ReduceKind::Min, "reduce.integers"),
        (ReduceKind::Mean, "reference"),
    ] {
        for axes in [vec![0], vec![1], vec![2], vec![1, 2], vec![0, 1, 2]] {
            let op = Reduce { kind, axes: Some(axes), keep_dims: true, empty_means_none: false };
            for x in [whole(&[3, 4, 5], |x| x << 58), whole(&[3, 4, 5], |x| x as i32 + 7)] {
                check_node(Op::Reduce(op.clone()), &[("x", x)], kernel);
            }
        }
    }
}

#[test]
fn boxes_that_stay() {
    for form in [BoxForm::Corners, BoxForm::Middle] {
        for (count, most, overlap, score) in [
            (0, 9i64, 0.5f32, 0.0f32),
            (1, 9, 0.5, f32::NEG_INFINITY),
            (70, 200, 0.3, -9.0),
            (70, 200, 0.7, 0.0),
            (70, 5, 0.3, 0.0),
            (70, 0, 0.3, 0.0),
            (70, -3, 0.3, 0.0),
            (70, 200, f32::NAN, 0.0),
            (70, 200, -1.0, 0.0),
        ] {
            let side = |at: usize| (at * 37 % 29) as f32 / 7.0;
            // Some boxes are none, some scores are equal or no numbers.
            let boxes = Tensor::from_fn(&[2, count, 4], |at| match at % 97 {
                13 => f32::NAN,
                41 => f32::INFINITY,
                _ => side(at) + if at % 4 > 1 { 2.5 } else { 0.0 },
            });
            let scores = Tensor::from_fn(&[2, 3, count], |at| match at % 31 {
                7 => -0.0,
                11 => 0.0,
                17 => f32::NAN,
                _ => (at * 53 % 41) as f32 - 9.0,
            });
            let inputs = [
                ("boxes", boxes),
                ("scores", scores),
                ("most", Tensor::scalar(most)),
                ("overlap", Tensor::scalar(overlap)),
                ("score", Tensor::scalar(score)),
            ];
            let op = Op::NonMaxSuppression(NonMaxSuppression { form });
            check_node(op, &inputs, "non-max-suppression");
        }
    }
}

#[test]
fn places_of_what_is_not_zero() {
    let check = |x: Tensor| check_node(Op::NonZero, &[("x", x)], "non-zero");
    for shape in [&[3, 19, 5][..], &[200], &[1, 1], &[0], &[2, 0, 3], &[]] {
        check(Tensor::from_fn(shape, |at| if at % 3 == 0 { 0.0 } else { at as f32 - 7.0 }));
        check(Tensor::from_fn(shape, |at| if at % 3 == 1 { f32::NAN } else { -0.0 }));
        check(whole(shape, |x| x.max(0) << 40));
        check(whole(shape, |x| x.max(0) as i32));
        check(whole(shape, |x| (x % 5) as i8));
        check(whole(shape, |x| x > 40));
    }
}

#[test]
fn one_of_many() {
    for axis in [0, 1, 2] {
        let op = Op::OneHot(OneHot { axis });
        for indices in [whole(&[3, 7], |x| x % 9), whole(&[3, 7], |x| (x % 9) as i32)] {
            for values in [
                Tensor::new(&[2], vec![-0.5f32, 2.0]).unwrap(),
                Tensor::new(&[2], vec![-3i64, 1 << 40]).unwrap(),
                Tensor::new(&[2], vec![false, true]).unwrap(),
            ] {
                for depth in [0i64, 1, 6] {
                    let mut sketch = Sketch { graph: Graph::new("sketch") };
                    let shape = vec![Dim::Fixed(3), Dim::Fixed(7)];
                    let x = sketch.graph.add_input("x", indices.dtype(), shape).unwrap();
                    let depth = sketch.weight(Tensor::scalar(depth));
                    let off_on = sketch.weight(values.clone());
                    let y = sketch.node(op.clone(), &[x, depth, off_on]);
                    let model = check(&sketch.finish(&[y]), &[("x", indices.clone())], 0.0);
                    assert_eq!(model.explain().nodes.last().unwrap().kernel, "one-hot");
                }
            }
        }
    }
}

fn explicit(before: &[usize], after: &[usize]) -> Padding {
    Padding::Explicit { before: before.to_vec(), after: after.to_vec() }
}

#[test]
fn windows_are_folded() {
    for (image, block, strides, dilations, padding, windows) in [
        (vec![5, 7], vec![3, 2], vec![1, 1], vec![1, 1], explicit(&[0, 0], &[0, 0]), 18),
        (vec![5, 7], vec![2, 3], vec![2, 3], vec![2, 1], explicit(&[1, 0], &[2, 2]), 9),
        (vec![4, 4], vec![1, 1], vec![1, 1], vec![1, 1], explicit(&[0, 0], &[0, 0]), 16),
        (vec![9], vec![4], vec![2], vec![1], explicit(&[1], &[1]), 4),
    ] {
        let entries: usize = block.iter().product();
        let (mut sketch, x) = Sketch::shaped([2, 3 * entries, windows].map(Dim::Fixed).to_vec());
        let list = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Vec<_>>();
        let [image, block] = [&image, &block].map(|sizes| {
            let list = Tensor::new(&[sizes.len()], list(sizes)).unwrap();
            sketch.weight(list)
        });
        let op = Op::Col2Im(Col2Im { strides, dilations, padding });
        let y = sketch.node(op, &[x, image, block]);
        let x = numbers(&[2, 3 * entries, windows], 1, 1.0);
        let model = check(&sketch.finish(&[y]), &[("x", x)], FLOAT);
        assert_eq!(model.explain().nodes.last().unwrap().kernel, "fold.f32");
    }
}

#[test]
fn bent_windows() {
    for (groups, offset_groups, bias, mask, strides, dilations) in [
        (1, 1, false, false, [1, 1], [1, 1]),
        (2, 1, true, false, [2, 1], [1, 1]),
        (1, 2, false, true, [1, 1], [1, 2]),
        (2, 4, true, true, [1, 2], [2, 1]),
    ] {
        let padding = explicit(&[1, 0], &[1, 2]);
        let (kernel, image) = ([3, 2], [9, 8]);
        let output: [usize; 2] = std::array::from_fn(|axis| {
            (image[axis] + 2 - dilations[axis] * (kernel[axis] - 1) - 1) / strides[axis] + 1
        });
        let window = Window {
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            padding,
        };
        let moved = |parts| [&[2, parts * offset_groups * 6], &output[..]].concat();
        let mut inputs = vec![
            ("x", numbers(&[2, 4, 9, 8], 1, 1.0)),
            ("weight", numbers(&[6, 4 / groups, 3, 2], 2, 0.5)),
            ("offset", numbers(&moved(2), 3, 2.0)),
        ];
        inputs.extend(bias.then(|| ("bias", numbers(&[6], 4, 1.0))));
        inputs.extend(mask.then(|| ("mask", numbers(&moved(1), 5, 1.0))));
        let op = Op::DeformConv(DeformConv { window, groups, offset_groups, bias, mask });
        // Places are found in f32, and the definition's in f64.
        let (mut sketch, ids) = sketch_of(&inputs);
        let y = sketch.node(op, &ids);
        let model = check(&sketch.finish(&[y]), &inputs, 1e-5);
        assert_eq!(model.explain().nodes.last().unwrap().kernel, "deform-conv.f32");
    }
}
