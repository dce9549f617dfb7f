//! Whatever the bytes are: an answer or an error, soon.

use proptest::prelude::*;
use prost::Message;

use super::contrib::{contrib, text};
use super::models::{body, call, floats, graph_attribute, import, int, model, node, typed, with};
use super::{ImportError, ImportOptions, NODE_LIMIT, encoder, import_bytes};
use crate::onnx::proto::{DimensionValue, TensorMessage};
use crate::{onnx, reference};

fn choice(inner: crate::onnx::proto::GraphMessage) -> crate::onnx::proto::NodeMessage {
    let other = body(&[], vec![node("Relu", &["x"], &["r"])], &["r"]);
    let choice = with(node("If", &["c"], &["y"]), graph_attribute("then_branch", inner));
    with(choice, graph_attribute("else_branch", other))
}

#[test]
fn deep_nesting_is_refused() {
    let mut inner = body(&[], vec![node("Relu", &["x"], &["y0"])], &["y0"]);
    for depth in 0..20 {
        let mut nested = choice(inner);
        nested.output[0] = format!("y{depth}'");
        let name = nested.output[0].clone();
        inner = body(&[], vec![nested], &[&name]);
    }
    let mut outer = choice(inner);
    outer.output[0] = "out".to_owned();
    let inputs = || vec![typed("x", 1, &[2]), typed("c", 9, &[])];
    let error = import(&model(inputs(), vec![outer], &["out"])).unwrap_err();
    assert!(matches!(error, ImportError::Limit { .. }), "{error}");
}

#[test]
fn too_many_nodes_are_refused() {
    let nodes = (0..=NODE_LIMIT).map(|index| node("Relu", &["x"], &[&format!("y{index}")]));
    let model = model(vec![typed("x", 1, &[2])], nodes.collect(), &["y0"]);
    let error = import(&model).unwrap_err();
    assert!(matches!(error, ImportError::Limit { what: "nodes", .. }), "{error}");
}

#[test]
fn sizes_are_checked() {
    let relu = || vec![node("Relu", &["x"], &["y"])];
    for size in [-2, i64::MIN] {
        let error = import(&model(vec![typed("x", 1, &[size])], relu(), &["y"])).unwrap_err();
        assert!(error.to_string().contains("dimension 0"), "{error}");
    }
    // These are known at a run, each for itself.
    let mut open = model(vec![typed("x", 1, &[-1, 3, -1])], relu(), &["y"]);
    let graph = import(&open).unwrap();
    let shape = &graph.value_type(graph.inputs()[0]).shape;
    assert_eq!(crate::dim::display(shape), "[x.0, 3, x.2]");
    let x = &mut open.graph.as_mut().unwrap().input[0];
    let kind = x.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    for (dim, name) in kind.shape.as_mut().unwrap().dim.iter_mut().zip(["?", "?", "n"]) {
        dim.value = Some(DimensionValue::Symbol(name.to_owned()));
    }
    let graph = import(&open).unwrap();
    let shape = &graph.value_type(graph.inputs()[0]).shape;
    assert_eq!(crate::dim::display(shape), "[x.0, x.1, n]");
    let huge = [i64::MAX, i64::MAX];
    let tile = vec![node("Expand", &["x", "s"], &["y"])];
    let mut hostile = model(vec![typed("x", 1, &[1, 1])], tile, &["y"]);
    let mut sizes = floats("s", &[2], &[]);
    sizes.data_type = Some(7);
    sizes.int64_data = huge.to_vec();
    hostile.graph.as_mut().unwrap().initializer.push(sizes);
    // Sizes that no machine has are an error at the latest when the graph runs.
    if let Ok(graph) = import(&hostile) {
        let x = crate::Tensor::from_fn(&[1, 1], |_| 0f32);
        assert!(reference::evaluate(&graph, &[("x", x)]).is_err());
    }
    let mut hostile = model(vec![typed("x", 1, &[1])], relu(), &["y"]);
    hostile.graph.as_mut().unwrap().initializer.push(floats("w", &huge, &[]));
    assert!(matches!(import(&hostile).unwrap_err(), ImportError::Tensor { .. }));
}

#[test]
fn a_small_constant_is_not_made_a_large_one() {
    let mut fill =
        model(vec![typed("x", 1, &[1])], vec![node("Tile", &["w", "n"], &["y"])], &["y"]);
    let graph = fill.graph.as_mut().unwrap();
    let mut count = floats("n", &[1], &[]);
    count.data_type = Some(7);
    count.int64_data = vec![1 << 40];
    graph.initializer = vec![floats("w", &[1], &[1.0]), count];
    let graph = import(&fill).unwrap();
    assert!(graph.weight_bytes() < 100);
}

/// What is empty along one dimension is not walked along the others.
#[test]
fn empty_tensors_of_huge_sizes_take_no_time() {
    const VAST: i64 = 1 << 40;
    let empty = |name: &str, dims: &[i64]| floats(name, dims, &[]);
    let numbers = |name: &str, values: &[i64]| TensorMessage {
        dims: vec![values.len() as i64],
        data_type: Some(7),
        name: Some(name.to_owned()),
        int64_data: values.to_vec(),
        ..Default::default()
    };
    let ints = |name: &str, ints: &[i64]| super::contrib::list(name, ints);
    let boxes = node("NonMaxSuppression", &["a", "b"], &["y"]);
    let sums = node("CumSum", &["a", "n"], &["y"]);
    let products = node("CumProd", &["a", "n"], &["y"]);
    let determinants = node("Det", &["a"], &["y"]);
    let pooled = with(node("MaxRoiPool", &["a", "b"], &["y"]), ints("pooled_shape", &[1 << 33, 1]));
    let grid = with(node("GridSample", &["a", "b"], &["y"]), text("padding_mode", "border"));
    let axis = || TensorMessage { dims: Vec::new(), ..numbers("n", &[1]) };
    for (op, weights) in [
        (boxes, vec![empty("a", &[VAST, 0, 4]), empty("b", &[VAST, 1, 0])]),
        (sums, vec![empty("a", &[VAST, 0]), axis()]),
        (products, vec![empty("a", &[VAST, 0]), axis()]),
        (determinants, vec![empty("a", &[VAST, 0, 0])]),
        (pooled, vec![empty("a", &[1, 0, 4, 4]), floats("b", &[1, 5], &[0.0; 5])]),
        (grid, vec![empty("a", &[1, 0, 0, 0]), floats("b", &[1, 2, 2, 2], &[0.5; 8])]),
    ] {
        let name = op.op_type().to_owned();
        let mut message = model(vec![typed("x", 1, &[1])], vec![op], &["y"]);
        message.graph.as_mut().unwrap().initializer = weights;
        message.opset_import[0].version = Some(26);
        let graph = import(&message).unwrap_or_else(|error| panic!("{name}: {error}"));
        let x = crate::Tensor::from_fn(&[1], |_| 0f32);
        let found = reference::evaluate(&graph, &[("x", x)]);
        assert_eq!(found.is_err(), name == "Det", "{name}");
    }
    let image = typed("s", 7, &[1 << 44]);
    let col2im = node("Col2Im", &["x", "s", "s"], &["y"]);
    let error = import(&model(vec![typed("x", 1, &[1, 4, 4]), image], vec![col2im], &["y"]));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("expected 16 axes at most"), "{error}");
    let many = vec!["x"; 65];
    let sum = with(node("Einsum", &many, &["y"]), text("equation", &",".repeat(64)));
    let error = import(&model(vec![typed("x", 1, &[])], vec![sum], &["y"])).unwrap_err();
    assert!(error.to_string().contains("more than 64 operands"), "{error}");
}

/// Each node makes floats of the same bytes.
#[test]
fn few_bytes_are_not_made_many_floats() {
    let unpack = |index: usize| {
        let node = contrib("MatMulNBits", &["x", "p", "s"], &[&format!("y{index}")]);
        let sizes = [("K", 16), ("N", 4), ("block_size", 16)];
        sizes.into_iter().fold(node, |node, (name, size)| with(node, int(name, size)))
    };
    let import_of = |count: usize| {
        let nodes = (0..count).map(unpack).collect();
        let mut model = model(vec![typed("x", 1, &[1, 16])], nodes, &["y0"]);
        let packed = TensorMessage {
            data_type: Some(2),
            raw_data: Some(vec![7; 32]),
            ..floats("p", &[4, 1, 8], &[])
        };
        let scales = floats("s", &[4, 1], &[1.0; 4]);
        model.graph.as_mut().unwrap().initializer = vec![packed, scales];
        import(&model)
    };
    assert!(import_of(8).is_ok());
    let error = import_of(9).unwrap_err().to_string();
    assert!(error.contains("unpacking the same weights so often is not supported"), "{error}");
}

#[test]
fn names_are_unique_and_outputs_are_written() {
    let relu = |output: &str| node("Relu", &["x"], &[output]);
    let input = || vec![typed("x", 1, &[2])];
    let error = import(&model(input(), vec![relu("y"), relu("y")], &["y"])).unwrap_err();
    assert!(error.to_string().contains("written twice"), "{error}");
    let error = import(&model(input(), vec![relu("x")], &["x"])).unwrap_err();
    assert!(error.to_string().contains("written twice"), "{error}");
    let error = import(&model(input(), vec![relu("y")], &["z"])).unwrap_err();
    assert!(error.to_string().contains("`z`"), "{error}");
    let twice = vec![typed("x", 1, &[2]), typed("x", 1, &[2])];
    assert!(import(&model(twice, vec![relu("y")], &["y"])).is_err());
    let error = import(&model(input(), vec![call("Nothing", &["x"], &["y"])], &["y"])).unwrap_err();
    assert!(error.to_string().contains("local.Nothing"), "{error}");
}

#[test]
fn names_stay_short_and_are_found_soon() {
    let long = "n".repeat(5000);
    let nodes = vec![node("Neg", &["x"], &[&long]), node("Abs", &[&long], &["y"])];
    let graph = import(&model(vec![typed("x", 1, &[2])], nodes, &["y"])).unwrap();
    let document = crate::document::write(&graph);
    assert!(crate::document::read(document.as_bytes(), std::collections::BTreeMap::new()).is_ok());
    let nodes = vec![node("Neg", &["x"], &[&long])];
    let error = import(&model(vec![typed("x", 1, &[2])], nodes, &[&long])).unwrap_err();
    assert!(error.to_string().contains("1024 bytes in the name"), "{error}");
    // Each would try the names of all before it.
    let mut nodes = vec![node("HardSwish", &["x"], &[""]); 20_000];
    nodes.push(node("Neg", &["x"], &["y"]));
    assert!(import(&model(vec![typed("x", 1, &[2])], nodes, &["y"])).is_ok());
}

/// What is no finite number is a model's own affair until it is packed or run.
#[test]
fn weights_that_are_no_numbers_are_read() {
    let mut sum = model(vec![typed("x", 1, &[1])], vec![node("Add", &["x", "w"], &["y"])], &["y"]);
    let weight = floats("w", &[1], &[f32::NAN]);
    sum.graph.as_mut().unwrap().initializer.push(weight);
    let graph = import(&sum).unwrap();
    let weights = graph.weights().map(|(id, weight)| (graph.value_name(id), weight));
    assert!(crate::weights::ensure_finite(weights).is_err());
}

/// Nodes whose attributes and equations say how their inputs are taken apart.
fn fused() -> crate::onnx::proto::Model {
    let attention = contrib("Attention", &["x", "w", "", "m"], &["a"]);
    let equation = text("equation", "...ij,jk->...ik");
    let query = contrib("GroupQueryAttention", &["a", "a", "a", "", "", "e", "t"], &["q"]);
    let nodes = vec![
        with(attention, int("num_heads", 2)),
        with(with(query, int("num_heads", 2)), int("kv_num_heads", 2)),
        with(node("Einsum", &["q", "w"], &["z"]), equation),
        contrib("SkipLayerNormalization", &["z", "z", "s"], &["n"]),
        [("K", 12), ("N", 1), ("block_size", 16)]
            .into_iter()
            .fold(contrib("MatMulNBits", &["n", "p", "f"], &["y"]), |node, (name, size)| {
                with(node, int(name, size))
            }),
    ];
    let inputs = vec![
        typed("x", 1, &[1, 2, 4]),
        typed("m", 6, &[1]),
        typed("e", 6, &[1]),
        typed("t", 6, &[]),
    ];
    let mut model = model(inputs, nodes, &["y"]);
    let packed = TensorMessage {
        data_type: Some(2),
        raw_data: Some(vec![7; 8]),
        ..floats("p", &[1, 1, 8], &[])
    };
    model.graph.as_mut().unwrap().initializer = vec![
        floats("w", &[4, 12], &[0.5; 48]),
        floats("s", &[12], &[1.0; 12]),
        floats("f", &[1, 1], &[1.0]),
        packed,
    ];
    assert!(import(&model).is_ok());
    model
}

/// Models with a branch, a loop's constants, a transformer's nodes, fused ones, and lists in loops.
fn samples() -> Vec<Vec<u8>> {
    let inner = body(&[], vec![node("Relu", &["x"], &["y0"])], &["y0"]);
    let inputs = vec![typed("x", 1, &[2]), typed("c", 9, &[])];
    let branch = model(inputs, vec![choice(inner)], &["y"]);
    let lists = super::lists::sample().encode_to_vec();
    vec![onnx::export(&encoder()).unwrap(), branch.encode_to_vec(), fused().encode_to_vec(), lists]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn flipped_bytes_never_panic(
        which in 0usize..4,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = samples().swap_remove(which);
        for (position, value) in flips {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        let _ = import_bytes(&bytes, None, &ImportOptions::default());
    }

    #[test]
    fn truncation_never_panics(which in 0usize..4, length in any::<prop::sample::Index>()) {
        let bytes = samples().swap_remove(which);
        let length = length.index(bytes.len());
        let _ = import_bytes(&bytes[..length], None, &ImportOptions::default());
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = import_bytes(&bytes, None, &ImportOptions::default());
    }
}
