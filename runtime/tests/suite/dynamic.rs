//! Models whose sizes depend on values: nothing is planned, and the answers are the reference's.

use graph::op::{
    BoxForm, Cast, Concat, ConvTranspose, Distribution, Gather, LayerNorm, NonMaxSuppression,
    Random, Reshape, ReshapeTo, ShapeOf,
};
use graph::{DType, Dim, Graph, Op, Tensor, reference};
use runtime::{Level, compile};

use crate::{numbers, options};

/// `x` in the shape that `sizes` says, doubled, then a product with a weight.
fn reshaped() -> Graph {
    let mut graph = Graph::new("reshaped");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("n")]).unwrap();
    let sizes = graph.add_input("sizes", DType::I64, vec![Dim::Fixed(2)]).unwrap();
    let w = graph.add_weight("w", numbers(&[4, 3], 1, 0.5)).unwrap();
    let op = Op::ReshapeTo(ReshapeTo { allow_zero: false });
    let table = graph.add_node("table", op, &[x, sizes]).unwrap();
    let twice = graph.add_node("twice", Op::Add, &[table, table]).unwrap();
    let product = graph.add_node("product", Op::MatMul, &[twice, w]).unwrap();
    let shape = graph.add_node("shape", Op::ShapeOf(ShapeOf { start: 0, end: 2 }), &[product]);
    graph.set_outputs(&[product, shape.unwrap()]);
    graph
}

fn inputs(rows: usize) -> [(&'static str, Tensor); 2] {
    let sizes = Tensor::new(&[2], vec![rows as i64, -1]).unwrap();
    [("x", numbers(&[4 * rows], 7, 1.0)), ("sizes", sizes)]
}

#[test]
fn sizes_may_depend_on_values() {
    let graph = reshaped();
    assert!(graph.value_type(graph.find("table").unwrap()).shape.contains(&Dim::Unknown));
    for level in [Level::O0, Level::O3] {
        let model = compile(&graph, &options(level)).unwrap();
        assert!(model.explain().dynamic);
        let mut session = model.session();
        for rows in [1, 5, 2] {
            let inputs = inputs(rows);
            let expected = reference::evaluate(&graph, &inputs).unwrap();
            let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
            let found = session.run(&borrowed).unwrap();
            assert_eq!(found[0].shape(), [rows, 3]);
            crate::assert_close(&found[..1], &expected[..1], 1e-5);
            assert_eq!(found[1], expected[1]);
        }
    }
}

#[test]
fn rows_that_do_not_fit_a_layer_are_refused() {
    let model = compile(&reshaped(), &options(Level::O3)).unwrap();
    let (x, sizes) = (numbers(&[8], 7, 1.0), Tensor::new(&[2], vec![4i64, 2]).unwrap());
    let error = model.session().run(&[("x", &x), ("sizes", &sizes)]).unwrap_err().to_string();
    assert!(error.starts_with("node `product` (Linear): ") && error.contains("4, 2"), "{error}");
}

/// What lies before, as a detector's network before its boxes are chosen, is fused all the same.
#[test]
fn what_has_known_sizes_is_fused() {
    let mut graph = Graph::new("detector");
    let dims = vec![Dim::symbol("batch"), Dim::Fixed(12)];
    let x = graph.add_input("x", DType::F32, dims).unwrap();
    let [w, b] = [(&[12, 12][..], 1), (&[12], 2)].map(|(shape, seed)| {
        graph.add_weight(&format!("w{seed}"), numbers(shape, seed, 0.5)).unwrap()
    });
    let product = graph.add_node("product", Op::MatMul, &[x, w]).unwrap();
    let sum = graph.add_node("sum", Op::Add, &[product, b]).unwrap();
    let y = graph.add_node("y", Op::Relu, &[sum]).unwrap();
    let residual = graph.add_node("residual", Op::Add, &[y, x]).unwrap();
    let scale = graph.add_weight("scale", numbers(&[12], 3, 0.5)).unwrap();
    let norm = Op::LayerNorm(LayerNorm { epsilon: 1e-5 });
    let normal = graph.add_node("normal", norm.clone(), &[residual, scale, b]).unwrap();
    let cast = Op::Cast(Cast { to: DType::Bool });
    let kept = graph.add_node("kept", cast, &[y]).unwrap();
    let places = graph.add_node("places", Op::NonZero, &[kept]).unwrap();
    // Rows that are as many as there are numbers: a residual that may repeat is not fused.
    let zero = graph.add_weight("zero", Tensor::scalar(0i64)).unwrap();
    let rows = graph.add_node("rows", Op::Gather(Gather { axis: 0 }), &[places, zero]).unwrap();
    let picked = graph.add_node("picked", Op::Gather(Gather { axis: 0 }), &[normal, rows]).unwrap();
    let again = graph.add_node("again", Op::Add, &[picked, picked]).unwrap();
    let last = graph.add_node("last", norm, &[again, scale, b]).unwrap();
    graph.set_outputs(&[normal, last]);
    let model = compile(&graph, &options(Level::O3)).unwrap();
    let kinds: Vec<_> = model.explain().nodes.iter().map(|node| node.operation.as_str()).collect();
    assert!(model.explain().dynamic && kinds.contains(&"Linear"), "{kinds:?}");
    for rows in [1, 3] {
        let x = numbers(&[rows, 12], 9, 1.0);
        let expected = reference::evaluate(&graph, &[("x", x.clone())]).unwrap();
        let found = model.session().run(&[("x", &x)]).unwrap();
        crate::assert_close(&found, &expected, 1e-5);
    }
}

#[test]
fn transposed_convolutions_of_any_size() {
    for rank in [3usize, 4] {
        let mut graph = Graph::new("upsampling");
        let x = graph.add_input("x", DType::F32, vec![Dim::symbol("n")]).unwrap();
        let shape = vec![Dim::Fixed(rank)];
        let sizes = graph.add_input("sizes", DType::I64, shape).unwrap();
        let op = Op::ReshapeTo(ReshapeTo { allow_zero: false });
        let image = graph.add_node("image", op, &[x, sizes]).unwrap();
        let filters = numbers(&[&[3, 2], &[4, 3][..rank - 2]].concat(), 1, 0.5);
        let window = crate::images::window(&[4, 3][..rank - 2], 2, 1);
        let w = graph.add_weight("w", filters).unwrap();
        let b = graph.add_weight("b", numbers(&[2], 2, 0.5)).unwrap();
        let output_padding = vec![0; rank - 2];
        let conv = ConvTranspose { window, groups: 1, output_padding, output_shape: None };
        let y = graph.add_node("y", Op::ConvTranspose(conv), &[image, w, b]).unwrap();
        graph.set_outputs(&[y]);
        let model = compile(&graph, &options(Level::O3)).unwrap();
        assert_eq!(model.explain().nodes.last().unwrap().kernel, "conv-transpose.f32");
        for size in [2usize, 5] {
            let shape = [&[2, 3], &[size, 4][..rank - 2]].concat();
            let x = numbers(&[shape.iter().product()], 7, 1.0);
            let sizes = shape.iter().map(|&size| size as i64).collect();
            let sizes = Tensor::new(&[rank], sizes).unwrap();
            let inputs = [("x", x), ("sizes", sizes)];
            let expected = reference::evaluate(&graph, &inputs).unwrap();
            let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
            crate::assert_close(&model.session().run(&borrowed).unwrap(), &expected, 1e-5);
        }
    }
}

#[test]
fn impossible_sizes_name_the_node() {
    let model = compile(&reshaped(), &options(Level::O3)).unwrap();
    let (x, sizes) = (numbers(&[6], 7, 1.0), Tensor::new(&[2], vec![4i64, -1]).unwrap());
    let error = model.session().run(&[("x", &x), ("sizes", &sizes)]).unwrap_err();
    assert!(error.to_string().starts_with("node `table` (Reshape): "), "{error}");
}

/// A sum with four elements is declared to have four, whatever they are added to.
#[test]
fn sizes_that_do_not_fit_are_refused() {
    let mut graph = Graph::new("fit");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("n")]).unwrap();
    let y = graph.add_input("y", DType::F32, vec![4.into()]).unwrap();
    let sizes = graph.add_input("sizes", DType::I64, vec![Dim::Fixed(1)]).unwrap();
    let op = Op::ReshapeTo(ReshapeTo { allow_zero: true });
    let row = graph.add_node("row", op, &[x, sizes]).unwrap();
    let sum = graph.add_node("sum", Op::Add, &[y, row]).unwrap();
    graph.set_outputs(&[sum]);
    let y = numbers(&[4], 3, 1.0);
    for level in [Level::O0, Level::O3] {
        let model = compile(&graph, &options(level)).unwrap();
        for (size, fits) in [(0, false), (1, true), (4, true), (7, false)] {
            let sizes = Tensor::new(&[1], vec![size as i64]).unwrap();
            let inputs = [("x", numbers(&[size], 7, 1.0)), ("y", y.clone()), ("sizes", sizes)];
            let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
            let found = model.session().run(&borrowed);
            if fits {
                let expected = reference::evaluate(&graph, &inputs).unwrap();
                crate::assert_close(&found.unwrap(), &expected, 1e-5);
            } else {
                let error = found.unwrap_err().to_string();
                assert!(error.starts_with("node `sum` (Add): "), "{size}: {error}");
            }
        }
    }
}

#[test]
fn sizes_that_follow_from_named_dimensions_are_planned() {
    let mut graph = Graph::new("planned");
    let shape = vec![Dim::symbol("batch"), Dim::symbol("sequence"), 6.into()];
    let x = graph.add_input("x", DType::F32, shape).unwrap();
    let sizes = graph.add_node("sizes", Op::ShapeOf(ShapeOf { start: 0, end: 2 }), &[x]).unwrap();
    let heads = graph.add_weight("heads", Tensor::new(&[2], vec![2i64, 3]).unwrap()).unwrap();
    let all = graph.add_node("all", Op::Concat(Concat { axis: 0 }), &[sizes, heads]).unwrap();
    let op = Op::ReshapeTo(ReshapeTo { allow_zero: false });
    let split = graph.add_node("split", op, &[x, all]).unwrap();
    let y = graph.add_node("y", Op::Relu, &[split]).unwrap();
    graph.set_outputs(&[y]);
    let expected = [Dim::symbol("batch"), Dim::symbol("sequence"), 2.into(), 3.into()];
    assert_eq!(graph.value_type(y).shape, expected);
    let model = compile(&graph, &options(Level::O3)).unwrap();
    assert!(!model.explain().dynamic);
    let x = numbers(&[2, 5, 6], 3, 1.0);
    let found = model.session().run(&[("x", &x)]).unwrap();
    assert_eq!(found, reference::evaluate(&graph, &[("x", x)]).unwrap());
}

#[test]
fn truth_values_and_integers_go_through() {
    let mut graph = Graph::new("types");
    let x = graph.add_input("x", DType::Bool, vec![Dim::symbol("n")]).unwrap();
    let int = graph.add_node("int", Op::Cast(Cast { to: DType::I32 }), &[x]).unwrap();
    let sum = graph.add_node("sum", Op::Add, &[int, int]).unwrap();
    let back = graph.add_node("back", Op::Cast(Cast { to: DType::Bool }), &[sum]).unwrap();
    let row = graph.add_node("row", Op::Reshape(Reshape { shape: vec![1, -1] }), &[back]).unwrap();
    graph.set_outputs(&[row, sum]);
    let x = Tensor::new(&[3], vec![true, false, true]).unwrap();
    for level in [Level::O0, Level::O3] {
        let model = compile(&graph, &options(level)).unwrap();
        let found = model.session().run(&[("x", &x)]).unwrap();
        assert_eq!(found[0].elements::<bool>().unwrap(), [true, false, true]);
        assert_eq!(found[1].elements::<i32>().unwrap(), [2, 0, 2]);
    }
}

/// How many boxes stay depends on what they are; what is drawn does not, and is not drawn once for two.
#[test]
fn boxes_that_stay_are_gathered_and_noise_is_repeated() {
    let mut graph = Graph::new("boxes");
    let boxes = graph.add_input("boxes", DType::F32, vec![1.into(), 20.into(), 4.into()]).unwrap();
    let scores =
        graph.add_input("scores", DType::F32, vec![1.into(), 2.into(), 20.into()]).unwrap();
    let most = graph.add_weight("most", Tensor::scalar(50i64)).unwrap();
    let overlap = graph.add_weight("overlap", Tensor::scalar(0.1f32)).unwrap();
    let least = graph.add_weight("least", Tensor::scalar(0f32)).unwrap();
    let suppress = Op::NonMaxSuppression(NonMaxSuppression { form: BoxForm::Middle });
    let kept = graph.add_node("kept", suppress, &[boxes, scores, most, overlap, least]).unwrap();
    let column = graph.add_weight("column", Tensor::scalar(2i64)).unwrap();
    let places = graph.add_node("places", Op::Gather(Gather { axis: 1 }), &[kept, column]).unwrap();
    let found = graph.add_node("found", Op::Gather(Gather { axis: 1 }), &[boxes, places]).unwrap();
    let noise = |seed| {
        let distribution = Distribution::Normal { mean: 0.0, scale: 1.0 };
        Op::Random(Random { distribution, seed })
    };
    let one = graph.add_node("one", noise(1), &[found]).unwrap();
    let other = graph.add_node("other", noise(2), &[found]).unwrap();
    let difference = graph.add_node("difference", Op::Sub, &[one, other]).unwrap();
    graph.set_outputs(&[kept, found, difference]);
    let sides = numbers(&[1, 20, 4], 3, 1.0);
    let sides = Tensor::from_fn(&[1, 20, 4], |index| sides.elements::<f32>().unwrap()[index].abs());
    let inputs = [("boxes", sides), ("scores", numbers(&[1, 2, 20], 9, 1.0))];
    let expected = reference::evaluate(&graph, &inputs).unwrap();
    let (places, kept) = (40, expected[0].shape()[0]);
    assert!((1..places).contains(&kept), "{kept} of {places}");
    assert!(expected[2].elements::<f32>().unwrap().iter().all(|&x| x != 0.0));
    let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
    for level in [Level::O0, Level::O3] {
        let found = compile(&graph, &options(level)).unwrap().session().run(&borrowed).unwrap();
        assert_eq!(found, expected);
    }
}
