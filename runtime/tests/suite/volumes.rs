//! Convolutions, pools and other sizes with three spatial dimensions, and transposed convolutions of whatever
//! images.

use graph::op::{
    AspectRatio, AveragePadding, Conv, ConvTranspose, Coordinates, Interpolation, Nearest, Outside,
    Padding, Pool, PoolKind, Resize, Rounding, Window,
};
use graph::{DType, Dim, Graph, Op, Tensor};

use crate::{Sketch, check, numbers};

/// Sums in another order than the definition's, of a few hundred products.
const SUMS: f32 = 2e-5;

fn window(
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
    padding: [&[usize]; 2],
) -> Window {
    let [before, after] = padding.map(<[usize]>::to_vec);
    Window {
        kernel: kernel.to_vec(),
        strides: strides.to_vec(),
        dilations: dilations.to_vec(),
        padding: Padding::Explicit { before, after },
    }
}

/// Compares a node on a batch of any size with its definition.
#[track_caller]
fn check_batches(op: Op, image: &[usize], filters: Option<[Vec<usize>; 2]>, kernel: &str) {
    let shape = [vec![Dim::symbol("batch")], image.iter().map(|&size| size.into()).collect()];
    let (mut sketch, x) = Sketch::shaped(shape.concat());
    let weights: Vec<_> = filters
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, shape)| sketch.weight(numbers(shape, index as u64, 0.5)))
        .collect();
    let y = sketch.node(op, &[&[x], weights.as_slice()].concat());
    let graph = sketch.finish(&[y]);
    for batch in [1, 3] {
        let x = numbers(&[&[batch], image].concat(), 9, 1.0);
        let model = check(&graph, &[("x", x)], SUMS);
        let nodes = &model.explain().nodes;
        assert!(nodes.iter().any(|node| node.kernel == kernel), "{nodes:#?}");
    }
}

#[test]
fn convolutions() {
    let deep = window(&[2, 1, 1], &[2, 1, 1], &[1, 1, 1], [&[0, 0, 0], &[0, 0, 0]]);
    let cases = [
        (window(&[3, 3, 3], &[1, 1, 1], &[1, 1, 1], [&[1, 1, 1], &[1, 1, 1]]), 1, [6, 4]),
        (window(&[3, 1, 1], &[2, 1, 1], &[1, 1, 1], [&[1, 0, 0], &[1, 0, 0]]), 1, [6, 4]),
        (window(&[1, 3, 3], &[1, 2, 2], &[1, 1, 1], [&[0, 1, 1], &[0, 1, 1]]), 1, [6, 4]),
        (window(&[2, 3, 2], &[1, 2, 1], &[2, 1, 2], [&[2, 0, 1], &[0, 2, 1]]), 2, [6, 2]),
        (window(&[3, 3, 3], &[1, 1, 1], &[1, 1, 1], [&[1, 1, 1], &[1, 1, 1]]), 4, [4, 1]),
        (window(&[1, 1, 1], &[1, 1, 1], &[1, 1, 1], [&[0, 0, 0], &[0, 0, 0]]), 4, [4, 1]),
        (window(&[1, 1, 1], &[1, 1, 1], &[1, 1, 1], [&[0, 0, 0], &[0, 0, 0]]), 1, [6, 4]),
        (window(&[3, 1, 1], &[1, 1, 1], &[2, 1, 1], [&[2, 0, 0], &[1, 0, 0]]), 1, [6, 4]),
        (window(&[3, 1, 1], &[1, 1, 2], &[1, 1, 1], [&[1, 0, 0], &[1, 0, 0]]), 1, [6, 4]),
        (window(&[3, 1, 1], &[1, 1, 1], &[1, 1, 1], [&[1, 0, 1], &[1, 0, 0]]), 1, [6, 4]),
        (Window { padding: Padding::SameUpper, ..deep }, 1, [6, 4]),
    ];
    for (window, groups, [outputs, inner]) in cases {
        let filters = [[&[outputs, inner], window.kernel.as_slice()].concat(), vec![outputs]];
        let op = Op::Conv(Conv { window, groups });
        let kernel = if groups == 1 { "conv.packed-volumes" } else { "conv.volumes" };
        check_batches(op, &[4, 5, 7, 6], Some(filters), kernel);
    }
}

/// Filters that are no constant, and one activation that a convolution takes in.
#[test]
fn filters_of_a_run_and_activations() {
    let window = window(&[3, 3, 3], &[1, 1, 1], &[1, 1, 1], [&[1, 1, 1], &[1, 1, 1]]);
    let op = Op::Conv(Conv { window, groups: 1 });
    let shape = |sizes: &[usize]| sizes.iter().map(|&size| Dim::Fixed(size)).collect::<Vec<_>>();
    let (mut sketch, x) = Sketch::shaped(shape(&[2, 3, 4, 5, 6]));
    let filters = sketch.graph.add_input("filters", DType::F32, shape(&[5, 3, 3, 3, 3])).unwrap();
    let constant = sketch.weight(numbers(&[5, 3, 3, 3, 3], 4, 0.5));
    let of_run = sketch.node(op.clone(), &[x, filters]);
    let of_constant = sketch.node(op, &[x, constant]);
    let outputs = [of_run, of_constant].map(|y| sketch.node(Op::Relu, &[y]));
    let inputs =
        [("x", numbers(&[2, 3, 4, 5, 6], 1, 1.0)), ("filters", numbers(&[5, 3, 3, 3, 3], 2, 0.5))];
    let model = check(&sketch.finish(&outputs), &inputs, SUMS);
    let kernels: Vec<_> = model.explain().nodes.iter().map(|node| node.kernel.clone()).collect();
    assert_eq!(kernels, ["conv.volumes", "relu.f32", "conv.packed-volumes"]);
}

#[test]
fn transposed_convolutions() {
    let cases = [
        (window(&[2, 2, 2], &[2, 2, 2], &[1, 1, 1], [&[0, 0, 0], &[0, 0, 0]]), [0, 0, 0]),
        (window(&[3, 4, 3], &[2, 2, 1], &[1, 1, 2], [&[1, 1, 1], &[1, 1, 0]]), [1, 0, 0]),
        (window(&[3, 1, 2], &[1, 2, 3], &[2, 1, 1], [&[2, 0, 0], &[1, 0, 0]]), [0, 1, 2]),
    ];
    for (window, output_padding) in cases {
        let filters = [[&[4, 5], window.kernel.as_slice()].concat(), vec![5]];
        let output_padding = output_padding.to_vec();
        let op = ConvTranspose { window, groups: 1, output_padding, output_shape: None };
        let kernel = "conv-transpose.volumes";
        check_batches(Op::ConvTranspose(op), &[4, 3, 5, 6], Some(filters), kernel);
    }
}

/// No convolution comes before, so that channels have to be moved for it alone.
#[test]
fn transposed_convolutions_of_inputs() {
    for (window, image) in [
        (window(&[8], &[4], &[1], [&[2], &[2]]), vec![6, 20]),
        (window(&[2, 3], &[2, 1], &[1, 2], [&[0, 1], &[0, 1]]), vec![6, 5, 7]),
    ] {
        let filters = [[&[6, 4], window.kernel.as_slice()].concat(), vec![4]];
        let output_padding = vec![0; window.kernel.len()];
        let op = ConvTranspose { window, groups: 1, output_padding, output_shape: None };
        let kernel = "channels-last.conv-transpose.f32";
        check_batches(Op::ConvTranspose(op), &image, Some(filters), kernel);
    }
}

#[test]
fn pools() {
    let excluded = PoolKind::Average { padding: AveragePadding::Excluded };
    let zeros = PoolKind::Average { padding: AveragePadding::Zeros };
    for (kind, kernel) in [
        (PoolKind::Max, "max-pool.volumes"),
        (excluded, "average-pool.volumes"),
        (zeros, "average-pool.volumes"),
    ] {
        for rounding in [Rounding::Floor, Rounding::Ceil] {
            for window in [
                window(&[2, 2, 2], &[2, 2, 2], &[1, 1, 1], [&[0, 0, 0], &[0, 0, 0]]),
                window(&[3, 3, 2], &[2, 1, 2], &[1, 1, 2], [&[1, 1, 0], &[1, 1, 1]]),
            ] {
                let op = Op::Pool(Pool { window, kind, rounding });
                check_batches(op, &[3, 5, 6, 7], None, kernel);
            }
        }
    }
}

#[test]
fn other_sizes() {
    for interpolation in [Interpolation::Nearest(Nearest::Floor), Interpolation::Linear] {
        for scales in [[2.0, 2.0, 2.0], [0.5, 1.0, 3.0], [3.0, 0.6, 0.5], [1.0, 1.0, 2.0]] {
            let image = [4.into(), 5.into(), 6.into(), 7.into()];
            let shape = [vec![Dim::symbol("batch")], image.to_vec()].concat();
            let (mut sketch, x) = Sketch::shaped(shape);
            let resize = Resize {
                interpolation,
                coordinates: Coordinates::HalfPixel,
                outside: Outside::Edge,
                antialias: false,
                aspect: AspectRatio::Stretch,
                axes: vec![0, 1, 2, 3, 4],
            };
            let roi = sketch.weight(Tensor::from_fn(&[0], |_| 0f32));
            let scales = [&[1f32, 1.0], scales.as_slice()].concat();
            let scales = sketch.weight(Tensor::new(&[5], scales).unwrap());
            let y = sketch.node(Op::Resize(resize), &[x, roi, scales]);
            let x = numbers(&[2, 4, 5, 6, 7], 9, 1.0);
            let model = check(&sketch.finish(&[y]), &[("x", x)], SUMS);
            assert_eq!(model.explain().nodes.last().unwrap().kernel, "resize.f32");
        }
    }
}

/// A window's first element decides where it is no number, not the first of each of its rows.
#[test]
fn pools_of_what_is_no_number() {
    let window = window(&[2, 1, 2], &[1, 1, 1], &[1, 1, 1], [&[0, 0, 0], &[0, 0, 0]]);
    let op = Op::Pool(Pool { window, kind: PoolKind::Max, rounding: Rounding::Floor });
    let (mut sketch, x) = Sketch::shaped([1, 1, 2, 1, 2].map(Dim::Fixed).to_vec());
    let y = sketch.node(op, &[x]);
    let x = Tensor::new(&[1, 1, 2, 1, 2], vec![1f32, 2.0, f32::NAN, 5.0]).unwrap();
    check(&sketch.finish(&[y]), &[("x", x)], 0.0);
}

/// Padding alone, and the bias.
#[test]
fn volumes_without_elements() {
    let conv = Op::Conv(Conv {
        window: window(&[1, 1, 1], &[1, 1, 1], &[1, 1, 1], [&[1, 1, 1], &[1, 1, 1]]),
        groups: 1,
    });
    let transposed = Op::ConvTranspose(ConvTranspose {
        window: window(&[1, 1, 1], &[2, 2, 2], &[1, 1, 1], [&[0, 0, 0], &[0, 0, 0]]),
        groups: 1,
        output_padding: vec![1, 1, 1],
        output_shape: None,
    });
    for (op, filters) in [(conv, [3, 2]), (transposed, [2, 3])] {
        let (mut sketch, x) = Sketch::shaped([2, 2, 0, 3, 3].map(Dim::Fixed).to_vec());
        let weight = sketch.weight(numbers(&[&filters[..], &[1, 1, 1]].concat(), 1, 1.0));
        let bias = sketch.weight(numbers(&[3], 2, 1.0));
        let y = sketch.node(op, &[x, weight, bias]);
        check(&sketch.finish(&[y]), &[("x", numbers(&[2, 2, 0, 3, 3], 9, 1.0))], 0.0);
    }
}

/// How much memory it takes is not known before the filters are.
#[test]
fn filters_of_any_number_run_by_definition() {
    let mut sketch = Sketch { graph: Graph::new("sketch") };
    let image = [1, 2, 3, 4, 5].map(Dim::Fixed).to_vec();
    let x = sketch.graph.add_input("x", DType::F32, image).unwrap();
    let filters = [vec![Dim::symbol("outputs")], [2, 2, 2, 2].map(Dim::Fixed).to_vec()].concat();
    let weight = sketch.graph.add_input("weight", DType::F32, filters).unwrap();
    let window = window(&[2, 2, 2], &[1, 1, 1], &[1, 1, 1], [&[0, 0, 0], &[0, 0, 0]]);
    let y = sketch.node(Op::Conv(Conv { window, groups: 1 }), &[x, weight]);
    let inputs =
        [("x", numbers(&[1, 2, 3, 4, 5], 1, 1.0)), ("weight", numbers(&[3, 2, 2, 2, 2], 2, 1.0))];
    let model = check(&sketch.finish(&[y]), &inputs, SUMS);
    assert_eq!(model.explain().nodes[0].kernel, "reference");
}
